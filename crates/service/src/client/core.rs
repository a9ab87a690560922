//! The state of a client, behind its one lock: the connection, the calls, and what was learned about the server.

use super::ClientCounters;
use super::error::{CallError, Loss};
use super::link::{Link, Nap};
use super::options::ClientOptions;
use super::slots::{Ask, Key, Slots};
use super::tell::Telling;
use crate::learned::Learned;
use crate::state::{Cadence, State};
use ginnel_base::Deadline;
use ginnel_base::lead::{Lead, Waiter};
use ginnel_memory::Spin;
use ginnel_session::proto::{Body, Call, Pool};
use ginnel_session::{ConnectError, DEFAULT_MAX_PAYLOAD, Endpoint, Parts, SessionError};
use ginnel_wire::{Envelope, Features, Reply};
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
    /// The one that takes new calls.
    pub(super) link: Option<Box<Link>>,
    /// Those that take none and have calls to answer: their servers leave, or larger limits were wanted.
    // Boxes, because connections move between here and `link`, and are taken out for each turn.
    #[allow(clippy::vec_box)]
    pub(super) leaving: Vec<Box<Link>>,
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
    /// Nothing where introspection is switched off.
    pub(super) telling: Option<Box<Telling>>,
}

/// Why a call is not on its way.
#[derive(Debug)]
pub(super) enum NotSent {
    /// As many are as may be.
    Full { in_flight: usize },
    /// The connection has gone, or is to be replaced by one with larger limits.
    Gone,
    /// It cannot be.
    Loss(Loss),
}

impl Core {
    pub(super) fn new(endpoint: &Endpoint, options: &ClientOptions) -> Self {
        let session = &options.session;
        // Where learning falls back to when the server refuses what is proposed.
        let mut request = Learned::new(session.request.max_payload.min(DEFAULT_MAX_PAYLOAD), options.ceiling);
        request.propose(session.request.max_payload);
        Self {
            lead: Lead::new(),
            link: None,
            leaving: Vec::new(),
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
            telling: Telling::new(endpoint, options),
        }
    }

    pub(super) fn state(&self) -> State {
        self.cadence.state()
    }

    pub(super) fn serial(&self) -> Option<u64> {
        self.link.as_ref().map(|link| link.serial)
    }

    pub(super) fn in_flight(&self) -> usize {
        self.links().map(|link| link.connection.in_flight()).sum()
    }

    /// All connections, those included that only answer what they have.
    pub(super) fn links(&self) -> impl Iterator<Item = &Link> {
        self.link.iter().chain(&self.leaving).map(|link| &**link)
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
        self.link = Some(Box::new(link));
        self.touch();
        Ok(())
    }

    pub(super) fn failed(&mut self, error: ConnectError) {
        if let Some(telling) = &mut self.telling {
            telling.refused();
        }
        self.touch();
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

    /// Every connection is over; so are its calls.
    pub(super) fn lose_all(&mut self, why: &Loss) {
        for link in std::mem::take(&mut self.leaving) {
            self.end(link, why);
        }
        self.lose(why);
    }

    /// The connection that takes calls is over.
    fn lose(&mut self, why: &Loss) {
        if let Some(link) = self.link.take() {
            self.end(link, why);
            self.gone();
        }
    }

    /// A connection is over; so are its calls.
    pub(super) fn end(&mut self, link: Box<Link>, why: &Loss) {
        for (_, key) in &link.open {
            self.finish(*key, Err(why.clone()));
        }
        drop(link);
        self.alarm = true;
        for waiter in self.flush.drain(..) {
            self.lead.wake(waiter);
        }
    }

    /// There is no connection that takes calls any more.
    pub(super) fn gone(&mut self) {
        self.cadence.broke();
        self.touch();
        self.arrived();
    }

    /// The connection takes no new calls; it goes when it has answered those that it has.
    pub(super) fn retire(&mut self) {
        if let Some(link) = self.link.take() {
            if !link.is_done() {
                self.leaving.push(link);
            }
            self.gone();
        }
    }

    fn link_of(&mut self, serial: u64) -> Option<&mut Box<Link>> {
        self.link.iter_mut().chain(&mut self.leaving).find(|link| link.serial == serial)
    }

    /// Something has changed that other processes may see.
    pub(super) fn touch(&mut self) {
        if let Some(telling) = &mut self.telling {
            telling.touch(self.now);
        }
    }

    /// The runtime cannot watch the connection.
    #[cfg(feature = "tokio")]
    pub(super) fn lose_for(&mut self, error: std::io::Error) {
        let error = SessionError::Io { doing: "watch the connection", source: error };
        self.lose_all(&Loss::Lost(Arc::new(error)));
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

    /// Prepares a sleep; `None` if there is something already, or no connection.
    pub(super) fn nap(&mut self) -> Option<Nap> {
        let mut beds = self.link.iter_mut().chain(&mut self.leaving).map(|link| link.nap());
        let bed = beds.next()??;
        let others = beds.collect::<Option<Vec<_>>>()?;
        Some(Nap { bed, others })
    }

    // ---- calls ----

    /// Puts a request on its way.
    pub(super) fn submit(&mut self, ask: Ask, body: &[u8], timeout: Option<Duration>) -> Result<Sent, NotSent> {
        self.look_if_stale();
        let now = self.now;
        let Some(link) = self.link.as_mut() else { return Err(NotSent::Gone) };
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
        let key = (!is_one_way(ask)).then(|| self.slots.open(serial, id, ask));
        link.open.extend(key.map(|key| (id, key)));
        link.fresh = !link.is_ring() && link.open.len() == 1;
        let before = link.written;
        let sent = self.flush();
        let Some(link) = self.link.as_mut() else { return Err(NotSent::Gone) };
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
        link.unsent = false;
        if untouched && let Some(key) = key {
            link.open.pop();
            self.slots.close(key);
        }
        self.retire();
        if untouched {
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
                NotSent::Gone
            }
            SessionError::PayloadTooLarge { len, .. } if self.request.hold(len) => {
                self.counters.overflows += 1;
                self.retire();
                NotSent::Gone
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
        // Whoever drives must arm anew: what is received here, or drained, it will not be woken for.
        self.alarm = true;
        // A ring asks its socket only when it is armed.
        if link.is_ring() && link.nap().is_some() {
            return;
        }
        while self.step() {}
    }

    /// The caller does not wait any longer. `cancel`: the server is told.
    pub(super) fn abandon(&mut self, key: Key, cancel: bool) {
        let Some(slot) = self.slots.get(key) else { return };
        let (serial, id, open) = (slot.serial, slot.id, slot.end.is_none());
        self.slots.close(key);
        self.touch();
        let now = self.now;
        let Some(link) = self.link_of(serial).filter(|_| open) else { return };
        let Some(at) = link.find(id).filter(|at| link.open[*at].1 == key) else { return };
        link.open.remove(at);
        if cancel {
            link.connection.cancel(now, id);
        } else {
            link.connection.give_up(now, id);
        }
        let (plain, done) = (!link.is_layout_2(), link.is_done());
        self.flush_to(serial);
        if self.serial() != Some(serial) {
            if done {
                self.leaving.retain(|link| link.serial != serial);
            }
        } else if plain {
            // Many such servers answer in order: those behind it would wait for an answer that nobody wants.
            self.retire();
        }
        self.make_room();
    }

    /// A stream's items were taken: the server may send as many more.
    pub(super) fn grant(&mut self, key: Key, items: u32) {
        let Some(slot) = self.slots.get(key).filter(|slot| slot.end.is_none()) else { return };
        let (serial, id, now) = (slot.serial, slot.id, self.now);
        if self.link_of(serial).is_some_and(|link| link.connection.grant(now, id, items)) {
            self.flush_to(serial);
        }
    }

    /// Writes what waits on a connection. An error is told by the next turn.
    fn flush_to(&mut self, serial: u64) {
        let now = self.now;
        let Some(link) = self.link.iter_mut().chain(&mut self.leaving).find(|link| link.serial == serial) else {
            return;
        };
        let _ = link.flush(now, &mut self.pool);
        self.alarm |= link.unsent;
    }

    /// How many items of a stream the server may send ahead.
    pub(super) fn stream_window(&mut self, key: Key) -> u32 {
        let Some(serial) = self.slots.get(key).map(|slot| slot.serial) else { return 1 };
        let granted = self.link_of(serial).and_then(|link| link.connection.layout_2());
        granted.map_or(1, |granted| granted.stream_window)
    }

    /// Whether all that was queued on a connection before it had been emptied `mark` times is out; `None` if the
    /// connection has gone.
    pub(super) fn is_flushed(&mut self, serial: u64, mark: u64) -> Option<bool> {
        self.link_of(serial).map(|link| link.flushes > mark)
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
            self.flushed();
        }
        Ok(())
    }

    pub(super) fn flushed(&mut self) {
        for waiter in self.flush.drain(..) {
            self.lead.wake(waiter);
        }
    }

    pub(super) fn has_room(&self) -> bool {
        self.link.as_ref().is_some_and(|link| link.connection.can_send())
    }

    /// Wakes as many of those that wait for room as there is room for.
    pub(super) fn make_room(&mut self) {
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

    pub(super) fn finish(&mut self, key: Key, end: Result<(), Loss>) {
        if let Some(slot) = self.slots.get(key) {
            slot.end = Some(end);
            if let Some(waiter) = slot.waiter.take() {
                self.lead.wake(waiter);
            }
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
