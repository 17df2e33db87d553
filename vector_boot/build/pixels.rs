//! Turns the instruction table of the pixel interpreter and the built-in programs into Rust.

use std::fs;

use crate::toml::{write_output, Table, Tables};

const TABLE: &str = "../spec/pixels.toml";
/// Bytes of pixels that fit a slot.
const LIMIT: usize = 4092;
const KERNELS: &str = "../spec/kernels.txt";

/// The instruction set: an enumeration, another one for the immediates of each instruction that names them, and the decoder.
pub fn generate_instructions() -> Result<(), String> {
    let tables = Tables::read(TABLE)?;
    let (mut variants, mut enumerations) = (String::new(), String::new());
    let (mut decode, mut names, mut pops) = (String::new(), String::new(), String::new());
    for table in tables.of("opcode") {
        let (code, name, effect) = (table.required("code")?, table.required("name")?, table.required("effect")?);
        let variant = camel_case(name);
        let (operand, decoder) = operand(&table, name, &variant)?;
        let payload = operand.as_ref().map_or(String::new(), |operand| format!("({operand})"));
        let pattern = if operand.is_some() { "(_)" } else { "" };
        variants += &format!("    /// {effect}.\n    {variant}{payload},\n");
        decode += &format!("            {code} => {decoder},\n");
        names += &format!("            Instruction::{variant}{pattern} => {name:?},\n");
        pops += &format!("            Instruction::{variant}{pattern} => {},\n", table.field("pops").unwrap_or("0"));
        if let Some(words) = table.list("immediates") {
            enumerations += &enumeration(&variant, name, &words);
        }
    }
    let code = format!(
        "/// An instruction: what a pixel with r = 250 means.\n#[derive(Debug, Clone, Copy, PartialEq, Eq)]\n\
         pub enum Instruction {{\n{variants}}}\n\n{enumerations}\
         impl Instruction {{\n    /// The instruction with this opcode and immediate.\n    ///\n\
         \x20   /// # Errors\n    /// [`DecodeError`] if the table has no such opcode, or the opcode no such immediate.\n\
         \x20   pub fn decode(opcode: u8, immediate: u8) -> Result<Self, DecodeError> {{\n\
         \x20       let found = match opcode {{\n{decode}            _ => return Err(DecodeError::Opcode(opcode)),\n\
         \x20       }};\n        found.ok_or(DecodeError::Immediate(opcode, immediate))\n    }}\n\n\
         \x20   /// Its name in the table.\n    pub fn name(self) -> &'static str {{\n        match self {{\n{names}\
         \x20       }}\n    }}\n\n\
         \x20   /// Values it takes off the stack.\n    pub fn pops(self) -> usize {{\n        match self {{\n{pops}\
         \x20       }}\n    }}\n}}\n"
    );
    write_output("pixels.rs", code.as_bytes())
}

/// The type of what an instruction carries, if anything, and the expression that makes an `Option` of the instruction.
fn operand(table: &Table<'_>, name: &str, variant: &str) -> Result<(Option<String>, String), String> {
    let carried = match (table.field("operand"), table.field("immediates")) {
        (None, None) => return Ok((None, format!("(immediate == 0).then_some(Instruction::{variant})"))),
        (None, Some(_)) => variant,
        (Some("slot"), None) => "Slot",
        (Some("vector"), None) => "Vector",
        _ => return Err(format!("{TABLE}: the immediate of {name} is described in an unknown way: expected `immediates`, or `operand` as slot or vector")),
    };
    Ok((Some(carried.into()), format!("{carried}::decode(immediate).map(Instruction::{variant})")))
}

fn enumeration(variant: &str, name: &str, words: &[&str]) -> String {
    let (mut variants, mut decode) = (String::new(), String::new());
    for (number, word) in words.iter().enumerate() {
        variants += &format!("    /// b = {number}: {word}.\n    {},\n", camel_case(word));
        decode += &format!("            {number} => {variant}::{},\n", camel_case(word));
    }
    format!(
        "/// Immediate of {name}.\n#[derive(Debug, Clone, Copy, PartialEq, Eq)]\npub enum {variant} {{\n{variants}}}\n\n\
         impl {variant} {{\n    fn decode(immediate: u8) -> Option<Self> {{\n        Some(match immediate {{\n{decode}\
         \x20           _ => return None,\n        }})\n    }}\n}}\n\n"
    )
}

/// `rms_norm` as `RmsNorm`.
pub fn camel_case(name: &str) -> String {
    let capitalised = |word: &str| word[..1].to_uppercase() + &word[1..].to_lowercase();
    name.split('_').map(capitalised).collect()
}

/// The built-in programs: lines of a name, a colon and hexadecimal digits.
pub fn generate_kernels() -> Result<(), String> {
    println!("cargo::rerun-if-changed={KERNELS}");
    let text = fs::read_to_string(KERNELS).map_err(|error| format!("{KERNELS}: {error}"))?;
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let programs = lines.map(bytes_of).collect::<Result<Vec<_>, _>>()?;
    let code =
        format!("/// The pixels of kernel.0 to kernel.7.\npub static KERNELS: [&[u8]; 8] = {};\n", list(&programs));
    write_output("kernels.rs", code.as_bytes())
}

fn bytes_of(line: &str) -> Result<Vec<u8>, String> {
    let digits = line.split_once(':').map_or("", |(_, digits)| digits.trim());
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let bytes: Option<Vec<u8>> = digits.as_bytes().chunks(2).map(byte).collect();
    let program = bytes.filter(|bytes| bytes.len() % 3 == 0 && bytes.len() <= LIMIT);
    program.ok_or_else(|| format!("{KERNELS}: {line:?} is not a program of at most {LIMIT} bytes"))
}

fn list(programs: &[Vec<u8>]) -> String {
    let programs: Vec<String> = programs.iter().map(|program| format!("&{program:?}")).collect();
    format!("[{}]", programs.join(", "))
}
