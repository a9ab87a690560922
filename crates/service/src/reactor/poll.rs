//! The wait: one epoll for sockets, bells and listeners.
//!
//! Level-triggered on purpose: a session takes a bounded number of messages in a turn, and what it leaves is told
//! again. An edge would have to be drained to the end, which costs a system call that says "nothing more" for each
//! message of a ping-pong (mio and polling have no level-triggered mode on every platform, and polling re-arms a timer
//! at each wait).
//!
//! This file and the carriers are all that a port to another system has to bring.

use ginnel_base::Deadline;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Whom an event is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Token(pub(super) u64);

/// What to be told of a descriptor, beside its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Interest {
    pub(super) read: bool,
    pub(super) write: bool,
}

impl Interest {
    pub(super) const READ: Self = Self { read: true, write: false };

    fn flags(self) -> EventFlags {
        let mut flags = EventFlags::empty();
        if self.read {
            // A half-closed peer is of interest only to somebody who reads: else it would be told again and again.
            flags |= EventFlags::IN | EventFlags::RDHUP;
        }
        if self.write {
            flags |= EventFlags::OUT;
        }
        flags
    }
}

/// Something has happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ready {
    pub(super) token: Token,
    pub(super) read: bool,
    pub(super) write: bool,
    /// Both directions are over: nobody is at the other end any more.
    pub(super) hung_up: bool,
}

impl Ready {
    /// Something may have come, by another way than the poll.
    pub(super) const fn news(token: Token) -> Self {
        Self { token, read: true, write: false, hung_up: false }
    }
}

/// Events that are taken at one time.
const BATCH: usize = 256;

/// The token of the timer: no table of sessions is that large.
const TIMER: u64 = u64::MAX;

/// The descriptors that are waited for, and a timer.
///
/// The timer stays set from one wait to the next. A timeout would cost each wait a look at the clock and a timer of the
/// kernel, for the sake of a deadline that is far away and that hardly any wait sees.
#[derive(Debug)]
pub(super) struct Poll {
    epoll: OwnedFd,
    timer: OwnedFd,
    /// When the timer rings; never if it is not set.
    rings: Deadline,
    ready: Vec<Ready>,
}

impl Poll {
    pub(super) fn new() -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
        // It rings once each time that it is set, and needs no read.
        epoll::add(&epoll, &timer, EventData::new_u64(TIMER), EventFlags::IN | EventFlags::ET)?;
        Ok(Self { epoll, timer, rings: Deadline::NEVER, ready: Vec::with_capacity(BATCH) })
    }

    pub(super) fn add(&self, fd: impl AsFd, token: Token, interest: Interest) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, fd, EventData::new_u64(token.0), interest.flags())?)
    }

    /// A descriptor that tells each event once: it needs no read.
    pub(super) fn add_bell(&self, bell: &Bell, token: Token) -> io::Result<()> {
        let flags = EventFlags::IN | EventFlags::ET;
        Ok(epoll::add(&self.epoll, &bell.event, EventData::new_u64(token.0), flags)?)
    }

    pub(super) fn change(&self, fd: impl AsFd, token: Token, interest: Interest) -> io::Result<()> {
        Ok(epoll::modify(&self.epoll, fd, EventData::new_u64(token.0), interest.flags())?)
    }

    pub(super) fn remove(&self, fd: impl AsFd) {
        let _ = epoll::delete(&self.epoll, fd);
    }

    /// Waits until something happens, or until `until`, or for nothing once in a while, since a timer that rings early is
    /// left alone; what has happened.
    pub(super) fn wait_until(&mut self, until: Deadline) -> io::Result<&[Ready]> {
        if until < self.rings {
            let left = until.remaining().unwrap_or(Duration::MAX);
            if left.is_zero() {
                return self.wait(Some(left));
            }
            let (it_interval, it_value) = (timespec(Duration::ZERO), timespec(left));
            timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &Itimerspec { it_interval, it_value })?;
            self.rings = until;
        }
        self.wait(None)
    }

    /// Waits until something happens, or for `timeout`; what has happened. A signal ends the wait early.
    pub(super) fn wait(&mut self, timeout: Option<Duration>) -> io::Result<&[Ready]> {
        let mut events = [const { MaybeUninit::<epoll::Event>::uninit() }; BATCH];
        let timeout = timeout.map(timespec);
        self.ready.clear();
        match epoll::wait(&self.epoll, &mut events[..], timeout.as_ref()) {
            Ok((events, _)) => {
                let both = EventFlags::HUP | EventFlags::ERR;
                let rings = &mut self.rings;
                self.ready.extend(events.iter().filter_map(|event| {
                    // Copied out: the kernel's struct is packed.
                    let (flags, data) = (event.flags, event.data);
                    if data.u64() == TIMER {
                        *rings = Deadline::NEVER;
                        return None;
                    }
                    Some(Ready {
                        token: Token(data.u64()),
                        read: flags.intersects(EventFlags::IN | EventFlags::RDHUP | both),
                        write: flags.intersects(EventFlags::OUT | both),
                        hung_up: flags.contains(EventFlags::HUP),
                    })
                }));
                Ok(&self.ready)
            }
            Err(Errno::INTR) => Ok(&self.ready),
            Err(errno) => Err(errno.into()),
        }
    }
}

fn timespec(time: Duration) -> Timespec {
    Timespec { tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX), tv_nsec: i64::from(time.subsec_nanos()) }
}

impl Poll {
    /// A second descriptor of the same, for another thread to wait on.
    pub(super) fn try_clone(&self) -> io::Result<OwnedFd> {
        self.epoll.try_clone()
    }
}

impl AsFd for Poll {
    /// Readable when something has happened.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

/// Ends the reactor's sleep, wherever it sleeps: in the poll, or on words of shared memory.
#[derive(Debug)]
pub(crate) struct Bell {
    event: OwnedFd,
    pub(super) word: Arc<ginnel_memory::Bell>,
    on_words: AtomicBool,
}

impl Bell {
    pub(super) fn new() -> io::Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { event, word: Arc::default(), on_words: AtomicBool::new(false) })
    }

    /// Says where the next sleep is. To be called before the mailbox is armed: its lock carries this to whoever wakes.
    pub(super) fn sleeps_on_words(&self, on_words: bool) {
        self.on_words.store(on_words, Ordering::Relaxed);
    }
}

impl ginnel_base::Wake for Bell {
    fn wake(&self) {
        if self.on_words.load(Ordering::Relaxed) {
            self.word.ring();
        } else {
            // Each write is an edge, whatever the count is. It would take centuries to fill up.
            let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ginnel_base::Wake;

    #[test]
    fn a_wait_ends_at_its_time_and_an_earlier_timer_is_left_alone() {
        let mut poll = Poll::new().unwrap();
        let soon = Deadline::after(Duration::from_millis(20));
        while !soon.passed() {
            assert!(poll.wait_until(soon).unwrap().is_empty());
        }
        let bell = Bell::new().unwrap();
        poll.add_bell(&bell, Token(7)).unwrap();
        let (far, farther) = (Deadline::after(Duration::from_secs(60)), Deadline::after(Duration::from_secs(90)));
        for until in [far, farther, Deadline::NEVER] {
            bell.wake();
            assert_eq!(poll.wait_until(until).unwrap().len(), 1);
            assert_eq!(poll.rings, far);
        }
        let sooner = Deadline::after(Duration::from_millis(20));
        while !sooner.passed() {
            assert!(poll.wait_until(sooner).unwrap().is_empty());
        }
        assert!(poll.wait_until(sooner).unwrap().is_empty(), "a time that has passed is not waited for");
    }
}
