//! The reactor: one thread that owns all input and output of a server, and blocks on no peer and no handler.
//!
//! ```text
//!             accept          bytes            requests
//!   listener -------> guests -------> sessions ---------> inline, or executor
//!                                        ^                        |
//!                                        `------- mail -----------'   the only way back in, and one wake
//! ```
//!
//! A turn: wait for the poll (or not, if there is work), then take the letters, the sessions that are ready, the
//! timers, and those that were cut short by their fair share. Only the reactor reads and writes; a handler that is done
//! posts a letter.

mod answers;
mod calls;
mod door;
mod hot;
mod introspect;
mod mail;
mod places;
mod poll;
mod porter;
mod session;
mod table;
mod turn;

use self::door::Door;
use self::hot::Rings;
pub(crate) use self::poll::Bell;
use self::poll::{Interest, Poll, Ready, Token};
use self::porter::Porter;
use self::session::{Next, Session};
use self::table::Table;
use self::turn::Turn;
use crate::context::Context;
use crate::introspect::{Publisher, Side};
use crate::mail::{Here, Letter, Office};
use crate::request::Budget;
use crate::responder::SessionKey;
use crate::server::Shared;
use ginnel_base::{Deadline, Mailbox, Wake};
use ginnel_memory::Spin;
use ginnel_session::Listener;
use ginnel_session::carrier::{Carrier, Source};
use ginnel_session::proto::Pool;
use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Memory that a reactor keeps for the next messages.
const KEEP: usize = 16 << 20;

/// Whom a token or a timer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Whom {
    Door,
    Bell,
    Guest(SessionKey),
    Session(SessionKey),
    /// Of timers only.
    Introspection,
}

impl Whom {
    fn token(self) -> Token {
        let (kind, key) = match self {
            Self::Door | Self::Introspection => (0, None),
            Self::Bell => (1, None),
            Self::Guest(key) => (2, Some(key)),
            Self::Session(key) => (3, Some(key)),
        };
        let key = key.map_or(0, |key| u64::from(key.generation) << 32 | u64::from(key.index));
        Token(kind << 62 | key)
    }

    fn of(token: Token) -> Self {
        let key = SessionKey { index: token.0 as u32, generation: (token.0 >> 32) as u32 & table::GENERATIONS };
        match token.0 >> 62 {
            0 => Self::Door,
            1 => Self::Bell,
            2 => Self::Guest(key),
            _ => Self::Session(key),
        }
    }
}

/// What of a carrier is waited for beside its socket.
fn bell_of(carrier: &dyn Carrier) -> Option<BorrowedFd<'_>> {
    match carrier.source() {
        Source::Ring { bell, .. } => Some(bell),
        _ => None,
    }
}

/// See the module.
pub(crate) struct Reactor {
    shared: Arc<Shared>,
    office: Arc<Office>,
    poll: Poll,
    door: Option<Door>,
    /// The other reactors of the server, and whose turn it is to get a session. Empty at those.
    crew: Vec<Arc<Office>>,
    next: usize,
    sessions: Table<Box<Session>>,
    timers: BTreeSet<(Instant, Whom)>,
    /// Sessions that have more to do.
    again: VecDeque<SessionKey>,
    /// Sessions that are not read from until there is room for requests.
    paused: Vec<SessionKey>,
    /// Sessions whose news are told by words of shared memory.
    on_words: Vec<SessionKey>,
    rings: Rings,
    porter: Option<Porter>,
    /// How long to look before a sleep on words.
    spin: Spin,
    letters: Vec<Letter>,
    ready: Vec<Ready>,
    pool: Pool,
    executing: usize,
    budget: Arc<Budget>,
    spare: Option<Context>,
    /// When the last turn began, and when the poll was looked at last.
    now: Instant,
    polled: Instant,
    has_polled: bool,
    draining: bool,
    ended: bool,
    publisher: Option<Publisher>,
    /// There is a timer for it.
    publishes: bool,
}

impl Reactor {
    /// Without a listener it has the sessions that it is given.
    pub(crate) fn new(shared: Arc<Shared>, listener: Option<Listener>) -> io::Result<Self> {
        let poll = Poll::new()?;
        let bell = Bell::new()?;
        poll.add_bell(&bell, Whom::Bell.token())?;
        let mut publisher = None;
        if let Some(listener) = &listener {
            poll.add(listener, Whom::Door.token(), Interest::READ)?;
            publisher = Publisher::new(&shared.options.introspect, Side::Server, &shared.endpoint);
        }
        let office = Arc::new(Office(Mailbox::new(bell)));
        let budget = Budget::new(shared.options.request_budget / shared.options.reactors.max(1), Arc::clone(&office));
        let mut reactor = Self {
            shared,
            office,
            poll,
            door: listener.map(Door::new),
            crew: Vec::new(),
            next: 0,
            sessions: Table::new(),
            timers: BTreeSet::new(),
            again: VecDeque::new(),
            paused: Vec::new(),
            on_words: Vec::new(),
            rings: Rings::default(),
            porter: None,
            spin: Spin::default(),
            letters: Vec::new(),
            ready: Vec::new(),
            pool: Pool::new(KEEP),
            executing: 0,
            budget,
            spare: None,
            now: Instant::now(),
            polled: Instant::now(),
            has_polled: false,
            draining: false,
            ended: false,
            publisher,
            publishes: false,
        };
        reactor.introspect(true);
        Ok(reactor)
    }

    pub(crate) fn office(&self) -> &Arc<Office> {
        &self.office
    }

    /// The other reactors of the server, which get their share of the sessions.
    pub(crate) fn set_crew(&mut self, crew: Vec<Arc<Office>>) {
        self.crew = crew;
    }

    /// Turns until it is told to end.
    pub(crate) fn run(mut self) {
        while !self.ended {
            self.turn(Deadline::NEVER);
        }
    }

    /// When a turn is due, whatever comes.
    pub(crate) fn due(&self) -> Deadline {
        self.timers.first().map_or(Deadline::NEVER, |(at, _)| Deadline::at(*at)).min(self.nap())
    }

    /// Makes the descriptor tell when a turn is worth it: to be called before somebody else waits for it.
    pub(crate) fn rest(&mut self) {
        let mut ready = std::mem::take(&mut self.ready);
        self.cool_rings(&mut ready);
        // What is found is found again by the turn.
        let busy = !ready.is_empty() || !self.again.is_empty() || !self.office.0.arm();
        ready.clear();
        self.ready = ready;
        if busy {
            self.office.0.waker().wake();
        }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.ended
    }

    /// Accepts nothing more, and ends each session with its last answer.
    pub(crate) fn begin_drain(&mut self, within: Duration) {
        self.drain(Instant::now(), within);
        self.finish_if_drained();
    }

    /// Tells handlers that nobody wants their answers.
    pub(crate) fn cancel_all(&mut self) {
        for key in self.sessions.keys() {
            self.sessions.get_mut(key).into_iter().for_each(|session| session.cancel_calls(true));
        }
    }

    /// Does what is due; waits for it until `deadline` at most.
    pub(crate) fn turn(&mut self, deadline: Deadline) {
        let _here = Here::enter();
        let mut ready = std::mem::take(&mut self.ready);
        self.wait(deadline, &mut ready);
        let now = Instant::now();
        self.now = now;
        if std::mem::take(&mut self.has_polled) {
            self.polled = now;
        }
        let alone = ready.len() == 1 && self.again.is_empty() && !self.office.0.peek();
        let mut happened = !ready.is_empty() || !self.again.is_empty() || self.office.0.peek();
        for event in ready.drain(..) {
            self.tell(event, now, alone);
        }
        self.ready = ready;
        self.read_letters(now);
        happened |= self.ring_timers(now);
        for _ in 0..self.again.len() {
            let Some(key) = self.again.pop_front() else { break };
            self.sessions.get_mut(key).into_iter().for_each(|session| session.again = false);
            self.drive(key, now, true, false);
        }
        self.resume(now);
        self.introspect(happened);
        self.finish_if_drained();
    }

    fn tell(&mut self, event: Ready, now: Instant, alone: bool) {
        match Whom::of(event.token) {
            Whom::Bell | Whom::Introspection => {}
            Whom::Door => self.open_door(now),
            Whom::Guest(key) => self.hear_guest(key, now),
            Whom::Session(key) => {
                if event.hung_up
                    && let Some(session) = self.sessions.get_mut(key)
                {
                    session.gone();
                }
                self.drive(key, now, event.read, alone);
            }
        }
    }

    /// Lets a session do what it can, and sees to what becomes of it.
    fn drive(&mut self, key: SessionKey, now: Instant, readable: bool, alone: bool) {
        self.with_session(key, now, alone, |session, turn| session.drive(turn, readable));
    }

    fn with_session(
        &mut self,
        key: SessionKey,
        now: Instant,
        alone: bool,
        act: impl FnOnce(&mut Session, &mut Turn<'_>) -> Next,
    ) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let mut turn = Turn {
            pool: &mut self.pool,
            shared: &self.shared,
            office: &self.office,
            // What was done since the turn began took time.
            now: now.max(self.now),
            alone,
            executing: &mut self.executing,
            budget: &self.budget,
            spare: &mut self.spare,
        };
        let next = act(session, &mut turn);
        self.now = turn.now;
        match next {
            Next::Wait => {
                let paused = turn.paused() && !session.must_listen();
                self.settle(key, paused);
                self.heat(key, now);
            }
            Next::Again => {
                if !std::mem::replace(&mut session.again, true) {
                    self.again.push_back(key);
                }
            }
            Next::Over(reason) => self.remove(key, &reason),
        }
    }

    fn drain(&mut self, now: Instant, within: Duration) {
        if std::mem::replace(&mut self.draining, true) {
            return;
        }
        if let Some(door) = self.door.take() {
            self.poll.remove(door.listener());
            for guest in door.into_guests() {
                self.poll.remove(&guest);
            }
            self.timers.retain(|(_, whom)| !matches!(whom, Whom::Guest(_) | Whom::Door));
        }
        self.shared.has_closed();
        for key in self.sessions.keys() {
            self.with_session(key, now, false, |session, turn| {
                session.close_when_idle(turn.now, within);
                session.drive(turn, false)
            });
        }
    }

    fn finish_if_drained(&mut self) {
        if self.draining && self.sessions.len() == 0 {
            self.end();
        }
    }

    fn end(&mut self) {
        self.ended = true;
        drop(self.office.0.close());
    }

    /// Says whether one of them rang that is more than introspection's.
    fn ring_timers(&mut self, now: Instant) -> bool {
        let mut rang = false;
        while let Some(&(at, whom)) = self.timers.first() {
            if at > now {
                break;
            }
            self.timers.pop_first();
            rang |= whom != Whom::Introspection;
            match whom {
                Whom::Session(key) => {
                    self.with_session(key, now, false, |session, turn| {
                        session.timer = None;
                        session.tick(turn);
                        session.drive(turn, false)
                    });
                }
                Whom::Guest(key) => self.forget_guest(key),
                Whom::Door => self.reopen_door(now),
                Whom::Introspection => self.publish(now),
                Whom::Bell => {}
            }
        }
        rang
    }

    /// Reads again from sessions that had to wait for room.
    fn resume(&mut self, now: Instant) {
        if self.paused.is_empty() || self.budget.is_full() {
            return;
        }
        for key in std::mem::take(&mut self.paused) {
            if let Some(session) = self.sessions.get_mut(key) {
                session.resume(now);
                self.drive(key, now, true, false);
            }
        }
    }
}

impl AsFd for Reactor {
    /// Readable when a turn is due.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.poll.as_fd()
    }
}

impl Drop for Reactor {
    fn drop(&mut self) {
        // Also after a panic: whoever waits for sessions to end must not wait for ever.
        drop(self.office.0.close());
        // Sessions close before they are said to be gone.
        self.sessions = Table::new();
        self.door = None;
        if !self.draining {
            self.shared.has_closed();
        }
    }
}
