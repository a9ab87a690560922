//! The blocking driver: one thread, one connection, waits that a [`Wait`] bounds.

use super::nap::{Interest, Nap};
use crate::carrier::Carrier;
use crate::error::SessionError;
use crate::proto::{Body, Connection, Event, Input, Pace, Pool, Transmit};
use crate::wait::{Abort, Wait};
use ginnel_wire::Envelope;
use std::time::{Duration, Instant};

/// Memory that a session keeps for the next messages. Larger ones are allocated each time.
const KEEP: usize = 16 << 20;

/// A connection and what carries it.
#[derive(Debug)]
pub(crate) struct Drive<C> {
    pub(crate) connection: Connection,
    pub(crate) carrier: C,
    pub(crate) pool: Pool,
    nap: Nap,
    /// How long the peer may stand still in the middle of a message.
    pub(crate) pace: Pace,
    // No other silence is timed here, because every wait has a deadline of its own: so the connection never asks for
    // the time, and looking at a clock would cost each message more than its parsing does.
    pub(crate) begun: Instant,
}

impl<C: Carrier> Drive<C> {
    pub(crate) fn new(connection: Connection, carrier: C, begun: Instant) -> Self {
        Self { connection, carrier, pool: Pool::new(KEEP), nap: Nap::new(), pace: Pace::new(None), begun }
    }

    /// From now on a receive may sleep in the receiving call.
    pub(crate) fn allow_sleep(&mut self) {
        self.nap.allow_sleep(&self.carrier);
    }

    /// Raising `abort` ends the session, too, where that makes waiting cheaper.
    pub(crate) fn end_with(&mut self, abort: &Abort) {
        self.nap.end_with(&self.carrier, abort, self.connection.role());
    }

    /// Queues one message.
    pub(crate) fn queue(&mut self, envelope: &Envelope, body: Body) -> Result<(), SessionError> {
        self.connection.send(self.begun, envelope, body)
    }

    /// See [`Connection::conclude`].
    pub(crate) fn conclude(&mut self, patience: Duration) {
        self.connection.conclude(self.begun, patience, &mut self.pool);
    }

    /// Writes all that is queued. `lent` is the payload of the lent message, if one is queued.
    ///
    /// While the peer takes no more, a client receives what it is owed, so that two full carriers cannot block each
    /// other.
    pub(crate) fn flush(&mut self, lent: &[u8], wait: &Wait<'_>) -> Result<(), SessionError> {
        while let Some(Transmit { head, body, .. }) = self.connection.poll_transmit(lent) {
            self.nap.sending();
            match self.carrier.try_send(head, body)? {
                Some(len) => self.connection.transmitted(self.begun, len, &mut self.pool),
                None if self.connection.expects_responses() => {
                    if self.nap.wait(&mut self.carrier, Interest::Both, wait)? {
                        self.receive_early()?;
                    }
                }
                None => {
                    self.nap.wait(&mut self.carrier, Interest::Send, wait)?;
                }
            }
        }
        Ok(())
    }

    /// Takes what has arrived out of the carrier, so that the peer can go on.
    fn receive_early(&mut self) -> Result<(), SessionError> {
        loop {
            self.connection.gather(&mut self.pool);
            if let Some(end) = self.connection.end() {
                return Err(end.to_error());
            }
            if !self.try_receive()? {
                return Ok(());
            }
        }
    }

    /// Receives once, if there is something.
    pub(crate) fn try_receive(&mut self) -> Result<bool, SessionError> {
        let due = self.carrier.due();
        let space = self.connection.space(due, &mut self.pool);
        let received = self.nap.try_recv(&mut self.carrier, space)?;
        if let Some(len) = received {
            self.received(len);
        }
        Ok(received.is_some())
    }

    fn received(&mut self, len: usize) {
        self.connection.handle(self.begun, Input::Received(len));
        if self.connection.is_mid_message() {
            self.pace.gained(Instant::now(), len);
        } else {
            self.pace.rest();
        }
    }

    /// The next event. After [`Event::Ended`] it is an error.
    pub(crate) fn event(&mut self, wait: &Wait<'_>) -> Result<Event, SessionError> {
        loop {
            if let Some(event) = self.connection.poll_event(&mut self.pool) {
                return Ok(event);
            }
            if let Some(end) = self.connection.end() {
                return Err(end.to_error());
            }
            match self.receive(&wait.no_later_than(self.pace.due())) {
                Ok(()) => {}
                Err(SessionError::TimedOut) if wait.check().is_ok() => return Err(SessionError::Stalled),
                Err(SessionError::Closed) => self.connection.handle(self.begun, Input::HungUp),
                Err(error) => return Err(error),
            }
        }
    }

    fn receive(&mut self, wait: &Wait<'_>) -> Result<(), SessionError> {
        let space = self.connection.space(0, &mut self.pool);
        if let Some(len) = self.nap.recv_asleep(&self.carrier, space, wait)? {
            self.received(len);
            return Ok(());
        }
        // Not at all, or not for as long as `wait` allows.
        while !self.try_receive()? {
            self.nap.wait(&mut self.carrier, Interest::Receive, wait)?;
        }
        Ok(())
    }
}
