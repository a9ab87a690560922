//! Sockets as carriers: seqpacket, which keeps the boundaries of packets, and streams (Unix or TCP), which do not. They
//! are one type, because nothing else tells them apart.

use super::{Carrier, Source};
use crate::error::SessionError;
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::{MMsgHdr, RecvFlags, SendAncillaryBuffer, SendFlags};
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

    fn try_send_many(&mut self, packets: &[(&[u8], &[u8])]) -> Result<Option<usize>, SessionError> {
        if self.packets { send_packets(&self.fd, packets) } else { send_joined(&self.fd, packets) }
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
    send_parts(fd, &[IoSlice::new(head), IoSlice::new(body)])
}

const SEND: SendFlags = SendFlags::NOSIGNAL.union(SendFlags::DONTWAIT);

fn send_parts(fd: impl AsFd, parts: &[IoSlice<'_>]) -> Result<Option<usize>, SessionError> {
    attempt(|| rustix::net::sendmsg(&fd, parts, &mut SendAncillaryBuffer::default(), SEND))
}

fn attempt(mut send: impl FnMut() -> rustix::io::Result<usize>) -> Result<Option<usize>, SessionError> {
    loop {
        return match send() {
            Ok(len) => Ok(Some(len)),
            Err(Errno::AGAIN) => Ok(None),
            Err(Errno::INTR) => continue,
            Err(errno) => Err(SessionError::io("send")(errno)),
        };
    }
}

/// What a stream takes of all packets, by one system call.
fn send_joined(fd: impl AsFd, packets: &[(&[u8], &[u8])]) -> Result<Option<usize>, SessionError> {
    let parts: Vec<IoSlice<'_>> =
        packets.iter().flat_map(|(head, body)| [IoSlice::new(head), IoSlice::new(body)]).collect();
    send_parts(fd, &parts)
}

/// The packets that a socket takes, by one system call; their bytes.
fn send_packets(fd: impl AsFd, packets: &[(&[u8], &[u8])]) -> Result<Option<usize>, SessionError> {
    let parts: Vec<_> = packets.iter().map(|(head, body)| [IoSlice::new(head), IoSlice::new(body)]).collect();
    let mut none: Vec<_> = packets.iter().map(|_| SendAncillaryBuffer::default()).collect();
    let mut messages: Vec<_> = parts.iter().zip(&mut none).map(|(parts, none)| MMsgHdr::new(parts, none)).collect();
    let sent = attempt(|| rustix::net::sendmmsg(&fd, &mut messages, SEND))?;
    Ok(sent.map(|count| packets.iter().take(count).map(|(head, body)| head.len() + body.len()).sum()))
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

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    const PACKETS: [(&[u8], &[u8]); 3] = [(b"one", b""), (b"t", b"wo"), (b"thr", b"ee")];

    fn pair(packets: bool) -> (Socket, Socket) {
        let kind = if packets { SocketType::SEQPACKET } else { SocketType::STREAM };
        let (one, other) = socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).unwrap();
        (Socket::new(one, packets), Socket::new(other, packets))
    }

    fn received(socket: &mut Socket) -> Option<Vec<u8>> {
        let mut space = [0; 100];
        socket.try_recv(&mut space).unwrap().map(|len| space[..len].to_vec())
    }

    #[test]
    fn packets_that_leave_together_arrive_one_by_one_and_a_stream_joins_them() {
        let (mut from, mut to) = pair(true);
        assert_eq!(from.try_send_many(&PACKETS).unwrap(), Some(11));
        let all: Vec<Vec<u8>> = std::iter::from_fn(|| received(&mut to)).collect();
        assert_eq!(all, [&b"one"[..], b"two", b"three"]);
        let (mut from, mut to) = pair(false);
        assert_eq!(from.try_send_many(&PACKETS).unwrap(), Some(11));
        assert_eq!(received(&mut to).unwrap(), b"onetwothree");
    }

    #[test]
    fn a_full_socket_takes_whole_packets_and_says_how_many() {
        let (mut from, mut to) = pair(true);
        let body = vec![7; 20_000];
        let (mut sent, mut rounds) = (0, 0);
        while let Some(len) = from.try_send_many(&[(&b"head"[..], body.as_slice()); 16]).unwrap() {
            assert_eq!(len % 20_004, 0);
            sent += len / 20_004;
            rounds += 1;
            assert!(rounds < 10_000, "it takes without end");
        }
        let mut space = vec![0; 30_000];
        while let Some(len) = to.try_recv(&mut space).unwrap() {
            assert_eq!(len, 20_004);
            sent -= 1;
        }
        assert_eq!(sent, 0);
        drop(to);
        assert!(matches!(from.try_send_many(&PACKETS), Err(SessionError::Closed | SessionError::Io { .. })));
    }
}
