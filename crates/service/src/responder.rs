//! The right, and the duty, to answer one call.

use crate::context::Context;
use crate::failure::Failure;
use crate::mail::{Letter, Office};
use ginnel_wire::Batch;
use std::fmt;
use std::sync::Arc;

/// A session of a reactor. The generation tells it from one that had the same place before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SessionKey {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

/// One call of one session; never used twice by a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct CallKey {
    pub(crate) session: SessionKey,
    pub(crate) number: u64,
}

/// What becomes of a call.
#[derive(Debug)]
pub(crate) enum Answer {
    /// The payload of its response; a batch of as many items as the request had, if that was one.
    Payload(Vec<u8>),
    /// The end of its stream.
    End,
    /// Layout 2: the request is a batch of more items than the server takes. It was not begun.
    TooMany,
    Failed(Failure),
}

/// Answers one call, exactly once: answering takes it, it cannot be copied, and one that is dropped unanswered answers
/// [`Failure::Aborted`], or [`Failure::Internal`] in a panic. It may go to another thread, or wait in a table; the
/// session goes on meanwhile.
///
/// Answering never blocks: the answer is handed to the reactor, which sends it. If the client has gone, it is dropped.
///
/// ```compile_fail,E0382
/// fn twice(responder: ginnel_service::Responder) {
///     responder.respond(b"one".to_vec());
///     responder.respond(b"two".to_vec());
/// }
/// ```
#[must_use = "a responder that is dropped answers ABORTED"]
pub struct Responder {
    office: Arc<Office>,
    call: CallKey,
    context: Context,
    /// Items of the request, if it is a batch.
    batch: Option<u32>,
    answered: bool,
    /// It is on the executor.
    executed: bool,
}

impl Responder {
    pub(crate) fn new(office: Arc<Office>, call: CallKey, context: Context, batch: Option<u32>) -> Self {
        Self { office, call, context, batch, answered: false, executed: false }
    }

    /// The circumstances of the call.
    #[must_use]
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// Answers with `payload`. One that is larger than the session allows is told to the client as
    /// [`Failure::Overflow`]. A batch is answered by a [`Batch`](ginnel_wire::Batch) of as many items; anything else is
    /// a defect of the handler, and told as [`Failure::Internal`].
    pub fn respond(self, payload: Vec<u8>) {
        if let Some(items) = self.batch
            && Batch::parse(&payload, items).is_err()
        {
            tracing::error!(items, "a batch was not answered by a batch of as many items");
            return self.fail(Failure::Internal);
        }
        self.answer(Answer::Payload(payload));
    }

    /// Answers that there is no answer.
    pub fn fail(self, failure: impl Into<Failure>) {
        self.answer(Answer::Failed(failure.into()));
    }

    /// Answers with either.
    pub fn finish(self, outcome: Result<Vec<u8>, Failure>) {
        match outcome {
            Ok(payload) => self.respond(payload),
            Err(failure) => self.fail(failure),
        }
    }

    pub(crate) fn call(&self) -> CallKey {
        self.call
    }

    pub(crate) fn office(&self) -> &Office {
        &self.office
    }

    /// It goes to the executor now.
    pub(crate) fn set_executed(&mut self) {
        self.executed = true;
    }

    /// The call is answered without a letter: by the reactor itself.
    pub(crate) fn waive(mut self) {
        self.answered = true;
    }

    pub(crate) fn answer(mut self, answer: Answer) {
        self.answered = true;
        self.office.post(Letter::Answer { call: self.call, answer, executed: self.executed });
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        if !self.answered {
            let failure = if std::thread::panicking() { Failure::Internal } else { self.context.without_answer() };
            let (call, executed) = (self.call, self.executed);
            self.office.post(Letter::Answer { call, answer: Answer::Failed(failure), executed });
        }
    }
}

impl fmt::Debug for Responder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Responder").field("call", &self.call.number).finish_non_exhaustive()
    }
}
