//! The WordPiece tokenizer of bert, as Hugging Face's `tokenizers` 0.23.3 runs it, over the vocabulary of a GGUF.
//!
//! Text is cleaned, ideographs stand alone, NFD without its nonspacing marks is lowered character by character, and
//! split at whitespace and around punctuation; each word is the longest pieces from the left, or unknown. What users
//! write never yields a special token: `[CLS]` in a text is punctuation and a word.

mod decompositions;
mod normalize;
mod slots;
mod special;
mod tables;
#[cfg(test)]
mod tests;
mod vocabulary;

use std::ops::ControlFlow;

use crate::gguf::Gguf;
use special::Special;
use vocabulary::{Place, Vocabulary};

/// A word of more characters than this is unknown.
const WORD_LIMIT: usize = 100;

/// Makes token ids of text. It owns what it needs; the GGUF may go.
pub struct Tokenizer {
    vocabulary: Vocabulary,
    special: Special,
}

impl Tokenizer {
    /// Reads the vocabulary of a bert.
    ///
    /// # Errors
    /// One sentence that names the key, what it holds and what was expected.
    pub fn from_gguf(gguf: &Gguf<'_>) -> Result<Self, String> {
        let tokens = vocabulary::tokens(gguf)?;
        let special = Special::from_gguf(gguf, tokens.len)?;
        let vocabulary = Vocabulary::new(&tokens, vocabulary::token_types(gguf, tokens.len)?, special)?;
        Ok(Tokenizer { vocabulary, special })
    }

    /// Number of tokens; every id is below it.
    pub fn token_count(&self) -> usize {
        self.vocabulary.len()
    }

    /// The ids of a text, between `[CLS]` and `[SEP]`: at most `limit` with them, where a limit below 2 counts as 2.
    pub fn encode(&self, text: &str, limit: usize) -> Vec<u32> {
        let mut words = Words { tokenizer: self, word: String::new(), chars: 0, ids: vec![self.special.cls], limit };
        if normalize::normalize(text, |char| words.push(char)).is_continue() {
            let _ = words.finish_word();
        }
        words.ids.truncate(limit.max(2) - 1);
        words.ids.push(self.special.sep);
        words.ids
    }
}

/// Collects normalized characters into words, and words into ids.
struct Words<'a> {
    tokenizer: &'a Tokenizer,
    word: String,
    chars: usize,
    ids: Vec<u32>,
    limit: usize,
}

impl Words<'_> {
    fn push(&mut self, char: char) -> ControlFlow<()> {
        if char == ' ' {
            return self.finish_word();
        }
        if normalize::is_punctuation(char) {
            self.finish_word()?;
            self.append(char);
            return self.finish_word();
        }
        self.append(char);
        ControlFlow::Continue(())
    }

    fn append(&mut self, char: char) {
        self.chars += 1;
        if self.chars <= WORD_LIMIT {
            self.word.push(char);
        }
    }

    /// Breaks off when there are as many ids as wanted.
    fn finish_word(&mut self) -> ControlFlow<()> {
        if self.chars > 0 {
            let known = self.ids.len();
            if self.chars > WORD_LIMIT || self.pieces().is_none() {
                self.ids.truncate(known);
                self.ids.push(self.tokenizer.special.unknown);
            }
            self.word.clear();
            self.chars = 0;
        }
        if self.ids.len() >= self.limit {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }

    /// Appends the pieces of the word; `None` if some part of it is no piece.
    fn pieces(&mut self) -> Option<()> {
        let mut rest = &*self.word;
        let mut place = Place::Start;
        while !rest.is_empty() {
            let (id, len) = self.tokenizer.vocabulary.longest_prefix(place, rest)?;
            self.ids.push(id);
            rest = &rest[len..];
            place = Place::Inside;
        }
        Some(())
    }
}
