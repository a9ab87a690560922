//! What a client does whenever it is driven: writes what waits, receives, and hands out what has come.

use super::core::Core;
use super::error::{CallError, Loss};
use super::link::Link;
use super::slots::Ask;
use ginnel_session::proto::{Event, Input, Received};
use ginnel_session::{ProtocolError, SessionError};
use ginnel_wire::{Envelope, Frame, FrameKind, Head, Status};
use std::sync::Arc;

impl Core {
    /// Writes, receives once on each connection, and hands out what has come. Whether there may be more.
    pub(super) fn step(&mut self) -> bool {
        let mut more = false;
        if let Some(mut link) = self.link.take() {
            match self.step_on(&mut link) {
                Ok(again) => {
                    more |= again;
                    if link.retiring {
                        if !link.is_done() {
                            self.leaving.push(link);
                        }
                        self.gone();
                    } else {
                        self.link = Some(link);
                    }
                }
                Err(loss) => {
                    self.end(link, &loss);
                    self.gone();
                }
            }
        }
        for mut link in std::mem::take(&mut self.leaving) {
            match self.step_on(&mut link) {
                Ok(again) if !link.is_done() => {
                    more |= again;
                    self.leaving.push(link);
                }
                Ok(_) => {}
                Err(loss) => self.end(link, &loss),
            }
        }
        self.make_room();
        more
    }

    fn step_on(&mut self, link: &mut Link) -> Result<bool, Loss> {
        let now = self.now;
        let waited = link.unsent;
        match link.flush(now, &mut self.pool) {
            Ok(()) => {
                if waited && !link.unsent {
                    self.flushed();
                }
            }
            // What it has said before its end is still to be read.
            Err(SessionError::Closed) => (link.retiring, link.unsent) = (true, false),
            Err(error) => return Err(lost(error)),
        }
        let fresh = std::mem::take(&mut link.fresh);
        self.hand_out(link)?;
        if fresh || !link.receive(now, &mut self.pool).map_err(lost)? {
            // Only now: what has come in time may have lain here for long, because nobody drove.
            if link.connection.poll_timeout().passed_at(now) {
                link.connection.handle(now, Input::Tick);
                self.hand_out(link)?;
            }
            return Ok(false);
        }
        self.hand_out(link)?;
        Ok(true)
    }

    fn hand_out(&mut self, link: &mut Link) -> Result<(), Loss> {
        loop {
            match link.connection.poll_event(&mut self.pool) {
                Some(Event::Message(message)) => self.message(link, message)?,
                Some(Event::GoAway { last_id, .. }) => self.leaves(link, last_id),
                Some(Event::Ended(end)) => return Err(lost(end.to_error())),
                Some(_) => {}
                None => return Ok(()),
            }
        }
    }

    /// The server leaves: calls above `last_id` were not begun.
    fn leaves(&mut self, link: &mut Link, last_id: u64) {
        link.retiring = true;
        let begun = link.open.partition_point(|(id, _)| *id <= last_id);
        for (_, key) in link.open.drain(begun..) {
            self.finish(key, Err(Loss::NotBegun));
        }
    }

    fn message(&mut self, link: &mut Link, message: Received) -> Result<(), Loss> {
        let (id, head) = (message.envelope.message_id, message.head().copied());
        let Some(at) = link.find(id) else {
            // Of layout 1, which has no way to take a call back.
            self.pool.put(message.into_buffer());
            return Ok(());
        };
        let key = link.open[at].1;
        let Some(slot) = self.slots.get(key) else { return Ok(()) };
        let end = match head {
            Some(head) => answer_2(&head, &message),
            None => answer_1(slot.ask, &message.envelope),
        };
        let kind = head.map(|head| head.kind);
        if let Some(telling) = &mut self.telling {
            telling.received(message.envelope.payload_len);
        }
        if end.is_ok() && kind != Some(FrameKind::End) {
            slot.answers.push_back(message);
        } else {
            self.pool.put(message.into_buffer());
        }
        if kind == Some(FrameKind::Item) {
            if let Some(waiter) = slot.waiter.take() {
                self.lead.wake(waiter);
            }
            return Ok(());
        }
        link.open.remove(at);
        let mismatch = matches!(&end, Err(Loss::Final(error)) if matches!(**error, CallError::Mismatch));
        self.finish(key, end);
        // What else such a server says is worth nothing.
        if mismatch { Err(lost(ProtocolError::UnknownId { id }.into())) } else { Ok(()) }
    }
}

fn lost(error: SessionError) -> Loss {
    Loss::Lost(Arc::new(error))
}

/// What an answer of layout 2 comes to. The connection has checked that it fits its call.
fn answer_2(head: &Head, message: &Received) -> Result<(), Loss> {
    let FrameKind::Error(status) = head.kind else { return Ok(()) };
    let failure = match Frame::decode(head, message.payload()) {
        Ok(Frame::Error { failure, .. }) => failure,
        _ => None,
    };
    Err(CallError::from_answer(status, failure.as_ref()).into())
}

/// The same of layout 1.
fn answer_1(ask: Ask, envelope: &Envelope) -> Result<(), Loss> {
    let Ask::Call { method, batch, .. } = ask else { return Err(CallError::Mismatch.into()) };
    if envelope.code != method {
        return Err(CallError::Mismatch.into());
    }
    match envelope.status {
        Status::OK => {
            let found = envelope.batch.then_some(envelope.item_count);
            if batch.is_some() && found != batch { Err(CallError::Mismatch.into()) } else { Ok(()) }
        }
        Status::LIMIT_EXCEEDED => Err(Loss::Overflow),
        status => Err(CallError::from_answer(status, None).into()),
    }
}
