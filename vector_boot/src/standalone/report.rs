//! The output of `vector_boot check`, as text and as JSON.
//!
//! JSON, accepted: `{"ok": true, "file", "kind": "gguf" | "rts", "bytes", "rts"?: {"binary_size", "tensor_offset",
//! "tensor_size", "binary_sha256", "tensor_sha256", "key_id", "security_version", "signature_verified", "bootable"},
//! "gguf": {"version", "alignment", "metadata", "tensors", "data_offset", "data_bytes", "architecture", "name",
//! "parameters", "types": {type: count}}, "capabilities": {"serves", "embed", "embed_refused", "max_tokens", "pooling",
//! "generate", "edits": {kind: {type: count}}, "mutation_key"}}`; absent texts and digests are null. `serves` false: the
//! machine boots into an emergency, for the reason `embed_refused`. `mutation_key`: changes must be signed with it. `edits` counts the tensors that each kind of edit can change.
//! JSON, refused: `{"ok": false, "file", "rule", "field", "offset", "text"}`; rule, field and offset are null when the
//! file could not be read at all.

use std::fmt::Write;

use super::check::{CheckError, GgufSummary, RtsSummary, Summary};
use crate::rts::hex;

/// Escapes characters that would break a line, or change the direction of text on a terminal.
pub fn one_line(text: &str) -> String {
    let is_escaped = |c: char| {
        let is_directional = matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        c.is_control() || is_directional
    };
    text.chars().flat_map(|c| if is_escaped(c) { c.escape_unicode().collect() } else { vec![c] }).collect()
}

/// The line of an error, with its line end.
pub fn error_text(file: &str, error: &CheckError) -> String {
    match error {
        CheckError::Unreadable(error) => format!("{file}: {error}\n"),
        CheckError::Key(text) => format!("{file}: {text}\n"),
        CheckError::Gguf(error) => format!("{file}: {error}\n"),
        CheckError::Rts(error) => format!("{file}: {error}\n"),
    }
}

/// The JSON object of an error, with its line end.
pub fn error_json(file: &str, error: &CheckError) -> String {
    let (rule, field, offset, text) = match error {
        CheckError::Unreadable(error) => (None, None, None, error.to_string()),
        CheckError::Key(text) => (None, None, None, text.clone()),
        CheckError::Gguf(e) => {
            (Some(e.rule.to_string()), Some(e.field.to_string()), Some(e.offset), e.fault.to_string())
        }
        CheckError::Rts(e) => {
            let text = format!("is {}, expected {}", e.value, e.expected);
            (Some("RTS".to_string()), Some(e.field.to_string()), Some(e.offset), text)
        }
    };
    let offset = offset.map_or_else(|| "null".to_string(), |offset| offset.to_string());
    format!(
        "{{\"ok\": false, \"file\": {}, \"rule\": {}, \"field\": {}, \"offset\": {offset}, \"text\": {}}}\n",
        string(file),
        optional(rule.as_deref()),
        optional(field.as_deref()),
        string(&text),
    )
}

/// The summary as text.
pub fn summary_text(file: &str, summary: &Summary) -> String {
    let GgufSummary { version, alignment, metadata, tensors, parameters, architecture, name, types, .. } =
        &summary.gguf;
    let mut text = format!("{file}: ok, {} bytes\n", summary.bytes);
    if let Some(RtsSummary { header, signature_verified }) = &summary.rts {
        let digests = match (header.binary_sha256.is_some(), header.tensor_sha256.is_some()) {
            (true, true) => "digests verified",
            (false, false) => "no digests",
            _ => "one digest verified, one absent",
        };
        let signature = match (header.key_id, signature_verified) {
            (None, _) => "unsigned".to_string(),
            (Some(_), true) => "signature verified".to_string(),
            (Some(id), false) => format!("signed by key {}, not verified (no --key)", hex(&id[..8])),
        };
        let bootable =
            if header.is_bootable() { "bootable" } else { "not bootable (512 + N is not a multiple of 4096)" };
        let _ = writeln!(
            text,
            "  RTS 1: binary {} bytes, model {} bytes at {}, {digests}, {signature}, security version {}, {bootable}",
            header.binary_size, header.tensor_size, header.tensor_offset, header.security_version,
        );
    }
    let types: Vec<String> = types.iter().map(|(name, count)| format!("{count} {name}")).collect();
    let _ = writeln!(
        text,
        "  GGUF {version}: {} ({}), {parameters} parameters in {tensors} tensors ({}), {metadata} keys, alignment {alignment}",
        one_line(name.as_deref().unwrap_or("no name")),
        one_line(architecture.as_deref().unwrap_or("no architecture")),
        types.join(", "),
    );
    text
}

/// The summary as one JSON object.
pub fn summary_json(file: &str, summary: &Summary) -> String {
    let kind = if summary.rts.is_some() { "rts" } else { "gguf" };
    let mut json =
        format!("{{\"ok\": true, \"file\": {}, \"kind\": \"{kind}\", \"bytes\": {}", string(file), summary.bytes);
    if let Some(RtsSummary { header, signature_verified }) = &summary.rts {
        let digest = |digest: Option<[u8; 32]>| optional(digest.map(|d| hex(&d)).as_deref());
        let _ = write!(
            json,
            ", \"rts\": {{\"binary_size\": {}, \"tensor_offset\": {}, \"tensor_size\": {}, \"binary_sha256\": {}, \
             \"tensor_sha256\": {}, \"key_id\": {}, \"security_version\": {}, \"signature_verified\": {signature_verified}, \
             \"bootable\": {}}}",
            header.binary_size,
            header.tensor_offset,
            header.tensor_size,
            digest(header.binary_sha256),
            digest(header.tensor_sha256),
            digest(header.key_id),
            header.security_version,
            header.is_bootable(),
        );
    }
    let gguf = &summary.gguf;
    let types: Vec<String> = gguf.types.iter().map(|(name, count)| format!("\"{name}\": {count}")).collect();
    let _ = writeln!(
        json,
        ", \"gguf\": {{\"version\": {}, \"alignment\": {}, \"metadata\": {}, \"tensors\": {}, \"data_offset\": {}, \
         \"data_bytes\": {}, \"architecture\": {}, \"name\": {}, \"parameters\": {}, \"types\": {{{}}}}}, \"capabilities\": {}}}",
        gguf.version,
        gguf.alignment,
        gguf.metadata,
        gguf.tensors,
        gguf.data_offset,
        gguf.data_bytes,
        optional(gguf.architecture.as_deref()),
        optional(gguf.name.as_deref()),
        gguf.parameters,
        types.join(", "),
        gguf.capabilities.to_json(),
    );
    json
}

fn optional(text: Option<&str>) -> String {
    text.map_or_else(|| "null".to_string(), string)
}

/// A JSON string literal.
fn string(text: &str) -> String {
    let mut json = String::with_capacity(text.len() + 2);
    json.push('"');
    for c in text.chars() {
        match c {
            '"' => json.push_str("\\\""),
            '\\' => json.push_str("\\\\"),
            c if c.is_control() => {
                let _ = write!(json, "\\u{:04x}", c as u32); // control characters lie below U+0100
            }
            c => json.push(c),
        }
    }
    json.push('"');
    json
}
