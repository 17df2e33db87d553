//! The special tokens around and in place of words.

use crate::gguf::{Gguf, MetadataValue};
use crate::neural::error::NetworkError;

/// Ids of the special tokens, all below the number of tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Special {
    pub cls: u32,
    pub sep: u32,
    pub unknown: u32,
    pub padding: u32,
    pub mask: u32,
}

impl Special {
    /// Reads the ids. An absent key has the id of the original bert.
    pub fn from_gguf(gguf: &Gguf<'_>, tokens: usize) -> Result<Self, NetworkError> {
        // The first of the keys that the file has counts: older files have `cls` for `bos`, and `eos` for `seperator`.
        let id = |roles: &[&str], default: u32| {
            for role in roles {
                if let Some(id) = given_id(gguf, role, tokens)? {
                    return Ok(id);
                }
            }
            match (default as usize) < tokens {
                true => Ok(default),
                false => Err(NetworkError::Invalid(format!(
                    "tokenizer.ggml.{}_token_id is absent, and its default {default} is no id below {tokens}",
                    roles[0]
                ))),
            }
        };
        check_added(gguf, tokens)?;
        let unknown = id(&["unknown"], 100)?;
        Ok(Special {
            cls: id(&["bos", "cls"], 101)?,
            sep: id(&["seperator", "eos"], 102)?,
            unknown,
            // These two are never output, only kept out of the vocabulary, so a file need not have them.
            padding: id(&["padding"], 0)?,
            mask: id(&["mask"], if tokens > 103 { 103 } else { unknown })?,
        })
    }

    pub fn contains(&self, id: u32) -> bool {
        [self.cls, self.sep, self.unknown, self.padding, self.mask].contains(&id)
    }
}

/// The id that the file gives a role; `None` if it gives none.
fn given_id(gguf: &Gguf<'_>, role: &str, tokens: usize) -> Result<Option<u32>, NetworkError> {
    let key = format!("tokenizer.ggml.{role}_token_id");
    match gguf.value(&key) {
        None => Ok(None),
        Some(MetadataValue::U32(id)) if (*id as usize) < tokens => Ok(Some(*id)),
        Some(MetadataValue::U32(id)) => {
            Err(NetworkError::Invalid(format!("{key} is {id}, expected an id below {tokens}")))
        }
        Some(other) => Err(NetworkError::Invalid(format!("{key} is {other}, expected a u32"))),
    }
}

/// Checks that the file asks for what encoding adds: [CLS] before a text and [SEP] after it.
fn check_added(gguf: &Gguf<'_>, tokens: usize) -> Result<(), NetworkError> {
    let unsupported = |why: String| Err(NetworkError::Unsupported(why));
    let is_added = |name: &str| optional_bool(gguf, &format!("tokenizer.ggml.add_{name}_token"));
    if is_added("bos")? == Some(false) {
        return unsupported("tokenizer.ggml.add_bos_token is false, expected true for a bert".to_string());
    }
    // Converters set one of the two. In a bert, [SEP] is both the separator and the end.
    let (eos, sep) = (is_added("eos")?.unwrap_or(false), is_added("sep")?.unwrap_or(true));
    if !eos && !sep {
        let why = "tokenizer.ggml.add_sep_token is false, expected true for a bert without add_eos_token";
        return unsupported(why.to_string());
    }
    let ids = (given_id(gguf, "seperator", tokens)?, given_id(gguf, "eos", tokens)?);
    if let (true, (Some(separator), Some(end))) = (eos, ids) {
        if separator != end {
            let key = "tokenizer.ggml.eos_token_id";
            return unsupported(format!("{key} is {end}, expected {separator}, the seperator_token_id"));
        }
    }
    Ok(())
}

/// A setting that is true, false or absent.
pub fn optional_bool(gguf: &Gguf<'_>, key: &str) -> Result<Option<bool>, NetworkError> {
    match gguf.value(key) {
        None => Ok(None),
        Some(MetadataValue::Bool(setting)) => Ok(Some(*setting)),
        Some(other) => Err(NetworkError::Invalid(format!("{key} is {other}, expected a bool"))),
    }
}
