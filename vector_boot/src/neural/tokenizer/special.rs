//! The special tokens around and in place of words.

use crate::gguf::{Gguf, Value};

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
    /// Reads the ids, with the defaults of the original bert.
    pub fn from_gguf(gguf: &Gguf<'_>, tokens: usize) -> Result<Self, String> {
        // The first key that is there counts: older files name [CLS] after itself, and leave out what they add.
        let id = |roles: &[&str], default: u32| {
            for role in roles {
                let key = format!("tokenizer.ggml.{role}_token_id");
                match gguf.value(&key) {
                    None => (),
                    Some(Value::U32(id)) if (*id as usize) < tokens => return Ok(*id),
                    Some(Value::U32(id)) => return Err(format!("{key} is {id}, expected an id below {tokens}")),
                    Some(other) => return Err(format!("{key} is {other}, expected a u32")),
                }
            }
            match (default as usize) < tokens {
                true => Ok(default),
                false => Err(format!("tokenizer.ggml.{}_token_id is absent, and {default} is no id", roles[0])),
            }
        };
        check_added(gguf)?;
        let unknown = id(&["unknown"], 100)?;
        Ok(Special {
            cls: id(&["bos", "cls"], 101)?,
            sep: id(&["seperator", "eos"], 102)?,
            unknown,
            // These two are never written, only kept out of the vocabulary, so a file need not have them.
            padding: id(&["padding"], 0)?,
            mask: id(&["mask"], if tokens > 103 { 103 } else { unknown })?,
        })
    }

    pub fn contains(&self, id: u32) -> bool {
        [self.cls, self.sep, self.unknown, self.padding, self.mask].contains(&id)
    }
}

/// Proves that the model wants what [`super::Tokenizer::encode`] writes.
fn check_added(gguf: &Gguf<'_>) -> Result<(), String> {
    let flag = |name: &str, default: bool| {
        let key = format!("tokenizer.ggml.add_{name}_token");
        match gguf.value(&key) {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(other) => Err(format!("{key} is {other}, expected a bool")),
        }
    };
    if !flag("bos", true)? {
        return Err("tokenizer.ggml.add_bos_token is false, expected true for a bert".to_string());
    }
    // The converter writes either of the two; [SEP] is both the separator and the end.
    let (eos, sep) = (flag("eos", false)?, flag("sep", true)?);
    if !eos && !sep {
        return Err("tokenizer.ggml.add_sep_token is false, expected true for a bert without add_eos_token".to_string());
    }
    Ok(())
}
