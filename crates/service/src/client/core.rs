//! The state of a client, behind its one lock: the connection, the calls, and what was learned about the server.

use super::ClientCounters;
use super::error::{CallError, Loss};
use super::link::Link;
use super::options::ClientOptions;
use super::slots::{Ask, Key, Slots};
use crate::learned::Learned;
use crate::state::{Cadence, State};
use ginnel_base::Deadline;
use ginnel_base::lead::{Lead, Waiter};
use ginnel_memory::Spin;
use ginnel_session::proto::{Body, Call, Event, Input, Pool, Received};
use ginnel_session::{ConnectError, DEFAULT_MAX_PAYLOAD, Parts, ProtocolError, SessionError};
use ginnel_wire::{Envelope, Features, Frame, FrameKind, Head, Reply, Status};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Memory that is kept for the next messages, in bytes.
const KEEP: usize = 4 << 20;
/// Pauses between attempts to find a server that is absent: the first, and the longest.
const ABSENT: (Duration, Duration) = (Duration::from_millis(2), Duration::from_secs(1));
/// A connection on which nothing has arrived for so long is looked at before it is used again.
const STALE: Duration = Duration::from_millis(5);

#[derive(Debug)]
pub(super) struct Core {
    pub(super) lead: Lead,
    pub(super) link: Option<Link>,
    pub(super) slots: Slots,
    pub(super) pool: Pool,
    pub(super) spin: Spin,
    pub(super) cadence: Cadence,
    /// Somebody connects.
    pub(super) connecting: bool,
    pub(super) last_error: Option<Arc<ConnectError>>,
    pub(super) request: Learned,
    pub(super) response: Learned,
    pub(super) counters: ClientCounters,
    /// The time, as of the last look at the clock.
    pub(super) now: Instant,
    /// A task serves futures.
    #[cfg(feature = "tokio")]
    pub(super) has_task: bool,
    /// The one that drives has slept since.
    pub(super) napped: bool,
    /// Whoever drives must look: see [`ginnel_base::lead::attend`].
    pub(super) alarm: bool,
    /// Those that wait for room, and those that wait for a connection.
    room: VecDeque<Waiter>,
    arrival: Vec<Waiter>,
    /// Those that wait until all is out.
    flush: Vec<Waiter>,
    /// The rings of this service could not be attached: not proposed before this.
    pub(super) no_rings: Deadline,
    serial: u64,
}

/// Why a call is not on its way.
#[derive(Debug)]
pub(super) enum NotSent {
    /// As many are as may be.
    Full { in_flight: usize },
    /// The connection is not fit: it ends, or is to be replaced by one with larger limits.
    Retiring,
    /// It cannot be.
    Loss(Loss),
}

impl Core {
    pub(super) fn new(options: &ClientOptions) -> Self {
        let session = &options.session;
        // Where learning falls back to when the server refuses what is proposed.
        let mut request = Learned::new(session.request.max_payload.min(DEFAULT_MAX_PAYLOAD), options.ceiling);
        request.propose(session.request.max_payload);
        Self {
            lead: Lead::new(),
            link: None,
            slots: Slots::default(),
            pool: Pool::new(KEEP),
            spin: Spin::default(),
            cadence: Cadence::pausing_while_absent(ABSENT),
            connecting: false,
            last_error: None,
            request,
            response: Learned::new(session.response.max_payload, options.ceiling),
            counters: ClientCounters::default(),
            now: Instant::now(),
            #[cfg(feature = "tokio")]
            has_task: false,
            napped: false,
            alarm: false,
            room: VecDeque::new(),
            arrival: Vec::new(),
            flush: Vec::new(),
            no_rings: Deadline::after(Duration::ZERO),
            serial: 0,
        }
    }

    pub(super) fn state(&self) -> State {
        self.cadence.state()
    }

    pub(super) fn serial(&self) -> Option<u64> {
        self.link.as_ref().map(|link| link.serial)
    }

    // ---- connections ----

    pub(super) fn connected(&mut self, parts: Parts, plain_window: usize) -> std::io::Result<()> {
        self.serial += 1;
        let mut link = Link::new(parts, self.serial, self.now)?;
        if !link.is_layout_2() {
            link.connection.set_window(plain_window.max(1));
        }
        self.request.accept();
        let broken = self.counters.connects + self.counters.reconnects > 0;
        *if broken { &mut self.counters.reconnects } else { &mut self.counters.connects } += 1;
        self.cadence.connected();
        self.last_error = None;
        self.link = Some(link);
        Ok(())
    }

    pub(super) fn failed(&mut self, error: ConnectError) {
        if matches!(error, ConnectError::Session(SessionError::TimedOut)) {
            // The caller's time was over, which says nothing of the server.
            self.cadence.disconnected();
        } else {
            self.cadence.failed(&error, self.now, ginnel_base::random_u64());
        }
        self.last_error = Some(Arc::new(error));
    }

    /// Wakes all that wait for a connection, or for its room.
    pub(super) fn arrived(&mut self) {
        self.alarm = true;
        for waiter in self.arrival.drain(..).chain(self.room.drain(..)).chain(self.flush.drain(..)) {
            self.lead.wake(waiter);
        }
    }

    /// The connection is over; so are its calls.
    pub(super) fn lose(&mut self, why: &Loss) {
        let Some(link) = self.link.take() else { return };
        for (_, key) in &link.open {
            self.finish(*key, Err(why.clone()));
        }
        self.cadence.broke();
        self.arrived();
    }

    /// The runtime cannot watch the connection.
    #[cfg(feature = "tokio")]
    pub(super) fn lose_for(&mut self, error: std::io::Error) {
        let error = SessionError::Io { doing: "watch the connection", source: error };
        self.lose(&Loss::Lost(Arc::new(error)));
    }

    /// The task has gone with its runtime: futures of another one start the next.
    #[cfg(feature = "tokio")]
    pub(super) fn task_ended(&mut self) {
        self.has_task = false;
        self.lead.set_task(None);
        for waiter in self.slots.tasks() {
            self.lead.wake(waiter);
        }
        self.arrived();
    }

    /// No new calls on this connection; it goes when it has answered the others.
    pub(super) fn retire(&mut self) {
        if let Some(link) = &mut self.link {
            link.retiring = true;
        }
        self.drop_if_retired();
    }

    fn drop_if_retired(&mut self) {
        if self.link.as_ref().is_some_and(|link| link.retiring && link.open.is_empty() && !link.unsent) {
            self.link = None;
            self.cadence.broke();
            self.arrived();
        }
    }

    // ---- calls ----

    /// Puts a request on its way.
    pub(super) fn submit(&mut self, ask: Ask, body: &[u8], timeout: Option<Duration>) -> Result<Sent, NotSent> {
        self.look_if_stale();
        let now = self.now;
        let Some(link) = self.link.as_mut().filter(|link| link.takes_calls()) else { return Err(NotSent::Retiring) };
        if !link.connection.can_send() && !matches!(ask, Ask::Call { reply: Reply::None, .. }) {
            return Err(NotSent::Full { in_flight: link.connection.in_flight() });
        }
        let clean = !link.unsent;
        let queued = queue(link, now, ask, body, timeout, &mut self.pool);
        let id = match queued {
            Ok(id) => id,
            Err(error) => return Err(self.not_queued(error)),
        };
        let (mark, serial) = (link.flushes, link.serial);
        let key = (!is_one_way(ask)).then(|| self.slots.open(id, ask));
        link.open.extend(key.map(|key| (id, key)));
        link.fresh = !link.is_ring() && link.open.len() == 1;
        let before = link.written;
        let sent = self.flush();
        let Some(link) = self.link.as_mut() else { return Err(NotSent::Retiring) };
        let error = match sent {
            Ok(()) => return Ok(Sent { key, serial, mark, flushed: !link.unsent }),
            Err(error) => error,
        };
        if !matches!(error, SessionError::Closed) {
            let source = Arc::new(error);
            if let Some(key) = key {
                self.slots.close(key);
                link.open.pop();
            }
            self.lose(&Loss::Lost(Arc::clone(&source)));
            return Err(NotSent::Loss(Loss::Lost(source)));
        }
        // The server has gone. What it has said before is still read, by whoever drives.
        let untouched = clean && link.written == before;
        (link.unsent, link.retiring, self.alarm) = (false, true, true);
        if untouched {
            if let Some(key) = key {
                link.open.pop();
                self.slots.close(key);
            }
            self.drop_if_retired();
            return Err(NotSent::Loss(Loss::NotBegun));
        }
        match key {
            Some(key) => Ok(Sent { key: Some(key), serial, mark, flushed: false }),
            None => Err(NotSent::Loss(Loss::Lost(Arc::new(error)))),
        }
    }

    fn not_queued(&mut self, error: SessionError) -> NotSent {
        let granted = self.link.as_ref().map_or(0, |link| link.agreement.request.max_payload);
        match error {
            SessionError::Full { in_flight, .. } => NotSent::Full { in_flight },
            SessionError::Leaving => {
                self.retire();
                NotSent::Retiring
            }
            SessionError::PayloadTooLarge { len, .. } if self.request.hold(len) => {
                self.counters.overflows += 1;
                self.retire();
                NotSent::Retiring
            }
            SessionError::PayloadTooLarge { len, limit } => {
                NotSent::Loss(CallError::RequestTooLarge { len, limit: limit.max(granted) }.into())
            }
            SessionError::TooManyItems { items, limit } => {
                NotSent::Loss(CallError::TooManyItems { items, limit }.into())
            }
            SessionError::NotGranted { feature } => NotSent::Loss(CallError::Unsupported { feature }.into()),
            error => {
                let source = Arc::new(error);
                self.lose(&Loss::Lost(Arc::clone(&source)));
                NotSent::Loss(Loss::Lost(source))
            }
        }
    }

    /// A connection that was quiet may have ended meanwhile: better found out before a request is lost in it.
    fn look_if_stale(&mut self) {
        let now = self.now;
        let Some(link) = self.link.as_mut() else { return };
        if !link.open.is_empty() || now.saturating_duration_since(link.alive) < STALE || self.lead.is_driven() {
            return;
        }
        link.alive = now;
        link.connection.handle(now, Input::Tick);
        // A ring asks its socket only when it is armed.
        if link.is_ring() && link.nap().is_some() {
            return;
        }
        while self.receive() {}
    }

    /// The caller does not wait any longer. `cancel`: the server is told.
    pub(super) fn abandon(&mut self, key: Key, cancel: bool) {
        let Some(slot) = self.slots.get(key) else { return };
        let (id, open) = (slot.id, slot.end.is_none());
        self.slots.close(key);
        let Some(link) = self.link.as_mut().filter(|_| open) else { return };
        let Some(at) = link.find(id).filter(|at| link.open[*at].1 == key) else { return };
        link.open.remove(at);
        if cancel {
            link.connection.cancel(self.now, id);
            // An error is told by the next turn.
            let _ = self.flush();
        } else {
            link.connection.give_up(self.now, id);
        }
        if let Some(link) = self.link.as_mut().filter(|link| !link.is_layout_2()) {
            // Many such servers answer in order: those behind it would wait for an answer that nobody wants.
            link.retiring = true;
        }
        self.drop_if_retired();
        self.make_room();
    }

    /// A stream's items were taken: the server may send as many more.
    pub(super) fn grant(&mut self, key: Key, items: u32) {
        let (Some(slot), Some(link)) = (self.slots.get(key), self.link.as_mut()) else { return };
        if slot.end.is_none() && link.connection.grant(self.now, slot.id, items) {
            // An error is told by the next turn.
            let _ = self.flush();
        }
    }

    pub(super) fn wait_for_room(&mut self, waiter: Waiter) {
        self.room.push_back(waiter);
    }

    pub(super) fn wait_for_arrival(&mut self, waiter: Waiter) {
        self.arrival.push(waiter);
    }

    pub(super) fn wait_for_flush(&mut self, waiter: Waiter) {
        self.flush.push(waiter);
    }

    /// Writes what waits, and tells whoever must write the rest, or waited for it to be out.
    fn flush(&mut self) -> Result<(), SessionError> {
        let Some(link) = self.link.as_mut() else { return Ok(()) };
        link.flush(self.now, &mut self.pool)?;
        if link.unsent {
            self.alarm = true;
        } else {
            for waiter in self.flush.drain(..) {
                self.lead.wake(waiter);
            }
        }
        Ok(())
    }

    pub(super) fn has_room(&self) -> bool {
        self.link.as_ref().is_some_and(|link| link.takes_calls() && link.connection.can_send())
    }

    /// Wakes as many of those that wait for room as there is room for.
    fn make_room(&mut self) {
        if self.room.is_empty() || !self.has_room() {
            return;
        }
        let Some(link) = &self.link else { return };
        let room = link.connection.window().saturating_sub(link.connection.in_flight());
        for _ in 0..room {
            let Some(waiter) = self.room.pop_front() else { return };
            self.lead.wake(waiter);
        }
    }

    fn finish(&mut self, key: Key, end: Result<(), Loss>) {
        if let Some(slot) = self.slots.get(key) {
            slot.end = Some(end);
            if let Some(waiter) = slot.waiter.take() {
                self.lead.wake(waiter);
            }
        }
    }

    // ---- the turn ----

    /// Writes, receives once, and hands out what has come. Whether there may be more.
    pub(super) fn step(&mut self) -> bool {
        let now = self.now;
        let Some(link) = self.link.as_mut() else { return false };
        if link.connection.poll_timeout().passed_at(now) {
            link.connection.handle(now, Input::Tick);
        }
        let flushed = self.flush();
        let Some(link) = self.link.as_mut() else { return false };
        match flushed {
            Ok(()) => {}
            // What it has said before its end is still to be read.
            Err(SessionError::Closed) => (link.retiring, link.unsent) = (true, false),
            Err(error) => {
                self.lose(&Loss::Lost(Arc::new(error)));
                return false;
            }
        }
        let fresh = std::mem::take(&mut link.fresh);
        self.hand_out();
        !fresh && self.receive()
    }

    fn receive(&mut self) -> bool {
        let now = self.now;
        let Some(link) = self.link.as_mut() else { return false };
        let received = match link.receive(now, &mut self.pool) {
            Ok(received) => received,
            Err(error) => {
                self.lose(&Loss::Lost(Arc::new(error)));
                return false;
            }
        };
        if received {
            self.hand_out();
        }
        received && self.link.is_some()
    }

    fn hand_out(&mut self) {
        while let Some(link) = self.link.as_mut() {
            match link.connection.poll_event(&mut self.pool) {
                Some(Event::Message(message)) => self.message(message),
                Some(Event::GoAway { last_id, .. }) => self.leaves(last_id),
                Some(Event::Ended(end)) => self.lose(&Loss::Lost(Arc::new(end.to_error()))),
                Some(_) => {}
                None => break,
            }
        }
        self.drop_if_retired();
        self.make_room();
    }

    /// The server leaves: calls above `last_id` were not begun.
    fn leaves(&mut self, last_id: u64) {
        let Some(link) = self.link.as_mut() else { return };
        link.retiring = true;
        while let Some((id, key)) = link.open.pop() {
            if id <= last_id {
                link.open.push((id, key));
                break;
            }
            if let Some(slot) = self.slots.get(key) {
                slot.end = Some(Err(Loss::NotBegun));
                if let Some(waiter) = slot.waiter.take() {
                    self.lead.wake(waiter);
                }
            }
        }
        self.arrived();
    }

    fn message(&mut self, message: Received) {
        let (id, head) = (message.envelope.message_id, message.head().copied());
        let Some(link) = self.link.as_mut() else { return };
        let Some(at) = link.find(id) else {
            // Of layout 1, which has no way to take a call back.
            return self.pool.put(message.into_buffer());
        };
        let key = link.open[at].1;
        let Some(slot) = self.slots.get(key) else { return };
        let end = match head {
            Some(head) => answer_2(&head, &message),
            None => answer_1(slot.ask, &message.envelope),
        };
        let stays = matches!(head, Some(Head { kind: FrameKind::Item, .. }));
        if !stays {
            link.open.remove(at);
        }
        let has_payload = !matches!(head, Some(Head { kind: FrameKind::End, .. }));
        if end.is_ok() && has_payload {
            slot.answers.push_back(message);
        } else {
            self.pool.put(message.into_buffer());
        }
        match end {
            Err(Loss::Final(error)) if matches!(*error, CallError::Mismatch) => {
                self.finish(key, Err(Loss::Final(error)));
                // What else such a server says is worth nothing.
                let found = ProtocolError::UnknownId { id };
                self.lose(&Loss::Lost(Arc::new(found.into())));
            }
            end if stays && end.is_ok() => {
                if let Some(waiter) = self.slots.get(key).and_then(|slot| slot.waiter.take()) {
                    self.lead.wake(waiter);
                }
            }
            end => self.finish(key, end),
        }
    }
}

/// A request that is on its way.
#[derive(Debug)]
pub(super) struct Sent {
    /// Where its answer will be; `None` of a one-way call.
    pub(super) key: Option<Key>,
    pub(super) serial: u64,
    /// [`Link::flushes`] when it was queued.
    pub(super) mark: u64,
    /// All of it is out.
    pub(super) flushed: bool,
}

fn is_one_way(ask: Ask) -> bool {
    matches!(ask, Ask::Call { reply: Reply::None, .. })
}

fn queue(
    link: &mut Link,
    now: Instant,
    ask: Ask,
    body: &[u8],
    timeout: Option<Duration>,
    pool: &mut Pool,
) -> Result<u64, SessionError> {
    let copy = |pool: &mut Pool| {
        let mut copy = pool.take(body.len());
        copy.clear();
        copy.extend_from_slice(body);
        Body::Owned(copy)
    };
    if link.is_layout_2() {
        return match ask {
            Ask::Call { method, reply, batch } => {
                link.connection.call(now, &Call { method, reply, batch, timeout }, copy(pool))
            }
            Ask::Methods | Ask::Connection => link.connection.ask_methods(now, &[]),
        };
    }
    let Ask::Call { method, reply, batch } = ask else {
        return Err(SessionError::NotGranted { feature: Features::METHOD_HASHES });
    };
    match reply {
        Reply::One => {}
        Reply::None => return Err(SessionError::NotGranted { feature: Features::ONE_WAY }),
        Reply::Stream => return Err(SessionError::NotGranted { feature: Features::STREAMS }),
    }
    let id = link.last_id + 1;
    let envelope = Envelope::request(method, id, 0);
    let envelope = batch.map_or(envelope, |items| envelope.with_batch(items));
    link.connection.send(now, &envelope, copy(pool))?;
    link.last_id = id;
    Ok(id)
}

/// What an answer of layout 2 comes to. The connection has checked that it fits its call.
fn answer_2(head: &Head, message: &Received) -> Result<(), Loss> {
    let FrameKind::Error(status) = head.kind else { return Ok(()) };
    let failure = match Frame::decode(head, message.payload()) {
        Ok(Frame::Error { failure, .. }) => failure,
        _ => None,
    };
    Err(CallError::from_answer(status, failure.as_ref()).into())
}

/// The same of layout 1.
fn answer_1(ask: Ask, envelope: &Envelope) -> Result<(), Loss> {
    let Ask::Call { method, batch, .. } = ask else { return Err(CallError::Mismatch.into()) };
    if envelope.code != method {
        return Err(CallError::Mismatch.into());
    }
    match envelope.status {
        Status::OK => {
            let found = envelope.batch.then_some(envelope.item_count);
            if batch.is_some() && found != batch { Err(CallError::Mismatch.into()) } else { Ok(()) }
        }
        Status::LIMIT_EXCEEDED => Err(Loss::Overflow),
        status => Err(CallError::from_answer(status, None).into()),
    }
}
