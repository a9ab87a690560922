//! The carrier: publish into one slot, take from the other, sleep where hang-up and abort reach a sleeper without the
//! peer's memory.
//!
//! The signal word is in the peer's reach: the peer can cut the file short, and then no wake finds who sleeps on it. So
//! a sleeper waits for two words, the peer's signal and a bell of this process. A hang-up of the socket and a region
//! that was cut short (both told by the watch thread) and an abort ring the bell, without a timer and without a lost
//! wake-up: the sleeper reads bell and signal, then looks at message, hang-up, region and abort, then sleeps on the
//! values it has read; whoever raises one of them does so *before* ringing.

use super::{Carrier, Source};
use crate::error::{ProtocolError, SessionError};
use crate::proto::Role;
use crate::shm::{Lane, OwnedRegion, Region, watch};
use crate::wait::Wake;
use ginnel_memory::{Bell, Sleep};
use ginnel_wire::ENVELOPE_LEN;
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

#[derive(Debug)]
pub(crate) struct Slot {
    region: Arc<Region>,
    role: Role,
    send: Lane,
    recv: Lane,
    received: u64,
    // The message that was found and not handed out. Its count and its length were read once, here they are kept.
    found: Option<Found>,
    longest: u32,
    // Client: a request waits for its response. Server: a request waits for its answer. One at a time, says the
    // profile.
    pending: bool,
    // Signal and bell when this side looked last before a wait.
    armed: Armed,
    sleeper: Arc<Sleeper>,
    // Field order is drop order: no longer watched, then closed, then unlinked.
    _watched: watch::Watched,
    socket: OwnedFd,
    _owned: Option<OwnedRegion>,
}

#[derive(Debug, Clone, Copy)]
struct Found {
    seq: u64,
    len: u32,
}

#[derive(Debug, Clone, Copy, Default)]
struct Armed {
    rung: u32,
    signal: u32,
}

#[derive(Debug)]
struct Sleeper {
    region: Arc<Region>,
    signal: usize,
    bell: Bell,
    // The bell of a driver of many, which sleeps on their words together.
    also: OnceLock<Arc<Bell>>,
    hung_up: AtomicBool,
    cut_short: AtomicBool,
}

impl Sleeper {
    fn is_cut_short(&self) -> bool {
        // SYNC slot.cut_short
        self.cut_short.load(Ordering::Acquire) || self.region.file.truncated()
    }
}

impl Wake for Sleeper {
    fn wake(&self) {
        self.region.file.ring(self.signal, &self.bell);
        self.also.get().into_iter().for_each(|bell| bell.ring());
    }
}

impl watch::Target for Sleeper {
    fn hang_up(&self) {
        // SYNC slot.hung_up: before the bell, see the top of this file.
        self.hung_up.store(true, Ordering::Release);
        self.wake();
    }

    fn file_changed(&self) {
        let needed = self.region.layout.file_len() as u64;
        if rustix::fs::fstat(self.region.file.fd()).is_ok_and(|stat| stat.st_size.cast_unsigned() < needed) {
            // SYNC slot.cut_short: before the bell, as above.
            self.cut_short.store(true, Ordering::Release);
            self.wake();
        }
    }
}

impl Slot {
    /// Without a watch there is none, and the socket comes back.
    pub(crate) fn server(owned: OwnedRegion, socket: OwnedFd) -> Result<Self, (OwnedFd, SessionError)> {
        let region = Arc::clone(&owned.region);
        // All that a client can write: what is above its limit is told so.
        let longest = region.layout.request.capacity;
        Self::new(Role::Server, region, socket, longest, Some(owned))
    }

    pub(crate) fn client(region: Arc<Region>, socket: OwnedFd, max_payload: u32) -> Result<Self, SessionError> {
        // Of two sizes that the server says, the smaller decides how much memory we set aside.
        let longest = region.layout.response.capacity.min(max_payload.saturating_add(ENVELOPE_LEN as u32));
        Self::new(Role::Client, region, socket, longest, None).map_err(|(_, error)| error)
    }

    fn new(
        role: Role,
        region: Arc<Region>,
        socket: OwnedFd,
        longest: u32,
        owned: Option<OwnedRegion>,
    ) -> Result<Self, (OwnedFd, SessionError)> {
        let (send, recv) = match role {
            Role::Client => (region.layout.request, region.layout.response),
            Role::Server => (region.layout.response, region.layout.request),
        };
        let received = region.file.load_u64(recv.seq, Ordering::Acquire);
        let sleeper = Arc::new(Sleeper {
            region: Arc::clone(&region),
            signal: recv.signal,
            bell: Bell::default(),
            also: OnceLock::new(),
            hung_up: AtomicBool::new(false),
            cut_short: AtomicBool::new(false),
        });
        let watched = match watch::watch(socket.as_fd(), region.file.fd(), Arc::clone(&sleeper) as _) {
            Ok(watched) => watched,
            Err(source) => return Err((socket, SessionError::Io { doing: "watch the socket", source })),
        };
        // It may have been cut before anybody watched it.
        watch::Target::file_changed(&*sleeper);
        Ok(Self {
            region,
            role,
            send,
            recv,
            received,
            found: None,
            longest,
            pending: false,
            armed: Armed::default(),
            sleeper,
            _watched: watched,
            socket,
            _owned: owned,
        })
    }

    /// The longest message that this side takes, envelope included.
    pub(crate) fn longest(&self) -> u32 {
        self.longest
    }

    fn has_message(&self) -> bool {
        // SYNC slot.seq: pairs with the publisher's release of the count, after length and bytes.
        self.region.file.load_u64(self.recv.seq, Ordering::Acquire) != self.received
    }

    fn check_region(&self) -> Result<(), SessionError> {
        if self.sleeper.is_cut_short() { Err(ProtocolError::RegionTruncated.into()) } else { Ok(()) }
    }

    fn hung_up(&self) -> bool {
        // SYNC slot.hung_up
        self.sleeper.hung_up.load(Ordering::Acquire)
    }

    /// Whether a receive has something to say.
    fn news(&self) -> bool {
        self.has_message() || self.hung_up() || self.sleeper.is_cut_short()
    }

    /// The message that is there, if one is.
    fn look(&mut self) -> Result<Option<Found>, SessionError> {
        if self.found.is_some() {
            return Ok(self.found);
        }
        let (file, lane) = (&self.region.file, &self.recv);
        // Read once, judged here, used from here.
        let seq = file.load_u64(lane.seq, Ordering::Acquire); // SYNC slot.seq
        if seq == self.received {
            return Ok(None);
        }
        let expected = self.received.wrapping_add(1);
        if seq != expected {
            self.check_region()?;
            // The slot holds one message: a count that jumps would make it come again and again.
            return Err(ProtocolError::SlotSequence { seq, expected }.into());
        }
        let len = file.load_u32(lane.len, Ordering::Acquire);
        if len == 0 || len > lane.capacity || len > self.longest {
            self.check_region()?;
            return Err(ProtocolError::SlotLength { len, capacity: lane.capacity }.into());
        }
        self.found = Some(Found { seq, len });
        Ok(self.found)
    }
}

/// Where to sleep until a slot has news, without the slot: a sleep may outlast the interest in it.
#[derive(Debug)]
pub struct Doorbell {
    sleeper: Arc<Sleeper>,
    armed: Armed,
}

impl Doorbell {
    /// What ends the sleep, for an abort.
    pub(crate) fn wake(&self) -> Arc<dyn Wake> {
        Arc::clone(&self.sleeper) as _
    }

    /// The same, as one of many.
    pub(super) fn as_sleep(&self) -> Sleep<'_> {
        let Sleeper { region, signal, bell, .. } = &*self.sleeper;
        Sleep { file: &region.file, at: *signal, expected: self.armed.signal, bell, rung: self.armed.rung }
    }

    /// Whether something has come since [`Carrier::arm`].
    pub(super) fn is_rung(&self) -> bool {
        self.as_sleep().is_over() || self.sleeper.is_cut_short()
    }

    /// Whether the memory to sleep on is gone.
    pub(super) fn cannot_sleep(&self) -> bool {
        self.sleep(Some(Duration::ZERO)).is_err()
    }

    /// From now on a hang-up, and a region that is cut short, ring `bell` as well. Once for each session.
    pub fn share(&self, bell: &Arc<Bell>) {
        let _ = self.sleeper.also.set(Arc::clone(bell));
    }

    /// Sleeps until something has come for one of `doorbells` since its [`Carrier::arm`], or `bell` has been rung more
    /// than `rung` times, at most for `timeout`. Spurious returns are possible. Of `doorbells`, which must
    /// [`share`](Self::share) the bell, the first 127 count.
    pub fn sleep_on_any(doorbells: &[Self], bell: &Bell, rung: u32, timeout: Option<Duration>) {
        let words = doorbells.iter().map(|one| (&one.sleeper.region.file, one.sleeper.signal, one.armed.signal));
        // Whatever it is: whoever looks finds out.
        let _ = bell.sleep(rung, words, timeout);
    }

    /// Sleeps until something has come since [`Carrier::arm`], or for `timeout`. Spurious returns are possible.
    pub(crate) fn sleep(&self, timeout: Option<Duration>) -> Result<(), SessionError> {
        let (Sleeper { region, signal, bell, .. }, armed) = (&*self.sleeper, self.armed);
        match region.file.sleep(*signal, armed.signal, bell, armed.rung, timeout) {
            Ok(()) | Err(Errno::AGAIN | Errno::INTR | Errno::TIMEDOUT) => Ok(()),
            Err(_) => Err(ProtocolError::RegionTruncated.into()),
        }
    }
}

impl Carrier for Slot {
    fn try_send(&mut self, head: &[u8], body: &[u8]) -> Result<Option<usize>, SessionError> {
        match (self.role, self.pending) {
            (Role::Client, true) => return Ok(None),
            (Role::Server, false) => return Err(SessionError::NothingToAnswer),
            _ => {}
        }
        if self.hung_up() {
            return Err(SessionError::Closed);
        }
        let (file, lane) = (&self.region.file, &self.send);
        let len = head.len() + body.len();
        let announced = match u32::try_from(len) {
            Ok(announced) if announced <= lane.capacity => announced,
            _ => {
                return Err(SessionError::PayloadTooLarge {
                    len: body.len(),
                    limit: lane.capacity - head.len() as u32,
                });
            }
        };
        // The envelope is 32 bytes, so the payload is as aligned as the area.
        file.copy_in(lane.offset, head);
        file.copy_in(lane.offset + head.len(), body);
        file.store_u32(lane.len, announced, Ordering::Release);
        file.add_u64(lane.seq, 1, Ordering::Release); // SYNC slot.seq
        file.add_u32(lane.signal, 1, Ordering::Release);
        self.check_region()?;
        // On every publish: a netipc peer does not say whether it sleeps.
        file.futex_wake(lane.signal, 1).map_err(|_| ProtocolError::RegionTruncated)?;
        self.pending = self.role == Role::Client;
        Ok(Some(len))
    }

    fn try_recv(&mut self, space: &mut [u8]) -> Result<Option<usize>, SessionError> {
        self.check_region()?;
        let Some(Found { seq, len }) = self.look()? else {
            return if self.hung_up() { Err(SessionError::Closed) } else { Ok(None) };
        };
        let Some(space) = space.get_mut(..len as usize) else { return Ok(None) };
        self.region.file.copy_out(self.recv.offset, space);
        self.check_region()?;
        (self.received, self.found) = (seq, None);
        self.pending = self.role == Role::Server;
        Ok(Some(len as usize))
    }

    fn due(&mut self) -> usize {
        // What is wrong with it is said by the receive.
        self.look().ok().flatten().map_or(0, |found| found.len as usize)
    }

    fn source(&self) -> Source<'_> {
        Source::Doorbell(Doorbell { sleeper: Arc::clone(&self.sleeper), armed: self.armed })
    }

    fn has_news(&mut self) -> Option<bool> {
        Some(self.news())
    }

    fn arm(&mut self) -> bool {
        let rung = self.sleeper.bell.count();
        self.armed = Armed { rung, signal: self.region.file.load_u32(self.recv.signal, Ordering::Acquire) };
        !self.news()
    }

    fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
