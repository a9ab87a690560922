//! The hand-written ring: one producer, one consumer, fixed slots, both indices on lines of their own, each side with a
//! private copy of the other's index. It checks nothing and trusts everybody: the floor of a stream.
//!
//! ```text
//! byte 0    published: messages that the consumer may read   (producer writes)
//! byte 128  consumed: messages that the producer may overwrite (consumer writes)
//! byte 4096 slots of W words each
//! ```

use super::{Handoff, Meeting, Plan, Receiver, Sender};
use crate::Outcome;
use crate::payload::Source;
use crate::sys::{Place, Region, shared_memory};
use std::hint::black_box;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};

pub struct Ring<const W: usize>(PhantomData<[u64; W]>);

pub struct Producer<const W: usize> {
    published: &'static AtomicU64,
    consumed: &'static AtomicU64,
    slots: Place<W>,
    capacity: u64,
    head: u64,
    seen_consumed: u64,
}

pub struct Consumer<const W: usize> {
    published: &'static AtomicU64,
    consumed: &'static AtomicU64,
    slots: Place<W>,
    capacity: u64,
    tail: u64,
    copy: Box<[u64; W]>,
}

fn len<const W: usize>(plan: &Plan) -> usize {
    (4096 + 8 * W * plan.row.capacity).next_multiple_of(4096)
}

impl<const W: usize> Meeting for Ring<W> {
    type Founded = Producer<W>;
    type Parent = Producer<W>;
    type Child = Consumer<W>;

    fn found(plan: &Plan) -> Outcome<(Producer<W>, Handoff)> {
        let fd = shared_memory(len::<W>(plan))?;
        let region = Region::map(&fd, len::<W>(plan))?;
        let producer = Producer {
            published: region.word(0),
            consumed: region.word(128),
            slots: region.place(4096),
            capacity: plan.row.capacity as u64,
            head: 0,
            seen_consumed: 0,
        };
        Ok((producer, Handoff { fds: vec![fd], ..Handoff::default() }))
    }

    fn join(plan: &Plan, handoff: Handoff, _: usize) -> Outcome<Consumer<W>> {
        let fd = handoff.fds.into_iter().next().ok_or("no memory was handed over")?;
        let region = Region::map(&fd, len::<W>(plan))?;
        Ok(Consumer {
            published: region.word(0),
            consumed: region.word(128),
            slots: region.place(4096),
            capacity: plan.row.capacity as u64,
            tail: 0,
            copy: crate::payload::buffer(),
        })
    }

    fn connect(_: &Plan, founded: Producer<W>) -> Outcome<Producer<W>> {
        Ok(founded)
    }
}

impl<const W: usize> Sender<W> for Producer<W> {
    #[inline(always)]
    fn send_batch(&mut self, count: usize, source: &mut Source<W>) -> Outcome<()> {
        while self.head + count as u64 - self.seen_consumed > self.capacity {
            self.seen_consumed = self.consumed.load(Ordering::Acquire);
        }
        for index in 0..count {
            let slot = (self.head + index as u64) & (self.capacity - 1);
            // SAFETY: the slot is below capacity, and the consumer has left it: exclusive until it is published.
            source.next(|message| unsafe { self.slots.nth(slot as usize).write(message) });
        }
        self.head += count as u64;
        self.published.store(self.head, Ordering::Release);
        Ok(())
    }
}

impl<const W: usize> Receiver<W> for Consumer<W> {
    #[inline(always)]
    fn drain(&mut self, mut take: impl FnMut(&[u64; W])) -> Outcome<()> {
        let published = loop {
            let published = self.published.load(Ordering::Acquire);
            if published != self.tail {
                break published;
            }
        };
        // Space is given back in portions, so that the line of `consumed` does not travel with every message.
        let portion = published.min(self.tail + self.capacity / 4);
        while self.tail < portion {
            let slot = self.tail & (self.capacity - 1);
            // SAFETY: the slot is below capacity; published and not yet given back: ours to read.
            unsafe { self.slots.nth(slot as usize).read(&mut self.copy) };
            take(black_box(&self.copy));
            self.tail += 1;
        }
        self.consumed.store(self.tail, Ordering::Release);
        Ok(())
    }
}
