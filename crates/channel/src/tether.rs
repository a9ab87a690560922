//! The socket that ties a reader to its writer, seen from the reader.
//!
//! Shared memory cannot tell that a peer died; the kernel can. So each reader holds one end of a Unix socket whose
//! other end the writer holds: whoever dies, the other's end hangs up at once, across pid namespaces and without
//! polling. The writer needs no thread for it: a connection waits in the listener's queue until the writer next looks.
//!
//! The same socket carries wake-ups, so that a reader costs its writer one descriptor. A reader that waits for nothing
//! else sleeps in one `recv`; one that has a deadline sleeps in `epoll`.
//!
//! ```text
//! reader                                    writer
//! connect, send Join{slot, token}   ---->   (queued)
//!                                           accept, check the slot
//!                                   <----   News: a record for a sleeper
//! send News                         ---->   (lossless) space was released while the writer waits
//!                                   <----   Refused, instead of all this: no descriptor is left for it
//! ```
//!
//! The end that is exported to a child stays open in the exporter's `Command`, too, and would not hang up when the
//! child dies. So the child makes a pair of its own, sends one end of it over the exported one, and from then on both
//! use that pair.

use crate::clock;
use rustix::event::{EventfdFlags, Timespec, epoll};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::sync::Arc;
use std::time::Duration;

/// How often one who never sleeps asks whether its peer still lives.
pub(crate) const LIVENESS_MS: u64 = 10;

const SOCKET: u64 = 0;
const NAP: u64 = 1;
/// An honest writer sends one message for each sleep.
const MOST_HEARD: usize = 4;

/// Sent by a writer to a sleeper, and by a reader that released space.
const NEWS: u8 = 1;
/// Sent with a socket that replaces this one, by a child that has taken over an exported end.
const RENEWED: u8 = 2;
/// Sent by a writer that has no descriptor left for this reader.
const REFUSED: u8 = 3;

/// Tells the writer which slot the reader behind a connection has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Join {
    pub(crate) slot: usize,
    pub(crate) token: u64,
}

const JOIN_MAGIC: u32 = u32::from_ne_bytes(*b"GNLJ");

impl Join {
    pub(crate) const BYTES: usize = 16;

    fn encode(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..4].copy_from_slice(&JOIN_MAGIC.to_ne_bytes());
        bytes[4..8].copy_from_slice(&(self.slot as u32).to_ne_bytes());
        bytes[8..].copy_from_slice(&self.token.to_ne_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; Self::BYTES] = bytes.try_into().ok()?;
        let word = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        let token = u64::from_ne_bytes(bytes[8..].try_into().expect("eight bytes"));
        (word(0) == JOIN_MAGIC).then(|| Self { slot: word(4) as usize, token })
    }
}

const READABLE: epoll::EventFlags = epoll::EventFlags::IN.union(epoll::EventFlags::RDHUP);

/// The reader's end.
#[derive(Debug)]
pub(crate) struct Tether {
    /// Shared with whoever may hang it up (see [`crate::shrink`]).
    socket: Arc<OwnedFd>,
    epoll: OwnedFd,
    /// The writer is a child that is yet to send a socket of its own.
    exported: bool,
    /// A timer among what the descriptor watches, for sleepers that must look again.
    nap: Option<OwnedFd>,
    hung_up: bool,
    refused: bool,
    checked: u64,
}

impl Tether {
    /// Ties the reader to the writer at the other end of `socket`; `exported` if that end is exported to a child.
    pub(crate) fn new(socket: OwnedFd, exported: bool) -> Result<Self, Errno> {
        // Every other use asks not to block by itself.
        rustix::fs::fcntl_setfl(&socket, OFlags::RDWR)?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &socket, epoll::EventData::new_u64(SOCKET), READABLE)?;
        let socket = Arc::new(socket);
        Ok(Self { socket, epoll, exported, nap: None, hung_up: false, refused: false, checked: 0 })
    }

    pub(crate) fn join(socket: BorrowedFd<'_>, join: Join) -> Result<(), Errno> {
        rustix::net::send(socket, &join.encode(), SendFlags::NOSIGNAL | SendFlags::DONTWAIT).map(drop)
    }

    pub(crate) fn socket(&self) -> &Arc<OwnedFd> {
        &self.socket
    }

    /// Hangs up: the writer forgets this reader.
    pub(crate) fn leave(&self) {
        let _ = rustix::net::shutdown(&*self.socket, rustix::net::Shutdown::Both);
    }

    /// Whether the writer is gone.
    pub(crate) fn hung_up(&self) -> bool {
        self.hung_up
    }

    /// Whether the writer has no descriptor left for this reader.
    pub(crate) fn refused(&self) -> bool {
        self.refused
    }

    /// Sleeps until something happens or `timeout` passes.
    pub(crate) fn wait(&mut self, timeout: Option<&Timespec>) -> Result<(), Errno> {
        // Somebody else may have made the socket one that does not block: then there is still `epoll`.
        if timeout.is_none() && self.hear(RecvFlags::empty())? {
            return Ok(());
        }
        let mut events = [MaybeUninit::<epoll::Event>::uninit(); 2];
        let (ready, _) = match epoll::wait(&self.epoll, &mut events, timeout) {
            Err(Errno::INTR) => return Ok(()),
            ready => ready?,
        };
        for event in ready {
            if event.data.u64() == SOCKET {
                self.hear_all()?;
            } else {
                let nap = self.nap.as_ref().map(|nap| rustix::io::read(nap, &mut [0; 8]));
                debug_assert!(nap.is_some(), "events come from what was added");
            }
        }
        Ok(())
    }

    /// Makes the descriptor readable after `limit`, for somebody else who waits for it.
    pub(crate) fn wake_after(&mut self, limit: Duration) -> Result<(), Errno> {
        let nap = match self.nap.take() {
            Some(nap) => nap,
            None => {
                let nap = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
                epoll::add(&self.epoll, &nap, epoll::EventData::new_u64(NAP), epoll::EventFlags::IN)?;
                nap
            }
        };
        let once = Timespec { tv_sec: 0, tv_nsec: 0 };
        let limit = Timespec::try_from(limit).map_err(|_| Errno::INVAL)?;
        let set = timerfd_settime(&nap, TimerfdTimerFlags::empty(), &Itimerspec { it_interval: once, it_value: limit });
        self.nap = Some(nap);
        set.map(drop)
    }

    /// Looks for the writer's death without sleeping, at most every [`LIVENESS_MS`]: for readers that poll. Says
    /// whether it was time for it.
    #[inline]
    pub(crate) fn check(&mut self) -> Result<bool, Errno> {
        let now = clock::coarse_ms();
        if now.wrapping_sub(self.checked) < LIVENESS_MS {
            return Ok(false);
        }
        self.checked = now;
        self.wait(Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).map(|()| true)
    }

    /// Takes what the writer has sent so far. The readiness of the socket is a level: what is left is heard at the next
    /// look, and a flood holds up no deadline.
    fn hear_all(&mut self) -> Result<(), Errno> {
        for _ in 0..MOST_HEARD {
            if !self.hear(RecvFlags::DONTWAIT)? {
                break;
            }
        }
        Ok(())
    }

    /// Takes one message of the writer's, or its end. Says whether there was something.
    fn hear(&mut self, flags: RecvFlags) -> Result<bool, Errno> {
        if self.hung_up {
            return Ok(true);
        }
        let mut byte = [0; 1];
        let got = if self.exported {
            receive(&self.socket, &mut byte, flags).and_then(|(got, renewed)| {
                renewed.map_or(Ok(()), |socket| self.renew(socket))?;
                Ok(got)
            })
        } else {
            // No room for descriptors: the kernel drops what a hostile writer sends.
            rustix::net::recv(&*self.socket, &mut byte[..], flags).map(|(_, got)| got)
        };
        match got {
            Ok(0) | Err(Errno::PIPE | Errno::NOTCONN) => self.hung_up = true,
            // The writer left something unread. What it sent before it hung up comes behind this error.
            Err(Errno::CONNRESET) => {}
            Ok(_) => self.refused |= byte[0] == REFUSED,
            Err(Errno::AGAIN) => return Ok(false),
            Err(Errno::INTR) => {}
            Err(other) => return Err(other),
        }
        Ok(true)
    }

    fn renew(&mut self, socket: OwnedFd) -> Result<(), Errno> {
        epoll::add(&self.epoll, &socket, epoll::EventData::new_u64(SOCKET), READABLE)?;
        let _ = epoll::delete(&self.epoll, &*self.socket);
        self.socket = Arc::new(socket);
        self.exported = false;
        Ok(())
    }

    /// Tells a waiting writer that space was released.
    pub(crate) fn tell_room(&mut self) {
        if self.exported {
            let _ = self.hear_all(); // a child sends its socket before it waits
        }
        // A full socket buffer holds wake-ups that the writer has not taken yet; a dead writer needs none.
        wake(self.socket.as_fd());
    }
}

impl Drop for Tether {
    fn drop(&mut self) {
        hang_up(self.socket.as_fd());
    }
}

/// Tells the other end that this one is gone, also while a copy of the descriptor is open elsewhere (an inherited one
/// stays open).
pub(crate) fn hang_up(socket: BorrowedFd<'_>) {
    let _ = rustix::net::shutdown(socket, rustix::net::Shutdown::Both);
}

impl AsFd for Tether {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

/// Wakes whoever sleeps at the other end: a reader, or a writer that waits for room. Never blocks.
pub(crate) fn wake(socket: BorrowedFd<'_>) {
    // A full buffer means that it has not yet noticed earlier wake-ups: it will.
    let _ = rustix::net::send(socket, &[NEWS], SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
}

/// Tells a reader that there is no descriptor left for it.
pub(crate) fn refuse(socket: BorrowedFd<'_>) {
    let _ = rustix::net::send(socket, &[REFUSED], SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
}

/// Whether the writer has said no, at the other end of a connection on which nothing can be sent any more.
pub(crate) fn was_refused(socket: BorrowedFd<'_>) -> bool {
    let mut byte = [0; 1];
    // An error that is reported first hides what was sent before.
    (0..2).any(
        |_| matches!(rustix::net::recv(socket, &mut byte[..], RecvFlags::DONTWAIT), Ok((_, 1)) if byte[0] == REFUSED),
    )
}

/// One message, and the socket that came with it.
pub(crate) fn receive(
    socket: impl AsFd,
    bytes: &mut [u8],
    flags: RecvFlags,
) -> Result<(usize, Option<OwnedFd>), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = flags | RecvFlags::CMSG_CLOEXEC;
    let message = rustix::net::recvmsg(socket, &mut [IoSliceMut::new(bytes)], &mut ancillary, flags)?;
    let sent = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    if sent.is_none() && message.flags.contains(ReturnFlags::CTRUNC) {
        return Err(Errno::MFILE); // it came, and this process has no descriptor left for it
    }
    Ok((message.bytes, sent))
}

/// Replaces an exported end, of which others may hold copies, by one of a pair of this process's own.
pub(crate) fn renew(exported: &OwnedFd) -> Result<OwnedFd, Errno> {
    let (near, far) = pair()?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fds = [far.as_fd()];
    ancillary.push(SendAncillaryMessage::ScmRights(&fds));
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    rustix::net::sendmsg(exported, &[IoSlice::new(&[RENEWED])], &mut ancillary, flags)?;
    Ok(near)
}

/// Makes the two ends of a tether: one is for a child.
pub(crate) fn pair() -> Result<(OwnedFd, OwnedFd), Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
}

pub(crate) fn eventfd() -> Result<OwnedFd, Errno> {
    rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

    fn tied() -> (Tether, OwnedFd) {
        let (near, far) = pair().unwrap();
        (Tether::new(near, false).unwrap(), far)
    }

    #[test]
    fn a_wake_up_and_a_death_that_come_together_are_both_noticed() {
        let (mut tether, far) = tied();
        wake(far.as_fd());
        drop(far);
        tether.wait(Some(&NOW)).unwrap();
        tether.wait(Some(&NOW)).unwrap();
        assert!(tether.hung_up());
    }

    #[test]
    fn an_exported_end_is_replaced_by_one_that_hangs_up() {
        let (near, exported) = pair().unwrap();
        let mut tether = Tether::new(near, true).unwrap();
        // `exported` stays open, as in a `Command`.
        let own = renew(&exported).unwrap();
        tether.tell_room();
        let mut byte = [0; 1];
        assert_eq!(rustix::net::recv(&own, &mut byte[..], RecvFlags::DONTWAIT).unwrap().1, 1);
        drop(own);
        tether.wait(None).unwrap();
        assert!(tether.hung_up());
    }

    #[test]
    fn a_flood_of_messages_is_heard_in_portions() {
        let (mut tether, far) = tied();
        let sent = (0..)
            .take_while(|_| rustix::net::send(&far, &[NEWS], SendFlags::DONTWAIT | SendFlags::NOSIGNAL).is_ok())
            .count();
        assert!(sent > MOST_HEARD);
        tether.wait(Some(&NOW)).unwrap();
        let left =
            (0..).take_while(|_| rustix::net::recv(&*tether.socket, &mut [0; 1][..], RecvFlags::DONTWAIT).is_ok());
        assert_eq!(left.count(), sent - MOST_HEARD);
    }

    #[test]
    fn the_descriptor_becomes_readable_after_a_nap_and_is_quiet_again() {
        let (mut tether, _far) = tied();
        let readable = |tether: &Tether, limit: &Timespec| {
            let mut fds = [rustix::event::PollFd::new(&tether.epoll, rustix::event::PollFlags::IN)];
            rustix::event::poll(&mut fds, Some(limit)).unwrap() == 1
        };
        for _ in 0..2 {
            tether.wake_after(Duration::from_millis(1)).unwrap();
            assert!(readable(&tether, &Timespec { tv_sec: 10, tv_nsec: 0 }));
            tether.wait(Some(&NOW)).unwrap();
            assert!(!readable(&tether, &NOW));
        }
    }
}
