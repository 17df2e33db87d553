//! The pieces of a vocabulary, found by the longest prefix of a text.

use super::slots::{Hash, Slots};
use super::special::Special;
use crate::gguf::{Gguf, MetadataArray, MetadataValue, ValueType};
use crate::neural::error::NetworkError;

/// A word of more characters than this becomes the unknown token.
pub const WORD_LIMIT: usize = 100;

/// U+2581 marks a piece that starts a word.
const WORD_START: &str = "\u{2581}";
const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;
const BYTE: i32 = 6;

/// Where in a word a piece may stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// At its start.
    Start,
    /// After another piece.
    Inside,
}

/// All pieces that text can match.
pub struct Vocabulary {
    /// The texts of all tokens, without marks, one after the other.
    text: Box<[u8]>,
    /// Where each token's text ends.
    ends: Box<[u32]>,
    starts: Slots,
    insides: Slots,
    /// Bytes of the longest piece.
    longest: usize,
}

/// The tokens of a model.
pub struct Tokens<'a> {
    array: MetadataArray<'a>,
    pub len: usize,
}

/// Finds `tokenizer.ggml.tokens`.
pub fn tokens<'a>(gguf: &Gguf<'a>) -> Result<Tokens<'a>, NetworkError> {
    let key = "tokenizer.ggml.tokens";
    match gguf.value(key) {
        Some(MetadataValue::Array(array)) if array.element_type == ValueType::Str && array.len > 0 => {
            Ok(Tokens { array: *array, len: array.len as usize }) // the parser allows 4 Mi elements
        }
        Some(MetadataValue::Array(array)) => invalid(format!(
            "{key} is an array of {} elements of type {:?}, expected strings",
            array.len, array.element_type
        )),
        Some(other) => invalid(format!("{key} is {other}, expected an array of strings")),
        None => invalid(format!("{key} is absent, expected an array of strings")),
    }
}

/// Finds `tokenizer.ggml.token_type`, one i32 for each token; empty if the file has none.
pub fn token_types<'a>(gguf: &Gguf<'a>, tokens: usize) -> Result<&'a [u8], NetworkError> {
    let key = "tokenizer.ggml.token_type";
    match gguf.value(key) {
        None => Ok(&[]),
        Some(MetadataValue::Array(array)) if array.element_type == ValueType::I32 && array.len == tokens as u64 => {
            Ok(array.bytes())
        }
        Some(MetadataValue::Array(array)) => invalid(format!(
            "{key} has {} elements of type {:?}, expected {tokens} of type I32",
            array.len, array.element_type
        )),
        Some(other) => invalid(format!("{key} is {other}, expected an array of i32")),
    }
}

impl Vocabulary {
    /// Indexes the pieces. Special tokens, and tokens of a type that text never matches, are left out.
    pub fn new(tokens: &Tokens<'_>, types: &[u8], special: Special) -> Result<Self, NetworkError> {
        let starting = tokens.array.strings().filter(|token| split_mark(token).0 == Place::Start).count();
        let mut vocabulary = Vocabulary {
            text: Box::default(),
            ends: Box::default(),
            starts: Slots::with_room_for(starting),
            insides: Slots::with_room_for(tokens.len - starting),
            longest: 0,
        };
        let mut text = Vec::with_capacity(tokens.array.bytes().len());
        let mut ends = Vec::with_capacity(tokens.len);
        for token in tokens.array.strings() {
            text.extend_from_slice(split_mark(token).1.as_bytes());
            ends.push(text.len() as u32); // the parser limits the metadata to 48 MiB
        }
        (vocabulary.text, vocabulary.ends) = (text.into(), ends.into());
        for ((id, token), matched) in (0..).zip(tokens.array.strings()).zip(matched_by_text(types, special)) {
            if matched? && vocabulary.insert(id, split_mark(token)).is_none() {
                let why = "tokenizer.ggml.tokens has too many tokens of equal hash, expected a real vocabulary";
                return invalid(why.to_string());
            }
        }
        Ok(vocabulary)
    }

    /// Refuses what [`Vocabulary::new`] refuses, in less time and without memory for an index. Only a vocabulary with too
    /// many pieces of equal hash passes here and is refused there.
    pub fn check(tokens: &Tokens<'_>, types: &[u8], special: Special) -> Result<(), NetworkError> {
        matched_by_text(types, special).take(tokens.len).try_for_each(|matched| matched.map(drop))
    }

    /// Adds a piece; of two with the same text the later one counts, as in a vocab.txt.
    fn insert(&mut self, id: u32, (place, piece): (Place, &str)) -> Option<()> {
        let (text, ends) = (&self.text, &self.ends);
        let is_same = |other| text_of(text, ends, other) == piece.as_bytes();
        let slots = if place == Place::Start { &mut self.starts } else { &mut self.insides };
        self.longest = self.longest.max(piece.len());
        slots.insert(Hash::START.with(piece.as_bytes()), id, is_same)
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// The id of the longest piece that `word` starts with, and its length in bytes, above 0.
    pub fn longest_prefix(&self, place: Place, word: &str) -> Option<(u32, usize)> {
        // A word has at most WORD_LIMIT characters.
        let mut prefixes = [(0, Hash::START); WORD_LIMIT];
        let mut count = 0;
        let (mut end, mut hash) = (0, Hash::START);
        for (char, prefix) in word.chars().zip(&mut prefixes) {
            let next = end + char.len_utf8();
            if next > self.longest {
                break;
            }
            hash = hash.with(&word.as_bytes()[end..next]);
            end = next;
            *prefix = (end, hash);
            count += 1;
        }
        let slots = if place == Place::Start { &self.starts } else { &self.insides };
        prefixes[..count].iter().rev().find_map(|(end, hash)| {
            let piece = &word.as_bytes()[..*end];
            let id = slots.find(*hash, |id| text_of(&self.text, &self.ends, id) == piece)?;
            Some((id, *end))
        })
    }
}

/// For each id in turn, whether text can match the token: normal tokens, which are all if `types` is empty.
fn matched_by_text(types: &[u8], special: Special) -> impl Iterator<Item = Result<bool, NetworkError>> + '_ {
    let types = types.chunks_exact(4).map(|raw| i32::from_le_bytes([raw[0], raw[1], raw[2], raw[3]]));
    (0..).zip(types.chain(std::iter::repeat(NORMAL))).map(move |(id, token_type)| {
        if !(NORMAL..=BYTE).contains(&token_type) {
            return invalid(format!("tokenizer.ggml.token_type of token {id} is {token_type}, expected 1 to 6"));
        }
        if token_type == USER_DEFINED {
            // How such a token is matched (before or after normalization, inside words or not) is not in the file.
            return Err(NetworkError::Unsupported(format!(
                "tokenizer.ggml.token_type of token {id} is 4 (user-defined), which this tokenizer does not match"
            )));
        }
        Ok(!matches!(token_type, UNKNOWN | CONTROL | UNUSED | BYTE) && !special.contains(id))
    })
}

fn invalid<T>(why: String) -> Result<T, NetworkError> {
    Err(NetworkError::Invalid(why))
}

fn text_of<'a>(text: &'a [u8], ends: &[u32], id: u32) -> &'a [u8] {
    let start = id.checked_sub(1).map_or(0, |before| ends[before as usize]);
    &text[start as usize..ends[id as usize] as usize]
}

/// A piece without its mark. A mark alone is the character itself, inside a word.
fn split_mark(token: &str) -> (Place, &str) {
    match token.strip_prefix(WORD_START) {
        Some(piece) if !piece.is_empty() => (Place::Start, piece),
        _ => (Place::Inside, token),
    }
}
