//! The short-lived child that judges what a reload has brought. It is the only process that parses it; the supervisor gets
//! a message of fixed size, and the executable as a sealed memory file.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use sha2::{Digest, Sha256};

use super::elf;
use crate::container_file::ContainerFile;
use crate::protocol::{parse_hex, ReloadReason};
use crate::rts::{check_digest, hex, Header, RtsError, HEADER_BYTES};
use crate::standalone::control::Control;
use crate::standalone::EMBEDDED_MODEL;
use crate::sys::memory::{memory_file, seal};
use crate::sys::{process, sandbox, signal};

/// The inherited descriptors: the socket for the answer, what was brought, the model's file if there is one.
const ANSWER: i32 = process::FIRST_INHERITED;
const BROUGHT: i32 = ANSWER + 1;
const MODEL: i32 = ANSWER + 2;
const COPY_CHUNK: u64 = 1 << 20;

/// What the child is told on its command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Order {
    /// Whether an RTS image was brought, and not an executable.
    pub image: bool,
    /// The public key that signed it, if the client gave one.
    pub key: Option<[u8; 32]>,
    /// Whether there is a file of the model; otherwise it is inside this executable.
    pub model: bool,
}

impl Order {
    /// The words of the command line.
    pub fn words(&self) -> Vec<String> {
        let mut words = vec!["--verify-reload".to_string(), if self.image { "rts" } else { "binary" }.to_string()];
        words.extend(self.model.then(|| "--model".to_string()));
        words.extend(self.key.map(|key| format!("--key={}", hex(&key))));
        words
    }

    /// Parses the words behind `--verify-reload`.
    pub fn parse(words: &[&str]) -> Option<Self> {
        let (what, rest) = words.split_first()?;
        let mut order = Order { image: *what == "rts", key: None, model: false };
        for word in rest {
            match word.strip_prefix("--key=") {
                Some(key) => order.key = Some(parse_hex(key)?),
                None if *word == "--model" => order.model = true,
                None => return None,
            }
        }
        (order.image || *what == "binary").then_some(order)
    }
}

/// Why it is refused: the reason and a sentence.
type Refusal = (ReloadReason, String);

/// What was brought, and the model that runs.
struct Case {
    brought: ContainerFile,
    /// The model's file; `None` for a model inside the executable.
    running: Option<ContainerFile>,
}

/// Runs the child.
///
/// # Errors
/// If it could not answer.
pub fn main(words: &[&str]) -> io::Result<()> {
    let order = Order::parse(words).ok_or(io::ErrorKind::InvalidInput)?;
    signal::die_of_faults();
    sandbox::bind_to_parent()?;
    let answer = process::inherited(ANSWER)?;
    let opened = |fd| process::inherited(fd).and_then(|fd| ContainerFile::from_open(File::from(fd)));
    let case = Case { brought: opened(BROUGHT)?, running: order.model.then(|| opened(MODEL)).transpose()? };
    sandbox::restrict_syscalls()?;
    match case.judge(&order) {
        Ok((executable, copy)) => {
            let file = copy.as_ref().map_or(case.brought.source.as_fd(), |copy| copy.as_fd());
            Control::Verified { executable }.send_with(&answer, file)
        }
        Err((reason, text)) => Control::ReloadFailed { reason, text }.send(&answer),
    }
}

fn unreadable(error: io::Error) -> Refusal {
    (ReloadReason::Format, format!("what was sent cannot be read: {error}"))
}

fn not_sound(error: RtsError) -> Refusal {
    (ReloadReason::Format, error.to_string())
}

impl Case {
    /// The SHA-256 of the executable, and a sealed file that holds it; `None` if what was brought is the executable.
    fn judge(&self, order: &Order) -> Result<([u8; 32], Option<OwnedFd>), Refusal> {
        let running = self.running_header()?;
        let signed = running.as_ref().filter(|header| header.key_id.is_some());
        let brought = &self.brought;
        if !order.image {
            if signed.is_some() {
                let text = "this machine runs a signed image: reload a signed image, not an executable";
                return Err((ReloadReason::Signature, text.into()));
            }
            elf::check(brought, 0, brought.len).map_err(|why| (ReloadReason::Format, why))?;
            let digest = brought.sha256(0, brought.len).map_err(unreadable)?;
            return Ok((digest, None));
        }
        let start = brought.read(0, HEADER_BYTES).map_err(unreadable)?;
        let header = Header::parse(&start, brought.len, brought.container).map_err(not_sound)?;
        if let Some(signed) = signed {
            check_signature(signed, &header, order.key)?;
        }
        elf::check(brought, HEADER_BYTES, header.binary_size).map_err(|why| (ReloadReason::Format, why))?;
        let digest = brought.sha256(HEADER_BYTES, header.binary_size).map_err(unreadable)?;
        check_digest("binary_sha256", 40, header.binary_sha256, digest).map_err(not_sound)?;
        let model = brought.sha256(header.tensor_offset, header.tensor_size).map_err(unreadable)?;
        check_digest("tensor_sha256", 72, header.tensor_sha256, model).map_err(not_sound)?;
        let expected = self.running_model(running.as_ref()).map_err(unreadable)?;
        if model != expected {
            let (model, expected) = (hex(&model[..6]), hex(&expected[..6]));
            let text = format!(
                "the image holds model {model}..., but model {expected}... runs, and a reload keeps the weights: boot the image \
                 to run its model, or send its executable alone"
            );
            return Err((ReloadReason::Model, text));
        }
        Ok((digest, Some(copy(brought, HEADER_BYTES, header.binary_size).map_err(unreadable)?)))
    }

    /// The header of the image that runs; `None` if it is no image.
    fn running_header(&self) -> Result<Option<Header>, Refusal> {
        let Some(file) = &self.running else { return Ok(None) };
        let start = file.read(0, HEADER_BYTES).map_err(unreadable)?;
        let is_image = start.starts_with(b"RTS");
        is_image.then(|| Header::parse(&start, file.len, file.container).map_err(not_sound)).transpose()
    }

    /// SHA-256 of the model that runs.
    fn running_model(&self, header: Option<&Header>) -> io::Result<[u8; 32]> {
        match (&self.running, header) {
            (None, _) => Ok(Sha256::digest(EMBEDDED_MODEL).into()),
            (Some(file), None) => file.sha256(0, file.len),
            (Some(file), Some(header)) => match header.tensor_sha256 {
                Some(digest) => Ok(digest),
                None => file.sha256(header.tensor_offset, header.tensor_size),
            },
        }
    }
}

/// Checks that an image is signed by the key of the one that runs, and is no older than that.
///
/// # Errors
/// Why it is refused.
pub fn check_signature(running: &Header, brought: &Header, key: Option<[u8; 32]>) -> Result<(), Refusal> {
    let refuse = |text: String| Err((ReloadReason::Signature, text));
    let Some(key) = key else {
        return refuse("this machine runs a signed image: give the public key that signed it as \"key\"".into());
    };
    let id: [u8; 32] = Sha256::digest(key).into();
    if running.key_id != Some(id) {
        return refuse(format!("the key {}... did not sign the image that runs", hex(&id[..6])));
    }
    if let Err(error) = brought.verify_signature(&key) {
        return refuse(error.to_string());
    }
    if brought.security_version < running.security_version {
        let (new, old) = (brought.security_version, running.security_version);
        let text = format!("the image has security version {new}, the one that runs has {old}: it must not be lower");
        return Err((ReloadReason::SecurityVersion, text));
    }
    Ok(())
}

/// A sealed memory file with a part of a file.
fn copy(file: &ContainerFile, mut offset: u64, len: u64) -> io::Result<OwnedFd> {
    let mut out = File::from(memory_file(c"executable")?);
    let end = offset + len;
    while offset < end {
        let piece = file.read(offset, COPY_CHUNK.min(end - offset))?;
        io::Write::write_all(&mut out, &piece)?;
        offset += piece.len() as u64;
    }
    seal(out.as_fd())?;
    Ok(out.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_orders_correspond() {
        for order in
            [Order { image: true, key: Some([0xAB; 32]), model: true }, Order { image: false, key: None, model: false }]
        {
            let words = order.words();
            let words: Vec<&str> = words.iter().skip(1).map(String::as_str).collect();
            assert_eq!(Order::parse(&words), Some(order));
        }
        for wrong in [&[][..], &["frob"], &["rts", "--key=00"], &["binary", "--frob"]] {
            assert_eq!(Order::parse(wrong), None);
        }
    }
}
