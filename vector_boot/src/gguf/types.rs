//! The tensor types of ggml: how many elements make a block, and how many bytes a block takes.

/// Layout of one tensor type.
struct Layout {
    name: &'static str,
    block_elements: u64,
    block_bytes: u64,
}

const fn layout(name: &'static str, block_elements: u64, block_bytes: u64) -> Option<Layout> {
    Some(Layout { name, block_elements, block_bytes })
}

/// Indexed by the type id of the file. The gaps are ids that ggml has removed.
static LAYOUTS: [Option<Layout>; 43] = [
    layout("F32", 1, 4),
    layout("F16", 1, 2),
    layout("Q4_0", 32, 18),
    layout("Q4_1", 32, 20),
    None,
    None,
    layout("Q5_0", 32, 22),
    layout("Q5_1", 32, 24),
    layout("Q8_0", 32, 34),
    layout("Q8_1", 32, 36),
    layout("Q2_K", 256, 84),
    layout("Q3_K", 256, 110),
    layout("Q4_K", 256, 144),
    layout("Q5_K", 256, 176),
    layout("Q6_K", 256, 210),
    layout("Q8_K", 256, 292),
    layout("IQ2_XXS", 256, 66),
    layout("IQ2_XS", 256, 74),
    layout("IQ3_XXS", 256, 98),
    layout("IQ1_S", 256, 50),
    layout("IQ4_NL", 32, 18),
    layout("IQ3_S", 256, 110),
    layout("IQ2_S", 256, 82),
    layout("IQ4_XS", 256, 136),
    layout("I8", 1, 1),
    layout("I16", 1, 2),
    layout("I32", 1, 4),
    layout("I64", 1, 8),
    layout("F64", 1, 8),
    layout("IQ1_M", 256, 56),
    layout("BF16", 1, 2),
    None,
    None,
    None,
    layout("TQ1_0", 256, 54),
    layout("TQ2_0", 256, 66),
    None,
    None,
    None,
    layout("MXFP4", 32, 17),
    layout("NVFP4", 64, 36),
    layout("Q1_0", 128, 18),
    layout("Q2_0", 64, 18),
];

/// A tensor type whose id is known.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TensorType(u8);

impl TensorType {
    /// Signed bytes.
    pub const BYTE: TensorType = TensorType(24);

    /// The type with this id, or `None` for an unknown or removed one.
    pub fn from_id(id: u32) -> Option<Self> {
        let index = usize::try_from(id).ok()?;
        LAYOUTS.get(index)?.as_ref()?;
        Some(Self(u8::try_from(id).ok()?))
    }

    /// The id ggml gives the type.
    pub fn id(self) -> u32 {
        u32::from(self.0)
    }

    fn layout(self) -> &'static Layout {
        match &LAYOUTS[usize::from(self.0)] {
            Some(layout) => layout,
            None => &Layout { name: "?", block_elements: 1, block_bytes: 1 }, // from_id returns known ids only
        }
    }

    /// ggml's name, as in `Q8_0`.
    pub fn name(self) -> &'static str {
        self.layout().name
    }

    /// Elements in one block; a row is a whole number of blocks.
    pub fn block_elements(self) -> u64 {
        self.layout().block_elements
    }

    /// Bytes of one block.
    pub fn block_bytes(self) -> u64 {
        self.layout().block_bytes
    }
}

impl std::fmt::Debug for TensorType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
