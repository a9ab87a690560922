//! The calls of a session of layout 2 that have no final answer yet, at either end, and what both sides owe each other
//! in them.
//!
//! Ids rise, so a sorted array finds them by bisection whatever a peer chooses, and its size is bounded by the window.

use super::Role;
use crate::error::ProtocolError;
use ginnel_base::Deadline;
use ginnel_wire::{FrameKind, Head, HelloAck2, Reply};

/// What a call gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wants {
    Response,
    Stream,
    Methods,
}

#[derive(Debug)]
pub(super) struct OpenCall {
    pub(super) id: u64,
    pub(super) method: u16,
    pub(super) wants: Wants,
    /// Items of its batch; 0 if it is none.
    pub(super) batch: u32,
    /// Items that may still be sent (server), or come (client).
    pub(super) credit: u32,
    /// Server: its final answer is queued.
    pub(super) answered: bool,
    /// Server: the client has cancelled it. Client: nobody wants its answer, which must come by then.
    pub(super) abandoned: Option<Deadline>,
}

#[derive(Debug)]
pub(super) struct Calls {
    granted: HelloAck2,
    open: Vec<OpenCall>,
    /// The highest id that was used.
    pub(super) last_id: u64,
    abandoned: usize,
    /// The GOAWAY that was sent, and the one that came: the last id.
    pub(super) leaving: Option<u64>,
    pub(super) peer_leaves: Option<u64>,
}

/// Above this, an array that is empty is not worth its memory.
const SMALL: usize = 16;

impl Calls {
    pub(super) fn new(granted: &HelloAck2) -> Self {
        Self { granted: *granted, open: Vec::new(), last_id: 0, abandoned: 0, leaving: None, peer_leaves: None }
    }

    pub(super) fn granted(&self) -> &HelloAck2 {
        &self.granted
    }

    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    pub(super) fn limit(&self) -> usize {
        self.granted.request_window as usize
    }

    pub(super) fn has_room(&self) -> bool {
        self.len() < self.limit()
    }

    pub(super) fn relax(&mut self) {
        if self.open.is_empty() && self.open.capacity() > SMALL {
            self.open = Vec::new();
        }
    }

    fn find(&self, id: u64) -> Option<usize> {
        // Most answers are those of the oldest or the newest call.
        match (self.open.first(), self.open.last()) {
            (Some(first), _) if first.id == id => Some(0),
            (_, Some(last)) if last.id == id => Some(self.open.len() - 1),
            _ => self.open.binary_search_by_key(&id, |call| call.id).ok(),
        }
    }

    pub(super) fn get(&mut self, id: u64) -> Option<&mut OpenCall> {
        self.find(id).map(|at| &mut self.open[at])
    }

    /// A call begins, whose id is above all others.
    pub(super) fn enter(&mut self, head: &Head) {
        self.last_id = head.id;
        let wants = match head.kind {
            FrameKind::Request(Reply::None) => return,
            FrameKind::Request(Reply::Stream) => Wants::Stream,
            FrameKind::Methods => Wants::Methods,
            _ => Wants::Response,
        };
        let credit = if wants == Wants::Stream { self.granted.stream_window } else { 0 };
        let batch = if head.batch { head.items } else { 0 };
        let (id, method) = (head.id, head.method);
        self.open.push(OpenCall { id, method, wants, batch, credit, answered: false, abandoned: None });
    }

    fn remove(&mut self, at: usize) {
        let gone = self.open.remove(at);
        self.abandoned -= usize::from(gone.abandoned.is_some());
    }

    /// Nobody wants the answer of a call any more; it is due by `due`. False if there is no such call, or it was said
    /// before.
    pub(super) fn abandon(&mut self, id: u64, due: Deadline) -> bool {
        let Some(call) = self.get(id).filter(|call| call.abandoned.is_none() && !call.answered) else { return false };
        call.abandoned = Some(due);
        self.abandoned += 1;
        true
    }

    /// Client: when the first of the abandoned calls must have its answer.
    pub(super) fn answer_due(&self) -> Deadline {
        if self.abandoned == 0 {
            return Deadline::NEVER;
        }
        self.open.iter().filter_map(|call| call.abandoned).fold(Deadline::NEVER, Deadline::min)
    }

    /// A lent message was taken back before the peer has seen any of it.
    pub(super) fn withdraw(&mut self, id: u64, role: Role, answers: bool) {
        let Some(at) = self.find(id) else { return };
        match role {
            Role::Client => self.remove(at),
            Role::Server if answers => self.open[at].answered = false,
            Role::Server => {}
        }
    }

    // ---- server ----

    /// A request or a METHODS has come.
    pub(super) fn take(&mut self, head: &Head) -> Result<(), ProtocolError> {
        let (id, last) = (head.id, self.last_id);
        if id <= last {
            return Err(ProtocolError::Id { id, last });
        }
        if self.peer_leaves.is_some() {
            return Err(ProtocolError::AfterGoAway { id });
        }
        let window = self.granted.request_window;
        if head.kind != FrameKind::Request(Reply::None) && !self.has_room() {
            return Err(ProtocolError::Window { id, window });
        }
        self.enter(head);
        Ok(())
    }

    /// The final answer of a call is out.
    pub(super) fn answer_left(&mut self, id: u64) {
        if let Some(at) = self.find(id) {
            self.remove(at);
        }
    }

    /// More items of a call may be sent. False if it is over.
    pub(super) fn add_credit(&mut self, id: u64, items: u32) -> Result<bool, ProtocolError> {
        let Some(call) = self.get(id).filter(|call| call.wants == Wants::Stream && !call.answered) else {
            return Ok(false);
        };
        call.credit = call.credit.checked_add(items).ok_or(ProtocolError::Credit { id })?;
        Ok(true)
    }

    // ---- client ----

    /// An answer has come. Whether somebody wants it.
    pub(super) fn answer(&mut self, head: &Head) -> Result<bool, ProtocolError> {
        let id = head.id;
        let Some(at) = self.find(id) else { return Err(ProtocolError::UnknownId { id }) };
        let call = &mut self.open[at];
        let fits = match head.kind {
            FrameKind::Response => call.wants == Wants::Response,
            FrameKind::Item | FrameKind::End => call.wants == Wants::Stream,
            FrameKind::MethodsAck => call.wants == Wants::Methods,
            _ => true,
        };
        let batch = if head.batch { head.items } else { 0 };
        if !fits || head.kind == FrameKind::Response && batch != call.batch {
            return Err(ProtocolError::Answer { frame: head.kind.name(), id });
        }
        let wanted = call.abandoned.is_none();
        if head.kind == FrameKind::Item {
            call.credit = call.credit.checked_sub(head.items).ok_or(ProtocolError::Credit { id })?;
        } else {
            self.remove(at);
        }
        Ok(wanted)
    }

    /// The peer will leave.
    pub(super) fn go_away(&mut self, last_id: u64, role: Role) -> Result<(), ProtocolError> {
        if let Some(before) = self.peer_leaves
            && last_id > before
        {
            return Err(ProtocolError::GoAwayRaised { before, last_id });
        }
        self.peer_leaves = Some(last_id);
        if role == Role::Client {
            // Not begun: nothing will come for them.
            while self.open.last().is_some_and(|call| call.id > last_id) {
                self.remove(self.open.len() - 1);
            }
        }
        Ok(())
    }
}
