//! The short-lived children that hash and judge images for the supervisor, and answer in a struct of fixed size.

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

/// What a child found.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// A digest: of the executable itself, or the one an image records of its binary section (`None`: none recorded).
    Sha256(Option<[u8; 32]>),
    /// The image is refused, for this reason.
    Refused(String),
}

impl Answer {
    fn encode(&self) -> [u8; ANSWER_BYTES] {
        let mut bytes = [0; ANSWER_BYTES];
        match self {
            Answer::Sha256(digest) => {
                bytes[..2].copy_from_slice(&[OK, u8::from(digest.is_some())]);
                bytes[8..40].copy_from_slice(&digest.unwrap_or_default());
            }
            Answer::Refused(why) => {
                bytes[0] = REFUSED;
                write_text(&mut bytes[8..], why);
            }
        }
        bytes
    }

    fn decode(bytes: &[u8; ANSWER_BYTES]) -> Option<Self> {
        match bytes[0] {
            OK => Some(Answer::Sha256((bytes[1] != 0).then_some(*bytes[8..].first_chunk()?))),
            REFUSED => Some(Answer::Refused(read_text(&bytes[8..]))),
            _ => None,
        }
    }
}

/// The child: hashes this executable, or judges the image on descriptor 4; answers on descriptor 3.
///
/// # Errors
/// If the answer cannot be given.
pub fn main(judges_image: bool) -> io::Result<()> {
    let mut out = File::from(process::inherited(process::FIRST_INHERITED)?);
    let answer = match judges_image {
        true => judge(File::from(process::inherited(process::FIRST_INHERITED + 1)?)),
        false => {
            let own = ContainerFile::open(Path::new("/proc/self/exe"))?;
            Answer::Sha256(Some(own.sha256(0, own.len)?))
        }
    };
    out.write_all(&answer.encode())
}

fn judge(file: File) -> Answer {
    let header = ContainerFile::from_open(file).and_then(|file| Ok((file.read(0, HEADER_BYTES)?, file)));
    match header {
        Err(error) => Answer::Refused(format!("the image cannot be read: {error}")),
        Ok((start, file)) => match Header::parse(&start, file.len, file.container) {
            Ok(header) => Answer::Sha256(header.binary_sha256),
            Err(error) => Answer::Refused(format!("the image is refused: {error}")),
        },
    }
}

/// A child at work.
pub struct Probe {
    from_child: io::PipeReader,
    pid: u32,
    deadline: Instant,
}

impl Probe {
    /// Starts a child that judges `image`, or hashes the executable.
    ///
    /// # Errors
    /// One sentence if it cannot be started.
    pub fn start(image: Option<BorrowedFd<'_>>, appliance: bool) -> Result<Self, String> {
        let (from_child, to_parent) = io::pipe().map_err(failed)?;
        let mut fds = vec![to_parent.as_fd()];
        fds.extend(image);
        let mut command = own_executable();
        command.args(["--probe", if image.is_some() { "image" } else { "executable" }]);
        let child = process::spawn(&mut command, &fds, appliance.then_some(WORKER_USER)).map_err(failed)?;
        Ok(Probe { from_child, pid: child.id(), deadline: Instant::now() + DEADLINE })
    }

    /// Waits for its answer.
    ///
    /// # Errors
    /// One sentence if it does not answer in time.
    pub fn finish(mut self) -> Result<Answer, String> {
        let mut bytes = Vec::new();
        while bytes.len() < ANSWER_BYTES {
            let Some(left) = self.deadline.checked_duration_since(Instant::now()) else {
                process::kill(self.pid, libc::SIGKILL);
                return Err("the image was not judged within 20 s".into());
            };
            wait(&mut [Interest::read(self.from_child.as_raw_fd())], left).map_err(failed)?;
            let mut piece = [0; ANSWER_BYTES];
            match self.from_child.read(&mut piece).map_err(failed)? {
                0 => return Err("the image cannot be judged: the child died".into()),
                count => bytes.extend_from_slice(&piece[..count]),
            }
        }
        let answer = bytes.first_chunk().and_then(Answer::decode);
        answer.ok_or_else(|| "the image cannot be judged: no sense in the answer".into())
    }

    /// Waits for the digest of the executable.
    ///
    /// # Errors
    /// One sentence if there is none.
    pub fn executable(self) -> Result<[u8; 32], String> {
        match self.finish()? {
            Answer::Sha256(Some(digest)) => Ok(digest),
            _ => Err("the executable was not hashed".into()),
        }
    }
}

fn failed(error: io::Error) -> String {
    format!("the image cannot be judged: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_survive_the_pipe() {
        for answer in [Answer::Sha256(Some([7; 32])), Answer::Sha256(None), Answer::Refused("why".into())] {
            assert_eq!(Answer::decode(&answer.encode()), Some(answer));
        }
        assert_eq!(Answer::decode(&[0; ANSWER_BYTES]), None);
    }
}
