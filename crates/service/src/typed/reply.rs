//! The right, and the duty, to give one typed answer.

use super::unencodable;
use crate::context::Context;
use crate::failure::Failure;
use crate::method::Types;
use crate::responder::Responder;
use crate::sync::lock;
use ginnel_codec::{Codec, Postcard};
use ginnel_wire::BatchBuilder;
use std::borrow::Borrow;
use std::fmt;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex};

/// Answers one call, or one item of a batch, with a `Resp`, exactly once: answering takes it, it cannot be copied, and
/// one that is dropped unanswered answers [`Failure::Aborted`]. It may go to another thread, or wait in a table; the
/// session goes on meanwhile. Answering never blocks.
#[must_use = "a reply that is dropped answers ABORTED"]
pub struct Reply<Resp: ?Sized, C = Postcard> {
    to: To,
    _types: Types<(), Resp, C>,
}

enum To {
    Whole(Responder),
    Item(ItemOf),
}

/// One item of a batch. Dropping it unanswered fails the batch.
struct ItemOf {
    gather: Arc<Gather>,
    /// Its place; `None` when it has been answered.
    index: Option<usize>,
}

/// The answers of a batch, until all are there.
struct Gather {
    context: Context,
    state: Mutex<Gathered>,
}

struct Gathered {
    /// Gone when the batch is answered.
    responder: Option<Responder>,
    answers: Vec<Vec<u8>>,
    left: usize,
    bytes: usize,
    limit: usize,
}

impl<Resp: ?Sized, C> Reply<Resp, C> {
    pub(super) fn whole(responder: Responder) -> Self {
        Self { to: To::Whole(responder), _types: PhantomData }
    }

    /// One for each of `items`, at least one, whose answers have at most `limit` bytes together.
    pub(super) fn each(responder: Responder, items: u32, limit: usize) -> impl Iterator<Item = Self> {
        let items = items as usize;
        let context = responder.context().clone();
        let gathered =
            Gathered { responder: Some(responder), answers: vec![Vec::new(); items], left: items, bytes: 0, limit };
        let gather = Arc::new(Gather { context, state: Mutex::new(gathered) });
        (0..items).map(move |index| {
            let item = ItemOf { gather: Arc::clone(&gather), index: Some(index) };
            Self { to: To::Item(item), _types: PhantomData }
        })
    }

    /// The circumstances of the call.
    #[must_use]
    pub fn context(&self) -> &Context {
        match &self.to {
            To::Whole(responder) => responder.context(),
            To::Item(item) => &item.gather.context,
        }
    }

    /// Answers with `response`. One that is larger than the session allows is told to the client as
    /// [`Failure::Overflow`], one that cannot be encoded as [`Failure::Internal`].
    pub fn respond(self, response: impl Borrow<Resp>)
    where
        C: Codec<Resp>,
    {
        let mut payload = Vec::new();
        match C::encode(response.borrow(), &mut payload) {
            Ok(()) => self.answer(Ok(payload)),
            Err(error) => self.fail(unencodable(&error)),
        }
    }

    /// Answers that there is no answer.
    pub fn fail(self, failure: impl Into<Failure>) {
        self.answer(Err(failure.into()));
    }

    /// Answers with either.
    pub fn finish(self, outcome: Result<impl Borrow<Resp>, Failure>)
    where
        C: Codec<Resp>,
    {
        match outcome {
            Ok(response) => self.respond(response),
            Err(failure) => self.fail(failure),
        }
    }

    fn answer(self, outcome: Result<Vec<u8>, Failure>) {
        match self.to {
            To::Whole(responder) => responder.finish(outcome),
            To::Item(mut item) => {
                if let Some(index) = item.index.take() {
                    item.gather.answer(index, outcome);
                }
            }
        }
    }
}

impl Gather {
    fn answer(&self, index: usize, outcome: Result<Vec<u8>, Failure>) {
        let mut state = lock(&self.state);
        let outcome = outcome.and_then(|payload| {
            state.bytes = state.bytes.saturating_add(payload.len());
            let needed = state.bytes;
            if needed > state.limit { Err(Failure::Overflow { needed }) } else { Ok(payload) }
        });
        match outcome {
            Ok(payload) => {
                state.answers[index] = payload;
                state.left -= 1;
                if state.left > 0 {
                    return;
                }
                let Some(responder) = state.responder.take() else { return };
                let answers = std::mem::take(&mut state.answers);
                let limit = u32::try_from(state.limit).unwrap_or(u32::MAX);
                drop(state);
                responder.finish(batch(&answers, limit));
            }
            Err(failure) => {
                let responder = state.responder.take();
                // The others' answers are for nobody.
                state.answers.fill_with(Vec::new);
                drop(state);
                if let Some(responder) = responder {
                    responder.fail(failure);
                }
            }
        }
    }
}

fn batch(answers: &[Vec<u8>], limit: u32) -> Result<Vec<u8>, Failure> {
    let mut builder = BatchBuilder::reuse(Vec::new(), answers.len()).with_limit(limit);
    for answer in answers {
        builder.push(answer).map_err(|full| Failure::Overflow { needed: full.size as usize })?;
    }
    Ok(builder.finish())
}

impl Drop for ItemOf {
    fn drop(&mut self) {
        if let Some(index) = self.index.take() {
            let failure =
                if std::thread::panicking() { Failure::Internal } else { self.gather.context.without_answer() };
            self.gather.answer(index, Err(failure));
        }
    }
}

impl<Resp: ?Sized, C> fmt::Debug for Reply<Resp, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply").field("context", self.context()).finish_non_exhaustive()
    }
}
