//! From a request to its handler: which one, and whether it runs on the reactor's thread or on the executor.

use crate::context::Context;
use crate::executor::Rejected;
use crate::failure::Failure;
use crate::handler::{Handler, Request};
use crate::request::{Budget, Held, OwnedRequest};
use crate::responder::{Answer, Responder};
use crate::router::{Method, Serve};
use crate::server::Shared;
use crate::sink::{Flows, Sink};
use ginnel_session::proto::{Pool, Received};
use ginnel_wire::{Batch, BatchBuilder, Envelope, FrameKind, Message, Reply};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
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
///
/// A single call that took much longer, after many that did not, is forgotten within a few calls: most likely its thread
/// was put aside by the system, which says nothing of the method. One that comes back soon is not forgiven so easily.
#[derive(Debug)]
pub(crate) struct Cost {
    nanos: AtomicU64,
    /// Calls since the last one that took much longer than those before it, up to [`Cost::CALM`].
    calm: AtomicU32,
    /// By which part a shorter call counts.
    part: AtomicU32,
}

impl Cost {
    /// So many calls without a much longer one make the next such a chance.
    const CALM: u32 = 256;
    /// What is much longer.
    const MUCH: u64 = 8;

    pub(crate) const fn new() -> Self {
        Self { nanos: AtomicU64::new(UNKNOWN), calm: AtomicU32::new(0), part: AtomicU32::new(8) }
    }

    fn of(&self, items: u32) -> Option<Duration> {
        match self.nanos.load(Ordering::Relaxed) {
            UNKNOWN => None,
            cost => Some(Duration::from_nanos(cost.saturating_mul(u64::from(items.max(1))))),
        }
    }

    fn measured(&self, took: Duration, items: u32) {
        let took = u64::try_from(took.as_nanos()).unwrap_or(UNKNOWN - 1) / u64::from(items.max(1));
        // Lost updates of other threads do not matter: it is an estimate.
        let (before, calm) = (self.nanos.load(Ordering::Relaxed), self.calm.load(Ordering::Relaxed));
        let after = if before == UNKNOWN || took >= before {
            took
        } else {
            before - (before - took).div_ceil(u64::from(self.part.load(Ordering::Relaxed)))
        };
        if before != UNKNOWN && took > before.saturating_mul(Self::MUCH) {
            self.part.store(if calm < Self::CALM { 8 } else { 2 }, Ordering::Relaxed);
            self.calm.store(0, Ordering::Relaxed);
        } else if calm < Self::CALM {
            self.calm.store(calm + 1, Ordering::Relaxed);
        }
        if after != before {
            self.nanos.store(after.min(UNKNOWN - 1), Ordering::Relaxed);
        }
    }
}

/// How long the answers of a method have been lately, in bytes. A longer one counts at once, a shorter one by an eighth.
#[derive(Debug)]
pub(crate) struct Room(AtomicUsize);

impl Room {
    /// What a buffer for an answer is given at most before there is anything in it.
    const MOST: usize = 1 << 20;

    pub(crate) const fn new() -> Self {
        Self(AtomicUsize::new(0))
    }

    fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    fn used(&self, len: usize) {
        // Lost updates of other threads do not matter: it is an estimate.
        let before = self.get();
        let after = if len >= before { len.min(Self::MOST) } else { before - (before - len).div_ceil(8) };
        if after != before {
            self.0.store(after, Ordering::Relaxed);
        }
    }
}

/// What became of a request.
pub(crate) enum Ran {
    /// It ran here. `quick`: it took no longer than a hand-over would have.
    Answered { answer: Answer, quick: bool },
    /// Its answer will come by letter. `executed`: from the executor.
    Later { executed: bool },
}

/// A request that is to be run.
pub(crate) struct Task {
    pub(crate) message: Received,
    pub(crate) responder: Responder,
    /// The streams of its session, if it is one.
    pub(crate) flows: Option<Arc<Flows>>,
    /// Few requests wait for the executor.
    pub(crate) may_hold: bool,
}

/// Runs a request. `alone`: nothing else waits for the reactor.
pub(crate) fn run(shared: &Arc<Shared>, task: Task, alone: bool, pool: &mut Pool, budget: &Arc<Budget>) -> Ran {
    let Task { message, mut responder, flows, may_hold } = task;
    let method = shared.router.find(message.envelope.code).filter(|method| method.reply() == reply(&message));
    let Some(method) = method else {
        responder.waive();
        pool.put(message.into_buffer());
        return Ran::Answered { answer: Answer::Failed(Failure::Unsupported), quick: true };
    };
    let inline = match method.execution.unwrap_or(shared.options.execution) {
        Execution::Inline => true,
        Execution::Executor => false,
        // Its handler waits for the client.
        Execution::Auto if matches!(method.serve, Serve::Stream(_)) => false,
        Execution::Auto => {
            let limit = if alone { shared.options.inline_budget.max(CHEAP) } else { CHEAP };
            method.cost.of(items(&message.envelope)).is_some_and(|cost| cost <= limit)
        }
    };
    match &method.serve {
        Serve::Handler(handler) | Serve::OneWay(handler) if inline => {
            let buffer = pool.take_empty(method.room.get());
            let (answer, took) = measure(shared, method, &**handler, &message.message(), responder.context(), buffer);
            responder.waive();
            pool.put(message.into_buffer());
            return Ran::Answered { answer: fitting(answer, pool), quick: took <= CHEAP };
        }
        _ if inline => {
            let held = Held::new(&message, budget);
            let request = OwnedRequest::new(message, responder.context().clone(), held);
            begin(shared, method, request, responder, flows);
            return Ran::Later { executed: false };
        }
        _ => {}
    }
    responder.set_executed();
    // Memory that goes to a thread comes back with its answer. A long queue must not hold memory for answers.
    let buffer = if may_hold { pool.take_empty(method.room.get()) } else { Vec::new() };
    let held = Held::new(&message, budget);
    let context = responder.context().clone();
    let (of_job, id) = (Arc::clone(shared), method.id);
    let job = move || {
        // A job that is dropped unrun drops what it owns in the order of these: the bytes are given back before the
        // letter.
        let (held, message) = (held, message);
        let Some(method) = of_job.router.find(id) else { return };
        if let Err(failure) = responder.context().check() {
            drop((message, held));
            return responder.fail(failure);
        }
        match &method.serve {
            Serve::Handler(handler) | Serve::OneWay(handler) => {
                let context = responder.context();
                let (answer, _) = measure(&of_job, method, &**handler, &message.message(), context, buffer);
                let answer = shrunk(answer);
                drop(message);
                // Before the letter: the reactor may take further requests when it reads it.
                drop(held);
                responder.answer(answer);
            }
            Serve::Responder(_) | Serve::Stream(_) => {
                let request = OwnedRequest::new(message, responder.context().clone(), held);
                begin(&of_job, method, request, responder, flows);
            }
        }
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
    Ran::Later { executed: true }
}

/// What a request wants for an answer. In layout 1 that is always one.
pub(crate) fn reply(message: &Received) -> Reply {
    match message.head().map(|head| head.kind) {
        Some(FrameKind::Request(reply)) => reply,
        _ => Reply::One,
    }
}

/// Hands a request over to a handler that answers by itself.
fn begin(shared: &Shared, method: &Method, request: OwnedRequest, responder: Responder, flows: Option<Arc<Flows>>) {
    let (started, session, batch) = (Instant::now(), request.session().session_id, request.batch());
    // Unwind safe: what answers is dropped by the unwinding, which answers; a handler shares its state anyway.
    let outcome = catch_unwind(AssertUnwindSafe(|| match (&method.serve, flows) {
        (Serve::Responder(handler), _) => handler(request, responder),
        (Serve::Stream(handler), Some(flows)) => handler(request, Sink::new(responder, flows)),
        // A stream has its flows, and the others do not come here.
        _ => responder.fail(Failure::Unsupported),
    }));
    if outcome.is_err() {
        tracing::error!(session, method = %method.name, "the handler panicked");
    }
    let took = started.elapsed();
    method.cost.measured(took, batch.unwrap_or(1));
    shared.counters.latency.record(took);
}

/// An answer in a buffer that is not much larger than it: a client that does not read holds as much as it was sent.
fn fitting(answer: Answer, pool: &mut Pool) -> Answer {
    match answer {
        Answer::Payload(payload) if is_lost_in(&payload) => {
            let mut fitting = pool.take_empty(payload.len());
            fitting.extend_from_slice(&payload);
            pool.put(payload);
            Answer::Payload(fitting)
        }
        answer => answer,
    }
}

/// The same, away from the pool.
fn shrunk(answer: Answer) -> Answer {
    match answer {
        Answer::Payload(mut payload) if is_lost_in(&payload) => {
            payload.shrink_to_fit();
            Answer::Payload(payload)
        }
        answer => answer,
    }
}

fn is_lost_in(payload: &Vec<u8>) -> bool {
    payload.capacity() > 4 << 10 && payload.len() < payload.capacity() / 8
}

/// What a request costs is counted by these. A request that is no batch may say any number.
fn items(envelope: &Envelope) -> u32 {
    if envelope.batch { envelope.item_count } else { 1 }
}

fn measure(
    shared: &Shared,
    method: &Method,
    handler: &dyn Handler,
    message: &Message<'_>,
    context: &Context,
    buffer: Vec<u8>,
) -> (Answer, Duration) {
    let started = Instant::now();
    let answer = answer(shared, method, handler, message, context, buffer);
    let took = started.elapsed();
    method.cost.measured(took, items(&message.envelope));
    shared.counters.latency.record(took);
    (answer, took)
}

/// Has the handler answer a message: item by item if it is a batch. A panic ends the request, not the session, and
/// certainly not the server.
fn answer(
    shared: &Shared,
    method: &Method,
    handler: &dyn Handler,
    message: &Message<'_>,
    context: &Context,
    response: Vec<u8>,
) -> Answer {
    let session = context.session();
    let limit = session.response.max_payload as usize;
    let ask = |payload: &[u8], response: &mut Vec<u8>| {
        handler.handle(&Request { payload, response_limit: limit, session, context }, response)?;
        let needed = response.len();
        if needed > limit { Err(Failure::Overflow { needed }) } else { Ok(()) }
    };
    let work = move || {
        let mut response = response;
        if message.envelope.batch && message.envelope.item_count >= 1 {
            answer_batch(shared, message, context, limit, ask, response)
        } else {
            ask(message.payload, &mut response).map(|()| response)
        }
    };
    // Unwind safe: the response is dropped after a panic, and a handler shares its state with other threads anyway.
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(payload)) => {
            method.room.used(payload.len());
            Answer::Payload(payload)
        }
        Ok(Err(failure)) => Answer::Failed(failure),
        Err(_) => {
            tracing::error!(session = session.session_id, method = %method.name, "the handler panicked");
            Answer::Failed(Failure::Internal)
        }
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
            return Err(context.check().err().unwrap_or(Failure::Cancelled));
        }
        item_response.clear();
        ask(item, &mut item_response)?;
        builder.push(&item_response).map_err(|full| Failure::Overflow { needed: full.size as usize })?;
    }
    Ok(builder.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_as_large_as_the_answers_of_late_within_a_bound() {
        let room = Room::new();
        room.used(100);
        room.used(16_000);
        assert_eq!(room.get(), 16_000);
        for _ in 0..200 {
            room.used(100);
        }
        assert_eq!(room.get(), 100);
        room.used(usize::MAX);
        assert_eq!(room.get(), Room::MOST);
    }

    #[test]
    fn one_call_among_many_that_was_put_aside_is_forgotten_soon_and_the_second_is_not() {
        let cost = Cost::new();
        let calls = |count: u32| (0..count).for_each(|_| cost.measured(Duration::from_micros(20), 1));
        let is_cheap = || cost.of(1).unwrap() <= Duration::from_micros(50);
        calls(1000);
        cost.measured(Duration::from_millis(4), 1);
        assert!(!is_cheap(), "it counts at once");
        calls(10);
        assert!(is_cheap());
        cost.measured(Duration::from_millis(4), 1);
        calls(10);
        assert!(!is_cheap(), "that is how this method is");
        calls(1000);
        assert!(is_cheap());
    }

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
