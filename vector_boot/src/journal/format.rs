//! Constants of the format of the journal, where the fields of its structures are, and the kinds of entries, generated
//! from `spec/journal.toml`.

include!(concat!(env!("OUT_DIR"), "/journal.rs"));
