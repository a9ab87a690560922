//! POSIX message queues. On Linux a queue is a descriptor, so it can be waited for like any other.

use rustix::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use rustix::io::Errno;
use std::ffi::CString;
use std::io;

/// What a new queue is like: how many messages it holds, and how large they may be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    pub(crate) messages: usize,
    pub(crate) bytes: usize,
}

/// Opens a queue; with `make` it is made and must not exist. The name begins with a slash.
pub(crate) fn open(name: &str, make: Option<Size>) -> io::Result<OwnedFd> {
    let name = CString::new(name)?;
    let flags = libc::O_RDWR | libc::O_CLOEXEC;
    let queue = match make {
        // SAFETY: the name is a C string that outlives the call.
        None => unsafe { libc::mq_open(name.as_ptr(), flags) },
        Some(Size { messages, bytes }) => {
            // SAFETY: all-zero is a valid mq_attr.
            let mut attributes: libc::mq_attr = unsafe { std::mem::zeroed() };
            attributes.mq_maxmsg = messages as libc::c_long;
            attributes.mq_msgsize = bytes as libc::c_long;
            // SAFETY: the name and the attributes outlive the call; with O_CREAT it takes a mode and attributes.
            unsafe { libc::mq_open(name.as_ptr(), flags | libc::O_CREAT | libc::O_EXCL, 0o600, &raw const attributes) }
        }
    };
    if queue < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: on Linux a queue's descriptor is a file descriptor, new and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(queue) })
}

/// Removes the name; the queue lives on while somebody has it open.
pub(crate) fn unlink(name: &str) -> io::Result<()> {
    let name = CString::new(name)?;
    // SAFETY: the name is a C string that outlives the call.
    if unsafe { libc::mq_unlink(name.as_ptr()) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sends one message.
pub(crate) fn send(queue: BorrowedFd<'_>, message: &[u8], priority: u32) -> rustix::io::Result<()> {
    // SAFETY: the message is valid for reading as many bytes as its length says.
    let sent = unsafe { libc::mq_send(queue.as_raw_fd(), message.as_ptr().cast(), message.len(), priority) };
    if sent == 0 { Ok(()) } else { Err(last_errno()) }
}

/// Receives one message into a buffer that is at least as large as the queue's messages may be.
pub(crate) fn receive(queue: BorrowedFd<'_>, message: &mut [u8]) -> rustix::io::Result<usize> {
    // SAFETY: the buffer is valid for writing as many bytes as its length says; no priority is asked for.
    let received = unsafe {
        libc::mq_receive(queue.as_raw_fd(), message.as_mut_ptr().cast(), message.len(), std::ptr::null_mut())
    };
    usize::try_from(received).map_err(|_| last_errno())
}

fn last_errno() -> Errno {
    Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)
}
