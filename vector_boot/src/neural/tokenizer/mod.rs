//! The WordPiece tokenizer of bert, as Hugging Face's `tokenizers` 0.23.3 runs it, over the vocabulary of a GGUF.
//!
//! A text is cleaned of control characters, ideographs become words of their own, accents are removed (NFD without
//! nonspacing marks) and letters lowered as the file's settings say. It is split at whitespace and around punctuation.
//! Each word becomes the longest pieces from the left, or the unknown token.
//!
//! A text never yields a special token: `[SEP]` or `[CLS]` in a text is punctuation and a word. This is what llama.cpp
//! does with `parse_special` off; `tokenizers` itself would insert the special token.
//!
//! These keys of a file change ids. Those that this tokenizer cannot follow make the model unsupported:
//!
//! | key `tokenizer.ggml.` | |
//! |---|---|
//! | `tokens`, `token_type` | the vocabulary; user-defined tokens are unsupported |
//! | `bos_token_id` (older: `cls_token_id`), `seperator_token_id` (else `eos_token_id`), `unknown_token_id` | special tokens |
//! | `padding_token_id`, `mask_token_id` | never matched in a text |
//! | `add_bos_token` | unsupported if false |
//! | `add_sep_token`, `add_eos_token` | unsupported if both are false, or if [SEP] and the end differ |
//! | `normalizer.lowercase` | default true |
//! | `normalizer.strip_accents` | default: as `lowercase` |
//! | any other `normalizer.*` | unsupported |
//!
//! llama.cpp reads no other key for a tokenizer of this kind (`pre`, `scores`, `merges`, `add_space_prefix`,
//! `remove_extra_whitespaces` and `precompiled_charsmap` belong to other kinds), and neither does this one.

mod decompositions;
mod normalize;
mod slots;
mod special;
mod tables;
#[cfg(test)]
mod tests;
mod vocabulary;

use std::ops::ControlFlow;

use super::error::NetworkError;
use crate::gguf::Gguf;
use normalize::Normalizer;
use special::Special;
use vocabulary::{Place, Vocabulary, WORD_LIMIT};

/// The ids of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoding {
    /// Token ids, the special tokens around the text included.
    pub ids: Vec<u32>,
    /// Whether the text has more tokens than the limit, so that its end was cut off.
    pub truncated: bool,
}

/// Turns texts into token ids. It borrows nothing from the GGUF.
pub struct Tokenizer {
    normalizer: Normalizer,
    vocabulary: Vocabulary,
    special: Special,
}

impl Tokenizer {
    /// Reads the vocabulary and settings of a bert.
    ///
    /// # Errors
    /// [`NetworkError`], one sentence that names the key, what it holds and what was expected.
    pub fn from_gguf(gguf: &Gguf<'_>) -> Result<Self, NetworkError> {
        let tokens = vocabulary::tokens(gguf)?;
        let special = Special::from_gguf(gguf, tokens.len)?;
        let vocabulary = Vocabulary::new(&tokens, vocabulary::token_types(gguf, tokens.len)?, special)?;
        Ok(Tokenizer { normalizer: Normalizer::from_gguf(gguf)?, vocabulary, special })
    }

    /// Refuses what [`Tokenizer::from_gguf`] refuses, except a vocabulary with too many pieces of equal hash. It builds no
    /// table, so it needs little memory for a vocabulary of any size.
    ///
    /// # Errors
    /// As [`Tokenizer::from_gguf`].
    pub fn check(gguf: &Gguf<'_>) -> Result<(), NetworkError> {
        let tokens = vocabulary::tokens(gguf)?;
        let special = Special::from_gguf(gguf, tokens.len)?;
        Vocabulary::check(&tokens, vocabulary::token_types(gguf, tokens.len)?, special)?;
        Normalizer::from_gguf(gguf).map(drop)
    }

    /// Number of tokens; every id is below it.
    pub fn token_count(&self) -> usize {
        self.vocabulary.len()
    }

    /// The ids of a text, between `[CLS]` and `[SEP]`: at most `limit` with these two, where a limit below 2 counts as 2.
    pub fn encode(&self, text: &str, limit: usize) -> Encoding {
        let limit = limit.max(2);
        let mut words = Words { tokenizer: self, word: String::new(), chars: 0, ids: vec![self.special.cls], limit };
        if self.normalizer.normalize(text, |char| words.push(char)).is_continue() {
            let _ = words.finish_word();
        }
        // One place is kept for [SEP].
        let truncated = words.ids.len() > limit - 1;
        words.ids.truncate(limit - 1);
        words.ids.push(self.special.sep);
        Encoding { ids: words.ids, truncated }
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

    /// Breaks off when the ids reach the limit: the text is cut then, because [SEP] needs a place too.
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

    /// Appends the pieces of the word; `None` if some part of it is not in the vocabulary.
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
