//! The thread that accepts: it reads every HELLO as it trickles in, and blocks on none.

use crate::serve::serve;
use crate::server::{Shared, Slot};
use ginnel_session::{Incoming, Listener, RefuseReason};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Connections whose HELLO is not complete. When there are more, the one that has kept silent longest goes: newcomers are
/// never kept out by those who say nothing.
const MAX_PENDING: usize = 128;
/// How long to leave the backlog alone when the process has no file descriptor or thread left.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(50);

struct Pending {
    incoming: Incoming,
    deadline: Instant,
}

pub(crate) fn accept_until_drained(listener: &Listener, shared: &Arc<Shared>) {
    let mut pending: VecDeque<Pending> = VecDeque::new();
    let mut exhausted_until: Option<Instant> = None;
    loop {
        let now = Instant::now();
        exhausted_until = exhausted_until.filter(|until| *until > now);
        let ready = wait(listener, shared, &pending, exhausted_until, now);
        if shared.draining.is_raised() {
            return;
        }
        progress(&mut pending, &ready.pending, shared);
        if ready.listener {
            exhausted_until = take_all(listener, &mut pending, shared);
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
    exhausted_until: Option<Instant>,
    now: Instant,
) -> ReadyFds {
    let of_listener = if exhausted_until.is_some() { PollFlags::empty() } else { PollFlags::IN };
    let mut fds = vec![PollFd::new(&shared.draining, PollFlags::IN), PollFd::new(listener, of_listener)];
    fds.extend(pending.iter().map(|one| PollFd::new(&one.incoming, PollFlags::IN)));
    // Deadlines are in order of arrival: the first is the next.
    let next = pending.front().map(|one| one.deadline).into_iter().chain(exhausted_until).min();
    let timeout = next.map(|deadline| {
        let left = deadline.saturating_duration_since(now) + Duration::from_micros(1);
        Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() }
    });
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
            Ok(false) if now < one.deadline => pending.push_back(one),
            Ok(false) | Err(_) => {
                shared.counters.silent.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// Accepts all that wait. After a lack of resources, says until when to leave them waiting.
fn take_all(listener: &Listener, pending: &mut VecDeque<Pending>, shared: &Arc<Shared>) -> Option<Instant> {
    loop {
        match listener.try_accept() {
            Ok(Some(mut incoming)) => match incoming.try_receive_hello() {
                // Most clients have said HELLO by the time they are accepted.
                Ok(true) => start(incoming, shared),
                Ok(false) => {
                    if pending.len() >= MAX_PENDING {
                        pending.pop_front();
                        shared.counters.silent.fetch_add(1, Ordering::Relaxed);
                    }
                    pending.push_back(Pending { incoming, deadline: Instant::now() + shared.handshake_timeout });
                }
                Err(_) => {
                    shared.counters.silent.fetch_add(1, Ordering::Relaxed);
                }
            },
            Ok(None) => return None,
            Err(error) => {
                tracing::warn!(service = %shared.endpoint, %error, "connections have to wait");
                return Some(Instant::now() + EXHAUSTED_PAUSE);
            }
        }
    }
}

/// Gives a connection whose HELLO is there a thread of its own, or refuses it if the server is full.
fn start(mut incoming: Incoming, shared: &Arc<Shared>) {
    let Some(slot) = Slot::take(shared, incoming.as_fd()) else {
        incoming.offer_mut().refuse = Some(RefuseReason::Full);
        // One small send that does not block. It says why, and that is all there is to do.
        let _ = incoming.finish();
        shared.counters.refused.fetch_add(1, Ordering::Relaxed);
        return;
    };
    let name = format!("ginnel-session-{}", incoming.offer().session_id);
    let spawned = ginnel_base::thread::spawn(name, move || serve(incoming, slot.shared()));
    if let Err(error) = spawned {
        tracing::warn!(service = %shared.endpoint, %error, "no thread for a session");
    }
}
