//! What the reactor does with its letters.

use super::Reactor;
use super::session::{Next, Reason};
use crate::mail::Letter;
use std::time::{Duration, Instant};

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
