//! Activations with the tokens along the lanes of a vector.
//!
//! Sixteen tokens make a tile; a tile holds, feature after feature, the sixteen values of that feature. So every
//! reduction of the network (over features, over keys) runs down the lanes and never across them: its order does not
//! depend on the width of the machine's vectors, nor on the other texts of the batch.

use std::marker::PhantomData;

/// Tokens in a tile.
pub const LANES: usize = 16;

/// One feature of sixteen tokens.
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(C, align(64))]
pub struct Lanes(pub [f32; LANES]);

impl Lanes {
    /// All zero.
    pub const ZERO: Lanes = Lanes([0.0; LANES]);

    /// The same value in every lane.
    #[inline(always)]
    pub fn splat(value: f32) -> Self {
        Lanes([value; LANES])
    }
}

/// A matrix of features by tokens, in tiles of sixteen tokens. Memory only grows.
#[derive(Debug, Default)]
pub struct Tiles {
    features: usize,
    tiles: usize,
    data: Vec<Lanes>,
}

impl Tiles {
    /// Makes the matrix `tiles` tiles of `features` features. Its values are unspecified then.
    pub fn reshape(&mut self, tiles: usize, features: usize) {
        (self.tiles, self.features) = (tiles, features);
        if self.data.len() < tiles * features {
            self.data.resize(tiles * features, Lanes::ZERO);
        }
    }

    /// Number of tiles.
    pub fn tiles(&self) -> usize {
        self.tiles
    }

    /// Number of features.
    pub fn features(&self) -> usize {
        self.features
    }

    /// The features of one tile.
    #[inline]
    pub fn tile(&self, tile: usize) -> &[Lanes] {
        &self.data[tile * self.features..][..self.features]
    }

    /// The features of one tile, to write.
    #[inline]
    pub fn tile_mut(&mut self, tile: usize) -> &mut [Lanes] {
        &mut self.data[tile * self.features..][..self.features]
    }

    /// The features of the first two tiles, to write.
    pub(super) fn first_two(&mut self) -> [&mut [Lanes]; 2] {
        let (first, second) = self.data[..2 * self.features].split_at_mut(self.features);
        [first, second]
    }

    /// Cuts the matrix into blocks of this size; those at the edges may be smaller.
    pub(super) fn blocks(&mut self, block: BlockSize) -> TileBlocks<'_> {
        assert!(block.features > 0 && block.tiles > 0);
        TileBlocks {
            start: self.data[..self.tiles * self.features].as_mut_ptr(),
            matrix: BlockSize { features: self.features, tiles: self.tiles },
            block,
            matrix_borrow: PhantomData,
        }
    }
}

/// Size of a block of a matrix, or of the whole matrix.
#[derive(Debug, Clone, Copy)]
pub(super) struct BlockSize {
    /// Number of features.
    pub features: usize,
    /// Number of tiles.
    pub tiles: usize,
}

/// A matrix cut into blocks that several threads write at once.
pub(super) struct TileBlocks<'a> {
    start: *mut Lanes,
    matrix: BlockSize,
    block: BlockSize,
    matrix_borrow: PhantomData<&'a mut [Lanes]>,
}

// SAFETY: callers of `get` promise that each block is taken once, and blocks do not overlap.
#[allow(unsafe_code)]
unsafe impl Sync for TileBlocks<'_> {}

impl<'a> TileBlocks<'a> {
    /// Number of blocks.
    pub fn count(&self) -> usize {
        self.blocks_across() * self.matrix.tiles.div_ceil(self.block.tiles)
    }

    /// Number of blocks side by side along the features.
    fn blocks_across(&self) -> usize {
        self.matrix.features.div_ceil(self.block.features)
    }

    /// The block with this index; all blocks of the first tiles come first.
    ///
    /// # Safety
    /// Each index may be taken once only.
    #[allow(unsafe_code)]
    pub unsafe fn get(&self, index: usize) -> TileBlock<'a> {
        assert!(index < self.count());
        let across = self.blocks_across();
        let (first_feature, first_tile) = (index % across * self.block.features, index / across * self.block.tiles);
        TileBlock {
            start: self.start,
            stride: self.matrix.features,
            first_feature,
            features: self.block.features.min(self.matrix.features - first_feature),
            first_tile,
            tiles: self.block.tiles.min(self.matrix.tiles - first_tile),
            matrix_borrow: PhantomData,
        }
    }
}

/// Some features of some tiles, to write.
pub(super) struct TileBlock<'a> {
    start: *mut Lanes,
    stride: usize,
    /// Index of the first feature in the matrix.
    pub first_feature: usize,
    /// Number of features.
    pub features: usize,
    /// Index of the first tile in the matrix.
    pub first_tile: usize,
    /// Number of tiles.
    pub tiles: usize,
    matrix_borrow: PhantomData<&'a mut [Lanes]>,
}

impl TileBlock<'_> {
    /// The block's features of its tile `tile` (counted from its first).
    #[inline]
    pub fn tile(&mut self, tile: usize) -> &mut [Lanes] {
        assert!(tile < self.tiles);
        let offset = (self.first_tile + tile) * self.stride + self.first_feature;
        // SAFETY: `TileBlocks::get` made the block lie inside the matrix, and no other block holds these elements.
        #[allow(unsafe_code)]
        unsafe {
            std::slice::from_raw_parts_mut(self.start.add(offset), self.features)
        }
    }

    /// The block's features of the tiles `tile` and `tile + 1`.
    #[inline]
    pub fn two_tiles(&mut self, tile: usize) -> [&mut [Lanes]; 2] {
        assert!(tile + 1 < self.tiles);
        let offset = (self.first_tile + tile) * self.stride + self.first_feature;
        // SAFETY: as in `tile`. A block has at most as many features as the matrix, so the two slices do not overlap.
        #[allow(unsafe_code)]
        unsafe {
            [offset, offset + self.stride]
                .map(|offset| std::slice::from_raw_parts_mut(self.start.add(offset), self.features))
        }
    }
}
