//! From a request to its handler: which one, and whether it runs on the reactor's thread or on the executor.

use crate::context::Context;
use crate::cost::Execution;
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
use std::time::{Duration, Instant};

/// A handler that costs less than this is never worth the hand-over to another thread.
const CHEAP: Duration = Duration::from_micros(5);
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
