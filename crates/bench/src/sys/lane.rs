//! One direction of shared memory: a ring of fixed cells, one writer, one reader.
//!
//! ```text
//! byte 0     taken: u64          messages read so far      (the reader writes)
//!      128   reader asleep: u32  futex word                (the reader sets it, the writer clears it)
//!      192   writer asleep: u32  futex word                (the writer sets it, the reader clears it)
//!      256   cells: full: u64, then the message            (the writer writes)
//! ```
//! Message number n lies in cell n modulo the number of cells. Its `full` word is n + 1 when it is there, and shares a
//! cache line with the beginning of the message, so one line carries flag and data. The turn (B3) of a cell is the
//! writer's while n - taken < cells, and the reader's once `full` is n + 1.

use super::Region;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering, fence};

const READER_ASLEEP: usize = 128;
const WRITER_ASLEEP: usize = 192;
const CELLS: usize = 256;

/// How many cells there are, and how large a message may be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) cells: usize,
    pub(crate) message: usize,
}

impl Shape {
    fn stride(self) -> usize {
        (8 + self.message).next_multiple_of(64)
    }

    /// Bytes of shared memory.
    pub(crate) fn bytes(self) -> usize {
        CELLS + self.cells * self.stride()
    }

    fn cell(self, number: u64) -> usize {
        CELLS + (number as usize & (self.cells - 1)) * self.stride()
    }
}

/// The mapping of a lane. `shape.cells` is a power of two.
#[derive(Debug, Clone)]
struct Lane {
    region: Arc<Region>,
    shape: Shape,
}

impl Lane {
    fn map(memory: impl AsFd, shape: Shape) -> io::Result<Self> {
        assert!(shape.cells.is_power_of_two());
        Ok(Self { region: Arc::new(Region::map(memory, shape.bytes())?), shape })
    }
}

/// The word on which one side of a lane sleeps, for threads and wakers.
#[derive(Debug, Clone)]
pub(crate) struct Asleep {
    region: Arc<Region>,
    at: usize,
}

impl Asleep {
    pub(crate) fn word(&self) -> &AtomicU32 {
        self.region.half_word(self.at)
    }

    /// Says that this side will sleep. The caller looks once more before it does.
    pub(crate) fn arm(&self) {
        self.word().store(1, Ordering::Relaxed);
        // SYNC lane.sleep: either the other side sees the word, or this side sees what it has written.
        fence(Ordering::SeqCst);
    }

    pub(crate) fn disarm(&self) {
        self.word().store(0, Ordering::Relaxed);
    }

    /// Whether the other side sleeps and must be woken, which is then the caller's to do.
    pub(crate) fn claim(&self) -> bool {
        // SYNC lane.sleep
        fence(Ordering::SeqCst);
        self.word().load(Ordering::Relaxed) != 0 && self.word().swap(0, Ordering::Relaxed) != 0
    }
}

/// The end that writes. There is one in all processes.
#[derive(Debug)]
pub(crate) struct Sender {
    lane: Lane,
    next: u64,
    /// Of `taken`, as it was seen last.
    taken: u64,
}

/// The end that reads. There is one in all processes.
#[derive(Debug)]
pub(crate) struct Receiver {
    lane: Lane,
    next: u64,
}

impl Sender {
    /// The only sender of this memory.
    pub(crate) fn new(memory: impl AsFd, shape: Shape) -> io::Result<Self> {
        Ok(Self { lane: Lane::map(memory, shape)?, next: 0, taken: 0 })
    }

    /// Writes a message of at most the lane's size, unless all cells are full.
    #[inline]
    pub(crate) fn try_send(&mut self, message: &[u8]) -> bool {
        let Lane { region, shape } = &self.lane;
        assert!(message.len() <= shape.message);
        if self.next - self.taken == shape.cells as u64 {
            // SYNC lane.taken: pairs with the reader's store, after which it does not read the cell.
            self.taken = region.word(0).load(Ordering::Acquire).min(self.next);
            if self.next - self.taken >= shape.cells as u64 {
                return false;
            }
        }
        let cell = shape.cell(self.next);
        // SAFETY: B3: the cell is the writer's turn, and there is one sender.
        unsafe { region.write(cell + 8, message) };
        self.next += 1;
        // SYNC lane.full: pairs with the reader's load.
        region.word(cell).store(self.next, Ordering::Release);
        true
    }

    /// Where this end sleeps when all cells are full.
    pub(crate) fn own(&self) -> Asleep {
        Asleep { region: Arc::clone(&self.lane.region), at: WRITER_ASLEEP }
    }

    /// Where the reader sleeps.
    pub(crate) fn other(&self) -> Asleep {
        Asleep { region: Arc::clone(&self.lane.region), at: READER_ASLEEP }
    }
}

impl Receiver {
    /// The only receiver of this memory.
    pub(crate) fn new(memory: impl AsFd, shape: Shape) -> io::Result<Self> {
        Ok(Self { lane: Lane::map(memory, shape)?, next: 0 })
    }

    /// Copies the first bytes of the next message out, if there is one.
    #[inline]
    pub(crate) fn try_recv(&mut self, message: &mut [u8]) -> bool {
        let Lane { region, shape } = &self.lane;
        let cell = shape.cell(self.next);
        // SYNC lane.full: pairs with the writer's store.
        if region.word(cell).load(Ordering::Acquire) != self.next + 1 {
            return false;
        }
        let len = message.len().min(shape.message);
        // SAFETY: B3: the cell is the reader's turn, and there is one receiver.
        unsafe { region.read(cell + 8, &mut message[..len]) };
        self.next += 1;
        // SYNC lane.taken: pairs with the writer's load.
        region.word(0).store(self.next, Ordering::Release);
        true
    }

    /// Where this end sleeps when there is no message.
    pub(crate) fn own(&self) -> Asleep {
        Asleep { region: Arc::clone(&self.lane.region), at: READER_ASLEEP }
    }

    /// Where the writer sleeps.
    pub(crate) fn other(&self) -> Asleep {
        Asleep { region: Arc::clone(&self.lane.region), at: WRITER_ASLEEP }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_arrive_in_order_and_a_full_lane_takes_none() {
        for cells in [1, 4] {
            let shape = Shape { cells, message: 100 };
            let memory = crate::page::shared_memory(shape.bytes()).unwrap();
            let mut sender = Sender::new(&memory, shape).unwrap();
            let mut receiver = Receiver::new(&memory, shape).unwrap();
            let mut got = [0; 100];
            for round in 0..10u8 {
                assert!(!receiver.try_recv(&mut got));
                for number in 0..cells as u8 {
                    assert!(sender.try_send(&[round * 16 + number; 100]));
                }
                assert!(!sender.try_send(&[0; 100]), "{cells} cells are full");
                for number in 0..cells as u8 {
                    assert!(receiver.try_recv(&mut got));
                    assert_eq!(got, [round * 16 + number; 100]);
                }
            }
        }
    }

    #[test]
    fn a_sleeper_is_claimed_once() {
        let shape = Shape { cells: 1, message: 8 };
        let memory = crate::page::shared_memory(shape.bytes()).unwrap();
        let (sender, receiver) = (Sender::new(&memory, shape).unwrap(), Receiver::new(&memory, shape).unwrap());
        assert!(!sender.other().claim());
        receiver.own().arm();
        assert!(sender.other().claim() && !sender.other().claim());
    }
}
