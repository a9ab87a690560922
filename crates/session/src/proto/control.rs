//! Layout 2: calls and what is said about them. The handshake's window and credit are kept by both sides, ids are
//! chosen here, and a final answer is given once.

use super::admit::{MAX_LIST, needed};
use super::calls::{Calls, OpenCall, Wants};
use super::connection::{Connection, MAX_QUEUED, Phase};
use super::event::{End, Event, Role};
use super::inbound::Received;
use super::outbox::{Body, Item};
use super::pool::Pool;
use crate::error::{ProtocolError, SessionError};
use ginnel_base::Deadline;
use ginnel_wire::{
    Envelope, Failure, Frame, FrameKind, Head, Kind, METHOD_HASH_LEN, METHOD_LEN, MethodHash, MethodHashes, MethodList,
    REQUEST_PREFIX_LEN, Reply, Status,
};
use std::time::{Duration, Instant};

/// What a client asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Call {
    /// The method.
    pub method: u16,
    /// What it gets for an answer.
    pub reply: Reply,
    /// Items, if the body is a [`Batch`](ginnel_wire::Batch).
    pub batch: Option<u32>,
    /// How long the client waits, told to the server; `None` is for ever. It is the driver's to give up
    /// ([`Connection::give_up`]) when it is over.
    pub timeout: Option<Duration>,
}

impl Connection {
    // ---- client ----

    /// Queues a request; its id, which is above all before it.
    ///
    /// # Errors
    /// A limit, [`SessionError::NotGranted`], [`SessionError::Leaving`] once either side has said that it leaves,
    /// [`SessionError::Full`] where the window or the queue is full. Nothing has changed then.
    pub fn call(&mut self, now: Instant, call: &Call, body: Body) -> Result<u64, SessionError> {
        let id = self.calls_of(Role::Client)?.last_id + 1;
        self.call_as(now, id, call, body)?;
        Ok(id)
    }

    fn call_as(&mut self, now: Instant, id: u64, call: &Call, body: Body) -> Result<(), SessionError> {
        let items = call.batch.unwrap_or(1);
        self.check_limits(body.len(), items)?;
        let (len, limit) = (body.len(), self.outbound.max_payload);
        let too_large = SessionError::PayloadTooLarge { len, limit };
        let head = Head::request(call.method, id, call.reply, len).ok_or(too_large)?;
        let head = if call.batch.is_some() { head.with_batch(items) } else { head };
        // 0 is for ever; what is over at once is over in a nanosecond.
        let nanos = call.timeout.map_or(0, |timeout| u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX).max(1));
        self.begin(now, &head, Some(nanos.to_ne_bytes()), body)
    }

    /// Asks which of `methods` the server has, or for all it has if there are none: METHODS. Its id; the answer is a
    /// message whose payload [`MethodHashes::parse`] reads.
    ///
    /// # Errors
    /// As [`Connection::call`].
    pub fn ask_methods(&mut self, now: Instant, methods: &[u16]) -> Result<u64, SessionError> {
        let id = self.calls_of(Role::Client)?.last_id + 1;
        let body = MethodList::encode(methods);
        let head = list(FrameKind::Methods, id, body.len(), METHOD_LEN)?;
        self.begin(now, &head, None, Body::Owned(body))?;
        Ok(id)
    }

    fn begin(
        &mut self,
        now: Instant,
        head: &Head,
        prefix: Option<[u8; REQUEST_PREFIX_LEN]>,
        body: Body,
    ) -> Result<(), SessionError> {
        self.take_back();
        self.grants(head.kind)?;
        let (in_flight, queued) = (self.in_flight(), self.queued());
        let one_way = head.kind == FrameKind::Request(Reply::None);
        let calls = self.calls_of(Role::Client)?;
        if calls.leaving.is_some() || calls.peer_leaves.is_some() {
            return Err(SessionError::Leaving);
        }
        if head.id <= calls.last_id {
            return Err(SessionError::DuplicateId { id: head.id });
        }
        if !(one_way || calls.has_room()) || queued >= MAX_QUEUED {
            return Err(SessionError::Full { in_flight, queued });
        }
        calls.enter(head);
        self.push(now, head, prefix, body, false)
    }

    /// Takes a call back: the server is told, and nothing more of it is told here. It stays in the window until its
    /// final answer. False if it is over or was taken back before.
    pub fn cancel(&mut self, now: Instant, id: u64) -> bool {
        let cancelled = self.give_up(now, id);
        if cancelled {
            let head = control(FrameKind::Cancel, id, 0);
            // A control frame is within every limit.
            let _ = self.push(now, &head, None, Body::Owned(Vec::new()), false);
        }
        cancelled
    }

    /// As [`Connection::cancel`], without a word to the server, which knows the call's timeout itself.
    pub fn give_up(&mut self, now: Instant, id: u64) -> bool {
        let due = self.timers.answer_due(now);
        self.calls_of(Role::Client).is_ok_and(|calls| calls.abandon(id, due))
    }

    /// Lets the server send `items` more items of a stream, because as many were read. 0 says nothing. False if the
    /// call is over.
    pub fn grant(&mut self, now: Instant, id: u64, items: u32) -> bool {
        let Ok(calls) = self.calls_of(Role::Client) else { return false };
        let stream = |call: &&mut OpenCall| call.wants == Wants::Stream && call.abandoned.is_none();
        let Some(call) = calls.get(id).filter(stream) else { return false };
        let items = items.min(u32::MAX - call.credit);
        call.credit += items;
        if items > 0 {
            let mut payload = [0; 8];
            payload[..4].copy_from_slice(&items.to_ne_bytes());
            let head = control(FrameKind::Credit, id, 8);
            let _ = self.push(now, &head, Some(payload), Body::Owned(Vec::new()), false);
        }
        true
    }

    // ---- server ----

    /// Queues the response to a unary call, which must be a batch of as many items as the call.
    ///
    /// # Errors
    /// A limit, or [`SessionError::NoCall`]: it has its final answer, is a stream, one-way, or never was. Nothing has
    /// changed then.
    pub fn respond(&mut self, now: Instant, id: u64, body: Body) -> Result<(), SessionError> {
        let call = self.open_call(id, Wants::Response)?;
        let (method, batch) = (call.method, call.batch);
        let head = self.answer_head(FrameKind::Response, method, id, (batch > 0).then_some(batch), body.len())?;
        self.push(now, &head, None, body, true)
    }

    /// Queues an item of a stream, or a batch of items.
    ///
    /// # Errors
    /// As [`Connection::respond`]; [`SessionError::NoCredit`] if the client has not allowed as many: wait for
    /// [`Event::Credit`].
    pub fn item(&mut self, now: Instant, id: u64, batch: Option<u32>, body: Body) -> Result<(), SessionError> {
        let call = self.open_call(id, Wants::Stream)?;
        let (method, credit, items) = (call.method, call.credit, batch.unwrap_or(1));
        if items > credit {
            return Err(SessionError::NoCredit { id, credit });
        }
        let head = self.answer_head(FrameKind::Item, method, id, batch, body.len())?;
        self.push(now, &head, None, body, false)?;
        self.open_call(id, Wants::Stream)?.credit -= items;
        Ok(())
    }

    /// Queues the end of a stream.
    ///
    /// # Errors
    /// [`SessionError::NoCall`].
    pub fn end_stream(&mut self, now: Instant, id: u64) -> Result<(), SessionError> {
        let method = self.open_call(id, Wants::Stream)?.method;
        let head = Head { method, ..control(FrameKind::End, id, 0) };
        self.push(now, &head, None, Body::Owned(Vec::new()), true)
    }

    /// Queues an error as the final answer of a call of any sort.
    ///
    /// # Errors
    /// [`SessionError::NoCall`].
    ///
    /// # Panics
    /// If `status` is OK: that would be no error.
    pub fn fail(
        &mut self,
        now: Instant,
        id: u64,
        status: Status,
        failure: Option<&Failure<'_>>,
    ) -> Result<(), SessionError> {
        assert!(!status.is_ok(), "an error needs a status");
        let method = self.unanswered(id)?.method;
        let body = failure.map(Failure::encode).unwrap_or_default();
        let head = Head { method, ..control(FrameKind::Error(status), id, body.len()) };
        self.push(now, &head, None, Body::Owned(body), true)
    }

    /// Queues the answer to METHODS.
    ///
    /// # Errors
    /// [`SessionError::NoCall`]; a list of more than 16384 bytes.
    pub fn tell_methods(&mut self, now: Instant, id: u64, methods: &[MethodHash]) -> Result<(), SessionError> {
        self.open_call(id, Wants::Methods)?;
        let body = MethodHashes::encode(methods);
        let head = list(FrameKind::MethodsAck, id, body.len(), METHOD_HASH_LEN)?;
        self.push(now, &head, None, Body::Owned(body), true)
    }

    /// Server: how many items of a stream may be sent now; 0 for what is no open stream. With much in the queue
    /// ([`Connection::queued`]), wait all the same.
    #[must_use]
    pub fn credit(&mut self, id: u64) -> u32 {
        self.open_call(id, Wants::Stream).map_or(0, |call| call.credit)
    }

    // ---- both ----

    /// Says that this side will leave, once. A server takes no further request: those that are on their way are dropped
    /// unseen, and the client learns that they were not begun. A client sends none.
    ///
    /// # Errors
    /// The session does not stand, or has layout 1.
    pub fn go_away(&mut self, now: Instant, drain: Option<Duration>) -> Result<(), SessionError> {
        let calls = self.calls_of(self.role)?;
        if calls.leaving.is_some() {
            return Ok(());
        }
        let last_id = calls.last_id;
        calls.leaving = Some(last_id);
        let nanos = drain.map_or(0, |drain| u64::try_from(drain.as_nanos()).unwrap_or(u64::MAX).max(1));
        let head = control(FrameKind::GoAway, last_id, 8);
        self.push(now, &head, Some(nanos.to_ne_bytes()), Body::Owned(Vec::new()), false)
    }

    /// Layout 2: whether either side has said that it leaves.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        self.calls.as_ref().is_some_and(|calls| calls.leaving.is_some() || calls.peer_leaves.is_some())
    }

    /// What [`Connection::send`] means in layout 2.
    pub(super) fn send_2(&mut self, now: Instant, envelope: &Envelope, body: Body) -> Result<(), SessionError> {
        let (id, batch) = (envelope.message_id, envelope.batch.then_some(envelope.item_count));
        match (self.role, envelope.kind) {
            (Role::Client, Kind::Request) => {
                let call = Call { method: envelope.code, reply: Reply::One, batch, timeout: None };
                self.call_as(now, id, &call, body)
            }
            (Role::Server, Kind::Response) if envelope.status.is_ok() => self.respond(now, id, body),
            (Role::Server, Kind::Response) => self.fail(now, id, envelope.status, None),
            (_, kind) => Err(SessionError::WrongKind { kind }),
        }
    }

    fn calls_of(&mut self, role: Role) -> Result<&mut Calls, SessionError> {
        match self.phase {
            Phase::Open if self.broken => return Err(SessionError::Broken),
            Phase::Open if self.role == role => {}
            Phase::Concluding { .. } => return Err(SessionError::Closed),
            _ => return Err(SessionError::NotEstablished),
        }
        self.calls.as_deref_mut().ok_or(SessionError::NotEstablished)
    }

    fn unanswered(&mut self, id: u64) -> Result<&mut OpenCall, SessionError> {
        self.take_back();
        let call = self.calls_of(Role::Server)?.get(id).filter(|call| !call.answered);
        call.ok_or(SessionError::NoCall { id })
    }

    fn open_call(&mut self, id: u64, wants: Wants) -> Result<&mut OpenCall, SessionError> {
        let call = self.unanswered(id)?;
        if call.wants == wants { Ok(call) } else { Err(SessionError::NoCall { id }) }
    }

    fn grants(&self, kind: FrameKind) -> Result<(), SessionError> {
        let feature = needed(kind);
        let granted = self.layout_2().is_some_and(|ack| ack.features.contains(feature));
        if granted { Ok(()) } else { Err(SessionError::NotGranted { feature }) }
    }

    fn answer_head(
        &self,
        kind: FrameKind,
        method: u16,
        id: u64,
        batch: Option<u32>,
        len: usize,
    ) -> Result<Head, SessionError> {
        let items = batch.unwrap_or(1);
        let payload_len = self.check_limits(len, items)?;
        Ok(Head { kind, method, batch: batch.is_some(), items, id, payload_len })
    }

    fn push(
        &mut self,
        now: Instant,
        head: &Head,
        prefix: Option<[u8; REQUEST_PREFIX_LEN]>,
        body: Body,
        answers: bool,
    ) -> Result<(), SessionError> {
        self.take_back();
        // Of this, the packets need length and id.
        let envelope = Envelope { payload_len: head.payload_len, ..Envelope::request(head.method, head.id, 0) };
        let packets = self.cut(&envelope)?;
        let (id, head) = (head.id, Some(head.encode()));
        self.enqueue(now, Item { id, packets, body, acceptance: false, head, prefix, answers });
        if answers && let Ok(call) = self.unanswered(id) {
            call.answered = true;
        }
        Ok(())
    }

    // ---- in ----

    /// What has come, as far as somebody is to know it.
    pub(super) fn next_event_2(&mut self, pool: &mut Pool) -> Option<Event> {
        while self.end.is_none() && matches!(self.phase, Phase::Open) {
            let told = match self.inbound.next(pool) {
                Ok(None) => {
                    if self.inbound.is_mid_message() {
                        // What came behind a whole frame is the beginning of another.
                        self.timers.left_over();
                    }
                    return None;
                }
                Ok(Some(frame)) => self.frame(frame, pool),
                Err(error) => Err(error),
            };
            match told {
                Ok(None) => {}
                Ok(event) => return event,
                Err(error) => self.end = Some(End::Protocol(error)),
            }
        }
        None
    }

    fn frame(&mut self, frame: Received, pool: &mut Pool) -> Result<Option<Event>, ProtocolError> {
        let (Some(head), Some(calls)) = (frame.head().copied(), self.calls.as_deref_mut()) else { return Ok(None) };
        let wanted = match head.kind {
            FrameKind::Request(_) | FrameKind::Methods if calls.leaving.is_some_and(|last| head.id > last) => {
                // It crossed our GOAWAY.
                if head.id <= calls.last_id {
                    return Err(ProtocolError::Id { id: head.id, last: calls.last_id });
                }
                calls.last_id = head.id;
                false
            }
            FrameKind::Request(_) => {
                calls.take(&head)?;
                true
            }
            FrameKind::Methods => {
                Frame::decode(&head, frame.payload())?;
                calls.take(&head)?;
                true
            }
            FrameKind::Cancel | FrameKind::Credit | FrameKind::GoAway => {
                let event = self.control(&head, frame.payload());
                pool.put(frame.into_buffer());
                return event;
            }
            FrameKind::Error(_) | FrameKind::MethodsAck => {
                Frame::decode(&head, frame.payload())?;
                calls.answer(&head)?
            }
            _ => calls.answer(&head)?,
        };
        if wanted {
            return Ok(Some(Event::Message(frame)));
        }
        pool.put(frame.into_buffer());
        Ok(None)
    }

    fn control(&mut self, head: &Head, payload: &[u8]) -> Result<Option<Event>, ProtocolError> {
        let role = self.role;
        let Some(calls) = self.calls.as_deref_mut() else { return Ok(None) };
        Ok(match Frame::decode(head, payload)? {
            // A server is owed nothing.
            Frame::Cancel { id } => calls.abandon(id, Deadline::NEVER).then_some(Event::Cancelled { id }),
            Frame::Credit { id, items } => calls.add_credit(id, items)?.then_some(Event::Credit { id, items }),
            Frame::GoAway { last_id, drain_ns } => {
                calls.go_away(last_id, role)?;
                let drain = (drain_ns > 0).then(|| Duration::from_nanos(drain_ns));
                Some(Event::GoAway { last_id, drain })
            }
            _ => None,
        })
    }
}

/// The head of a frame that has one item.
fn control(kind: FrameKind, id: u64, len: usize) -> Head {
    // Of a few bytes, or of an error, which has 4096 at most.
    Head { kind, method: 0, batch: false, items: 1, id, payload_len: len as u32 }
}

fn list(kind: FrameKind, id: u64, len: usize, each: usize) -> Result<Head, SessionError> {
    if len > MAX_LIST as usize {
        return Err(SessionError::PayloadTooLarge { len, limit: MAX_LIST });
    }
    Ok(Head { items: (len / each) as u32, ..control(kind, id, len) })
}
