//! One thread per process that tells shared-memory sessions when their socket hangs up.
//!
//! A thread that sleeps in `futex` cannot watch a socket, and 30-second surprises or 100 ms timers are what this crate is
//! there to avoid. The thread sleeps in `epoll` without a timeout, starts with the first such session and stays. A forked
//! child has no copy of it and starts its own.

use rustix::event::epoll;
use std::collections::HashMap;
use std::fmt::Debug;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Told once that the peer is gone.
pub(super) trait OnHangUp: Send + Sync + Debug {
    fn hang_up(&self);
}

#[derive(Debug)]
struct Watch {
    epoll: OwnedFd,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    last: u64,
    targets: HashMap<u64, Arc<dyn OnHangUp>>,
}

/// Ends the watching on drop, which must come before the socket is closed.
#[derive(Debug)]
pub(super) struct Watched {
    watch: Arc<Watch>,
    id: u64,
    // A duplicate of the session's socket: deregistering needs it, whatever became of the original.
    socket: OwnedFd,
}

impl Drop for Watched {
    fn drop(&mut self) {
        let _ = epoll::delete(&self.watch.epoll, &self.socket);
        self.watch.state().targets.remove(&self.id);
    }
}

/// Watches `socket` until the result is dropped.
pub(super) fn watch(socket: BorrowedFd<'_>, target: Arc<dyn OnHangUp>) -> io::Result<Watched> {
    let watch = running()?;
    let socket = socket.try_clone_to_owned()?;
    let id = {
        let mut state = watch.state();
        state.last += 1;
        let id = state.last;
        state.targets.insert(id, target);
        id
    };
    // Held from here on, so that a failure below takes the target out again.
    let watched = Watched { watch, id, socket };
    // Not IN: nothing is read from this socket, and a peer that writes to it must not keep the thread busy.
    let flags = epoll::EventFlags::RDHUP | epoll::EventFlags::HUP | epoll::EventFlags::ERR | epoll::EventFlags::ONESHOT;
    epoll::add(&watched.watch.epoll, watched.socket.as_fd(), epoll::EventData::new_u64(id), flags)?;
    Ok(watched)
}

/// The watch of this process, started if need be.
fn running() -> io::Result<Arc<Watch>> {
    static RUNNING: Mutex<Option<(u32, Arc<Watch>)>> = Mutex::new(None);
    let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
    let own = std::process::id();
    if let Some((pid, watch)) = &*running
        && *pid == own
    {
        return Ok(Arc::clone(watch));
    }
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let watch = Arc::new(Watch { epoll, state: Mutex::default() });
    let of_thread = Arc::clone(&watch);
    std::thread::Builder::new().name("ginnel-watch".to_owned()).spawn(move || of_thread.run())?;
    *running = Some((own, Arc::clone(&watch)));
    Ok(watch)
}

impl Watch {
    fn run(&self) {
        let mut events = Vec::with_capacity(64);
        loop {
            events.clear();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                // Not possible with a valid epoll fd, which this thread keeps alive.
                Err(errno) => return tracing::error!(%errno, "the watch of shared-memory sessions stopped"),
            }
            for event in &events {
                let target = self.state().targets.get(&event.data.u64()).cloned();
                if let Some(target) = target {
                    target.hang_up();
                }
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
