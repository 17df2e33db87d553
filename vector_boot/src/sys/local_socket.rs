//! Unix sockets with a name in the file system: what std does not offer.

use std::ffi::CString;
use std::io;
use std::mem::offset_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use super::check;

/// Connections that wait until they are accepted.
const BACKLOG: libc::c_int = 128;

/// Listens at a new name. The socket file has mode 0600 from the start, or less if the umask says so: a later chmod would
/// leave a moment in which others can connect.
///
/// # Errors
/// InvalidInput if the path is too long for a socket, AddrInUse if a file is there, and whatever bind(2) says.
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    let address = address(path)?;
    let socket = stream_socket()?;
    // SAFETY: plain calls on a live descriptor; `address` is live, and its size is given.
    unsafe {
        check(libc::fchmod(socket.as_raw_fd(), 0o600))?; // on Linux, bind gives the file the mode of the socket
        check(libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size_of_val(&address) as libc::socklen_t))?;
        check(libc::listen(socket.as_raw_fd(), BACKLOG))?;
    }
    Ok(UnixListener::from(socket))
}

/// Connects to a stream socket without waiting.
///
/// # Errors
/// WouldBlock if the backlog of the listener is full, ConnectionRefused if nobody listens, and whatever connect(2) says.
pub fn connect(path: &Path) -> io::Result<UnixStream> {
    let address = address(path)?;
    let socket = stream_socket()?;
    let size = size_of_val(&address) as libc::socklen_t;
    // SAFETY: a plain call on a live descriptor; `address` is live, and its size is given.
    check(unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), size) })?;
    Ok(UnixStream::from(socket))
}

/// Whether a process listens on the socket at a path, even if it accepts nothing.
///
/// # Errors
/// Whatever connect(2) says of a file that is no stream socket, or that this process may not use.
pub fn is_listened_on(path: &Path) -> io::Result<bool> {
    match connect(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(false),
        Err(error) => Err(error),
    }
}

/// Renames a file; unlike rename(2), it replaces no other file.
///
/// # Errors
/// AlreadyExists if the new name is taken, InvalidInput if the file system cannot do that.
pub fn rename_to_new(from: &Path, to: &Path) -> io::Result<()> {
    let text = |path: &Path| CString::new(path.as_os_str().as_bytes()).map_err(io::Error::from);
    let (from, to) = (text(from)?, text(to)?);
    let here = libc::AT_FDCWD;
    // SAFETY: both paths are live and end with a NUL.
    let result =
        unsafe { libc::syscall(libc::SYS_renameat2, here, from.as_ptr(), here, to.as_ptr(), libc::RENAME_NOREPLACE) };
    check(result as libc::c_int).map(|_| ())
}

/// A stream socket that does not block, closed on exec.
fn stream_socket() -> io::Result<OwnedFd> {
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: a plain call; the new descriptor is owned by nobody else.
    unsafe { check(libc::socket(libc::AF_UNIX, kind, 0)).map(|fd| OwnedFd::from_raw_fd(fd)) }
}

fn address(path: &Path) -> io::Result<libc::sockaddr_un> {
    // SAFETY: all zeros is a valid value; the byte after the path stays zero.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    let room = size_of_val(&address) - offset_of!(libc::sockaddr_un, sun_path) - 1;
    let bytes = path.as_os_str().as_bytes();
    if bytes.is_empty() || bytes.len() > room || bytes.contains(&0) {
        let text = format!("the path of a socket must have 1 to {room} bytes, this one has {}", bytes.len());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    for (place, byte) in address.sun_path.iter_mut().zip(bytes) {
        *place = *byte as libc::c_char;
    }
    Ok(address)
}
