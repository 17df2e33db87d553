//! Packages what the build embeds: the model that `VECTOR_BOOT_MODEL` names, or nothing, and the word table of hw.mmio.
//!
//! A boot image carries its model on a disk of its own; only a small one may travel inside the executable.

use std::path::PathBuf;
use std::{env, fs};

const LIMIT: u64 = 4 << 20;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=VECTOR_BOOT_MODEL");
    for result in [package_model(), generate_hw_mmio()] {
        if let Err(why) = result {
            println!("cargo::error={why}");
        }
    }
}

/// Turns the word table into constants: a subset of TOML, one `key = value` a line, an `[[entry]]` before each word.
fn generate_hw_mmio() -> Result<(), String> {
    let table = PathBuf::from("../image/hw_mmio.toml");
    println!("cargo::rerun-if-changed={}", table.display());
    let text = fs::read_to_string(&table).map_err(|error| format!("{}: {error}", table.display()))?;
    let (mut code, mut initial) = (String::new(), String::new());
    for entry in text.split("[[entry]]").skip(1) {
        let field = |key: &str| {
            let line = entry.lines().find(|line| line.split('=').next().map(str::trim) == Some(key))?;
            Some(line.split_once('=')?.1.trim().trim_matches('"'))
        };
        let missing = |key: &str| format!("{}: an entry has no {key}", table.display());
        let name = field("name").ok_or_else(|| missing("name"))?.to_uppercase();
        let word = field("word").ok_or_else(|| missing("word"))?;
        let meaning = field("meaning").ok_or_else(|| missing("meaning"))?;
        code += &format!("/// Word {word}: {meaning}.\npub const {name}: usize = {word};\n");
        if let Some(value) = field("initial") {
            let words = field("words").unwrap_or("1");
            initial += &format!("    ({name}, {words}, {value}_i64 as u32),\n");
        }
    }
    code += "/// First word, number of words and value of each quantity that does not start at 0.\n";
    code += &format!("pub const INITIAL: &[(usize, usize, u32)] = &[\n{initial}];\n");
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?).join("hw_mmio.rs");
    fs::write(&out, code).map_err(|error| format!("{}: {error}", out.display()))
}

fn package_model() -> Result<(), String> {
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?).join("embedded_model.gguf");
    let Some(model) = env::var_os("VECTOR_BOOT_MODEL").filter(|path| !path.is_empty()) else {
        return fs::write(&out, []).map_err(|error| format!("{}: {error}", out.display()));
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
    fs::write(&out, bytes).map_err(|error| format!("{}: {error}", out.display()))
}
