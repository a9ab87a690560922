//! Ctrl-C: the first one asks the command to end cleanly, the second one ends it.

use ginnel_process::SignalsBlocked;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::BorrowedFd;
use rustix::io::Errno;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::{flag, low_level};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// SIGINT and SIGTERM, turned into something that can be asked for and waited for.
pub(crate) struct Interrupt {
    signal: Arc<AtomicUsize>,
    wake: UnixStream,
}

impl Interrupt {
    /// From now on the signals end the process only when they come twice.
    pub(crate) fn watch() -> io::Result<Self> {
        // As in `signals`.
        let _blocked = SignalsBlocked::new();
        let signal = Arc::new(AtomicUsize::new(0));
        let again = Arc::new(AtomicBool::new(false));
        let (wake, write) = UnixStream::pair()?;
        for number in [SIGINT, SIGTERM] {
            // In this order: the first signal finds the flag down, and sets it.
            flag::register_conditional_default(number, Arc::clone(&again))?;
            flag::register(number, Arc::clone(&again))?;
            flag::register_usize(number, Arc::clone(&signal), number as usize)?;
            low_level::pipe::register(number, write.try_clone()?)?;
        }
        Ok(Self { signal, wake })
    }

    /// Whether a signal has come.
    pub(crate) fn came(&self) -> bool {
        self.signal.load(Ordering::Relaxed) != 0
    }

    /// The exit code of a command that a signal ended: 128 and its number, as shells have it.
    pub(crate) fn code(&self) -> ExitCode {
        ExitCode::from(128 + self.signal.load(Ordering::Relaxed) as u8)
    }

    /// Readable for good once a signal has come: to be waited for together with others.
    pub(crate) fn wake(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// Sleeps until `fd` can be read or has ended; `false` if a signal came instead.
    pub(crate) fn readable(&self, fd: BorrowedFd<'_>) -> Result<bool, Errno> {
        while !self.came() {
            let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN), PollFd::new(&self.wake, PollFlags::IN)];
            match poll(&mut fds, None) {
                Ok(_) if !fds[0].revents().is_empty() => return Ok(true),
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }
}

/// These signals, to be received one after the other.
///
/// Between the moment at which `signal-hook` puts its handler in place and the one at which that handler knows what to
/// do, a signal would be lost: it would neither end this process nor be heard of. So they are kept waiting for so long.
pub(crate) fn signals(numbers: &[i32]) -> io::Result<Signals> {
    let _blocked = SignalsBlocked::new();
    Signals::new(numbers)
}
