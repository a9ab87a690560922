//! The socket that ties a reader to its writer, seen from the reader.
//!
//! Shared memory cannot tell that a peer died; the kernel can. So each reader holds one end of a Unix socket whose other end
//! the writer holds: whoever dies, the other's end hangs up at once, across pid namespaces and without polling. The
//! writer needs no thread for it: a connection waits in the listener's queue until the writer next looks.
//!
//! The socket is too slow for wake-ups, so the writer answers with the reading end of a pipe of its own making (see [`Waker`]).
//! Until then the socket itself wakes. Nobody but the writer has the pipe's writing end, so its end of file is the writer's
//! death, and a reader that waits for nothing else sleeps in one read of it; one that has a deadline sleeps in `epoll`.
//!
//! ```text
//! reader                                    writer
//! connect, send Join{slot, token}   ---->   (queued)
//!                                           accept, check the slot, make a pipe
//!                                   <----   Welcome + the pipe's reading end
//! read the pipe                     <----   a byte: a record for a sleeper
//! send Room                         ---->   (lossless) space was released while the writer waits
//! ```

use crate::clock;
use ginnel_memory::identity::{Identity, namespaces};
use rustix::event::{EventfdFlags, Timespec, epoll};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::OFlags;
use rustix::io::{Errno, ReadWriteFlags, preadv2};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, PidfdFlags};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::time::Duration;

/// How often one who never sleeps asks whether its peer still lives.
pub(crate) const LIVENESS_MS: u64 = 10;

const SOCKET: u64 = 0;
const WAKE: u64 = 1;
const NAP: u64 = 2;
/// An honest writer sends one message, ever.
const MOST_HEARD: usize = 4;

/// Sent by a writer with the pipe, and by a reader that released space.
const NEWS: u8 = 1;
/// Sent by a child that has taken over a reader's exported end, with the number of its namespaces.
const GREETING: u8 = 2;
const GREETING_BYTES: usize = 9;

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

/// The reader's end.
#[derive(Debug)]
pub(crate) struct Tether {
    socket: OwnedFd,
    epoll: OwnedFd,
    /// The reading end of the pipe that wakes, once the writer has sent it.
    wake: Option<OwnedFd>,
    /// A timer among what the descriptor watches, where the kernel refuses barriers.
    nap: Option<OwnedFd>,
    hung_up: bool,
    checked: u64,
}

impl Tether {
    /// Ties the reader to the writer at the other end of `socket`.
    pub(crate) fn new(socket: OwnedFd, wake: Option<OwnedFd>) -> Result<Self, Errno> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let events = epoll::EventFlags::IN | epoll::EventFlags::RDHUP;
        epoll::add(&epoll, &socket, epoll::EventData::new_u64(SOCKET), events)?;
        let mut tether = Self { socket, epoll, wake: None, nap: None, hung_up: false, checked: 0 };
        if let Some(wake) = wake {
            tether.wake_by(wake)?;
        }
        Ok(tether)
    }

    /// From now on `wake` wakes. Edge-triggered: each byte is an event, whatever a hostile writer has put there before.
    fn wake_by(&mut self, wake: OwnedFd) -> Result<(), Errno> {
        let events = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&self.epoll, &wake, epoll::EventData::new_u64(WAKE), events)?;
        self.wake = Some(wake);
        Ok(())
    }

    pub(crate) fn join(socket: BorrowedFd<'_>, join: Join) -> Result<(), Errno> {
        rustix::net::send(socket, &join.encode(), SendFlags::NOSIGNAL | SendFlags::DONTWAIT).map(drop)
    }

    /// Whether the writer is gone.
    pub(crate) fn hung_up(&self) -> bool {
        self.hung_up
    }

    /// Sleeps until something happens or `timeout` passes.
    pub(crate) fn wait(&mut self, timeout: Option<&Timespec>) -> Result<(), Errno> {
        if timeout.is_none()
            && let Some(wake) = &self.wake
        {
            match rustix::io::read(wake, &mut [0; 64]) {
                Ok(got) => {
                    self.hung_up |= got == 0;
                    return Ok(());
                }
                Err(Errno::INTR) => return Ok(()),
                Err(Errno::AGAIN) => {} // not as we make them: the writer has a hand in its flags
                Err(other) => return Err(other),
            }
        }
        let mut events = [MaybeUninit::<epoll::Event>::uninit(); 3];
        let (ready, _) = match epoll::wait(&self.epoll, &mut events, timeout) {
            Err(Errno::INTR) => return Ok(()),
            ready => ready?,
        };
        for event in ready {
            match event.data.u64() {
                SOCKET => self.hear()?,
                WAKE => {
                    // There is one edge for a byte and an end that came together, and one read finds the byte only.
                    self.hung_up |= { event.flags }.contains(epoll::EventFlags::HUP);
                    self.drain();
                }
                _ => {
                    let nap = self.nap.as_ref().map(|nap| rustix::io::read(nap, &mut [0; 8]));
                    debug_assert!(nap.is_some(), "events come from what was added");
                }
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

    /// Empties the pipe, so that it never fills up.
    fn drain(&self) {
        let Some(wake) = &self.wake else { return };
        let bytes = &mut [0; 64];
        // The pipe blocks, and a hostile writer might have taken out again what made it readable. The offset says: none.
        let read = preadv2(wake, &mut [IoSliceMut::new(bytes)], u64::MAX, ReadWriteFlags::NOWAIT);
        if matches!(read, Err(Errno::OPNOTSUPP | Errno::NOSYS)) {
            // Kernels before 6.5 cannot ask a pipe not to block.
            let _ = rustix::io::read(wake, bytes);
        }
    }

    /// Looks for the writer's death without sleeping, at most every [`LIVENESS_MS`]: for readers that poll.
    #[inline]
    pub(crate) fn check(&mut self) -> Result<(), Errno> {
        let now = clock::coarse_ms();
        if now.wrapping_sub(self.checked) < LIVENESS_MS {
            return Ok(());
        }
        self.checked = now;
        self.wait(Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))
    }

    /// Takes what the writer sent: the pipe, or its end.
    fn hear(&mut self) -> Result<(), Errno> {
        // The readiness of the socket is a level: what is left is heard at the next look, and a flood holds up no deadline.
        for _ in 0..MOST_HEARD {
            let mut byte = [0; 1];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
            match rustix::net::recvmsg(&self.socket, &mut [IoSliceMut::new(&mut byte)], &mut ancillary, flags) {
                Ok(message) if message.bytes == 0 => {
                    self.hung_up = true;
                    return Ok(());
                }
                Ok(message) => {
                    let sent = ancillary.drain().find_map(|message| match message {
                        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
                        _ => None,
                    });
                    match (sent, &self.wake) {
                        (Some(wake), None) => self.wake_by(wake)?,
                        // The pipe came, and this process has no descriptor left for it: nothing would wake it any more.
                        (None, None) if message.flags.contains(ReturnFlags::CTRUNC) => return Err(Errno::MFILE),
                        _ => {}
                    }
                }
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(Errno::CONNRESET | Errno::PIPE | Errno::NOTCONN) => {
                    self.hung_up = true;
                    return Ok(());
                }
                Err(other) => return Err(other),
            }
        }
        Ok(())
    }

    /// Tells a waiting writer that space was released.
    pub(crate) fn tell_room(&self) {
        // A full socket buffer holds wake-ups that the writer has not taken yet; a dead writer needs none.
        let _ = rustix::net::send(&self.socket, &[NEWS], SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
    }
}

impl Drop for Tether {
    fn drop(&mut self) {
        hang_up(self.socket.as_fd());
    }
}

/// Tells the other end that this one is gone, also while a copy of the descriptor is open elsewhere (an inherited one stays open).
pub(crate) fn hang_up(socket: BorrowedFd<'_>) {
    let _ = rustix::net::shutdown(socket, rustix::net::Shutdown::Both);
}

impl AsFd for Tether {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

/// A pidfd of exactly this process: the identity is checked again once the descriptor pins it. [`Errno::SRCH`] if it is dead.
pub(crate) fn watch(identity: Identity) -> Result<OwnedFd, Errno> {
    let pid = i32::try_from(identity.pid).ok().and_then(Pid::from_raw).ok_or(Errno::INVAL)?;
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
    if identity.alive() { Ok(pidfd) } else { Err(Errno::SRCH) }
}

/// Whether a message is the greeting of a process of this pid and time namespace. Of others, ids and start times mean nothing here.
pub(crate) fn greets(message: &[u8]) -> bool {
    let Some((&GREETING, from)) = message.split_first() else { return false };
    let own = namespaces();
    own != 0 && *from == own.to_ne_bytes()
}

/// Tells the exporter that this process has taken the exported end over.
pub(crate) fn greet(socket: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut message = [GREETING; GREETING_BYTES];
    message[1..].copy_from_slice(&namespaces().to_ne_bytes());
    rustix::net::send(socket, &message, SendFlags::NOSIGNAL | SendFlags::DONTWAIT).map(drop)
}

/// What wakes a reader: a pipe.
///
/// Not an eventfd, though that were cheaper to read: its one file description would be shared with the reader, and a hostile one
/// could make it block, fill it, and so hang the writer in its next wake-up. The ends of a pipe are descriptions of their own.
#[derive(Debug)]
pub(crate) struct Waker {
    pub(crate) writing: OwnedFd,
    /// What the reader gets. Kept open here too: as long as there is a reading end, waking a dead reader raises no SIGPIPE.
    pub(crate) reading: OwnedFd,
}

impl Waker {
    pub(crate) fn new() -> Result<Self, Errno> {
        let (reading, writing) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        rustix::fs::fcntl_setfl(&writing, OFlags::NONBLOCK)?;
        Ok(Self { writing, reading })
    }

    pub(crate) fn wake(&self) {
        // A full pipe means that the reader has not yet noticed earlier wake-ups: it will.
        let _ = rustix::io::write(&self.writing, &[NEWS]);
    }
}

/// Makes the two ends of a tether: one is for a child.
pub(crate) fn pair() -> Result<(OwnedFd, OwnedFd), Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
}

pub(crate) fn eventfd() -> Result<OwnedFd, Errno> {
    rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
}

/// Answers a join with the reading end of the pipe that will wake the reader.
pub(crate) fn welcome(socket: BorrowedFd<'_>, wake: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fds = [wake];
    ancillary.push(SendAncillaryMessage::ScmRights(&fds));
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    rustix::net::sendmsg(socket, &[IoSlice::new(&[NEWS])], &mut ancillary, flags).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

    /// A tether whose socket does not hang up, as where a parent's command keeps a copy of the other end.
    fn tied() -> (Tether, OwnedFd, OwnedFd) {
        let (near, far) = pair().unwrap();
        let Waker { writing, reading } = Waker::new().unwrap();
        (Tether::new(near, Some(reading)).unwrap(), far, writing)
    }

    #[test]
    fn a_wake_up_and_a_death_that_come_together_are_both_noticed() {
        let (mut tether, _far, writing) = tied();
        rustix::io::write(&writing, &[0]).unwrap();
        drop(writing);
        tether.wait(Some(&NOW)).unwrap();
        tether.wait(Some(&NOW)).unwrap();
        assert!(tether.hung_up());
    }

    #[test]
    fn a_flood_of_messages_is_heard_in_portions() {
        let (mut tether, far, _writing) = tied();
        let sent = (0..)
            .take_while(|_| rustix::net::send(&far, &[NEWS], SendFlags::DONTWAIT | SendFlags::NOSIGNAL).is_ok())
            .count();
        assert!(sent > MOST_HEARD);
        tether.wait(Some(&NOW)).unwrap();
        let left =
            (0..).take_while(|_| rustix::net::recv(&tether.socket, &mut [0; 1][..], RecvFlags::DONTWAIT).is_ok());
        assert_eq!(left.count(), sent - MOST_HEARD);
    }

    #[test]
    fn the_descriptor_becomes_readable_after_a_nap_and_is_quiet_again() {
        let (mut tether, _far, _writing) = tied();
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
