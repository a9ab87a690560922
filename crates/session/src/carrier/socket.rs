//! Sockets as carriers: seqpacket, which keeps the boundaries of packets, and streams (Unix or TCP), which do not. They
//! are one type, because nothing else tells them apart.

use super::{Carrier, Source};
use crate::error::SessionError;
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags};
use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd};

#[derive(Debug)]
pub(crate) struct Socket {
    fd: OwnedFd,
    packets: bool,
}

impl Socket {
    pub(crate) fn new(fd: OwnedFd, packets: bool) -> Self {
        Self { fd, packets }
    }

    /// Whether it keeps the boundaries of packets.
    #[cfg(feature = "tokio")]
    pub(crate) fn packets(&self) -> bool {
        self.packets
    }

    pub(crate) fn into_fd(self) -> OwnedFd {
        self.fd
    }
}

impl Carrier for Socket {
    fn try_send(&mut self, head: &[u8], body: &[u8]) -> Result<Option<usize>, SessionError> {
        send(&self.fd, head, body)
    }

    fn try_recv(&mut self, space: &mut [u8]) -> Result<Option<usize>, SessionError> {
        recv(&self.fd, space, self.packets)
    }

    fn source(&self) -> Source<'_> {
        Source::Socket { fd: self.fd.as_fd(), packets: self.packets }
    }

    fn socket(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Sends a packet, or as much as a stream takes; `None` if it would block.
pub(crate) fn send(fd: impl AsFd, head: &[u8], body: &[u8]) -> Result<Option<usize>, SessionError> {
    let parts = [IoSlice::new(head), IoSlice::new(body)];
    loop {
        let sent = rustix::net::sendmsg(
            &fd,
            &parts,
            &mut SendAncillaryBuffer::default(),
            SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
        );
        return match sent {
            Ok(len) => Ok(Some(len)),
            Err(Errno::AGAIN) => Ok(None),
            Err(Errno::INTR) => continue,
            Err(errno) => Err(SessionError::io("send")(errno)),
        };
    }
}

/// Receives a packet or, if not `packets`, what a stream has. The length exceeds `space` if a packet was cut. `None` if
/// it would block.
pub(crate) fn recv(fd: impl AsFd, space: &mut [u8], packets: bool) -> Result<Option<usize>, SessionError> {
    recv_with(fd, space, packets, RecvFlags::DONTWAIT)
}

pub(crate) fn recv_with(
    fd: impl AsFd,
    space: &mut [u8],
    packets: bool,
    flags: RecvFlags,
) -> Result<Option<usize>, SessionError> {
    // TRUNC tells a packet's real length. On TCP it would throw the bytes away.
    let flags = if packets { flags | RecvFlags::TRUNC } else { flags };
    let mut reset = false;
    loop {
        return match rustix::net::recv(&fd, &mut *space, flags) {
            Ok((_, 0)) => Err(SessionError::Closed),
            Ok((_, len)) => Ok(Some(len)),
            Err(Errno::AGAIN) => Ok(None),
            // One that sleeps goes back to its caller, or signals would carry it past its deadline.
            Err(Errno::INTR) if !flags.contains(RecvFlags::DONTWAIT) => Ok(None),
            Err(Errno::INTR) => continue,
            // A peer that closes with unread bytes resets the connection, which is reported before its last message is.
            Err(Errno::CONNRESET) if !std::mem::replace(&mut reset, true) => continue,
            Err(errno) => Err(SessionError::io("receive")(errno)),
        };
    }
}
