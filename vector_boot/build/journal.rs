//! Turns the tables of the journal on a state device into Rust: constants, offsets of fields, and the kinds of entries.

use crate::protocol::{capitalised, enumeration};
use crate::toml::{write_output, Tables};

const TABLE: &str = "../spec/journal.toml";

/// Writes everything that `src/journal/format.rs` includes.
pub fn generate_journal() -> Result<(), String> {
    let tables = Tables::read(TABLE)?;
    let mut code = String::new();
    for magic in tables.of("magic") {
        let (name, bytes) = (magic.required("name")?.to_uppercase(), magic.required("bytes")?);
        let meaning = capitalised(magic.required("meaning")?);
        code += &format!("/// {meaning}.\npub const {name}: [u8; {}] = *b{bytes:?};\n", bytes.len());
    }
    for constant in tables.of("constant") {
        let (name, unit) = (constant.required("name")?.to_uppercase(), constant.required("unit")?);
        let meaning = capitalised(constant.required("meaning")?);
        code += &format!("/// {meaning} ({unit}).\npub const {name}: u64 = {};\n", constant.required("value")?);
    }
    for structure in ["superblock", "frame", "entry"] {
        code += &format!("\n/// Where the fields of a {structure} are.\npub mod {structure} {{\n");
        for field in tables.of(structure) {
            let (name, offset) = (field.required("name")?.to_uppercase(), field.required("offset")?);
            let meaning = capitalised(field.required("meaning")?);
            code += &format!("    /// {meaning}.\n    pub const {name}: usize = {offset};\n");
        }
        code += "}\n";
    }
    code += "\n";
    code += &enumeration(&tables, "entry_kind", "EntryKind", "What an entry of the log is.")?;
    write_output("journal.rs", code.as_bytes())
}
