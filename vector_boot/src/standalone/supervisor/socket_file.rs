//! The file of the listening socket: what may be replaced when it is made, and what is removed at the end.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use crate::sys::local_socket;

/// The longest path that a socket can be bound to, in bytes.
const PATH_LIMIT: usize = 107;

/// A socket file that is removed when this value is dropped, unless another file has taken its name meanwhile.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// Open only as a name (O_PATH), so that no other file can get its inode number.
    file: File,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if names(&self.path, &self.file).unwrap_or(false) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Opens a file only as a name, which has no effect on it; symbolic links are not followed.
fn open_as_name(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_NOFOLLOW).open(path)
}

/// Whether the path is a name of this file.
fn names(path: &Path, file: &File) -> io::Result<bool> {
    let (own, found) = (file.metadata()?, fs::symlink_metadata(path)?);
    Ok((own.dev(), own.ino()) == (found.dev(), found.ino()))
}

/// The name for a file of this process beside `path`.
fn beside(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(format!("~{}", std::process::id()));
    name.into()
}

/// Listens at `path` with mode 0600. A socket that nobody listens on is replaced; any other file stays as it is.
///
/// # Errors
/// One sentence that names the path: another file or a live socket is there, or the socket cannot be made.
pub fn listen(path: &Path) -> Result<(UnixListener, SocketFile), String> {
    let failed = |error: io::Error| match error.kind() {
        ErrorKind::NotFound => format!("{}: cannot listen: its folder does not exist: make it first", path.display()),
        _ => format!("{}: cannot listen: {error}", path.display()),
    };
    let length = path.as_os_str().len();
    if length == 0 || length > PATH_LIMIT {
        let name = path.display();
        return Err(format!(
            "{name}: cannot listen: expected a path of 1 to {PATH_LIMIT} bytes, got {length}: choose a shorter one, such as \
             one relative to the current folder"
        ));
    }
    remove_abandoned_socket(path)?;
    // Between bind and listen a client would be refused, so the socket gets its final name once it listens.
    let temporary = beside(path);
    let temporary = if temporary.as_os_str().len() <= PATH_LIMIT { temporary } else { path.to_path_buf() };
    let listener = local_socket::listen(&temporary).map_err(failed)?;
    let file = SocketFile { file: open_as_name(&temporary).map_err(failed)?, path: temporary };
    if file.path == path {
        return Ok((listener, file));
    }
    // Unlike rename, a link never replaces a file that appeared since the check above. Dropping `file` removes the
    // temporary name.
    fs::hard_link(&file.path, path).map_err(failed)?;
    let linked = SocketFile { path: path.to_path_buf(), file: file.file.try_clone().map_err(failed)? };
    Ok((listener, linked))
}

/// Removes the socket at `path` if nobody listens on it; refuses anything else that is there.
fn remove_abandoned_socket(path: &Path) -> Result<(), String> {
    let name = path.display();
    let failed = |error: io::Error| format!("{name}: cannot listen: {error}");
    let file = match open_as_name(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    let found = file.metadata().map_err(failed)?.file_type();
    if !found.is_socket() {
        let kind = match found {
            kind if kind.is_file() => "a regular file",
            kind if kind.is_dir() => "a folder",
            kind if kind.is_symlink() => "a symbolic link",
            _ => "a special file",
        };
        return Err(format!("{name}: cannot listen: {kind} is there: choose another path, or remove it first"));
    }
    match local_socket::is_listened_on(path) {
        Ok(false) => remove_if_same(path, &file),
        Ok(true) => Err(format!("{name}: cannot listen: another process listens there: choose another path")),
        Err(error) => Err(format!("{name}: cannot listen: a socket is there that may be in use: {error}")),
    }
}

/// Removes the name `path` of `file`. If another file has taken the name, that one keeps it: the file is first renamed, and
/// only then compared, because another process may replace it between a comparison and the removal.
fn remove_if_same(path: &Path, file: &File) -> Result<(), String> {
    let name = path.display();
    let failed = |error: io::Error| format!("{name}: cannot replace the abandoned socket: {error}");
    let aside = beside(path);
    match local_socket::rename_to_new(path, &aside) {
        Ok(()) => (),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()), // another process has removed it
        // Some file systems cannot rename without replacing.
        Err(error) if error.kind() == ErrorKind::InvalidInput && names(path, file).unwrap_or(false) => {
            return fs::remove_file(path).map_err(failed);
        }
        Err(error) => return Err(failed(error)),
    }
    if names(&aside, file).map_err(failed)? {
        return fs::remove_file(&aside).map_err(failed);
    }
    match local_socket::rename_to_new(&aside, path) {
        Ok(()) => Err(format!("{name}: cannot listen: another process has just put a file there")),
        Err(error) => {
            let aside = aside.display();
            Err(format!(
                "{name}: cannot listen: another process uses this path; one of its files is now {aside}: {error}"
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixStream;

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
    fn a_path_that_cannot_be_bound_is_refused_with_the_reason() {
        let folder = Folder::new("paths");
        let message = |path: &Path| listen(path).unwrap_err();
        assert!(message(&folder.0.join("x".repeat(120))).contains("expected a path of 1 to 107 bytes, got "));
        assert!(message(Path::new("")).contains("got 0"));
        assert!(message(&folder.0.join("none/socket")).contains("its folder does not exist: make it first"));
        assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 0);
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
    #[test]
    fn a_file_that_replaced_the_abandoned_socket_meanwhile_stays() {
        let folder = Folder::new("replaced");
        let path = folder.0.join("socket");
        drop(local_socket::listen(&path).unwrap());
        let examined = open_as_name(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let (listener, _file) = listen(&path).unwrap();
        assert!(remove_if_same(&path, &examined).unwrap_err().contains("has just put a file there"));
        UnixStream::connect(&path).unwrap();
        drop(listener);
        fs::remove_file(&path).unwrap();
        fs::write(&path, "text").unwrap();
        remove_if_same(&path, &examined).unwrap_err();
        assert_eq!(fs::read(&path).unwrap(), b"text");
        assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 1);
    }

    #[test]
    fn a_listener_that_accepts_nothing_is_live_too() {
        let folder = Folder::new("full");
        let path = folder.0.join("socket");
        let _listener = local_socket::listen(&path).unwrap();
        let mut waiting = Vec::new();
        while waiting.len() < 1000 {
            match local_socket::connect(&path) {
                Ok(stream) => waiting.push(stream),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::WouldBlock);
                    break;
                }
            }
        }
        assert!(waiting.len() < 1000, "the backlog has a limit");
        assert!(listen(&path).unwrap_err().contains("another process listens"));
    }
}
