//! Prepares what the crate includes: the model that `VECTOR_BOOT_MODEL` names (or no bytes), and Rust code generated
//! from the tables in `spec/`: the words of hw.mmio, the protocol, the journal on a state device, the instructions of the
//! pixel interpreter and its built-in programs.
//!
//! A boot image carries its model on a separate disk; only a small one may be embedded in the executable.

#[path = "build/journal.rs"]
mod journal;
#[path = "build/pixels.rs"]
mod pixels;
#[path = "build/protocol.rs"]
mod protocol;
#[path = "build/toml.rs"]
mod toml;

use std::path::PathBuf;
use std::{env, fs};

use toml::{write_output, Tables};

/// Bytes of the largest model that may be embedded.
const LIMIT: u64 = 4 << 20;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=VECTOR_BOOT_MODEL");
    for source in ["journal", "pixels", "protocol", "toml"] {
        println!("cargo::rerun-if-changed=build/{source}.rs");
    }
    for result in [
        package_model(),
        generate_hw_mmio(),
        protocol::generate_protocol(),
        journal::generate_journal(),
        pixels::generate_instructions(),
        pixels::generate_kernels(),
    ] {
        if let Err(why) = result {
            println!("cargo::error={why}");
        }
    }
}

/// Turns the word table into constants.
fn generate_hw_mmio() -> Result<(), String> {
    let tables = Tables::read("../spec/hw_mmio.toml")?;
    let (mut code, mut initial) = (String::new(), String::new());
    for entry in tables.of("entry") {
        let (name, word) = (entry.required("name")?.to_uppercase(), entry.required("word")?);
        code += &format!("/// Word {word}: {}.\npub const {name}: usize = {word};\n", entry.required("meaning")?);
        if let Some(value) = entry.field("initial") {
            let words = entry.field("words").unwrap_or("1");
            initial += &format!("    ({name}, {words}, {value}_i64 as u32),\n");
        }
    }
    code += "/// First word, number of words and initial value of each quantity whose initial value is not 0.\n";
    code += &format!("pub const INITIAL: &[(usize, usize, u32)] = &[\n{initial}];\n");
    write_output("hw_mmio.rs", code.as_bytes())
}

fn package_model() -> Result<(), String> {
    const OUTPUT: &str = "embedded_model.gguf";
    let Some(model) = env::var_os("VECTOR_BOOT_MODEL").filter(|path| !path.is_empty()) else {
        return write_output(OUTPUT, &[]);
    };
    let model = PathBuf::from(model);
    let name = model.display();
    println!("cargo::rerun-if-changed={name}");
    let bytes = fs::read(&model).map_err(|error| format!("VECTOR_BOOT_MODEL={name}: {error}"))?;
    if bytes.len() as u64 > LIMIT {
        return Err(format!(
            "VECTOR_BOOT_MODEL={name}: {} bytes, only models up to {LIMIT} bytes may be embedded",
            bytes.len()
        ));
    }
    if !bytes.starts_with(b"GGUF") {
        return Err(format!("VECTOR_BOOT_MODEL={name}: not a GGUF file"));
    }
    write_output(OUTPUT, &bytes)
}
