//! The copy floor: a shared buffer a direction and a sequence word that says whose turn it is; small payloads share the
//! cache line of the sequence word. With one buffer it is the least that copying in and out can cost; with several, one
//! after the other, the least that a ring can cost, which must not write where the newest record still is.

use super::{Handoff, Link, LoanLink, Meeting, Plan};
use crate::Outcome;
use crate::sys::{Place, Region, shared_memory};
use std::sync::atomic::{AtomicU64, Ordering};

/// Words that fit beside the sequence word in one line of 64 bytes.
const BESIDE: usize = 7;

/// One direction of the link, as one end sees it.
struct Way<const W: usize, const N: usize> {
    sequence: &'static AtomicU64,
    turn: u64,
    places: [Place<W>; N],
}

impl<const W: usize, const N: usize> Way<W, N> {
    const STRIDE: usize = (8 * W).next_multiple_of(64);
    const LEN: usize = (64 + N * Self::STRIDE + 128).next_multiple_of(256);

    /// ```text
    /// small:  | sequence | payload .. |           one line
    /// large:  | sequence |   ..       | payload | payload | .. from the second line on
    /// ```
    fn at(region: Region, start: usize) -> Self {
        let payload = if W <= BESIDE { start + 8 } else { start + 64 };
        let places = std::array::from_fn(|index| region.place(payload + index * Self::STRIDE));
        Self { sequence: region.word(start), turn: 0, places }
    }

    /// Where the payload of this turn lies.
    #[inline(always)]
    fn place(&self) -> Place<W> {
        self.places[self.turn as usize % N]
    }

    #[inline(always)]
    fn announce(&mut self) {
        self.turn += 1;
        self.sequence.store(self.turn, Ordering::Release);
    }

    /// Waits for the payload of the next turn.
    #[inline(always)]
    fn wait(&mut self) -> Place<W> {
        let place = self.place();
        self.turn += 1;
        while self.sequence.load(Ordering::Acquire) != self.turn {}
        place
    }
}

/// One end of the copy floor.
pub struct CopyFloor<const W: usize, const N: usize> {
    out: Way<W, N>,
    back: Way<W, N>,
    copy: Box<[u64; W]>,
}

impl<const W: usize, const N: usize> CopyFloor<W, N> {
    fn end(region: Region, parent: bool) -> Self {
        let (there, back) = (Way::at(region, 0), Way::at(region, Way::<W, N>::LEN));
        let copy = crate::payload::buffer();
        if parent { Self { out: there, back, copy } } else { Self { out: back, back: there, copy } }
    }

    fn len() -> usize {
        (2 * Way::<W, N>::LEN).next_multiple_of(4096)
    }
}

impl<const W: usize, const N: usize> Meeting for CopyFloor<W, N> {
    type Founded = Self;
    type Parent = Self;
    type Child = Self;

    fn found(_: &Plan) -> Outcome<(Self, Handoff)> {
        let fd = shared_memory(Self::len())?;
        let end = Self::end(Region::map(&fd, Self::len())?, true);
        Ok((end, Handoff { fds: vec![fd], ..Handoff::default() }))
    }

    fn join(_: &Plan, handoff: Handoff, _: usize) -> Outcome<Self> {
        let fd = handoff.fds.into_iter().next().ok_or("no memory was handed over")?;
        Ok(Self::end(Region::map(&fd, Self::len())?, false))
    }

    fn connect(_: &Plan, founded: Self) -> Outcome<Self> {
        Ok(founded)
    }
}

impl<const W: usize, const N: usize> Link<W> for CopyFloor<W, N> {
    #[inline(always)]
    fn send(&mut self, message: &[u64; W]) -> Outcome<()> {
        // SAFETY: in a round trip the place is ours from the moment the answer came until the sequence moves.
        unsafe { self.out.place().write(message) };
        self.out.announce();
        Ok(())
    }

    #[inline(always)]
    fn receive(&mut self) -> Outcome<()> {
        let place = self.back.wait();
        // SAFETY: the sequence gave the place to us until we answer.
        unsafe { place.read(&mut self.copy) };
        Ok(())
    }

    #[inline(always)]
    fn received(&self) -> &[u64; W] {
        &self.copy
    }
}

impl<const W: usize, const N: usize> LoanLink<W> for CopyFloor<W, N> {
    #[inline(always)]
    fn send_in_place(&mut self, number: u64) -> Outcome<()> {
        // SAFETY: as in `send`.
        unsafe { self.out.place().set_ends(number, number) };
        self.out.announce();
        Ok(())
    }

    #[inline(always)]
    fn receive_in_place(&mut self) -> Outcome<(u64, u64)> {
        let place = self.back.wait();
        // SAFETY: as in `receive`.
        Ok(unsafe { place.ends() })
    }
}

/// The newest value in one process: written through one mapping and read through another, as by two processes, because
/// a processor forwards a store less well to a load of another address.
pub struct Newest {
    written: Way<8, 1>,
    read: Way<8, 1>,
    copy: Box<[u64; 8]>,
}

impl super::Newest for Newest {
    fn create(_: &Plan) -> Outcome<Self> {
        let fd = shared_memory(4096)?;
        let (written, read) = (Region::map(&fd, 4096)?, Region::map(&fd, 4096)?);
        Ok(Self { written: Way::at(written, 0), read: Way::at(read, 0), copy: crate::payload::buffer() })
    }

    #[inline(always)]
    fn write(&mut self, value: &[u64; 8]) -> Outcome<()> {
        // SAFETY: this one thread writes and reads by turns.
        unsafe { self.written.place().write(value) };
        self.written.announce();
        Ok(())
    }

    #[inline(always)]
    fn read(&mut self) -> Outcome<&[u64; 8]> {
        let place = self.read.wait();
        // SAFETY: as in `write`.
        unsafe { place.read(&mut self.copy) };
        Ok(&self.copy)
    }
}
