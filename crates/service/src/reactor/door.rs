//! The way in: connections that are accepted, and what they say until they are sessions or gone.

use super::poll::Interest;
use super::session::Reason;
use super::table::Table;
use super::{Letter, Reactor, Whom};
use crate::responder::SessionKey;
use crate::server::{Place, SHARED_MEMORY};
use ginnel_session::carrier::Source;
use ginnel_session::proto::Timing;
use ginnel_session::{Incoming, Listener, Parts, RefuseReason};
use ginnel_wire::Profiles;
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

/// Connections whose HELLO is not complete. When there are more, the one that has kept silent longest goes: newcomers
/// are never kept out by those that say nothing.
const MAX_GUESTS: usize = 128;
/// How long to leave the backlog alone when the process has no file descriptor left.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(50);
/// Connections that are accepted in one turn.
const FAIR_SHARE: usize = 64;

#[derive(Debug)]
pub(super) struct Door {
    listener: Listener,
    guests: Table<Guest>,
    /// Guests by arrival; those that are gone may still be in it.
    order: VecDeque<SessionKey>,
    /// The process's descriptors were used up at the last attempt. Said once, until an attempt succeeds.
    exhausted: bool,
    /// Connections that the listener has refused because of it.
    turned_away: u64,
}

#[derive(Debug)]
struct Guest {
    incoming: Incoming,
    deadline: Option<Instant>,
}

impl Door {
    pub(super) fn new(listener: Listener) -> Self {
        Self { listener, guests: Table::new(), order: VecDeque::new(), exhausted: false, turned_away: 0 }
    }

    pub(super) fn listener(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    pub(super) fn into_guests(mut self) -> Vec<Incoming> {
        let guests = self.guests.keys().into_iter().filter_map(|key| self.guests.remove(key));
        guests.map(|guest| guest.incoming).collect()
    }
}

impl Reactor {
    /// Connections wait.
    pub(super) fn open_door(&mut self, now: Instant) {
        for _ in 0..FAIR_SHARE {
            let Some(door) = &mut self.door else { return };
            let accepted = door.listener.try_accept();
            if accepted.is_ok() && std::mem::take(&mut door.exhausted) {
                tracing::info!(
                    service = %self.shared.endpoint,
                    turned_away = door.turned_away,
                    "connections are taken again"
                );
            }
            match accepted {
                Ok(Some(incoming)) => self.welcome(incoming, now),
                Ok(None) => return,
                Err(error) => {
                    if !std::mem::replace(&mut door.exhausted, true) {
                        tracing::warn!(service = %self.shared.endpoint, %error, "connections are refused until this is over");
                    }
                    let turned_away = door.listener.turned_away();
                    let more = turned_away - std::mem::replace(&mut door.turned_away, turned_away);
                    self.shared.counters.exhausted.add(more);
                    self.shared.counters.refused.add(more);
                    // A listener that stays readable would make the reactor spin.
                    let nothing = Interest { read: false, write: false };
                    let _ = self.poll.change(door.listener(), Whom::Door.token(), nothing);
                    self.timers.insert((now + EXHAUSTED_PAUSE, Whom::Door));
                    return;
                }
            }
        }
    }

    pub(super) fn reopen_door(&mut self, now: Instant) {
        if let Some(door) = &self.door {
            let _ = self.poll.change(door.listener(), Whom::Door.token(), Interest::READ);
            self.open_door(now);
        }
    }

    fn welcome(&mut self, mut incoming: Incoming, now: Instant) {
        match incoming.try_receive_hello() {
            // Most clients have said HELLO by the time they are accepted.
            Ok(true) => self.shake_hands(incoming, now),
            Ok(false) => self.seat(incoming, now),
            Err(_) => self.shared.counters.silent.add(1),
        }
    }

    /// Waits for the HELLO of a connection.
    fn seat(&mut self, incoming: Incoming, now: Instant) {
        let Some(door) = &mut self.door else { return };
        let mut leaves = None;
        while door.guests.len() >= MAX_GUESTS {
            match door.order.pop_front() {
                Some(oldest) if door.guests.get_mut(oldest).is_some() => {
                    leaves = Some(oldest);
                    break;
                }
                Some(_) => {}
                None => break,
            }
        }
        let deadline = now.checked_add(self.shared.options.session.handshake_timeout);
        let key = door.guests.insert_with(|_| Guest { incoming, deadline });
        door.order.push_back(key);
        if door.order.len() > 2 * MAX_GUESTS {
            let guests = &mut door.guests;
            door.order.retain(|key| guests.get_mut(*key).is_some());
        }
        if let Some(at) = deadline {
            self.timers.insert((at, Whom::Guest(key)));
        }
        let added = door
            .guests
            .get_mut(key)
            .map(|guest| self.poll.add(guest.incoming.as_fd(), Whom::Guest(key).token(), Interest::READ));
        if let Some(Err(error)) = added {
            tracing::warn!(service = %self.shared.endpoint, %error, "a connection cannot be waited for");
            self.forget_guest(key);
        }
        if let Some(oldest) = leaves {
            self.forget_guest(oldest);
        }
    }

    /// More of a guest's HELLO may be there.
    pub(super) fn hear_guest(&mut self, key: SessionKey, now: Instant) {
        let Some(guest) = self.door.as_mut().and_then(|door| door.guests.get_mut(key)) else { return };
        match guest.incoming.try_receive_hello() {
            Ok(false) => {}
            Ok(true) => {
                if let Some(guest) = self.take_guest(key) {
                    self.shake_hands(guest.incoming, now);
                }
            }
            Err(_) => self.forget_guest(key),
        }
    }

    /// A guest has kept silent for too long, has left, or has to make room.
    pub(super) fn forget_guest(&mut self, key: SessionKey) {
        if self.take_guest(key).is_some() {
            self.shared.counters.silent.add(1);
        }
    }

    fn take_guest(&mut self, key: SessionKey) -> Option<Guest> {
        let guest = self.door.as_mut()?.guests.remove(key)?;
        self.poll.remove(guest.incoming.as_fd());
        if let Some(at) = guest.deadline {
            self.timers.remove(&(at, Whom::Guest(key)));
        }
        Some(guest)
    }

    /// Answers a HELLO that is complete.
    ///
    /// Counters are raised before the answer leaves, so that a client that has it finds them so.
    fn shake_hands(&mut self, mut incoming: Incoming, now: Instant) {
        let proposed = incoming.proposed_request() as usize;
        let layout_2 = incoming.is_in_layout_2();
        let (request, response) = self.shared.limits_for(proposed, layout_2);
        let full = self.shared.sessions() >= self.shared.options.max_sessions;
        let no_words = self.on_words.len() >= super::hot::MOST_ON_WORDS;
        let offer = incoming.offer_mut();
        (offer.max_request_payload, offer.max_response_payload) = (request, response);
        if no_words {
            offer.supported = offer.supported.without(SHARED_MEMORY) | Profiles::BASELINE;
        }
        // Nobody makes room for a client that is refused for another reason.
        let fit = incoming.is_acceptable();
        let accepted = fit && (!full || self.make_room(now));
        let place = accepted.then(|| Place::take(&self.shared));
        if accepted {
            self.shared.counters.sessions.add(1);
        } else {
            self.shared.counters.refused.add(1);
            if fit {
                incoming.offer_mut().refuse = Some(RefuseReason::Full);
            }
        }
        let mut timing = Timing::default();
        timing.within_message = Some(self.shared.options.session.message_timeout);
        timing.stalled = Some(self.shared.options.send_timeout);
        match incoming.into_parts(timing, now) {
            Ok(parts) => {
                if !layout_2 {
                    self.shared.learn_request(proposed);
                }
                if let Some(place) = place {
                    self.assign(parts, place, now);
                }
            }
            Err(error) => {
                if accepted {
                    // Its answer did not reach it.
                    self.shared.counters.refused.add(1);
                }
                tracing::debug!(service = %self.shared.endpoint, %error, "no session");
            }
        }
    }

    /// Gives a session to the reactor whose turn it is. Words of shared memory stay here, where they are counted.
    fn assign(&mut self, parts: Parts, place: Place, now: Instant) {
        let on_words = matches!(parts.carrier.source(), Source::Doorbell(_));
        self.next = (self.next + 1) % (self.crew.len() + 1);
        match self.crew.get(self.next) {
            Some(office) if !on_words => office.post(Letter::Admit(Box::new(parts), place)),
            _ => self.admit(parts, place, now),
        }
    }

    /// Ends the session that has been idle longest, if that is long enough. It is not asked: a request that comes in
    /// this moment is not executed, and its client sends it again on a new session.
    fn make_room(&mut self, now: Instant) -> bool {
        let idle = self.sessions.values().filter(|session| session.is_idle());
        let Some(idlest) = idle.min_by_key(|session| session.active) else { return false };
        if now.saturating_duration_since(idlest.active) < self.shared.options.idle_timeout {
            return false;
        }
        let key = idlest.key;
        self.shared.counters.made_room.add(1);
        self.remove(key, &Reason::MadeRoom);
        true
    }
}
