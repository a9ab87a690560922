//! How long to wait, and who may end it.

use crate::error::SessionError;
use ginnel_base::Deadline;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Ends waits of other threads, at once and until it is cleared. Clones share one state.
///
/// ```
/// use ginnel_session::Abort;
///
/// let abort = Abort::new()?;
/// let other = abort.clone();
/// std::thread::spawn(move || other.raise()).join().unwrap();
/// assert!(abort.is_raised());
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Abort {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    raised: AtomicBool,
    // Readable while raised, so that poll sees it. Nothing reads it but `clear`.
    event: OwnedFd,
    // Waits that poll cannot end: those in shared memory.
    sleepers: Mutex<Vec<(usize, Arc<dyn Wake>)>>,
}

/// Something that sleeps where no file descriptor reaches it.
pub(crate) trait Wake: Send + Sync + std::fmt::Debug {
    fn wake(&self);
}

impl Abort {
    /// A lowered flag.
    ///
    /// # Errors
    /// If the process is out of file descriptors.
    pub fn new() -> std::io::Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let shared = Shared { raised: AtomicBool::new(false), event, sleepers: Mutex::new(Vec::new()) };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Ends every wait that watches this, those under way and those to come. Any thread may call it.
    pub fn raise(&self) {
        // SYNC abort.raised: set before the sleepers are woken, who look at it after they wake.
        self.shared.raised.store(true, Ordering::Release);
        // A full counter (EAGAIN) is as readable as can be.
        let _ = rustix::io::write(&self.shared.event, &1u64.to_ne_bytes());
        for (_, sleeper) in self.sleepers().iter() {
            sleeper.wake();
        }
    }

    /// Lowers the flag: waits to come are not ended.
    pub fn clear(&self) {
        self.shared.raised.store(false, Ordering::Release);
        let _ = rustix::io::read(&self.shared.event, &mut [0; 8]);
    }

    /// Whether it is raised.
    #[must_use]
    pub fn is_raised(&self) -> bool {
        // SYNC abort.raised
        self.shared.raised.load(Ordering::Acquire)
    }

    /// Wakes `sleeper`, too, from now until the result is dropped.
    pub(crate) fn register(&self, sleeper: Arc<dyn Wake>) -> Registered {
        // Its address identifies it: it lives as long as its registration.
        let id = Arc::as_ptr(&sleeper).cast::<()>().addr();
        self.sleepers().push((id, sleeper));
        Registered { abort: self.clone(), id }
    }

    fn sleepers(&self) -> std::sync::MutexGuard<'_, Vec<(usize, Arc<dyn Wake>)>> {
        // A vector is whole after any panic.
        self.shared.sleepers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A registration with an [`Abort`], ended on drop.
#[derive(Debug)]
pub(crate) struct Registered {
    abort: Abort,
    id: usize,
}

impl Registered {
    /// Whether it is `abort` or a clone of it that wakes the sleeper.
    pub(crate) fn is_with(&self, abort: &Abort) -> bool {
        Arc::ptr_eq(&self.abort.shared, &abort.shared)
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let mut sleepers = self.abort.sleepers();
        if let Some(at) = sleepers.iter().position(|(id, _)| *id == self.id) {
            sleepers.swap_remove(at);
        }
    }
}

impl AsFd for Abort {
    /// Readable while raised.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.shared.event.as_fd()
    }
}

/// When a blocking operation gives up: at a deadline, on an abort, both, or never.
///
/// ```
/// use ginnel_session::{Abort, Wait};
/// use std::time::Duration;
///
/// let abort = Abort::new()?;
/// let wait = Wait::at_most(Duration::from_secs(2)).or_abort(&abort);
/// assert!(wait.deadline().is_some());
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct Wait<'a> {
    deadline: Option<Instant>,
    abort: Option<&'a Abort>,
}

impl<'a> Wait<'a> {
    /// Never gives up.
    #[must_use]
    pub fn forever() -> Self {
        Self::default()
    }

    /// Gives up at `deadline`, an instant or a [`Deadline`], which may be never.
    #[must_use]
    pub fn until(deadline: impl Into<Deadline>) -> Self {
        Self { deadline: deadline.into().instant(), abort: None }
    }

    /// Gives up after `timeout`; a timeout beyond what the clock can count is forever.
    #[must_use]
    pub fn at_most(timeout: Duration) -> Self {
        Self::until(Deadline::after(timeout))
    }

    /// Gives up at `deadline` if that is sooner.
    pub(crate) fn no_later_than(self, deadline: Deadline) -> Self {
        let own = self.deadline.map_or(Deadline::NEVER, Deadline::at);
        Self { deadline: own.min(deadline).instant(), ..self }
    }

    /// Gives up when `abort` is raised, too.
    #[must_use]
    pub fn or_abort(self, abort: &'a Abort) -> Self {
        Self { abort: Some(abort), ..self }
    }

    /// The deadline, if there is one.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// The abort, if there is one.
    #[must_use]
    pub fn abort(&self) -> Option<&'a Abort> {
        self.abort
    }

    /// Whether to give up now.
    pub(crate) fn check(&self) -> Result<(), SessionError> {
        if self.abort.is_some_and(Abort::is_raised) {
            return Err(SessionError::Aborted);
        }
        if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Err(SessionError::TimedOut);
        }
        Ok(())
    }

    /// Time left; `None` is forever.
    pub(crate) fn remaining(&self) -> Option<Duration> {
        self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    /// Waits until `fd` is ready for any of `events`, hang-up and error included.
    pub(crate) fn poll(&self, fd: BorrowedFd<'_>, events: PollFlags) -> Result<PollFlags, SessionError> {
        loop {
            self.check()?;
            let own = PollFd::from_borrowed_fd(fd, events);
            let timeout = self.deadline.map_or(Deadline::NEVER, Deadline::at).timespec();
            let ready = match self.abort {
                None => {
                    let mut fds = [own];
                    poll(&mut fds, timeout.as_ref()).map(|_| fds[0].revents())
                }
                Some(abort) => {
                    let mut fds = [own, PollFd::new(abort, PollFlags::IN)];
                    poll(&mut fds, timeout.as_ref()).map(|_| fds[0].revents())
                }
            };
            match ready {
                Ok(ready) if !ready.is_empty() => return Ok(ready),
                // The deadline, the abort (checked above) or a signal.
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(SessionError::io("wait for the socket")(errno)),
            }
        }
    }

    /// Sleeps for `pause`, unless there is a reason to give up.
    pub fn pause(&self, pause: Duration) -> Result<(), SessionError> {
        let until = Deadline::after(pause);
        loop {
            self.check()?;
            if until.passed() {
                return Ok(());
            }
            let timeout = until.min(self.deadline.map_or(Deadline::NEVER, Deadline::at)).timespec();
            let done = match self.abort {
                None => poll(&mut [], timeout.as_ref()),
                Some(abort) => poll(&mut [PollFd::new(abort, PollFlags::IN)], timeout.as_ref()),
            };
            match done {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(SessionError::io("pause")(errno)),
            }
        }
    }
}
