//! What a handler knows of its call beside the payload: how long it has, whether it is still wanted, who asks.

use crate::failure::Failure;
use ginnel_base::{Deadline, Ending};
use ginnel_session::Agreement;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

// Ways to end; 0 is none.
const CANCELLED: u8 = 1;
const REFUSED: u8 = 2;
const EXPIRED: u8 = 3;

/// The circumstances of one call. Clones share them; they may outlive the call.
///
/// A call is no longer wanted when its client cancels it or goes away, when its deadline passes, and when the server
/// stops. A handler that runs for long looks at [`check`](Self::check) now and then, and one that waits registers with
/// [`on_unwanted`](Self::on_unwanted). Its answer is dropped either way.
#[derive(Clone)]
pub struct Context {
    shared: Arc<Shared>,
}

struct Shared {
    deadline: Deadline,
    agreement: Agreement,
    unwanted: Ending,
}

impl Context {
    pub(crate) fn new(agreement: Agreement, deadline: Deadline) -> Self {
        let shared = Shared { deadline, agreement, unwanted: Ending::new() };
        Self { shared: Arc::new(shared) }
    }

    /// Takes the memory of a call that is over for the next one, if nobody else has kept it.
    pub(crate) fn reuse(&mut self, agreement: Agreement, deadline: Deadline) {
        match Arc::get_mut(&mut self.shared) {
            Some(shared) => {
                shared.deadline = deadline;
                shared.agreement = agreement;
                shared.unwanted.renew();
            }
            None => *self = Self::new(agreement, deadline),
        }
    }

    /// When the client stops waiting.
    #[must_use]
    pub fn deadline(&self) -> Deadline {
        self.shared.deadline
    }

    /// The session it came by: its number, its limits, and the credentials of the client.
    #[must_use]
    pub fn session(&self) -> &Agreement {
        &self.shared.agreement
    }

    /// Whether nobody waits for the answer any more. One load; it does not look at the clock.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.shared.unwanted.how() != 0
    }

    /// Whether to go on.
    ///
    /// # Errors
    /// [`Failure::Cancelled`] or [`Failure::DeadlineExceeded`], to be handed on with `?`.
    pub fn check(&self) -> Result<(), Failure> {
        match self.shared.unwanted.how() {
            CANCELLED => Err(Failure::Cancelled),
            EXPIRED => Err(Failure::DeadlineExceeded),
            _ if self.shared.deadline.passed_at(Instant::now()) => Err(Failure::DeadlineExceeded),
            _ => Ok(()),
        }
    }

    /// Calls `hook` once when the call is no longer wanted; at once if that is so already, never if the call ends
    /// before. It runs on the reactor's thread: it must not block.
    pub fn on_unwanted(&self, hook: impl FnOnce() + Send + 'static) {
        self.shared.unwanted.then(hook);
    }

    /// The call is no longer wanted. Later calls change nothing.
    pub(crate) fn cancel(&self) {
        self.shared.unwanted.end(CANCELLED);
    }

    /// Its deadline has passed.
    pub(crate) fn expire(&self) {
        self.shared.unwanted.end(EXPIRED);
    }

    /// The executor has no room for it.
    pub(crate) fn refuse(&self) {
        self.shared.unwanted.end(REFUSED);
    }

    /// What an answer that never came stands for.
    pub(crate) fn without_answer(&self) -> Failure {
        match self.shared.unwanted.how() {
            REFUSED => Failure::Unavailable,
            CANCELLED => Failure::Cancelled,
            EXPIRED => Failure::DeadlineExceeded,
            _ => Failure::Aborted,
        }
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("session", &self.shared.agreement.session_id)
            .field("deadline", &self.shared.deadline)
            .field("cancelled", &self.is_cancelled())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    /// A context of no session.
    pub(crate) fn context() -> Context {
        Context::new(agreement(), Deadline::NEVER)
    }

    fn agreement() -> Agreement {
        let limits = ginnel_session::Limits { max_payload: 1024, max_items: 1 };
        Agreement {
            session_id: 1,
            profile: ginnel_wire::Profiles::BASELINE,
            request: limits,
            response: limits,
            packet_size: 1024,
            peer: None,
        }
    }

    #[test]
    fn a_hook_is_called_once_whenever_it_was_registered() {
        let context = context();
        let calls = Arc::new(AtomicUsize::new(0));
        let hook = |calls: &Arc<AtomicUsize>| {
            let calls = Arc::clone(calls);
            move || {
                calls.fetch_add(1, Ordering::Relaxed);
            }
        };
        context.on_unwanted(hook(&calls));
        assert_eq!(context.check(), Ok(()));
        context.cancel();
        context.refuse();
        assert_eq!((calls.load(Ordering::Relaxed), context.check()), (1, Err(Failure::Cancelled)));
        context.on_unwanted(hook(&calls));
        assert_eq!(calls.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn a_passed_deadline_is_seen_without_being_told() {
        let context = Context::new(agreement(), Deadline::after(Duration::ZERO));
        assert!(!context.is_cancelled());
        assert_eq!(context.check(), Err(Failure::DeadlineExceeded));
    }
}
