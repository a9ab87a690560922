//! One thread per process that tells shared-memory sessions when their socket hangs up or their file is cut short.
//!
//! A thread that sleeps in `futex` cannot watch a socket, a file that shrinks under a mapping tells nobody, and
//! 30-second surprises or 100 ms timers are what this crate is there to avoid. The thread sleeps in `epoll` without a
//! timeout, starts with the first such session and stays. A forked child has no copy of it and starts its own.

use rustix::event::epoll;
use rustix::fs::inotify;
use rustix::io::Errno;
use std::collections::HashMap;
use std::fmt::Debug;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Told what has happened to a session. Must not block.
pub(crate) trait Target: Send + Sync + Debug {
    /// The peer is gone. Told once.
    fn hang_up(&self);

    /// Somebody has written to the file or changed its size by a system call, which no peer does that keeps to the
    /// profile.
    fn file_changed(&self);
}

/// The epoll data of the inotify descriptor; targets are numbered from 1.
const FILES: u64 = 0;

#[derive(Debug)]
struct Watch {
    epoll: OwnedFd,
    // `None` where the user has as many as it may: a file that was cut short is then found by whoever touches it.
    inotify: Option<OwnedFd>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    last: u64,
    targets: HashMap<u64, Arc<dyn Target>>,
    // Both ends of a session may be in this process: a file has one watch however many they are.
    files: HashMap<i32, Vec<u64>>,
}

/// Ends the watching on drop, which must come before the socket is closed.
#[derive(Debug)]
pub(crate) struct Watched {
    watch: Arc<Watch>,
    id: u64,
    file: Option<i32>,
    // A duplicate of the session's socket: deregistering needs it, whatever became of the original.
    socket: OwnedFd,
}

impl Drop for Watched {
    fn drop(&mut self) {
        let _ = epoll::delete(&self.watch.epoll, &self.socket);
        let mut state = self.watch.state();
        state.targets.remove(&self.id);
        if let Some(file) = self.file {
            self.watch.leave_file(&mut state, file, self.id);
        }
    }
}

/// Watches `socket` and `file` until the result is dropped.
pub(crate) fn watch(socket: BorrowedFd<'_>, file: BorrowedFd<'_>, target: Arc<dyn Target>) -> io::Result<Watched> {
    let watch = running()?;
    let socket = socket.try_clone_to_owned()?;
    let (id, file) = {
        let mut state = watch.state();
        state.last += 1;
        let id = state.last;
        state.targets.insert(id, target);
        (id, watch.watch_file(&mut state, file, id))
    };
    // Held from here on, so that a failure below takes the target out again.
    let watched = Watched { watch, id, file, socket };
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
    let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
    let inotify = inotify::init(flags)
        .and_then(|fd| {
            epoll::add(&epoll, &fd, epoll::EventData::new_u64(FILES), epoll::EventFlags::IN)?;
            Ok(fd)
        })
        .inspect_err(|errno| tracing::warn!(%errno, "files that are cut short will be noticed late"))
        .ok();
    let watch = Arc::new(Watch { epoll, inotify, state: Mutex::default() });
    let of_thread = Arc::clone(&watch);
    ginnel_base::thread::spawn("ginnel-watch", move || of_thread.run())?;
    *running = Some((own, Arc::clone(&watch)));
    Ok(watch)
}

impl Watch {
    fn run(&self) {
        let mut events = Vec::with_capacity(64);
        loop {
            events.clear();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), None) {
                Ok(_) | Err(Errno::INTR) => {}
                // Not possible with a valid epoll fd, which this thread keeps alive.
                Err(errno) => return tracing::error!(%errno, "the watch of shared-memory sessions stopped"),
            }
            for event in &events {
                if event.data.u64() == FILES {
                    self.tell_of_files();
                    continue;
                }
                let target = self.state().targets.get(&event.data.u64()).cloned();
                if let Some(target) = target {
                    target.hang_up();
                }
            }
        }
    }

    fn tell_of_files(&self) {
        let Some(inotify) = &self.inotify else { return };
        let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(inotify, &mut buffer);
        // Until there is none left; equal ones that wait are one.
        while let Ok(event) = events.next() {
            let state = self.state();
            let of_file = state.files.get(&event.wd()).into_iter().flatten();
            let targets: Vec<_> = of_file.filter_map(|id| state.targets.get(id).cloned()).collect();
            drop(state);
            for target in targets {
                target.file_changed();
            }
        }
    }

    /// Watches a file for a target; `None` if that cannot be.
    fn watch_file(&self, state: &mut State, file: BorrowedFd<'_>, id: u64) -> Option<i32> {
        // By its descriptor: the name may be another's by now.
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let file = inotify::add_watch(self.inotify.as_ref()?, path, inotify::WatchFlags::MODIFY)
            .inspect_err(|errno| tracing::debug!(%errno, "a region that is cut short will be noticed late"))
            .ok()?;
        state.files.entry(file).or_default().push(id);
        Some(file)
    }

    fn leave_file(&self, state: &mut State, file: i32, id: u64) {
        let Some(targets) = state.files.get_mut(&file) else { return };
        targets.retain(|target| *target != id);
        if targets.is_empty() {
            state.files.remove(&file);
            if let Some(inotify) = &self.inotify {
                let _ = inotify::remove_watch(inotify, file);
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
