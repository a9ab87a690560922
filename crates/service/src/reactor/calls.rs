//! The calls of one session that have no answer on the wire yet.

use crate::context::Context;
use crate::responder::Answer;
use ginnel_wire::Envelope;
use std::collections::VecDeque;

/// One call.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) envelope: Envelope,
    pub(super) context: Context,
}

#[derive(Debug)]
enum Slot {
    Free {
        next: u32,
    },
    Open(Pending),
    /// Answered, and waiting for its turn.
    Answered(Envelope, Answer),
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
}

const NONE: u32 = u32::MAX;

impl Calls {
    /// `in_order`: answers leave in the order of the requests.
    pub(super) fn new(in_order: bool) -> Self {
        Self { places: Vec::new(), free: NONE, open: 0, order: in_order.then(VecDeque::new) }
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

    /// A call is answered. Nothing happens if it was already, or never was.
    pub(super) fn answer(&mut self, number: u64, answer: Answer) {
        let Some(place) = self.place(number) else { return };
        if let Slot::Open(pending) = &place.slot {
            place.slot = Slot::Answered(pending.envelope, answer);
            self.open -= 1;
        }
    }

    /// The next answer that may leave, with the envelope of its request. `number`: the call that was just answered.
    pub(super) fn next(&mut self, number: u64) -> Option<(Envelope, Answer)> {
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
            Slot::Answered(envelope, answer) => Some((envelope, answer)),
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
        Pending { envelope: Envelope::request(1, id, 0), context: context() }
    }

    fn payload(answer: Option<(Envelope, Answer)>) -> Option<(u64, Vec<u8>)> {
        let (envelope, answer) = answer?;
        let Answer::Payload(payload) = answer else { panic!("a payload") };
        Some((envelope.message_id, payload))
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
        assert_eq!(calls.get(second).map(|pending| pending.envelope.message_id), Some(2));
        assert_eq!((calls.open(), calls.pending().count()), (1, 1));
    }
}
