//! One thread for the whole process, started with the first command and asleep until a shepherd ends: it brings the second line of defence in
//! when nobody waits for the command, and reaps the shepherds of handles that were dropped.

use crate::link::Link;
use rustix::event::epoll;
use rustix::io::Errno;
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

struct Watch {
    /// A forked copy of this process has the set but not the thread.
    owner: u32,
    set: Arc<OwnedFd>,
    links: HashMap<u64, Arc<Link>>,
}

static WATCH: Mutex<Option<Watch>> = Mutex::new(None);

/// The key of a link: it stays at its place as long as it is registered.
fn key(link: &Arc<Link>) -> u64 {
    Arc::as_ptr(link) as u64
}

/// Watches over a new command. Without descriptors or threads to do so, its owner still does when it waits.
pub(crate) fn register(link: &Arc<Link>) {
    let mut watch = WATCH.lock().unwrap_or_else(PoisonError::into_inner);
    if watch.as_ref().is_none_or(|watch| watch.owner != std::process::id()) {
        match start() {
            // A forked copy forgets the links of its parent without closing what is registered there.
            Ok(new) => std::mem::forget(watch.replace(new)),
            Err(error) => return tracing::warn!(%error, "no thread watches over the shepherds"),
        }
    }
    let Some(watch) = watch.as_mut() else { return };
    let added = epoll::add(&watch.set, &link.shepherd, epoll::EventData::new_u64(key(link)), epoll::EventFlags::IN);
    match added {
        Ok(()) => drop(watch.links.insert(key(link), Arc::clone(link))),
        Err(error) => tracing::warn!(%error, "a shepherd is watched only while its owner waits"),
    }
}

/// The owner of the command has seen its end.
pub(crate) fn forget(link: &Arc<Link>) {
    let mut watch = WATCH.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(watch) = watch.as_mut().filter(|watch| watch.owner == std::process::id())
        && watch.links.remove(&key(link)).is_some()
    {
        let _ = epoll::delete(&watch.set, &link.shepherd);
    }
}

fn start() -> std::io::Result<Watch> {
    let set = Arc::new(epoll::create(epoll::CreateFlags::CLOEXEC)?);
    let watched = Arc::clone(&set);
    // Signals of the program are for the program's own threads.
    let blocked = crate::sys::SignalsBlocked::new();
    let thread = thread::Builder::new().name("ginnel-watch".to_owned()).stack_size(256 * 1024);
    let started = thread.spawn(move || run(&watched));
    drop(blocked);
    started?;
    Ok(Watch { owner: std::process::id(), set, links: HashMap::new() })
}

fn run(set: &OwnedFd) {
    let mut ready = Vec::with_capacity(64);
    loop {
        ready.clear();
        match epoll::wait(set, rustix::buffer::spare_capacity(&mut ready), None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return tracing::error!(%error, "the watch over shepherds has ended"),
        }
        for event in &ready {
            let link = {
                let mut watch = WATCH.lock().unwrap_or_else(PoisonError::into_inner);
                watch.as_mut().and_then(|watch| {
                    let link = watch.links.remove(&event.data.u64())?;
                    let _ = epoll::delete(&watch.set, &link.shepherd);
                    Some(link)
                })
            };
            // Not under the lock: the end of a tree may take its time.
            if let Some(link) = link {
                link.settle();
            }
        }
    }
}
