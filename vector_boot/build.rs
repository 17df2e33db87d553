//! Packages what the standalone build embeds: the model that `VECTOR_BOOT_MODEL` names, or nothing.
//!
//! A boot image carries its model on a disk of its own; only a small one may travel inside the executable.

use std::path::PathBuf;
use std::{env, fs};

const LIMIT: u64 = 4 << 20;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=VECTOR_BOOT_MODEL");
    if let Err(why) = package_model() {
        println!("cargo::error={why}");
    }
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
