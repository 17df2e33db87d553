//! Reads the part of TOML that the tables in `spec/` use: tables of arrays (`[[name]]`), one `key = value` a line.

use std::path::{Path, PathBuf};
use std::{env, fs};

/// A file of tables.
pub struct Tables {
    path: PathBuf,
    text: String,
}

/// The lines of one table.
pub struct Table<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Tables {
    /// Reads a file, and has the build run again when it changes.
    pub fn read(path: &str) -> Result<Self, String> {
        println!("cargo::rerun-if-changed={path}");
        let text = fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
        Ok(Tables { path: path.into(), text })
    }

    /// The tables with this header, `[[header]]`. Each ends where the next table of any kind begins.
    pub fn of<'a>(&'a self, header: &str) -> impl Iterator<Item = Table<'a>> {
        let header = format!("{header}]]\n");
        let texts = self.text.split("\n[[").skip(1);
        let texts: Vec<&str> = texts.filter_map(|text| text.strip_prefix(header.as_str())).collect();
        texts.into_iter().map(|text| Table { path: &self.path, text })
    }
}

impl<'a> Table<'a> {
    /// The value of a key, without quotation marks.
    pub fn field(&self, key: &str) -> Option<&'a str> {
        let line = self.text.lines().find(|line| line.split('=').next().map(str::trim) == Some(key))?;
        Some(line.split_once('=')?.1.trim().trim_matches('"'))
    }

    /// The value of a key that must be there.
    pub fn required(&self, key: &str) -> Result<&'a str, String> {
        self.field(key).ok_or_else(|| format!("{}: an entry has no {key}", self.path.display()))
    }

    /// The words of a list of strings.
    pub fn list(&self, key: &str) -> Option<Vec<&'a str>> {
        let words = self.field(key)?.strip_prefix('[')?.strip_suffix(']')?;
        Some(words.split(',').map(|word| word.trim().trim_matches('"')).collect())
    }
}

/// Writes a file for the crate to include.
pub fn write_output(name: &str, bytes: &[u8]) -> Result<(), String> {
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?).join(name);
    fs::write(&out, bytes).map_err(|error| format!("{}: {error}", out.display()))
}
