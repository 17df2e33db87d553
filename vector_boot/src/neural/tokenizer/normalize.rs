//! From a text to the characters that words are made of: cleaned, ideographs apart, and by the file's settings without
//! accents and in lower case.

use std::ops::ControlFlow;

use super::decompositions::{BASE_16, BASE_32, SEQUENCE};
use super::special::optional_bool;
use super::tables::{BARRIERS, CLASSES, DROPPED, IDEOGRAPHS, PUNCTUATION, REMOVED};
use crate::gguf::Gguf;
use crate::neural::error::NetworkError;

const SYLLABLES: std::ops::RangeInclusive<u32> = 0xAC00..=0xD7A3;
const VOWELS: u32 = 21;
const TRAILERS: u32 = 28; // the absent one included

/// The settings of a file that change characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Normalizer {
    /// Whether letters are lowered.
    pub lowercase: bool,
    /// Whether characters are decomposed (NFD) and nonspacing marks removed.
    pub strip_accents: bool,
}

impl Normalizer {
    /// Reads `tokenizer.ggml.normalizer.*`.
    ///
    /// # Errors
    /// [`NetworkError::Unsupported`] for a setting other than the two, [`NetworkError::Invalid`] for one that is no bool.
    pub fn from_gguf(gguf: &Gguf<'_>) -> Result<Self, NetworkError> {
        const PREFIX: &str = "tokenizer.ggml.normalizer.";
        let (mut lowercase, mut strip_accents) = (None, None);
        for entry in &gguf.metadata {
            let Some(setting) = entry.key.strip_prefix(PREFIX) else { continue };
            match setting {
                "lowercase" => lowercase = optional_bool(gguf, entry.key)?,
                "strip_accents" => strip_accents = optional_bool(gguf, entry.key)?,
                other => {
                    let name: String = other.chars().take(48).collect();
                    return Err(NetworkError::Unsupported(format!(
                        "the tokenizer has the setting normalizer.{name}, expected lowercase and strip_accents at most"
                    )));
                }
            }
        }
        let lowercase = lowercase.unwrap_or(true);
        Ok(Normalizer { lowercase, strip_accents: strip_accents.unwrap_or(lowercase) })
    }

    /// Passes the normalized characters of a text to `take`, whitespace as spaces, until it breaks off.
    pub fn normalize(self, text: &str, take: impl FnMut(char) -> ControlFlow<()>) -> ControlFlow<()> {
        let mut output = Output { take, lowercase: self.lowercase, marks: Vec::new() };
        for char in text.chars() {
            if char.is_ascii_graphic() || matches!(char, '\t' | '\n' | '\r' | ' ') {
                output.starter(if char.is_ascii_whitespace() { ' ' } else { char })?;
            } else if is_removed(char) {
                continue;
            } else if char.is_whitespace() {
                output.starter(' ')?;
            } else {
                let apart = contains(IDEOGRAPHS, char);
                if apart {
                    output.starter(' ')?;
                }
                if self.strip_accents {
                    decompose(char, |char| output.decomposed(char))?;
                } else {
                    output.starter(char)?;
                }
                if apart {
                    output.starter(' ')?;
                }
            }
        }
        output.flush()
    }
}

/// Whether a normalized character is a word of its own.
pub fn is_punctuation(char: char) -> bool {
    match char.is_ascii() {
        true => char.is_ascii_punctuation(),
        false => contains(PUNCTUATION, char),
    }
}

fn is_removed(char: char) -> bool {
    contains(REMOVED, char)
}

fn contains(ranges: &[(u32, u32)], char: char) -> bool {
    let code = u32::from(char);
    let after = ranges.partition_point(|(first, _)| *first <= code);
    after > 0 && code <= ranges[after - 1].1
}

/// Canonical decomposition, without the marks that are dropped.
fn decompose(char: char, mut take: impl FnMut(char) -> ControlFlow<()>) -> ControlFlow<()> {
    let code = u32::from(char);
    if SYLLABLES.contains(&code) {
        return syllable(code - SYLLABLES.start(), take);
    }
    if let Some(base) = base(code) {
        return take(base);
    }
    match SEQUENCE.binary_search_by_key(&code, |entry| entry.0) {
        Ok(at) => SEQUENCE[at].1.chars().try_for_each(take),
        Err(_) => take(char),
    }
}

fn base(code: u32) -> Option<char> {
    let short = u16::try_from(code).ok().and_then(|code| BASE_16.binary_search_by_key(&code, |entry| entry.0).ok());
    let base = match short {
        Some(at) => u32::from(BASE_16[at].1),
        None => BASE_32[BASE_32.binary_search_by_key(&code, |entry| entry.0).ok()?].1,
    };
    char::from_u32(base)
}

/// A Hangul syllable as its two or three jamo (Unicode standard, section 3.12).
fn syllable(index: u32, take: impl FnMut(char) -> ControlFlow<()>) -> ControlFlow<()> {
    let leading = 0x1100 + index / (VOWELS * TRAILERS);
    let vowel = 0x1161 + index / TRAILERS % VOWELS;
    let trailing = (!index.is_multiple_of(TRAILERS)).then_some(0x11A7 + index % TRAILERS);
    [Some(leading), Some(vowel), trailing].into_iter().flatten().filter_map(char::from_u32).try_for_each(take)
}

/// Puts combining marks in canonical order, and letters in lower case where that is wanted.
struct Output<F> {
    take: F,
    lowercase: bool,
    /// Marks since the last starter, with their classes, which were not passed to `take` yet.
    marks: Vec<(u8, char)>,
}

impl<F: FnMut(char) -> ControlFlow<()>> Output<F> {
    fn decomposed(&mut self, char: char) -> ControlFlow<()> {
        if contains(DROPPED, char) {
            return if contains(BARRIERS, char) { self.flush() } else { ControlFlow::Continue(()) };
        }
        match class(char) {
            0 => self.starter(char),
            class => {
                self.marks.push((class, char));
                ControlFlow::Continue(())
            }
        }
    }

    fn starter(&mut self, char: char) -> ControlFlow<()> {
        self.flush()?;
        self.emit(char)
    }

    fn flush(&mut self) -> ControlFlow<()> {
        let mut marks = std::mem::take(&mut self.marks);
        marks.sort_by_key(|mark| mark.0);
        marks.drain(..).try_for_each(|(_, mark)| self.emit(mark))?;
        self.marks = marks;
        ControlFlow::Continue(())
    }

    fn emit(&mut self, char: char) -> ControlFlow<()> {
        if !self.lowercase {
            return (self.take)(char);
        }
        if char.is_ascii() {
            return (self.take)(char.to_ascii_lowercase());
        }
        char.to_lowercase().try_for_each(&mut self.take)
    }
}

/// The combining class of a character that is not dropped.
fn class(char: char) -> u8 {
    let code = u32::from(char);
    let found = CLASSES.iter().find(|(first, last, _)| (*first..=*last).contains(&code));
    found.map_or(0, |found| found.2)
}
