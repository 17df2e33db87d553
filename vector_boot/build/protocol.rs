//! Turns the tables of the protocol into Rust: methods with their properties, error codes, limits, events, faults, and
//! the kinds of journal records.

use crate::pixels::camel_case;
use crate::toml::{write_output, Table, Tables};

const TABLE: &str = "../spec/protocol.toml";

/// Writes everything that `src/protocol/tables.rs` includes.
pub fn generate_protocol() -> Result<(), String> {
    let tables = Tables::read(TABLE)?;
    let mut code = methods(&tables)?;
    code += "/// The error codes of the protocol.\npub mod code {\n";
    for error in tables.of("error") {
        let (meaning, name) = (error.required("meaning")?, error.required("name")?.to_uppercase());
        code += &format!("    /// {meaning}.\n    pub const {name}: i64 = {};\n", error.required("code")?);
    }
    code += "}\n\n";
    for limit in tables.of("limit") {
        let (name, unit) = (limit.required("name")?.to_uppercase(), limit.required("unit")?);
        let kind = if unit == "ms" { "u64" } else { "usize" };
        code += &format!(
            "/// {} ({unit}).\npub const {name}: {kind} = {};\n",
            capitalised(limit.required("meaning")?),
            limit.required("value")?
        );
    }
    code += &words("EVENT_KINDS", "What a client can subscribe to.", tables.of("event"))?;
    code += &enumeration(&tables, "fault", "FaultKind", "How `fault` can make the worker process fail.")?;
    code += &enumeration(&tables, "reload_reason", "ReloadReason", "Why a reload failed.")?;
    code += &enumeration(&tables, "update_reason", "UpdateReason", "Why an update failed.")?;
    code += &enumeration(&tables, "record_kind", "RecordKind", "What a record of the journal is about.")?;
    code += &enumeration(&tables, "journal_reason", "JournalReason", "Why the journal takes no changes.")?;
    code += &words("VERDICTS", "The verdict of a record, by its number in `cortex_journal`.", tables.of("verdict"))?;
    write_output("protocol.rs", code.as_bytes())
}

/// The enumeration of methods, and a function for each property.
fn methods(tables: &Tables) -> Result<String, String> {
    let mut properties = String::new();
    for (function, key, value, meaning) in [
        ("passes", "passes", "true", "Whether it is answered while a method that runs beside is running"),
        ("cancellable", "cancellable", "true", "Whether `cancel` ends it"),
        ("answered_in_emergency", "emergency", "true", "Whether it is answered in emergency mode"),
        ("changes_weights", "changes_weights", "true", "Whether it makes a new generation of the weights"),
        ("needs_signature", "signed", "true", "Whether a machine with a mutation key takes it only inside `signed`"),
        ("has_meaning_in_process", "in_process", "true", "Whether the C library answers it"),
    ] {
        let mut chosen = Vec::new();
        for method in tables.of("method") {
            if method.required(key)? == value {
                chosen.push(format!("Method::{}", camel_case(method.required("name")?)));
            }
        }
        properties += &format!(
            "\n    /// {meaning}.\n    pub fn {function}(self) -> bool {{\n        matches!(self, {})\n    }}\n",
            chosen.join(" | ")
        );
    }
    let mut runs = String::new();
    for method in tables.of("method") {
        let (name, how) = (camel_case(method.required("name")?), camel_case(method.required("runs")?));
        runs += &format!("            Method::{name} => Runs::{how},\n");
    }
    let enumeration = enumeration(tables, "method", "Method", "A request that the machine answers.")?;
    Ok(format!(
        "{enumeration}impl Method {{\n    /// Where it runs.\n    pub fn runs(self) -> Runs {{\n        match self \
         {{\n{runs}        }}\n    }}\n{properties}}}\n\n"
    ))
}

/// An enumeration with the names in the tables of one kind, numbered where the tables have numbers.
pub fn enumeration(tables: &Tables, header: &str, name: &str, meaning: &str) -> Result<String, String> {
    let (mut variants, mut list, mut names, mut parse) = (String::new(), String::new(), String::new(), String::new());
    let mut count = 0;
    for table in tables.of(header) {
        let word = table.required("name")?;
        let variant = camel_case(word);
        let summary = table.field("summary").or(table.field("meaning")).unwrap_or(word);
        let number = table.field("number").map_or(String::new(), |number| format!(" = {number}"));
        variants += &format!("    /// {}.\n    {variant}{number},\n", capitalised(summary));
        list += &format!("        {name}::{variant},\n");
        names += &format!("            {name}::{variant} => {word:?},\n");
        parse += &format!("            {word:?} => {name}::{variant},\n");
        count += 1;
    }
    Ok(format!(
        "/// {meaning}\n#[derive(Debug, Clone, Copy, PartialEq, Eq)]\npub enum {name} {{\n{variants}}}\n\n\
         impl {name} {{\n    /// All of them, in the order of the table.\n    pub const ALL: [{name}; {count}] = [\n\
         {list}    ];\n\n    /// The word for it on the wire.\n    pub fn name(self) -> &'static str {{\n\
         \x20       match self {{\n{names}        }}\n    }}\n\n    /// The one with this word; `None` for any other word.\n\
         \x20   pub fn parse(name: &str) -> Option<Self> {{\n        Some(match name {{\n{parse}\
         \x20           _ => return None,\n        }})\n    }}\n}}\n\n"
    ))
}

fn words<'a>(name: &str, meaning: &str, tables: impl Iterator<Item = Table<'a>>) -> Result<String, String> {
    let names = tables.map(|table| table.required("name").map(|word| format!("{word:?}")));
    let names: Vec<String> = names.collect::<Result<_, _>>()?;
    Ok(format!("/// {meaning}\npub const {name}: [&str; {}] = [{}];\n", names.len(), names.join(", ")))
}

pub fn capitalised(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map_or(String::new(), |first| first.to_uppercase().chain(characters).collect())
}
