//! The thread that accepts: it reads every HELLO as it trickles in, and blocks on none.

use crate::places::Place;
use crate::serve::serve;
use crate::server::Shared;
use ginnel_base::Deadline;
use ginnel_session::{Incoming, Listener, RefuseReason};
use rustix::event::{PollFd, PollFlags, poll};
use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Connections whose HELLO is not complete. When there are more, the one that has kept silent longest goes: newcomers are
/// never kept out by those who say nothing.
const MAX_PENDING: usize = 128;
/// How long to leave the backlog alone when the process has no file descriptor or thread left.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(50);

struct Pending {
    incoming: Incoming,
    deadline: Deadline,
}

/// What is left of the process's descriptors, as far as accepting has found out.
#[derive(Default)]
struct Means {
    /// They were used up at the last attempt. Said once, until an attempt succeeds.
    exhausted: bool,
    /// Connections that the listener has refused because of it.
    turned_away: u64,
}

pub(crate) fn accept_until_drained(listener: &Listener, shared: &Arc<Shared>) {
    let mut pending: VecDeque<Pending> = VecDeque::new();
    let mut exhausted_until: Option<Deadline> = None;
    let mut means = Means::default();
    loop {
        let now = Instant::now();
        exhausted_until = exhausted_until.filter(|until| !until.passed_at(now));
        let ready = wait(listener, shared, &pending, exhausted_until);
        if shared.draining.is_raised() {
            return;
        }
        progress(&mut pending, &ready.pending, shared);
        if ready.listener {
            exhausted_until = take_all(listener, &mut pending, &mut means, shared);
        }
    }
}

struct ReadyFds {
    listener: bool,
    pending: Vec<bool>,
}

/// Sleeps until a connection or a HELLO has come, the server drains, or a deadline has passed.
fn wait(
    listener: &Listener,
    shared: &Shared,
    pending: &VecDeque<Pending>,
    exhausted_until: Option<Deadline>,
) -> ReadyFds {
    let of_listener = if exhausted_until.is_some() { PollFlags::empty() } else { PollFlags::IN };
    let mut fds = vec![PollFd::new(&shared.draining, PollFlags::IN), PollFd::new(listener, of_listener)];
    fds.extend(pending.iter().map(|one| PollFd::new(&one.incoming, PollFlags::IN)));
    // Deadlines are in order of arrival: the first is the next.
    let next = pending.front().map(|one| one.deadline).into_iter().chain(exhausted_until).min();
    let timeout = next.and_then(Deadline::timespec);
    // A signal or a lack of memory looks like nothing ready, and the loop comes back.
    let polled = poll(&mut fds, timeout.as_ref()).is_ok();
    let is_ready = |fd: &PollFd<'_>| polled && !fd.revents().is_empty();
    ReadyFds { listener: is_ready(&fds[1]), pending: fds[2..].iter().map(is_ready).collect() }
}

/// Reads what HELLOs have come, and drops those who have kept silent too long.
fn progress(pending: &mut VecDeque<Pending>, ready: &[bool], shared: &Arc<Shared>) {
    let now = Instant::now();
    let waiting = std::mem::take(pending);
    for (mut one, ready) in waiting.into_iter().zip(ready) {
        let complete = if *ready { one.incoming.try_receive_hello() } else { Ok(false) };
        match complete {
            Ok(true) => start(one.incoming, shared),
            Ok(false) if !one.deadline.passed_at(now) => pending.push_back(one),
            Ok(false) | Err(_) => {
                shared.counters.silent.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// Accepts all that wait. After a lack of resources, says until when to leave them waiting.
fn take_all(
    listener: &Listener,
    pending: &mut VecDeque<Pending>,
    means: &mut Means,
    shared: &Arc<Shared>,
) -> Option<Deadline> {
    loop {
        let accepted = listener.try_accept();
        if accepted.is_ok() && std::mem::take(&mut means.exhausted) {
            tracing::info!(service = %shared.endpoint, turned_away = means.turned_away, "connections are taken again");
        }
        match accepted {
            Ok(Some(mut incoming)) => match incoming.try_receive_hello() {
                // Most clients have said HELLO by the time they are accepted.
                Ok(true) => start(incoming, shared),
                Ok(false) => {
                    if pending.len() >= MAX_PENDING {
                        pending.pop_front();
                        shared.counters.silent.fetch_add(1, Ordering::Relaxed);
                    }
                    pending.push_back(Pending { incoming, deadline: Deadline::after(shared.handshake_timeout) });
                }
                Err(_) => {
                    shared.counters.silent.fetch_add(1, Ordering::Relaxed);
                }
            },
            Ok(None) => return None,
            Err(error) => {
                if !std::mem::replace(&mut means.exhausted, true) {
                    tracing::warn!(service = %shared.endpoint, %error, "connections are refused until this is over");
                }
                let turned_away = listener.turned_away();
                let more = turned_away - std::mem::replace(&mut means.turned_away, turned_away);
                shared.counters.exhausted.fetch_add(more, Ordering::Relaxed);
                shared.counters.refused.fetch_add(more, Ordering::Relaxed);
                return Some(Deadline::after(EXHAUSTED_PAUSE));
            }
        }
    }
}

/// Gives a connection whose HELLO is there a thread of its own, or refuses it if the server is full.
fn start(incoming: Incoming, shared: &Arc<Shared>) {
    let Some(place) = Place::take(shared, incoming.as_fd()) else {
        refuse(incoming, RefuseReason::Full, shared);
        return;
    };
    let name = format!("ginnel-session-{}", incoming.offer().session_id);
    // Left where it can be taken back from: without a thread, the client is told so all the same.
    let incoming = Arc::new(Mutex::new(Some(incoming)));
    let take = |incoming: &Mutex<Option<Incoming>>| incoming.lock().unwrap_or_else(PoisonError::into_inner).take();
    let of_thread = Arc::clone(&incoming);
    let spawned = ginnel_base::thread::spawn(name, move || {
        if let Some(incoming) = take(&of_thread) {
            drop(of_thread);
            serve(incoming, &place);
        }
    });
    if let Err(error) = spawned {
        tracing::warn!(service = %shared.endpoint, %error, "no thread for a session");
        shared.counters.exhausted.fetch_add(1, Ordering::Relaxed);
        if let Some(incoming) = take(&incoming) {
            refuse(incoming, RefuseReason::Exhausted, shared);
        }
    }
}

fn refuse(mut incoming: Incoming, reason: RefuseReason, shared: &Shared) {
    // What speaks against the client itself comes first.
    incoming.offer_mut().refuse.get_or_insert(reason);
    // One small send that does not block. It says why, and that is all there is to do.
    let _ = incoming.finish();
    shared.counters.refused.fetch_add(1, Ordering::Relaxed);
}
