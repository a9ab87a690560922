//! How a session comes into its reactor, what it waits for there, and how it leaves.

use super::poll::Interest;
use super::porter::Porter;
use super::session::{Reason, Session};
use super::{Reactor, Whom, bell_of};
use crate::responder::SessionKey;
use crate::server::Place;
use ginnel_session::Parts;
use ginnel_session::carrier::Source;
use ginnel_session::proto::{End, Silence};
use std::sync::Arc;
use std::time::{Duration, Instant};

impl Reactor {
    /// Tells the poll and the timers what a session waits for now.
    pub(super) fn settle(&mut self, key: SessionKey, paused: bool) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        if paused && session.wants(false).read && !session.is_paused() {
            session.pause();
            self.paused.push(key);
            self.shared.counters.pauses.add(1);
        }
        let wants = session.wants(paused);
        if session.interest.is_some_and(|interest| interest != wants) {
            let token = Whom::Session(key).token();
            let bell = bell_of(&*session.carrier);
            let changed = bell.map_or(Ok(()), |bell| self.poll.change(bell, token, wants));
            if changed.and_then(|()| self.poll.change(session.carrier.socket(), token, wants)).is_ok() {
                session.interest = Some(wants);
            }
        }
        // A timer that rings early looks again: only one that would ring late is moved.
        if let Some(at) = session.timeout().instant()
            && session.timer.is_none_or(|timer| at < timer)
        {
            if let Some(timer) = session.timer.replace(at) {
                self.timers.remove(&(timer, Whom::Session(key)));
            }
            self.timers.insert((at, Whom::Session(key)));
        }
    }

    pub(super) fn remove(&mut self, key: SessionKey, reason: &Reason) {
        let Some(session) = self.sessions.remove(key) else { return };
        session.cancel_calls(false);
        self.executing -= session.executing.min(self.executing);
        if session.interest.is_some() {
            self.poll.remove(session.carrier.socket());
            // Its client may hold the same pipe open: closing it would not take it out of the poll.
            if let Some(bell) = bell_of(&*session.carrier) {
                self.poll.remove(bell);
            }
        } else {
            self.on_words.retain(|other| *other != key);
        }
        if let Some(timer) = session.timer {
            self.timers.remove(&(timer, Whom::Session(key)));
        }
        let counters = &self.shared.counters;
        counters.carriers.of(&self.shared.endpoint, &session.agreement).sub(1);
        counters.in_flight.sub(session.open_calls() as u64);
        if let Reason::Dismissed(Some(end)) = reason {
            if *end == End::Silent(Silence::Stalled) { &counters.slow } else { &counters.dismissed }.add(1);
            tracing::info!(
                service = %self.shared.endpoint,
                ?end,
                peer = ?session.agreement.peer,
                "a client was dismissed"
            );
        }
        tracing::debug!(
            service = %self.shared.endpoint,
            session = session.agreement.session_id,
            ?reason,
            "session ended"
        );
        // What counts the session out finds its files gone.
        drop(session);
    }

    /// A handshake has succeeded. The session is counted already.
    pub(super) fn admit(&mut self, parts: Parts, place: Place, now: Instant) {
        let options = &self.shared.options;
        let key = self.sessions.insert_with(|key| Box::new(Session::new(key, parts, place, options, now)));
        let Some(session) = self.sessions.get_mut(key) else { return };
        self.shared.counters.carriers.of(&self.shared.endpoint, &session.agreement).add(1);
        let added = match session.carrier.source() {
            Source::Socket { fd, .. } => self.poll.add(fd, Whom::Session(key).token(), Interest::READ),
            Source::Doorbell(doorbell) => {
                doorbell.share(&self.office.0.waker().word);
                self.on_words.push(key);
                if self.porter.is_none() {
                    self.porter = Porter::start(&self.poll, Arc::clone(&self.office.0.waker().word))
                        .inspect_err(|error| tracing::warn!(%error, "no thread to watch the sockets"))
                        .ok();
                }
                Ok(())
            }
            Source::Ring { bell, socket } => {
                let token = Whom::Session(key).token();
                self.poll
                    .add(socket, token, Interest::READ)
                    .and_then(|()| self.poll.add(bell, token, Interest::READ).inspect_err(|_| self.poll.remove(socket)))
            }
        };
        match added {
            Ok(()) if self.on_words.last() == Some(&key) => {}
            Ok(()) => session.interest = Some(Interest::READ),
            Err(error) => {
                let reason =
                    Reason::Failed(ginnel_session::SessionError::Io { doing: "wait for a session", source: error });
                return self.remove(key, &reason);
            }
        }
        if self.draining
            && let Some(session) = self.sessions.get_mut(key)
        {
            session.close_when_idle(now, Duration::ZERO);
        }
        // The handshake took its time, and the first request may have come with the HELLO.
        self.now = Instant::now();
        self.drive(key, now, true, false);
    }
}
