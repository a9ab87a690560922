//! Where the reactor waits: in the poll, or on words of shared memory, which it looks at for a while before it sleeps.

use super::poll::Ready;
use super::porter::Porter;
use super::{Reactor, Whom};
use ginnel_base::Deadline;
use ginnel_session::carrier::{Doorbell, Source};
use std::sync::Arc;
use std::time::Duration;

/// How often the poll is looked at where there is no thread to watch it.
const WITHOUT_PORTER: Duration = Duration::from_millis(20);
/// Sessions over words of shared memory that one reactor serves: what the kernel waits for at one time. Who comes later
/// gets a socket.
pub(super) const MOST_ON_WORDS: usize = 127;

/// Sessions that are asked for news in one look of a spin.
const SESSIONS_A_LOOK: usize = 4;

impl Reactor {
    pub(super) fn wait(&mut self, deadline: Deadline, ready: &mut Vec<Ready>) {
        let on_words = !self.on_words.is_empty();
        if on_words && self.again.is_empty() && self.spin_on_words() {
            self.look_at_words(ready);
            if self.porter.as_ref().is_none_or(Porter::rang) {
                self.look(Some(Duration::ZERO), ready);
            }
            return;
        }
        let bell = self.office.0.waker();
        let rung = bell.word.count();
        bell.sleeps_on_words(on_words);
        let busy = !self.again.is_empty() || self.office.0.peek() || !self.office.0.arm();
        let until = self.timers.first().map_or(Deadline::NEVER, |(at, _)| Deadline::at(*at)).min(deadline);
        if on_words && !busy {
            self.sleep_on_words(rung, until, ready);
            return;
        }
        let timeout = if busy { Some(Duration::ZERO) } else { until.remaining() };
        self.look(timeout, ready);
        if on_words {
            self.look_at_words(ready);
        }
    }

    /// Waits for the poll.
    fn look(&mut self, timeout: Option<Duration>, ready: &mut Vec<Ready>) {
        match self.poll.wait(timeout) {
            Ok(events) => ready.extend_from_slice(events),
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
    fn spin_on_words(&mut self) -> bool {
        let Self { spin, on_words, sessions, office, porter, .. } = self;
        if let Some(porter) = porter {
            porter.watch();
        }
        // However many sessions there are, a look takes about as long.
        let mut next = 0;
        let found = spin.until(|| {
            let mut news = office.0.peek() || porter.as_ref().is_some_and(Porter::rang);
            for _ in 0..on_words.len().min(SESSIONS_A_LOOK) {
                next = if next < on_words.len() { next } else { 0 };
                news = news || sessions.get_mut(on_words[next]).is_some_and(|session| session.has_news());
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
            self.look(Some(Duration::ZERO), ready);
        }
    }

    fn look_at_words(&mut self, ready: &mut Vec<Ready>) {
        for key in &self.on_words {
            if self.sessions.get_mut(*key).is_some_and(|session| session.has_news()) {
                ready.push(Ready::news(Whom::Session(*key).token()));
            }
        }
    }
}
