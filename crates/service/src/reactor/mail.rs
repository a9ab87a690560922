//! Letters to the reactor: the only way back in for other threads.

use super::Reactor;
use super::poll::Bell;
use super::session::{Next, Reason};
use crate::responder::{Answer, CallKey};
use crate::server::Place;
use ginnel_base::Mailbox;
use ginnel_session::Parts;
use std::time::{Duration, Instant};

/// What other threads tell a reactor.
#[derive(Debug)]
pub(crate) enum Letter {
    /// A call is answered; from the executor, or from elsewhere.
    Answer { call: CallKey, answer: Answer, executed: bool },
    /// An item of a stream.
    Item { call: CallKey, item: Vec<u8> },
    /// A session that another reactor has let in.
    Admit(Box<Parts>, Place),
    /// Requests hold less: sessions that wait for room may be read from.
    Room,
    /// Accept nothing more, and end each session with its last answer. Clients are told how long that may take.
    Drain(Duration),
    /// End sessions whether they are idle or not; handlers are told.
    Stop,
    /// Close whatever is left, and end.
    End,
}

/// Where letters to a reactor are posted.
#[derive(Debug)]
pub(crate) struct Office(pub(super) Mailbox<Letter, Bell>);

impl Office {
    /// Posts a letter. After the reactor's end it is dropped: nobody waits for it.
    pub(crate) fn post(&self, letter: Letter) {
        let _ = self.0.post(letter);
    }
}

impl Reactor {
    pub(super) fn read_letters(&mut self, now: Instant) {
        if !self.office.0.peek() {
            return;
        }
        let mut letters = std::mem::take(&mut self.letters);
        self.office.0.take(&mut letters);
        let mut unread = letters.drain(..).peekable();
        while let Some(letter) = unread.next() {
            match letter {
                Letter::Answer { call, answer, executed } => {
                    // Answers of one session leave together.
                    let next = unread.peek();
                    let more = matches!(next, Some(Letter::Answer { call: next, .. }) if next.session == call.session);
                    self.with_session(call.session, now, false, |session, turn| {
                        session.returned(turn, executed);
                        session.answer(turn, call.number, answer);
                        if more {
                            return Next::Wait;
                        }
                        // Of what arrives meanwhile the poll tells, if it was asked to.
                        let untold = session.is_untold();
                        session.drive(turn, untold)
                    });
                }
                Letter::Item { call, item } => {
                    self.with_session(call.session, now, false, |session, turn| {
                        session.item(turn, call.number, item);
                        session.drive(turn, false)
                    });
                }
                Letter::Admit(parts, place) => self.admit(*parts, place, now),
                // The turn looks at it.
                Letter::Room => {}
                Letter::Drain(within) => self.drain(now, within),
                Letter::Stop => {
                    self.drain(now, Duration::ZERO);
                    self.cancel_all();
                }
                Letter::End => {
                    for key in self.sessions.keys() {
                        self.remove(key, &Reason::Stopped);
                    }
                    self.end();
                }
            }
        }
        drop(unread);
        self.letters = letters;
    }
}
