//! Where the reactor waits: in the poll, or on words of shared memory, which it looks at for a while before it sleeps.
//!
//! A session over rings is hot after it was driven: the reactor looks at its words, and its client rings no bell. When
//! nothing has come for as long as the spin's budget allows, it is armed, and its bell is in the poll.

use super::poll::Ready;
use super::porter::Porter;
use super::session::Session;
use super::{Reactor, Whom};
use crate::responder::SessionKey;
use ginnel_base::Deadline;
use ginnel_session::carrier::{Doorbell, Source};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often the poll is looked at where there is no thread to watch it.
const WITHOUT_PORTER: Duration = Duration::from_millis(20);
/// Sessions over words of shared memory that one reactor serves: what the kernel waits for at one time. Who comes later
/// gets a socket.
pub(super) const MOST_ON_WORDS: usize = 127;

/// Sessions that are asked for news in one look of a spin.
const SESSIONS_A_LOOK: usize = 4;
/// How long sockets, bells and connections may wait while news of shared memory keep the reactor from sleeping.
const POLL_EVERY: Duration = Duration::from_micros(50);
/// How long a ring session is looked at after it had news, before its client is asked to ring.
const HOT_FOR: Duration = Duration::from_micros(200);
/// The nap beside a session that cannot be armed.
const UNEASY_NAP: Duration = Duration::from_millis(1);

/// The sessions over rings, by how their news are found out. One that is in neither list rings its bell.
#[derive(Debug, Default)]
pub(super) struct Rings {
    /// Those that had news lately: they are looked at.
    pub(super) hot: Vec<SessionKey>,
    /// Those whose bell may not ring: they are looked at now and then.
    uneasy: Vec<SessionKey>,
}

impl Reactor {
    pub(super) fn wait(&mut self, deadline: Deadline, ready: &mut Vec<Ready>) {
        let on_words = !self.on_words.is_empty();
        let looks = on_words || !self.rings.hot.is_empty();
        if looks && self.again.is_empty() && !deadline.passed() && self.spin_for_news() {
            self.look_at_words(ready);
            self.look_at_rings(ready);
            let due = match &self.porter {
                Some(porter) if on_words => porter.rang(),
                _ => on_words || self.now.saturating_duration_since(self.polled) >= POLL_EVERY,
            };
            if due {
                self.look(None, ready);
            }
            return;
        }
        if self.again.is_empty() {
            self.cool_rings(ready);
        } else {
            self.look_at_rings(ready);
        }
        let bell = self.office.0.waker();
        let rung = bell.word.count();
        bell.sleeps_on_words(on_words);
        let busy = !self.again.is_empty() || !ready.is_empty() || self.office.0.peek() || !self.office.0.arm();
        let until = self.due().min(deadline);
        if on_words && !busy {
            self.sleep_on_words(rung, until, ready);
        } else {
            self.look(if busy { None } else { Some(until) }, ready);
            if on_words {
                self.look_at_words(ready);
            }
        }
        self.look_at_uneasy(ready);
    }

    /// Looks at the poll, or waits for it until that time.
    fn look(&mut self, until: Option<Deadline>, ready: &mut Vec<Ready>) {
        let events = match until {
            None => self.poll.wait(Some(Duration::ZERO)),
            Some(until) => self.poll.wait_until(until),
        };
        match events {
            Ok(events) => {
                ready.extend_from_slice(events);
                self.has_polled = true;
            }
            // Out of memory, or a bug: without a pause this would be a spin.
            Err(error) => {
                tracing::error!(service = %self.shared.endpoint, %error, "the reactor cannot wait");
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }

    /// Looks for a while whether anything has come, because a peer that was just answered often asks again within
    /// microseconds. The budget adapts: quiet sessions are not spun for. Nobody who brings something pays for a wake
    /// meanwhile.
    fn spin_for_news(&mut self) -> bool {
        let Self { spin, on_words, rings, sessions, office, porter, .. } = self;
        let porter = porter.as_ref().filter(|_| !on_words.is_empty());
        if let Some(porter) = porter {
            porter.watch();
        }
        // However many sessions there are, a look takes about as long.
        let (count, mut next) = (on_words.len() + rings.hot.len(), 0);
        let found = spin.until(|| {
            let mut news = office.0.peek() || porter.is_some_and(Porter::rang);
            for _ in 0..count.min(SESSIONS_A_LOOK) {
                next = if next < count { next } else { 0 };
                let key = on_words.get(next).or_else(|| rings.hot.get(next - on_words.len()));
                let session = key.and_then(|key| sessions.get_mut(*key));
                news = news || session.is_some_and(|session| session.has_news());
                next += 1;
            }
            news.then_some(())
        });
        found.is_some()
    }

    /// Sleeps until a word of shared memory changes, or the bell rings: for a letter, a hang-up, or something in the
    /// poll.
    fn sleep_on_words(&mut self, rung: u32, until: Deadline, ready: &mut Vec<Ready>) {
        let bell = Arc::clone(&self.office.0.waker().word);
        let mut doorbells = Vec::with_capacity(self.on_words.len());
        for key in &self.on_words {
            let Some(session) = self.sessions.get_mut(*key) else { continue };
            // The doorbell of one that does not listen is of no use, and its region may be cut: no sleep is possible
            // there.
            if !session.listens() {
                continue;
            }
            if !session.carrier.arm() {
                ready.push(Ready::news(Whom::Session(*key).token()));
            } else if let Source::Doorbell(doorbell) = session.carrier.source() {
                doorbells.push(doorbell);
            }
        }
        let porter = match &self.porter {
            Some(porter) => {
                porter.watch();
                true
            }
            None => false,
        };
        if ready.is_empty() {
            // Without a porter the poll is looked at now and then: slow, and better than not at all.
            let timeout = if porter { until.remaining() } else { Some(WITHOUT_PORTER) };
            Doorbell::sleep_on_any(&doorbells, &bell, rung, timeout);
            self.look_at_words(ready);
        }
        if self.porter.as_ref().is_none_or(Porter::rang) {
            self.look(None, ready);
        }
    }

    fn look_at_words(&mut self, ready: &mut Vec<Ready>) {
        for key in &self.on_words {
            if self.sessions.get_mut(*key).is_some_and(|session| session.has_news()) {
                ready.push(Ready::news(Whom::Session(*key).token()));
            }
        }
    }

    /// A ring session was driven: it may have news soon, and what was armed before may be no more.
    pub(super) fn heat(&mut self, key: SessionKey, now: Instant) {
        if let Some(session) = self.sessions.get_mut(key)
            && session.is_ring()
            && session.hot.replace(now).is_none()
        {
            self.rings.hot.push(key);
        }
    }

    /// Takes the news of hot sessions, and lets those cool down that had none for a while.
    fn look_at_rings(&mut self, ready: &mut Vec<Ready>) {
        let Self { rings, sessions, now, .. } = self;
        let Rings { hot, uneasy } = rings;
        hot.retain(|key| {
            let Some(session) = sessions.get_mut(*key) else { return false };
            let old = session.hot.is_none_or(|at| now.saturating_duration_since(at) >= HOT_FOR);
            if session.has_news() {
                ready.push(Ready::news(Whom::Session(*key).token()));
                return true;
            }
            !old || !cool(session, uneasy, ready)
        });
    }

    /// Asks the clients of all hot sessions to ring, because the reactor goes to sleep.
    pub(super) fn cool_rings(&mut self, ready: &mut Vec<Ready>) {
        let Self { rings, sessions, .. } = self;
        let Rings { hot, uneasy } = rings;
        hot.retain(|key| sessions.get_mut(*key).is_some_and(|session| !cool(session, uneasy, ready)));
    }

    /// How long nothing need be looked at.
    pub(super) fn nap(&self) -> Deadline {
        if self.rings.uneasy.is_empty() { Deadline::NEVER } else { Deadline::after(UNEASY_NAP) }
    }

    fn look_at_uneasy(&mut self, ready: &mut Vec<Ready>) {
        let Self { rings, sessions, .. } = self;
        rings.uneasy.retain(|key| {
            // One that is hot again was driven meanwhile, and will be armed again.
            let Some(session) = sessions.get_mut(*key).filter(|session| session.hot.is_none()) else { return false };
            let news = session.carrier.has_news() == Some(true);
            if news {
                ready.push(Ready::news(Whom::Session(*key).token()));
            }
            !news
        });
    }
}

/// Arms a session whose client is to ring from now on. False if it has news, which are told.
fn cool(session: &mut Session, uneasy: &mut Vec<SessionKey>, ready: &mut Vec<Ready>) -> bool {
    if !session.listens() {
        // To arm it would tell of requests that are not to be taken. Only the room for its answers is looked for.
        if session.is_blocked() {
            uneasy.push(session.key);
        }
    } else if !session.carrier.arm() {
        ready.push(Ready::news(Whom::Session(session.key).token()));
        return false;
    } else if session.carrier.nap_limit().is_some() {
        uneasy.push(session.key);
    }
    session.hot = None;
    true
}
