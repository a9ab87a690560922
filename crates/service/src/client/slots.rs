//! The calls of a client that are not collected yet: where an answer is put, and who is told.
//!
//! A slot is its caller's until the caller gives it back, whatever becomes of the connection: so each call has exactly
//! one outcome, and an answer that comes too late finds nobody.

use super::error::Loss;
use ginnel_base::lead::Waiter;
use ginnel_session::proto::Received;
use ginnel_wire::Reply;
use std::collections::VecDeque;

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ask {
    /// A method, with this many items if the body is a batch.
    Call { method: u16, reply: Reply, batch: Option<u32> },
    /// Which methods there are.
    Methods,
    /// Nothing but a connection.
    Connection,
}

/// A slot, as its caller names it. A slot that was given back has another generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Key {
    at: u32,
    generation: u32,
}

#[derive(Debug)]
pub(super) struct Slot {
    generation: u32,
    /// The connection's serial, and the call's id on it.
    pub(super) serial: u64,
    pub(super) id: u64,
    pub(super) ask: Ask,
    pub(super) answers: VecDeque<Received>,
    /// Nothing more comes.
    pub(super) end: Option<Result<(), Loss>>,
    pub(super) waiter: Option<Waiter>,
}

impl Slot {
    pub(super) fn has_news(&self) -> bool {
        self.end.is_some() || !self.answers.is_empty()
    }
}

#[derive(Debug, Default)]
pub(super) struct Slots {
    slots: Vec<Slot>,
    free: Vec<u32>,
}

impl Slots {
    pub(super) fn open(&mut self, serial: u64, id: u64, ask: Ask) -> Key {
        if let Some(at) = self.free.pop() {
            let slot = &mut self.slots[at as usize];
            (slot.serial, slot.id, slot.ask) = (serial, id, ask);
            return Key { at, generation: slot.generation };
        }
        let at = self.slots.len() as u32;
        self.slots.push(Slot { generation: 0, serial, id, ask, answers: VecDeque::new(), end: None, waiter: None });
        Key { at, generation: 0 }
    }

    pub(super) fn get(&mut self, key: Key) -> Option<&mut Slot> {
        self.slots.get_mut(key.at as usize).filter(|slot| slot.generation == key.generation)
    }

    /// Gives the slot back. What is left in it is dropped.
    pub(super) fn close(&mut self, key: Key) {
        let Some(slot) = self.get(key) else { return };
        slot.generation = slot.generation.wrapping_add(1);
        slot.answers.clear();
        (slot.end, slot.waiter) = (None, None);
        self.free.push(key.at);
    }

    /// All that wait as futures.
    #[cfg(feature = "tokio")]
    pub(super) fn tasks(&mut self) -> impl Iterator<Item = Waiter> {
        self.slots.iter_mut().filter_map(|slot| match &slot.waiter {
            Some(Waiter::Task(_)) => slot.waiter.take(),
            _ => None,
        })
    }
}
