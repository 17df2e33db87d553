//! A pair of connected sockets that carries short messages, each as a whole, and never blocks. A message may carry
//! descriptors.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use super::check;

/// Two connected ends of type SEQPACKET.
///
/// # Errors
/// Whatever socketpair(2) says.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds = [0; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: `fds` has room for the two descriptors.
    check(unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, fds.as_mut_ptr()) })?;
    // SAFETY: both are new and owned by nobody else.
    Ok(unsafe { (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])) })
}

/// Sends one message, or fails at once when the other end is full or gone.
///
/// # Errors
/// Whatever send(2) says, WouldBlock included.
pub fn send(socket: &OwnedFd, message: &[u8]) -> io::Result<()> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: the pointer and length are those of a live slice.
    let sent = unsafe { libc::send(socket.as_raw_fd(), message.as_ptr().cast(), message.len(), flags) };
    if sent < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Receives one message into `buffer`: its length, 0 when the other end has closed.
///
/// # Errors
/// Whatever recv(2) says, WouldBlock included.
pub fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> io::Result<usize> {
    despite_reset(|| {
        let (start, len) = (buffer.as_mut_ptr().cast(), buffer.len());
        // SAFETY: the pointer and length are those of a live, exclusive slice.
        let got = unsafe { libc::recv(socket.as_raw_fd(), start, len, libc::MSG_DONTWAIT) };
        usize::try_from(got).map_err(|_| io::Error::last_os_error())
    })
}

/// An end that closes while messages for it wait resets the connection. Linux says so once, in front of the messages that
/// it had sent before: they count.
fn despite_reset<T>(mut receive: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    match receive() {
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => receive(),
        other => other,
    }
}

/// The most descriptors that one message carries.
pub const FDS_LIMIT: usize = 64;

/// Space for the control message of [`FDS_LIMIT`] descriptors, aligned as the kernel wants it.
#[repr(C, align(8))]
struct ControlSpace([u8; 16 + FDS_LIMIT * size_of::<RawFd>()]);

impl ControlSpace {
    fn new() -> Self {
        ControlSpace([0; 16 + FDS_LIMIT * size_of::<RawFd>()])
    }
}

/// Sends one message with descriptors; the receiver gets copies of them.
///
/// # Errors
/// InvalidInput for more than [`FDS_LIMIT`] descriptors; whatever sendmsg(2) says, WouldBlock included.
pub fn send_with(socket: &OwnedFd, message: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    if fds.is_empty() {
        return send(socket, message);
    }
    if fds.len() > FDS_LIMIT {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let bytes = size_of_val(fds) as u32; // a borrowed descriptor is an int
    let mut control = ControlSpace::new();
    let mut piece = libc::iovec { iov_base: message.as_ptr().cast_mut().cast(), iov_len: message.len() };
    // SAFETY: all zeros is a valid value. Every pointer is to a live local; the space holds one header and FDS_LIMIT
    // descriptors, so CMSG_FIRSTHDR is not null and the descriptors written behind it stay inside.
    unsafe {
        let mut header: libc::msghdr = std::mem::zeroed();
        (header.msg_iov, header.msg_iovlen) = (&raw mut piece, 1);
        header.msg_control = control.0.as_mut_ptr().cast();
        header.msg_controllen = libc::CMSG_SPACE(bytes) as _;
        let first = libc::CMSG_FIRSTHDR(&header);
        ((*first).cmsg_level, (*first).cmsg_type) = (libc::SOL_SOCKET, libc::SCM_RIGHTS);
        (*first).cmsg_len = libc::CMSG_LEN(bytes) as _;
        for (place, fd) in fds.iter().enumerate() {
            libc::CMSG_DATA(first).cast::<RawFd>().add(place).write_unaligned(fd.as_raw_fd());
        }
        let sent = libc::sendmsg(socket.as_raw_fd(), &header, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL);
        check(i32::try_from(sent).unwrap_or(i32::MAX)).map(|_| ())
    }
}

/// Receives one message into `buffer`, and the descriptors that came with it: its length, 0 when the other end has closed.
/// Descriptors beyond [`FDS_LIMIT`] are closed by the kernel.
///
/// # Errors
/// Whatever recvmsg(2) says, WouldBlock included.
pub fn receive_with(socket: &OwnedFd, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    despite_reset(|| receive_once(socket, buffer))
}

fn receive_once(socket: &OwnedFd, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut control = ControlSpace::new();
    let mut piece = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let mut fds = Vec::new();
    // SAFETY: all zeros is a valid value. Every pointer is to a live local, and the kernel writes no further than the given
    // lengths. CMSG_FIRSTHDR and CMSG_NXTHDR stay inside what it wrote; each descriptor in it is new and ours alone.
    let got = unsafe {
        let mut header: libc::msghdr = std::mem::zeroed();
        (header.msg_iov, header.msg_iovlen) = (&raw mut piece, 1);
        (header.msg_control, header.msg_controllen) = (control.0.as_mut_ptr().cast(), control.0.len() as _);
        let got = libc::recvmsg(socket.as_raw_fd(), &mut header, libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC);
        let got = usize::try_from(got).map_err(|_| io::Error::last_os_error())?;
        let mut found = libc::CMSG_FIRSTHDR(&header);
        while !found.is_null() {
            if ((*found).cmsg_level, (*found).cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
                let bytes = ((*found).cmsg_len as usize).saturating_sub(libc::CMSG_LEN(0) as usize);
                for place in 0..bytes / size_of::<RawFd>() {
                    let fd = libc::CMSG_DATA(found).cast::<RawFd>().add(place).read_unaligned();
                    fds.push(OwnedFd::from_raw_fd(fd));
                }
            }
            found = libc::CMSG_NXTHDR(&header, found);
        }
        got
    };
    Ok((got, fds))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn what_was_sent_before_the_end_is_received() {
        type Receive = fn(&OwnedFd, &mut [u8]) -> io::Result<usize>;
        let receivers: [Receive; 2] = [receive, |socket, buffer| Ok(receive_with(socket, buffer)?.0)];
        for receive in receivers {
            let (a, b) = pair().unwrap();
            send(&b, b"unread").unwrap();
            send(&a, b"last").unwrap();
            drop(a);
            let mut buffer = [0; 8];
            assert_eq!((receive(&b, &mut buffer).unwrap(), &buffer[..4]), (4, &b"last"[..]));
        }
    }

    #[test]
    fn descriptors_travel_with_a_message() {
        let (a, b) = pair().unwrap();
        let (mut reader, writer) = io::pipe().unwrap();
        let many = vec![writer.as_fd(); FDS_LIMIT];
        send_with(&a, b"many", &many).unwrap();
        send_with(&a, b"none", &[]).unwrap();
        assert_eq!(send_with(&a, b"", &[many[0]; FDS_LIMIT + 1]).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        drop(writer);
        let mut buffer = [0; 8];
        let (len, fds) = receive_with(&b, &mut buffer).unwrap();
        assert_eq!((&buffer[..len], fds.len()), (&b"many"[..], FDS_LIMIT));
        std::io::Write::write_all(&mut File::from(fds.into_iter().next_back().unwrap()), b"x").unwrap();
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap(); // ends: every copy was closed
        assert_eq!(text, "x");
        let (len, fds) = receive_with(&b, &mut buffer).unwrap();
        assert_eq!((&buffer[..len], fds.len()), (&b"none"[..], 0));
        assert_eq!(receive_with(&b, &mut buffer).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
}
