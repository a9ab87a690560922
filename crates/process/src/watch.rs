//! One thread for the whole process, started with the first command and asleep until a shepherd ends: it
//! brings the second line of defence in when nobody waits for the command, and reaps the shepherds of handles that were
//! dropped.

use crate::link::Link;
use rustix::event::epoll;
use rustix::io::Errno;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use std::collections::{BTreeMap, HashMap};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

struct Watch {
    /// A forked copy of this process has the set but not the thread.
    owner: u32,
    set: Arc<OwnedFd>,
    /// Rings at the first of `limits`.
    timer: Arc<OwnedFd>,
    /// By when which shepherd must have ended.
    limits: BTreeMap<(Instant, u64), Weak<Link>>,
    links: HashMap<u64, Arc<Link>>,
    /// The link that the thread holds without the lock.
    settling: Option<u64>,
}

/// What the timer is registered as: no link has this number.
const TIMER: u64 = u64::MAX;

impl Watch {
    /// Sets the timer, if `change` was about the first of the limits.
    fn limit(&mut self, change: impl FnOnce(&mut BTreeMap<(Instant, u64), Weak<Link>>)) {
        let first = |watch: &Watch| watch.limits.keys().next().copied();
        let before = first(self);
        change(&mut self.limits);
        let after = first(self);
        if before == after {
            return;
        }
        // Zero would disarm it.
        let left =
            after.map(|(moment, _)| moment.saturating_duration_since(Instant::now()).max(Duration::from_nanos(1)));
        let it_value = left.and_then(|left| Timespec::try_from(left).ok()).unwrap_or_default();
        let time = Itimerspec { it_interval: Timespec::default(), it_value };
        if let Err(error) = rustix::time::timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &time) {
            tracing::warn!(%error, "a shepherd has no limit of time");
        }
    }
}

/// The shepherd must have ended by then, or it is killed.
pub(crate) fn end_by(link: &Arc<Link>, moment: Instant) {
    let mut watch = lock();
    let Some(watch) = watch.as_mut().filter(|watch| watch.owner == std::process::id()) else { return };
    let before = link.end_by().take();
    let moment = before.map_or(moment, |before| before.min(moment));
    *link.end_by() = Some(moment);
    watch.limit(|limits| {
        if let Some(before) = before {
            limits.remove(&(before, link.number));
        }
        limits.insert((moment, link.number), Arc::downgrade(link));
    });
}

static WATCH: Mutex<Option<Watch>> = Mutex::new(None);
/// `settling` has become `None`.
static SETTLED: Condvar = Condvar::new();

fn lock() -> MutexGuard<'static, Option<Watch>> {
    WATCH.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends with what the thread does without the lock, however that ends.
struct Settling;

impl Drop for Settling {
    fn drop(&mut self) {
        if let Some(watch) = lock().as_mut() {
            watch.settling = None;
        }
        SETTLED.notify_all();
    }
}

/// Watches over a new command, unless it is over already, which is false: then its owner reaps it when it waits, or
/// registers it again.
pub(crate) fn register_new(link: &Arc<Link>) -> bool {
    let watch = started();
    let goes_on = !link.has_reported();
    if goes_on {
        add(watch, link);
    }
    goes_on
}

/// Watches over a command. Without descriptors or threads to do so, its owner still does when it waits.
pub(crate) fn register(link: &Arc<Link>) {
    add(started(), link);
}

/// Makes sure that there is a watch, with its thread running.
///
/// # Errors
/// When the system has no descriptor, thread or memory for it.
pub(crate) fn ready() -> Result<(), Errno> {
    start_if_needed(&mut lock())
}

fn start_if_needed(watch: &mut Option<Watch>) -> Result<(), Errno> {
    if watch.as_ref().is_none_or(|watch| watch.owner != std::process::id()) {
        let new = start().map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::AGAIN))?;
        // A forked copy forgets the links of its parent without closing what is registered there.
        std::mem::forget(watch.replace(new));
    }
    Ok(())
}

/// The watch, with its thread running if that can be had.
fn started() -> MutexGuard<'static, Option<Watch>> {
    let mut watch = lock();
    if let Err(error) = start_if_needed(&mut watch) {
        tracing::warn!(%error, "no thread watches over the shepherds");
    }
    watch
}

fn add(mut watch: MutexGuard<'_, Option<Watch>>, link: &Arc<Link>) {
    let Some(watch) = watch.as_mut().filter(|watch| watch.owner == std::process::id()) else { return };
    let added = epoll::add(&watch.set, &link.shepherd, epoll::EventData::new_u64(link.number), epoll::EventFlags::IN);
    match added {
        Ok(()) => drop(watch.links.insert(link.number, Arc::clone(link))),
        Err(error) => tracing::warn!(%error, "a shepherd is watched only while its owner waits"),
    }
    if let Some(moment) = *link.end_by() {
        watch.limit(|limits| drop(limits.insert((moment, link.number), Arc::downgrade(link))));
    }
}

/// Its shepherd has ended: there is nothing to limit.
pub(crate) fn unlimit(link: &Link) {
    let Some(moment) = link.end_by().take() else { return };
    if let Some(watch) = lock().as_mut().filter(|watch| watch.owner == std::process::id()) {
        watch.limit(|limits| drop(limits.remove(&(moment, link.number))));
    }
}

/// The owner looks after the command's end itself, or has seen it. Afterwards the watch holds nothing of it: with the
/// owner's last handle the descriptors are closed.
pub(crate) fn forget(link: &Arc<Link>) {
    let mut watch = lock();
    let ours = |watch: &Watch| watch.owner == std::process::id();
    if let Some(watch) = watch.as_mut().filter(|watch| ours(watch))
        && watch.links.remove(&link.number).is_some()
    {
        let _ = epoll::delete(&watch.set, &link.shepherd);
    }
    // What the thread does with it by now, its owner would have to do instead: ending the tree of a killed shepherd.
    while watch.as_ref().is_some_and(|watch| ours(watch) && watch.settling == Some(link.number)) {
        watch = SETTLED.wait(watch).unwrap_or_else(PoisonError::into_inner);
    }
}

fn start() -> std::io::Result<Watch> {
    let set = Arc::new(epoll::create(epoll::CreateFlags::CLOEXEC)?);
    let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
    let timer = Arc::new(rustix::time::timerfd_create(TimerfdClockId::Monotonic, flags)?);
    epoll::add(&set, &timer, epoll::EventData::new_u64(TIMER), epoll::EventFlags::IN)?;
    let (watched, ringing) = (Arc::clone(&set), Arc::clone(&timer));
    ginnel_base::thread::spawn_with_stack("ginnel-watch", 256 * 1024, move || run(&watched, &ringing))?;
    let (links, limits) = (HashMap::new(), BTreeMap::new());
    Ok(Watch { owner: std::process::id(), set, timer, limits, links, settling: None })
}

/// Kills the shepherds whose time is over.
fn ring(timer: &OwnedFd) {
    let _ = rustix::io::read(timer, &mut [0; 8]);
    let mut overdue = Vec::new();
    if let Some(watch) = lock().as_mut() {
        watch.limit(|limits| {
            let later = limits.split_off(&(Instant::now(), TIMER));
            overdue.extend(std::mem::replace(limits, later).into_values().filter_map(|link| link.upgrade()));
        });
    }
    for link in overdue {
        link.give_up_shepherd();
    }
}

fn run(set: &OwnedFd, timer: &OwnedFd) {
    let mut ready = Vec::with_capacity(64);
    loop {
        ready.clear();
        match epoll::wait(set, rustix::buffer::spare_capacity(&mut ready), None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return tracing::error!(%error, "the watch over shepherds has ended"),
        }
        for event in &ready {
            let key = event.data.u64();
            if key == TIMER {
                ring(timer);
                continue;
            }
            let link = lock().as_mut().and_then(|watch| {
                let link = watch.links.remove(&key)?;
                let _ = epoll::delete(&watch.set, &link.shepherd);
                watch.settling = Some(key);
                Some(link)
            });
            // Not under the lock: the end of a tree may take its time.
            if let Some(link) = link {
                let _settling = Settling;
                link.settle();
                unlimit(&link);
                drop(link);
            }
        }
    }
}
