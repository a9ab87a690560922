//! One session from its HELLO to its end. The driver is a thread; what is decided here is what a reactor would decide.

use crate::handler::{Failure, Handler, Request};
use crate::places::Place;
use crate::server::Shared;
use ginnel_session::{Agreement, HandshakeError, Incoming, ProtocolError, Session, SessionError, Wait};
use ginnel_wire::{Batch, BatchBuilder, Envelope, Status};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How long a client gets to read the last word before the connection is closed under it.
const LAST_WORD: Duration = Duration::from_millis(200);

/// Shakes hands and serves until either side ends the session.
pub(crate) fn serve(incoming: Incoming, place: &Place) {
    let shared = place.shared();
    let session = match shake_hands(incoming, shared) {
        Ok(session) => session,
        Err(error) => {
            shared.counters.refused.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(service = %shared.endpoint, %error, "no session");
            return;
        }
    };
    shared.counters.sessions.fetch_add(1, Ordering::Relaxed);
    let id = session.agreement().session_id;
    let end = run(session, place);
    tracing::debug!(service = %shared.endpoint, session = id, ?end, "session ended");
}

fn shake_hands(mut incoming: Incoming, shared: &Shared) -> Result<Session, HandshakeError> {
    let proposed = incoming.hello().map(|hello| hello.max_request_payload as usize);
    if let Some(proposed) = proposed {
        let (request, response) = shared.limits_for(proposed);
        let offer = incoming.offer_mut();
        offer.max_request_payload = request;
        offer.max_response_payload = response;
    }
    let session = incoming.finish()?;
    if let Some(proposed) = proposed {
        shared.learn_request(proposed);
    }
    Ok(session)
}

#[derive(Debug)]
enum End {
    /// The client left.
    Left,
    /// The server drains or stops.
    Stopped,
    /// A newcomer needed the place of this session, which was idle.
    MadeRoom,
    /// The client broke the protocol, or asked for what its session cannot carry.
    Dismissed,
    /// The carrier failed, or the client would not take its responses.
    Failed(#[allow(dead_code, reason = "told by the event")] SessionError),
}

fn run(mut session: Session, place: &Place) -> End {
    let shared = place.shared();
    let agreement = *session.agreement();
    session.end_with(&shared.draining);
    let next_request = Wait::forever().or_abort(&shared.draining);
    let mut response = Vec::new();
    loop {
        if shared.draining.is_raised() {
            return End::Stopped;
        }
        if !place.rest() {
            return End::MadeRoom;
        }
        let received = session.recv(&next_request);
        if !place.work() {
            return End::MadeRoom;
        }
        let (answer, last) = match received {
            Ok(message) => {
                shared.counters.requests.fetch_add(1, Ordering::Relaxed);
                let (envelope, outcome) = (message.envelope, answer(&message, &agreement, shared, &mut response));
                if matches!(outcome, Outcome::Stopped) {
                    return End::Stopped;
                }
                conclude(&envelope, outcome, shared, &mut response)
            }
            Err(SessionError::Protocol(
                ProtocolError::PayloadTooLarge { envelope, .. } | ProtocolError::TooManyItems { envelope, .. },
            )) => {
                response.clear();
                (Envelope::response_to(&envelope, Status::LIMIT_EXCEEDED, 0), true)
            }
            Err(SessionError::Closed) => return End::Left,
            Err(SessionError::Aborted) => return End::Stopped,
            Err(SessionError::Stalled) => {
                tracing::info!(service = %shared.endpoint, peer = ?agreement.peer, "a client stopped in the middle of a request");
                return End::Dismissed;
            }
            Err(SessionError::Protocol(error)) => {
                tracing::info!(service = %shared.endpoint, %error, peer = ?agreement.peer, "a client broke the protocol");
                return End::Dismissed;
            }
            Err(error) => return End::Failed(error),
        };
        let patience = Wait::at_most(shared.send_timeout).or_abort(&shared.stopping);
        match session.send(&answer, &response, &patience) {
            Ok(()) if last => {
                session.close_gently(&Wait::at_most(LAST_WORD).or_abort(&shared.stopping));
                return End::Dismissed;
            }
            Ok(()) => {}
            Err(SessionError::Closed) => return End::Left,
            Err(SessionError::Aborted) => return End::Stopped,
            Err(error) => return End::Failed(error),
        }
    }
}

/// What became of a request.
enum Outcome {
    Answered,
    Unsupported,
    /// A batch of more items than the server takes.
    TooManyItems,
    /// The server stopped between two items of a batch.
    Stopped,
    Failed(Failure),
}

/// Has the handler answer a message: item by item if it is a batch.
fn answer(
    message: &ginnel_wire::Message<'_>,
    agreement: &Agreement,
    shared: &Shared,
    response: &mut Vec<u8>,
) -> Outcome {
    response.clear();
    let envelope = &message.envelope;
    if envelope.code != shared.code {
        return Outcome::Unsupported;
    }
    if envelope.item_count > shared.max_batch_items {
        return Outcome::TooManyItems;
    }
    let limit = agreement.response.max_payload as usize;
    let ask = |payload: &[u8], response: &mut Vec<u8>| {
        let request = Request { payload, response_limit: limit, session: agreement };
        let needed = call(&*shared.handler, &request, response)?;
        if needed > limit { Err(Failure::Overflow { needed }) } else { Ok(()) }
    };
    if envelope.batch && envelope.item_count >= 1 {
        answer_batch(message, agreement, shared, ask, response)
    } else {
        ask(message.payload, response).map_or_else(Outcome::Failed, |()| Outcome::Answered)
    }
}

fn answer_batch(
    message: &ginnel_wire::Message<'_>,
    agreement: &Agreement,
    shared: &Shared,
    ask: impl Fn(&[u8], &mut Vec<u8>) -> Result<(), Failure>,
    response: &mut Vec<u8>,
) -> Outcome {
    let count = message.envelope.item_count;
    let Ok(batch) = Batch::parse(message.payload, count) else { return Outcome::Failed(Failure::Malformed) };
    let limit = agreement.response.max_payload;
    let mut builder = BatchBuilder::reuse(std::mem::take(response), count as usize).with_limit(limit);
    let mut item_response = Vec::new();
    for item in batch {
        // A batch is as long as its client likes: it must not hold up a stop.
        if shared.stopping.is_raised() {
            return Outcome::Stopped;
        }
        item_response.clear();
        let answered = ask(item, &mut item_response).and_then(|()| {
            builder.push(&item_response).map_err(|full| Failure::Overflow { needed: full.size as usize })
        });
        if let Err(failure) = answered {
            return Outcome::Failed(failure);
        }
    }
    *response = builder.finish();
    Outcome::Answered
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

/// The envelope of the answer, and whether it is the session's last.
fn conclude(request: &Envelope, outcome: Outcome, shared: &Shared, response: &mut Vec<u8>) -> (Envelope, bool) {
    let status = match outcome {
        Outcome::Answered => {
            let answer = Envelope::response_to(request, Status::OK, 0);
            let batch = request.batch && request.item_count >= 1;
            return (if batch { answer.with_batch(request.item_count) } else { answer }, false);
        }
        Outcome::Unsupported => (Status::UNSUPPORTED, false),
        // A session that was stopped is closed without an answer: its caller never comes here with it.
        Outcome::TooManyItems | Outcome::Stopped => (Status::LIMIT_EXCEEDED, true),
        Outcome::Failed(failure) => {
            shared.counters.failures.fetch_add(1, Ordering::Relaxed);
            if let Failure::Overflow { needed } = failure {
                shared.learn_response(needed);
            }
            (failure.status(), failure.ends_session())
        }
    };
    response.clear();
    (Envelope::response_to(request, status.0, 0), status.1)
}
