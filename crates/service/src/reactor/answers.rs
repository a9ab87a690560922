//! From a request to its answer, in either layout: what is begun, what is refused, and what leaves.

use super::Turn;
use super::calls::{Asked, Pending};
use super::session::Session;
use crate::dispatch::{self, Ran};
use crate::failure::Failure;
use crate::responder::{Answer, CallKey};
use ginnel_session::SessionError;
use ginnel_session::proto::{Body, Received};
use ginnel_wire::{Envelope, FrameKind, MethodList, Reply, Status};
use std::sync::Arc;
use std::time::Instant;

impl Session {
    /// A request, or a question about the methods, has come.
    pub(super) fn request(&mut self, turn: &mut Turn<'_>, message: Received) {
        if message.head().is_some_and(|head| head.kind == FrameKind::Methods) {
            return self.tell_methods(turn, message);
        }
        turn.shared.counters.requests.add(1);
        let (envelope, reply) = (message.envelope, dispatch::reply(&message));
        let context = turn.context(self.agreement, message.deadline());
        turn.shared.counters.bytes_in.add(u64::from(envelope.payload_len));
        // A request that is no batch is one item, and no batch is what 0 allows.
        let too_many = envelope.item_count > turn.shared.options.max_batch_items.max(u32::from(!envelope.batch));
        if too_many && !self.layout_2 {
            turn.shared.counters.failures.add(1);
            return self.last_word(turn, &Envelope::response_to(&envelope, Status::LIMIT_EXCEEDED, 0));
        }
        let asked = Asked { envelope, reply };
        let number = self.calls.enter(Pending { asked, context: context.clone() });
        turn.shared.counters.in_flight.add(1);
        if self.layout_2
            && let Some(refused) = self.refuse(turn, &message, too_many)
        {
            turn.pool.put(message.into_buffer());
            return self.answer(turn, number, refused);
        }
        let flows = (reply == Reply::Stream).then(|| {
            let credit = self.connection.credit(envelope.message_id);
            let flows = self.flows.get_or_insert_default();
            flows.open(number, credit);
            Arc::clone(flows)
        });
        let call = CallKey { session: self.key, number };
        match turn.dispatch(call, message, context.clone(), flows) {
            Ran::Answered { answer, quick } => {
                if !quick {
                    // The time of what follows begins when it is read.
                    (self.hurry, turn.now) = (true, Instant::now());
                }
                self.answer(turn, number, answer);
                *turn.spare = Some(context);
            }
            Ran::Later { executed } => {
                self.out += 1;
                self.executing += usize::from(executed);
                turn.now = Instant::now();
            }
        }
    }

    /// Layout 2: why a request is not begun, if it is not.
    fn refuse(&self, turn: &Turn<'_>, message: &Received, too_many: bool) -> Option<Answer> {
        if too_many {
            return Some(Answer::TooMany);
        }
        if message.deadline().passed_at(turn.now) {
            return Some(Answer::Failed(Failure::DeadlineExceeded));
        }
        // Calls that were cancelled have left the window, and their handlers may run on: not without end.
        let overrun = self.out >= 2 * self.connection.window();
        (overrun || turn.paused() && self.must_listen()).then_some(Answer::Failed(Failure::Unavailable))
    }

    fn tell_methods(&mut self, turn: &mut Turn<'_>, message: Received) {
        let id = message.envelope.message_id;
        let asked = MethodList::parse(message.payload(), message.envelope.item_count);
        let asked: Vec<u16> = asked.iter().flat_map(MethodList::iter).collect();
        let methods = turn.shared.router.hashes(&asked);
        turn.pool.put(message.into_buffer());
        // More methods than one answer can tell.
        if let Err(SessionError::PayloadTooLarge { .. }) = self.connection.tell_methods(turn.now, id, &methods) {
            let _ = self.connection.fail(turn.now, id, Status::LIMIT_EXCEEDED, None);
        }
    }

    /// A responder has answered, or was dropped; its call may be over.
    pub(super) fn returned(&mut self, turn: &mut Turn<'_>, executed: bool) {
        self.out -= 1;
        self.executing -= usize::from(executed);
        *turn.executing -= usize::from(executed);
    }

    /// An item of a stream. Nothing happens if that is over.
    pub(super) fn item(&mut self, turn: &mut Turn<'_>, number: u64, item: Vec<u8>) {
        if let Some(flows) = &self.flows {
            flows.arrived(item.len());
        }
        let Some(call) = self.calls.get(number) else { return };
        let id = call.asked.envelope.message_id;
        turn.shared.counters.bytes_out.add(item.len() as u64);
        if let Err(error) = self.connection.item(turn.now, id, None, Body::Owned(item)) {
            tracing::warn!(session = self.agreement.session_id, %error, "an item cannot be sent");
            self.answer(turn, number, Answer::Failed(Failure::Internal));
        }
    }

    /// A call is answered; whatever may leave now is queued. The caller drives the session afterwards.
    pub(super) fn answer(&mut self, turn: &mut Turn<'_>, number: u64, answer: Answer) {
        if let Some(asked) = self.calls.answer(number, answer) {
            turn.shared.counters.in_flight.sub(1);
            if asked.reply == Reply::Stream
                && let Some(flows) = &self.flows
            {
                flows.close(number);
            }
        }
        while let Some((asked, answer)) = self.calls.next(number) {
            if self.layout_2 {
                self.queue_2(turn, &asked, answer);
            } else {
                self.queue(turn, &asked.envelope, answer);
            }
            if self.concluding {
                return;
            }
        }
    }

    /// Queues an answer of layout 2.
    fn queue_2(&mut self, turn: &mut Turn<'_>, asked: &Asked, answer: Answer) {
        let (id, now) = (asked.envelope.message_id, turn.now);
        let sent = match (asked.reply, answer) {
            (Reply::None, Answer::Failed(failure)) => return turn.shared.failed(&failure),
            (Reply::None, Answer::TooMany) => return turn.shared.counters.failures.add(1),
            (Reply::None, _) => return,
            (_, Answer::Payload(payload)) => {
                let needed = payload.len();
                turn.shared.counters.bytes_out.add(needed as u64);
                match self.connection.respond(now, id, Body::Owned(payload)) {
                    Err(SessionError::PayloadTooLarge { .. }) => self.fail(turn, id, &Failure::Overflow { needed }),
                    Err(SessionError::TooManyItems { .. }) => self.fail(turn, id, &Failure::Overflow { needed: 0 }),
                    sent => sent,
                }
            }
            (_, Answer::End) => self.connection.end_stream(now, id),
            (_, Answer::Failed(failure)) => self.fail(turn, id, &failure),
            (_, Answer::TooMany) => {
                turn.shared.counters.failures.add(1);
                self.connection.fail(now, id, Status::LIMIT_EXCEEDED, None)
            }
        };
        match sent {
            // The session has ended meanwhile.
            Ok(()) | Err(SessionError::Closed | SessionError::Broken | SessionError::NotEstablished) => {}
            Err(error) => {
                tracing::warn!(session = self.agreement.session_id, %error, "an answer cannot be sent");
                let _ = self.fail(turn, id, &Failure::Internal);
            }
        }
    }

    fn fail(&mut self, turn: &mut Turn<'_>, id: u64, failure: &Failure) -> Result<(), SessionError> {
        turn.shared.failed(failure);
        self.connection.fail(turn.now, id, failure.status(), failure.structured().as_ref())
    }

    /// Queues an answer of layout 1.
    fn queue(&mut self, turn: &mut Turn<'_>, request: &Envelope, answer: Answer) {
        if self.concluding {
            return;
        }
        let limit = self.agreement.response.max_payload as usize;
        let failure = match answer {
            Answer::Payload(payload) if payload.len() <= limit => {
                turn.shared.counters.bytes_out.add(payload.len() as u64);
                let response = Envelope::response_to(request, Status::OK, 0);
                let batch = request.batch && request.item_count >= 1;
                let response = if batch { response.with_batch(request.item_count) } else { response };
                match self.connection.send(turn.now, &response, Body::Owned(payload)) {
                    Ok(()) => return,
                    // The session ended meanwhile.
                    Err(SessionError::Closed | SessionError::Broken | SessionError::NotEstablished) => return,
                    Err(error) => {
                        tracing::warn!(session = self.agreement.session_id, %error, "a response cannot be sent");
                        Failure::Internal
                    }
                }
            }
            Answer::Payload(payload) => Failure::Overflow { needed: payload.len() },
            Answer::Failed(failure) => failure,
            // Layout 1 has no streams, and refuses too many items before they are a call.
            Answer::End | Answer::TooMany => Failure::Unsupported,
        };
        turn.shared.failed(&failure);
        let status = Envelope::response_to(request, failure.status_in_layout_1(), 0);
        if failure.ends_session() {
            self.cancel_calls(false);
            self.last_word(turn, &status);
        } else {
            let _ = self.connection.send(turn.now, &status, Body::Owned(Vec::new()));
        }
    }
}
