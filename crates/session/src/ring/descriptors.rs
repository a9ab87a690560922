//! A packet and descriptors in one message of a Unix socket (`SCM_RIGHTS`).

use super::RingError;
use ginnel_wire::RING_DESCRIPTORS;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;

const ROOM: usize = rustix::cmsg_space!(ScmRights(RING_DESCRIPTORS as usize));

/// Sends `packet` and `fds` together. `None` if it would block.
///
/// # Errors
/// The system's.
pub fn send(socket: impl AsFd, packet: &[u8], fds: &[BorrowedFd<'_>]) -> Result<Option<usize>, RingError> {
    let mut room = [MaybeUninit::uninit(); ROOM];
    let mut control = SendAncillaryBuffer::new(&mut room);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(RingError::Descriptors { found: fds.len(), expected: RING_DESCRIPTORS as usize });
    }
    loop {
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        return match rustix::net::sendmsg(&socket, &[IoSlice::new(packet)], &mut control, flags) {
            Ok(len) => Ok(Some(len)),
            Err(Errno::AGAIN) => Ok(None),
            Err(Errno::INTR) => continue,
            Err(source) => Err(RingError::System { doing: "send descriptors", source }),
        };
    }
}

/// Receives a packet and the descriptors that came with it, all of them close-on-exec; length 0 is the end. `None` if
/// it would block.
///
/// # Errors
/// The system's; [`RingError::Cut`] if packet or descriptors were more than there is room for. Whatever came is closed
/// then.
pub fn recv(socket: impl AsFd, space: &mut [u8]) -> Result<Option<(usize, Vec<OwnedFd>)>, RingError> {
    let mut room = [MaybeUninit::uninit(); ROOM];
    loop {
        let mut control = RecvAncillaryBuffer::new(&mut room);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let received = match rustix::net::recvmsg(&socket, &mut [IoSliceMut::new(space)], &mut control, flags) {
            Ok(received) => received,
            Err(Errno::AGAIN) => return Ok(None),
            Err(Errno::INTR) => continue,
            Err(source) => return Err(RingError::System { doing: "receive descriptors", source }),
        };
        let mut fds = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                fds.extend(rights);
            }
        }
        if received.flags.intersects(ReturnFlags::CTRUNC | ReturnFlags::TRUNC) {
            return Err(RingError::Cut);
        }
        return Ok(Some((received.bytes, fds)));
    }
}
