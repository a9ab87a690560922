//! The calls of one session that have no answer on the wire yet.

use crate::context::Context;
use crate::responder::Answer;
use ginnel_base::Deadline;
use ginnel_wire::{Envelope, Reply};
use std::collections::VecDeque;
use std::time::Instant;

/// One call.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) asked: Asked,
    pub(super) context: Context,
}

/// What is to be answered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    pub(super) envelope: Envelope,
    pub(super) reply: Reply,
}

#[derive(Debug)]
enum Slot {
    Free {
        next: u32,
    },
    Open(Pending),
    /// Answered, and waiting for its turn.
    Answered(Asked, Answer),
}

#[derive(Debug)]
struct Place {
    /// Raised each time that the place is used: a number never comes twice.
    round: u32,
    slot: Slot,
}

/// Calls by number: which place, and the how-many-th call there.
#[derive(Debug)]
pub(super) struct Calls {
    places: Vec<Place>,
    free: u32,
    open: usize,
    /// Numbers in the order of the requests, where answers leave in that order.
    order: Option<VecDeque<u64>>,
    /// No open call has a deadline before this.
    due: Deadline,
}

const NONE: u32 = u32::MAX;

impl Calls {
    /// `in_order`: answers leave in the order of the requests.
    pub(super) fn new(in_order: bool) -> Self {
        Self { places: Vec::new(), free: NONE, open: 0, order: in_order.then(VecDeque::new), due: Deadline::NEVER }
    }

    /// Calls without an answer.
    pub(super) fn open(&self) -> usize {
        self.open
    }

    /// Enters a call; its number.
    pub(super) fn enter(&mut self, pending: Pending) -> u64 {
        let index = if self.free == NONE {
            self.places.push(Place { round: 0, slot: Slot::Free { next: NONE } });
            self.places.len() as u32 - 1
        } else {
            self.free
        };
        let place = &mut self.places[index as usize];
        if let Slot::Free { next } = place.slot {
            self.free = next;
        }
        place.round = place.round.wrapping_add(1);
        let due = pending.context.deadline();
        self.due = if self.open == 0 { due } else { self.due.min(due) };
        place.slot = Slot::Open(pending);
        self.open += 1;
        let number = u64::from(place.round) << 32 | u64::from(index);
        if let Some(order) = &mut self.order {
            order.push_back(number);
        }
        number
    }

    fn place(&mut self, number: u64) -> Option<&mut Place> {
        let place = self.places.get_mut(number as u32 as usize)?;
        (u64::from(place.round) == number >> 32).then_some(place)
    }

    pub(super) fn get(&mut self, number: u64) -> Option<&Pending> {
        match &self.place(number)?.slot {
            Slot::Open(pending) => Some(pending),
            _ => None,
        }
    }

    /// A call is answered: what it was. Nothing happens if it was answered already, or never was.
    pub(super) fn answer(&mut self, number: u64, answer: Answer) -> Option<Asked> {
        let place = self.place(number)?;
        let Slot::Open(pending) = &place.slot else { return None };
        let asked = pending.asked;
        place.slot = Slot::Answered(asked, answer);
        self.open -= 1;
        Some(asked)
    }

    /// Layout 2: the open call with this id.
    pub(super) fn find(&self, id: u64) -> Option<(u64, &Pending)> {
        self.pending()
            .find(|(_, pending)| pending.asked.envelope.message_id == id && pending.asked.reply != Reply::None)
    }

    /// When to look for calls whose time is over; maybe before there is one.
    pub(super) fn due(&self) -> Deadline {
        if self.open == 0 { Deadline::NEVER } else { self.due }
    }

    /// The open calls whose time is over.
    pub(super) fn expired(&mut self, now: Instant) -> Vec<u64> {
        if !self.due().passed_at(now) {
            return Vec::new();
        }
        let over = |pending: &Pending| pending.context.deadline().passed_at(now);
        let left = self.pending().filter(|(_, pending)| !over(pending));
        let due = left.map(|(_, pending)| pending.context.deadline()).fold(Deadline::NEVER, Deadline::min);
        let expired = self.pending().filter(|(_, pending)| over(pending)).map(|(number, _)| number).collect();
        self.due = due;
        expired
    }

    /// The next answer that may leave, with what was asked. `number`: the call that was just answered.
    pub(super) fn next(&mut self, number: u64) -> Option<(Asked, Answer)> {
        let number = match &self.order {
            Some(order) => *order.front()?,
            None => number,
        };
        let place = self.place(number)?;
        if !matches!(place.slot, Slot::Answered(..)) {
            return None;
        }
        let answered = self.free(number);
        if let Some(order) = &mut self.order {
            order.pop_front();
        }
        match answered? {
            Slot::Answered(asked, answer) => Some((asked, answer)),
            _ => None,
        }
    }

    fn free(&mut self, number: u64) -> Option<Slot> {
        let next = self.free;
        let place = self.place(number)?;
        let slot = std::mem::replace(&mut place.slot, Slot::Free { next });
        self.free = number as u32;
        Some(slot)
    }

    /// All calls without an answer.
    pub(super) fn pending(&self) -> impl Iterator<Item = (u64, &Pending)> {
        self.places.iter().enumerate().filter_map(|(index, place)| match &place.slot {
            Slot::Open(pending) => Some((u64::from(place.round) << 32 | index as u64, pending)),
            _ => None,
        })
    }

    /// Gives memory back that an idle session need not hold. Rounds must not start again, so a few places are kept.
    pub(super) fn relax(&mut self) {
        if let Some(order) = &mut self.order
            && order.is_empty()
        {
            *order = VecDeque::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::tests::context;

    fn pending(id: u64) -> Pending {
        let asked = Asked { envelope: Envelope::request(1, id, 0), reply: Reply::One };
        Pending { asked, context: context() }
    }

    fn payload(answer: Option<(Asked, Answer)>) -> Option<(u64, Vec<u8>)> {
        let (asked, answer) = answer?;
        let Answer::Payload(payload) = answer else { panic!("a payload") };
        Some((asked.envelope.message_id, payload))
    }

    #[test]
    fn answers_leave_as_they_come() {
        let mut calls = Calls::new(false);
        let (one, two) = (calls.enter(pending(1)), calls.enter(pending(2)));
        calls.answer(two, Answer::Payload(vec![2]));
        assert_eq!(payload(calls.next(two)), Some((2, vec![2])));
        assert_eq!((payload(calls.next(two)), calls.open()), (None, 1));
        calls.answer(one, Answer::Payload(vec![1]));
        assert_eq!(payload(calls.next(one)), Some((1, vec![1])));
    }

    #[test]
    fn answers_leave_in_the_order_of_requests_where_that_is_asked() {
        let mut calls = Calls::new(true);
        let numbers: Vec<u64> = (0..3).map(|id| calls.enter(pending(id))).collect();
        for number in [numbers[2], numbers[1]] {
            calls.answer(number, Answer::Payload(vec![]));
            assert_eq!(payload(calls.next(number)), None);
        }
        calls.answer(numbers[0], Answer::Payload(vec![]));
        let order: Vec<u64> = std::iter::from_fn(|| payload(calls.next(numbers[0]))).map(|(id, _)| id).collect();
        assert_eq!(order, [0, 1, 2]);
    }

    #[test]
    fn a_call_is_answered_once_and_its_place_is_used_again_under_another_number() {
        let mut calls = Calls::new(false);
        let first = calls.enter(pending(1));
        calls.answer(first, Answer::Payload(vec![1]));
        calls.answer(first, Answer::Payload(vec![9]));
        assert_eq!(payload(calls.next(first)), Some((1, vec![1])));
        let second = calls.enter(pending(2));
        assert_eq!((first as u32, first == second), (second as u32, false));
        calls.answer(first, Answer::Payload(vec![9]));
        assert!(calls.next(first).is_none());
        assert_eq!(calls.get(second).map(|pending| pending.asked.envelope.message_id), Some(2));
        assert_eq!((calls.open(), calls.pending().count()), (1, 1));
    }
}
