//! From a request to its handler: which one, and whether it runs on the reactor's thread or on the executor.

use crate::context::Context;
use crate::executor::Rejected;
use crate::handler::{Failure, Handler, Request};
use crate::responder::{Answer, Responder};
use crate::server::Shared;
use ginnel_session::Agreement;
use ginnel_session::proto::{Pool, Received};
use ginnel_wire::{Batch, BatchBuilder, Envelope, Message};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Where a handler runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Execution {
    /// On the reactor's thread while its measured cost is small: less than a hand-over costs, or within
    /// [`ServerOptions::inline_budget`](crate::ServerOptions::inline_budget) while nothing else is to be done. Else on
    /// the executor.
    #[default]
    Auto,
    /// Always on the reactor's thread. It must not block: everybody waits for it.
    Inline,
    /// Always on the executor.
    Executor,
}

/// A handler that costs less than this is never worth the hand-over to another thread.
const CHEAP: Duration = Duration::from_micros(5);
/// No call has been measured.
const UNKNOWN: u64 = u64::MAX;

/// What one item of a method has cost lately, in nanoseconds. A call that took longer counts at once, a shorter one by
/// an eighth.
#[derive(Debug)]
pub(crate) struct Cost(AtomicU64);

impl Cost {
    pub(crate) const fn new() -> Self {
        Self(AtomicU64::new(UNKNOWN))
    }

    fn of(&self, items: u32) -> Option<Duration> {
        match self.0.load(Ordering::Relaxed) {
            UNKNOWN => None,
            cost => Some(Duration::from_nanos(cost.saturating_mul(u64::from(items.max(1))))),
        }
    }

    fn measured(&self, took: Duration, items: u32) {
        let took = u64::try_from(took.as_nanos()).unwrap_or(UNKNOWN - 1) / u64::from(items.max(1));
        // Lost updates of other threads do not matter: it is an estimate.
        let before = self.0.load(Ordering::Relaxed);
        let after = if before == UNKNOWN || took >= before { took } else { before - (before - took).div_ceil(8) };
        if after != before {
            self.0.store(after.min(UNKNOWN - 1), Ordering::Relaxed);
        }
    }
}

/// One method of a server.
pub(crate) struct Method {
    pub(crate) code: u16,
    pub(crate) handler: Box<dyn Handler>,
    pub(crate) cost: Cost,
}

/// What became of a request.
pub(crate) enum Ran {
    /// It ran here.
    Answered(Answer),
    /// Its answer will come by letter.
    Elsewhere,
}

/// Bytes of a request that wait for an executor, or are used by it.
struct Held {
    bytes: usize,
    total: Arc<AtomicUsize>,
}

impl Held {
    fn new(bytes: usize, total: &Arc<AtomicUsize>) -> Self {
        total.fetch_add(bytes, Ordering::Relaxed);
        Self { bytes, total: Arc::clone(total) }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.total.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Runs a request. `alone`: nothing else waits for the reactor.
pub(crate) fn run(
    shared: &Arc<Shared>,
    message: Received,
    responder: Responder,
    agreement: &Agreement,
    alone: bool,
    pool: &mut Pool,
    held: &Arc<AtomicUsize>,
) -> Ran {
    let method = &shared.method;
    let items = items(&message.envelope);
    if message.envelope.code != method.code {
        responder.waive();
        pool.put(message.into_buffer());
        return Ran::Answered(Answer::Failed(Failure::Unsupported));
    }
    let inline = match shared.options.execution {
        Execution::Inline => true,
        Execution::Executor => false,
        Execution::Auto => {
            let limit = if alone { shared.options.inline_budget.max(CHEAP) } else { CHEAP };
            method.cost.of(items).is_some_and(|cost| cost <= limit)
        }
    };
    if inline {
        let buffer = pool.take_empty();
        let answer = measure(shared, &message.message(), responder.context(), agreement, buffer);
        responder.waive();
        pool.put(message.into_buffer());
        return Ran::Answered(answer);
    }
    let held = Held::new(message.held(), held);
    let context = responder.context().clone();
    let (of_job, agreement) = (Arc::clone(shared), *agreement);
    let job = move || {
        // A job that is dropped unrun drops what it owns in the order of these: the bytes are given back before the
        // letter.
        let (held, message) = (held, message);
        let answer = match responder.context().check() {
            Ok(()) => measure(&of_job, &message.message(), responder.context(), &agreement, Vec::new()),
            Err(failure) => Answer::Failed(failure),
        };
        drop(message);
        // Before the letter: the reactor may take further requests when it reads it.
        drop(held);
        responder.answer(answer);
    };
    // Unwind safe: a job that is dropped on the way answers for itself.
    match catch_unwind(AssertUnwindSafe(|| shared.executor().execute(Box::new(job)))) {
        Ok(Ok(())) => {}
        Ok(Err(Rejected(job))) => {
            context.refuse();
            // Its responder answers for it.
            drop(job);
        }
        Err(_) => tracing::error!(service = %shared.endpoint, "the executor panicked"),
    }
    Ran::Elsewhere
}

/// What a request costs is counted by these. A request that is no batch may say any number.
fn items(envelope: &Envelope) -> u32 {
    if envelope.batch { envelope.item_count } else { 1 }
}

fn measure(
    shared: &Shared,
    message: &Message<'_>,
    context: &Context,
    agreement: &Agreement,
    buffer: Vec<u8>,
) -> Answer {
    let started = Instant::now();
    let answer = answer(shared, message, context, agreement, buffer);
    shared.method.cost.measured(started.elapsed(), items(&message.envelope));
    answer
}

/// Has the handler answer a message: item by item if it is a batch.
fn answer(
    shared: &Shared,
    message: &Message<'_>,
    context: &Context,
    agreement: &Agreement,
    mut response: Vec<u8>,
) -> Answer {
    let limit = agreement.response.max_payload as usize;
    let ask = |payload: &[u8], response: &mut Vec<u8>| {
        let request = Request { payload, response_limit: limit, session: agreement, context };
        let needed = call(&*shared.method.handler, &request, response)?;
        if needed > limit { Err(Failure::Overflow { needed }) } else { Ok(()) }
    };
    let outcome = if message.envelope.batch && message.envelope.item_count >= 1 {
        answer_batch(shared, message, context, limit, ask, response)
    } else {
        ask(message.payload, &mut response).map(|()| response)
    };
    match outcome {
        Ok(payload) => Answer::Payload(payload),
        Err(failure) => Answer::Failed(failure),
    }
}

fn answer_batch(
    shared: &Shared,
    message: &Message<'_>,
    context: &Context,
    limit: usize,
    ask: impl Fn(&[u8], &mut Vec<u8>) -> Result<(), Failure>,
    response: Vec<u8>,
) -> Result<Vec<u8>, Failure> {
    let count = message.envelope.item_count;
    let batch = Batch::parse(message.payload, count).map_err(|_| Failure::Malformed)?;
    let limit = u32::try_from(limit).unwrap_or(u32::MAX);
    let mut builder = BatchBuilder::reuse(response, count as usize).with_limit(limit);
    let mut item_response = Vec::new();
    for item in batch {
        // A batch is as long as its client likes: it must not hold up a stop, nor go on for a client that has left.
        if context.is_cancelled() || shared.is_stopping() {
            return Err(Failure::Cancelled);
        }
        item_response.clear();
        ask(item, &mut item_response)?;
        builder.push(&item_response).map_err(|full| Failure::Overflow { needed: full.size as usize })?;
    }
    Ok(builder.finish())
}

/// A panic ends the request, not the session, and certainly not the server.
fn call(handler: &dyn Handler, request: &Request<'_>, response: &mut Vec<u8>) -> Result<usize, Failure> {
    // Unwind safe: the response is dropped after a panic, and a handler shares its state with other threads anyway.
    match catch_unwind(AssertUnwindSafe(|| handler.handle(request, response))) {
        Ok(outcome) => outcome.map(|()| response.len()),
        Err(_) => {
            tracing::error!(session = request.session.session_id, "the handler panicked");
            Err(Failure::Internal)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_slow_call_counts_at_once_and_is_forgotten_slowly() {
        let cost = Cost::new();
        assert_eq!(cost.of(1), None);
        cost.measured(Duration::from_nanos(800), 1);
        cost.measured(Duration::from_millis(100), 1);
        assert_eq!(cost.of(1), Some(Duration::from_millis(100)));
        for _ in 0..200 {
            cost.measured(Duration::from_nanos(800), 1);
        }
        assert_eq!(cost.of(10), Some(Duration::from_nanos(8_000)), "per item");
    }
}
