//! The short-lived child that judges images for the supervisor, and answers in a struct of fixed size.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use super::worker_process::{own_executable, WORKER_USER};
use crate::rts::{Header, HEADER_BYTES};
use crate::standalone::container_file::ContainerFile;
use crate::standalone::control::{read_text, write_text};
use crate::sys::process;
use crate::sys::ready::{wait, Interest};

const ANSWER_BYTES: usize = 256;
const DEADLINE: Duration = Duration::from_secs(20);
const OK: u8 = 1;
const REFUSED: u8 = 2;

/// What the child found.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// SHA-256 of the running executable.
    pub executable: [u8; 32],
    /// SHA-256 of the image's binary section, if there is an image and it records one.
    pub binary: Option<[u8; 32]>,
    /// Why the image is refused, if it is.
    pub refusal: Option<String>,
}

impl Answer {
    fn encode(&self) -> [u8; ANSWER_BYTES] {
        let mut bytes = [0; ANSWER_BYTES];
        bytes[0] = if self.refusal.is_none() { OK } else { REFUSED };
        bytes[1] = u8::from(self.binary.is_some());
        bytes[8..40].copy_from_slice(&self.executable);
        bytes[40..72].copy_from_slice(&self.binary.unwrap_or_default());
        write_text(&mut bytes[72..], self.refusal.as_deref().unwrap_or_default());
        bytes
    }

    fn decode(bytes: &[u8; ANSWER_BYTES]) -> Option<Self> {
        let refusal = match bytes[0] {
            OK => None,
            REFUSED => Some(read_text(&bytes[72..])),
            _ => return None,
        };
        let binary = *bytes[40..].first_chunk()?;
        Some(Answer { executable: *bytes[8..].first_chunk()?, binary: (bytes[1] != 0).then_some(binary), refusal })
    }
}

/// The child: hashes this executable and judges the image on descriptor 4, if there is one; answers on descriptor 3.
///
/// # Errors
/// If the answer cannot be given.
pub fn main(has_image: bool) -> io::Result<()> {
    let mut out = File::from(process::inherited(process::FIRST_INHERITED)?);
    let own = ContainerFile::open(Path::new("/proc/self/exe"))?;
    let mut answer = Answer { executable: own.sha256(0, own.len)?, binary: None, refusal: None };
    if has_image {
        match judge(File::from(process::inherited(process::FIRST_INHERITED + 1)?)) {
            Ok(header) => answer.binary = header.binary_sha256,
            Err(why) => answer.refusal = Some(why),
        }
    }
    out.write_all(&answer.encode())
}

fn judge(file: File) -> Result<Header, String> {
    let unreadable = |error| format!("the image cannot be read: {error}");
    let file = ContainerFile::from_open(file).map_err(unreadable)?;
    let start = file.read(0, HEADER_BYTES).map_err(unreadable)?;
    Header::parse(&start, file.len, file.container).map_err(|error| format!("the image is refused: {error}"))
}

/// Asks a child about the image, or about the executable alone.
///
/// # Errors
/// One sentence if it does not answer in time.
pub fn ask(image: Option<BorrowedFd<'_>>, appliance: bool) -> Result<Answer, String> {
    let failed = |error: io::Error| format!("the image cannot be judged: {error}");
    let (mut from_child, to_parent) = io::pipe().map_err(failed)?;
    let mut fds = vec![to_parent.as_fd()];
    fds.extend(image);
    let mut command = own_executable();
    command.args(["--probe", if image.is_some() { "image" } else { "executable" }]);
    let child = process::spawn(&mut command, &fds, appliance.then_some(WORKER_USER)).map_err(failed)?;
    drop(fds);
    drop(to_parent);
    let mut bytes = Vec::new();
    let deadline = Instant::now() + DEADLINE;
    while bytes.len() < ANSWER_BYTES {
        let Some(left) = deadline.checked_duration_since(Instant::now()) else {
            process::kill(child.id(), libc::SIGKILL);
            return Err("the image was not judged within 20 s".into());
        };
        wait(&mut [Interest::read(from_child.as_raw_fd())], left).map_err(failed)?;
        let mut piece = [0; ANSWER_BYTES];
        match from_child.read(&mut piece).map_err(failed)? {
            0 => return Err("the image cannot be judged: the child died".into()),
            count => bytes.extend_from_slice(&piece[..count]),
        }
    }
    bytes
        .first_chunk()
        .and_then(Answer::decode)
        .ok_or_else(|| "the image cannot be judged: no sense in the answer".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_survive_the_pipe() {
        for (binary, refusal) in [(None, None), (Some([7; 32]), None), (None, Some("why".to_string()))] {
            let answer = Answer { executable: [9; 32], binary, refusal };
            assert_eq!(Answer::decode(&answer.encode()), Some(answer));
        }
        assert_eq!(Answer::decode(&[0; ANSWER_BYTES]), None);
    }
}
