//! A core with what both drivers add to it: which message the caller looks at, what arrived early, and whether a message
//! was cut off.

use crate::core::{Core, Transmit};
use crate::error::SessionError;
use ginnel_wire::{Envelope, Message};
use std::collections::VecDeque;

#[derive(Debug)]
pub(crate) struct Mailbox {
    pub(crate) core: Core,
    // Responses that arrived while a send was blocked, in order of arrival. Bounded by the requests in flight.
    early: VecDeque<Early>,
    current: Option<Early>,
    // The core's ready message was handed out.
    handed_out: bool,
    broken: bool,
}

#[derive(Debug)]
struct Early {
    envelope: Envelope,
    payload: Vec<u8>,
}

impl Mailbox {
    pub(crate) fn new(core: Core) -> Self {
        Self { core, early: VecDeque::new(), current: None, handed_out: false, broken: false }
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.core.in_flight() + self.early.len()
    }

    /// Begins a message. Until [`Mailbox::end_send`] the session counts as broken: a driver that is dropped in the middle
    /// leaves half a message on the wire.
    pub(crate) fn begin_send(&mut self, envelope: &Envelope, len: usize) -> Result<Transmit, SessionError> {
        if self.broken {
            return Err(SessionError::Broken);
        }
        self.drop_current()?;
        let transmit = self.core.begin_send(envelope, len)?;
        self.broken = true;
        Ok(transmit)
    }

    /// The message is out, or nothing more of it will be.
    pub(crate) fn end_send(&mut self, transmit: &Transmit, sent: bool) {
        self.broken = !sent && transmit.started();
        if !sent && !transmit.started() {
            self.core.cancel_send(transmit);
        }
    }

    /// Whether responses should be received while a send is blocked: one may be under way, be it to this very request, since
    /// a server may refuse what it has only half read.
    pub(crate) fn expects_responses(&self) -> bool {
        self.core.in_flight() > 0
    }

    /// Puts complete messages aside, so that the core can receive more.
    pub(crate) fn stash(&mut self) -> Result<(), SessionError> {
        while let Some(message) = self.core.message() {
            self.early.push_back(Early { envelope: message.envelope, payload: message.payload.to_vec() });
            self.core.consume()?;
        }
        Ok(())
    }

    /// Drops the message that was handed out.
    pub(crate) fn drop_current(&mut self) -> Result<(), SessionError> {
        self.current = None;
        // A stream may hold further complete messages: only the one that was handed out goes.
        if std::mem::take(&mut self.handed_out) {
            self.core.consume()?;
        }
        Ok(())
    }

    /// Hands out the next message, if one is complete: [`Mailbox::message`] is it from now on.
    pub(crate) fn hand_out(&mut self) -> bool {
        self.current = self.early.pop_front();
        self.handed_out = self.current.is_none() && self.core.is_ready();
        self.current.is_some() || self.handed_out
    }

    pub(crate) fn message(&self) -> Option<Message<'_>> {
        match &self.current {
            Some(early) => Some(Message { envelope: early.envelope, payload: &early.payload }),
            None => self.core.message().filter(|_| self.handed_out),
        }
    }
}
