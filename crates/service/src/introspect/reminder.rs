//! Publishes for endpoints without a thread of their own: clients.
//!
//! A client has something to tell when a call ends, and must not publish each time. So what has changed is published
//! [`EVERY`](super::publisher::EVERY) later, by one thread for all clients of the process. It sleeps without a limit
//! while no client has anything new, and it does the file work: no call waits for a runtime directory.

use ginnel_base::{fork_generation, thread};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Mutex, Weak};
use std::time::Instant;

/// Something that publishes when it is reminded.
pub(crate) trait Teller: Send + Sync {
    /// Publishes what is new.
    fn tell(&self, now: Instant);
}

type Reminder = (Instant, Weak<dyn Teller>);

/// Has `teller` reminded at that time; whether it will be.
pub(crate) fn remind(at: Instant, teller: Weak<dyn Teller>) -> bool {
    static POST: Mutex<Option<(u64, Sender<Reminder>)>> = Mutex::new(None);
    // Not waited for: in a process that `fork` made, whoever holds it may not exist.
    let Ok(mut post) = POST.try_lock() else { return false };
    let generation = fork_generation();
    if let Some((made, sender)) = &*post {
        if *made == generation {
            return sender.send((at, teller)).is_ok();
        }
        // The parent's: its thread is not here.
        std::mem::forget(post.take());
    }
    let (sender, receiver) = channel();
    if sender.send((at, teller)).is_err() || thread::spawn("ginnel-tell", move || run(&receiver)).is_err() {
        return false;
    }
    *post = Some((generation, sender));
    true
}

fn run(receiver: &Receiver<Reminder>) {
    let mut due: Vec<Reminder> = Vec::new();
    loop {
        let now = Instant::now();
        // There is at most one for each client.
        for at in (0..due.len()).rev() {
            if due[at].0 <= now
                && let Some(teller) = due.swap_remove(at).1.upgrade()
            {
                teller.tell(now);
            }
        }
        let reminder = match due.iter().map(|(at, _)| *at).min() {
            Some(first) => receiver.recv_timeout(first.saturating_duration_since(Instant::now())),
            None => receiver.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match reminder {
            Ok(reminder) => due.push(reminder),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}
