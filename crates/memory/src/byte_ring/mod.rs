//! The byte ring: one producer, one consumer, records of any size up to the ring's, each contiguous because the area is
//! mapped twice in a row. A session has two of them, one for each direction, in one sealed memfd ([`RingPair`]).
//!
//! Both sides can write every byte, so both are hostile to each other. Each keeps its position, its copy of the
//! opposite one and the ring's size in private memory, reads each shared word once, and compares.
//!
//! # One line carries flag and payload
//!
//! The consumer polls the flag of the record that it waits for, which lies in front of the payload in the same cache
//! line; there is no index to fetch first. A record that fits a line costs one line transfer, one of 120 bytes two.
//!
//! **B1** *Old bytes are never a record.* The flag's place of the next record is zero before this one is published. The
//! consumer reads a flag only at the end of a published record, so what it finds there is zero or a flag. Payload
//! cannot forge one, whoever chose its bytes. The producer clears the flags' places *ahead*, after it has published:
//! then they are not in the way of the next record, and their lines are already its own when that comes.
//!
//! **B2** *What is free is free.* The producer writes below `consumed + capacity` only; the consumer stores `consumed`
//! (release) after its copy.
//!
//! **B3** *Nothing is lost in sleep.* The one who sleeps announces it, heavy fence, looks again; the other publishes,
//! light fence, looks for the announcement. See [`crate::fence`].

mod consumer;
mod layout;
#[cfg(all(test, loom))]
mod models;
#[cfg(not(loom))]
mod pair;
mod producer;

pub use consumer::{ByteConsumer, Record};
#[cfg(not(loom))]
pub(crate) use layout::BLOCK_WORDS;
pub use layout::{ByteRingError, Shape};
#[cfg(not(loom))]
pub use pair::{LAYOUT, PairSizes, RING_KIND, RingPair, Side};
pub use producer::{ByteProducer, Grant};
