//! The file of the listening socket: what may be replaced when it is made, and what is removed at the end.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// The longest path that a socket can be bound to, in bytes.
const PATH_LIMIT: usize = 107;

/// A socket file that is removed when this value is dropped, unless another file has taken its name meanwhile.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// Open only as a name (O_PATH), so that no other file can get its inode number.
    file: File,
}

impl SocketFile {
    fn at(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_NOFOLLOW).open(path)?;
        Ok(SocketFile { path: path.to_path_buf(), file })
    }

    /// Whether the path still names this file.
    fn is_in_place(&self) -> io::Result<bool> {
        let (own, found) = (self.file.metadata()?, fs::symlink_metadata(&self.path)?);
        Ok((own.dev(), own.ino()) == (found.dev(), found.ino()))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.is_in_place().unwrap_or(false) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Listens at `path` with mode 0600. A socket that nobody listens on is replaced; any other file stays as it is.
///
/// # Errors
/// One sentence that names the path: another file or a live socket is there, or the socket cannot be made.
pub fn listen(path: &Path) -> Result<(UnixListener, SocketFile), String> {
    let name = path.display();
    let failed = |error: io::Error| format!("{name}: cannot listen: {error}");
    remove_abandoned_socket(path)?;
    // Between bind and listen a client would be refused, so the socket gets its final name once it listens.
    let mut temporary = path.as_os_str().to_os_string();
    temporary.push(format!("~{}", std::process::id()));
    let temporary = if temporary.len() <= PATH_LIMIT { PathBuf::from(temporary) } else { path.to_path_buf() };
    let listener = UnixListener::bind(&temporary).map_err(failed)?;
    let file = SocketFile::at(&temporary).map_err(failed)?;
    fs::set_permissions(&temporary, Permissions::from_mode(0o600)).map_err(failed)?;
    if temporary == path {
        return Ok((listener, file));
    }
    // Unlike rename, a link never replaces a file that appeared since the check above. Dropping `file` removes the
    // temporary name.
    fs::hard_link(&temporary, path).map_err(failed)?;
    Ok((listener, SocketFile::at(path).map_err(failed)?))
}

/// Removes the socket at `path` if nobody listens on it; refuses anything else that is there.
fn remove_abandoned_socket(path: &Path) -> Result<(), String> {
    let name = path.display();
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found.file_type(),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(format!("{name}: cannot listen: {error}")),
    };
    if !found.is_socket() {
        let kind = match found {
            kind if kind.is_file() => "a regular file",
            kind if kind.is_dir() => "a folder",
            kind if kind.is_symlink() => "a symbolic link",
            _ => "a special file",
        };
        return Err(format!("{name}: cannot listen: {kind} is there: choose another path, or remove it first"));
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(|error| format!("{name}: cannot replace the abandoned socket: {error}"))
        }
        Ok(_) => Err(format!("{name}: cannot listen: another process listens there: choose another path")),
        Err(error) => Err(format!("{name}: cannot listen: a socket is there that may be in use: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("vector_boot-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Folder(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn an_abandoned_socket_is_replaced_and_a_live_one_is_not() {
        let folder = Folder::new("sockets");
        let path = folder.0.join("socket");
        let (first, file) = listen(&path).unwrap();
        assert!(listen(&path).unwrap_err().contains("another process listens"));
        drop(first);
        let (second, second_file) = listen(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        drop(file); // its name belongs to the second socket now
        assert!(path.exists());
        drop((second, second_file));
        assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 0);
    }

    #[test]
    fn other_files_are_refused_and_stay_as_they_are() {
        let folder = Folder::new("files");
        let (document, link) = (folder.0.join("document"), folder.0.join("link"));
        fs::write(&document, "text").unwrap();
        std::os::unix::fs::symlink(&document, &link).unwrap();
        assert!(listen(&document).unwrap_err().contains("a regular file is there"));
        assert!(listen(&link).unwrap_err().contains("a symbolic link is there"));
        assert!(listen(&folder.0).unwrap_err().contains("a folder is there"));
        assert_eq!(fs::read(&document).unwrap(), b"text");
        assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 2);
    }

    #[test]
    fn a_file_that_took_the_sockets_name_is_not_removed() {
        let folder = Folder::new("taken");
        let path = folder.0.join("socket");
        let (_listener, file) = listen(&path).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "text").unwrap();
        drop(file);
        assert_eq!(fs::read(&path).unwrap(), b"text");
    }
}
