//! Watches the poll while the reactor sleeps on shared memory.
//!
//! A netipc session over shared memory tells its news by a futex, which no poll can wait for, and sockets tell theirs
//! to a poll, which no futex can wait for. A server that has both sleeps on the words, because their messages are the
//! fast ones, and this thread waits for the poll and rings the reactor's bell. It is started with the first such
//! session. Servers without them never have it.

use super::poll::Poll;
use ginnel_base::thread;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// It sleeps: the reactor looks at the poll for itself.
const IDLE: u8 = 0;
/// It waits for the poll.
const WATCHING: u8 = 1;
/// The poll has something. It sleeps until it is asked again.
const RANG: u8 = 2;
/// The reactor has ended.
const OVER: u8 = 3;

#[derive(Debug)]
pub(super) struct Porter {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: AtomicU8,
    /// Tells the thread that it is asked to watch.
    asked: ginnel_memory::Bell,
    /// Ends the thread's wait for the poll.
    over: OwnedFd,
}

impl Porter {
    pub(super) fn start(poll: &Poll, bell: Arc<ginnel_memory::Bell>) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            state: AtomicU8::new(IDLE),
            asked: ginnel_memory::Bell::default(),
            over: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        });
        let (of_thread, epoll) = (Arc::clone(&shared), poll.try_clone()?);
        thread::spawn_with_stack("ginnel-porter", 128 << 10, move || of_thread.watch(&epoll, &bell))?;
        Ok(Self { shared })
    }

    /// Asks it to ring when the poll has something. One load if it is at it already.
    pub(super) fn watch(&self) {
        // Only the reactor leaves these two states, so nothing comes between the load and the store.
        if self.shared.state.load(Ordering::Acquire) != WATCHING {
            // SYNC porter.state: released before the bell is rung, acquired after it was heard.
            self.shared.state.store(WATCHING, Ordering::Release);
            self.shared.asked.ring();
        }
    }

    /// Whether the poll has something that the reactor has not looked at since [`watch`](Self::watch).
    pub(super) fn rang(&self) -> bool {
        self.shared.state.load(Ordering::Acquire) == RANG
    }
}

impl Drop for Porter {
    fn drop(&mut self) {
        self.shared.state.store(OVER, Ordering::Release);
        self.shared.asked.ring();
        let _ = rustix::io::write(&self.shared.over, &1u64.to_ne_bytes());
    }
}

impl Shared {
    fn watch(&self, epoll: &OwnedFd, bell: &ginnel_memory::Bell) {
        loop {
            let rung = self.asked.count();
            match self.state.load(Ordering::Acquire) {
                WATCHING => {
                    let mut fds = [PollFd::new(epoll, PollFlags::IN), PollFd::new(&self.over, PollFlags::IN)];
                    // A signal cannot come, and a lack of memory looks like something to look at.
                    let _ = poll(&mut fds, None);
                    // SYNC porter.state: before the bell. It stays OVER if it is.
                    let _ = self.state.compare_exchange(WATCHING, RANG, Ordering::Release, Ordering::Relaxed);
                    bell.ring();
                }
                OVER => return,
                _ => {
                    let _ = self.asked.sleep(rung, [], None);
                }
            }
        }
    }
}
