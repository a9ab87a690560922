//! The copy floor: one shared buffer a direction and a sequence word that says whose turn it is. Nothing can be faster
//! that copies a payload in and out; small payloads share the cache line of the sequence word.

use super::{Handoff, Link, LoanLink, Meeting, Plan};
use crate::Outcome;
use crate::sys::{Place, Region, shared_memory};
use std::sync::atomic::{AtomicU64, Ordering};

/// Words that fit beside the sequence word in one line of 64 bytes.
const BESIDE: usize = 7;

/// One direction of the link, as one end sees it.
struct Way<const W: usize> {
    sequence: &'static AtomicU64,
    turn: u64,
    place: Place<W>,
}

impl<const W: usize> Way<W> {
    /// ```text
    /// small:  | sequence | payload .. |           one line
    /// large:  | sequence |   ..       | payload | from the second line on
    /// ```
    fn at(region: Region, start: usize) -> Self {
        let payload = if W <= BESIDE { start + 8 } else { start + 64 };
        Self { sequence: region.word(start), turn: 0, place: region.place(payload) }
    }

    const LEN: usize = 64 + (8 * W).next_multiple_of(64) + 128;
}

/// One end of the copy floor.
pub struct CopyFloor<const W: usize> {
    out: Way<W>,
    back: Way<W>,
    copy: Box<[u64; W]>,
}

impl<const W: usize> CopyFloor<W> {
    fn end(region: Region, parent: bool) -> Self {
        let stride = Way::<W>::LEN.next_multiple_of(256);
        let (there, back) = (Way::at(region, 0), Way::at(region, stride));
        let copy = crate::payload::buffer();
        if parent { Self { out: there, back, copy } } else { Self { out: back, back: there, copy } }
    }

    fn len() -> usize {
        (2 * Way::<W>::LEN.next_multiple_of(256)).next_multiple_of(4096)
    }
}

impl<const W: usize> Meeting for CopyFloor<W> {
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

impl<const W: usize> Link<W> for CopyFloor<W> {
    #[inline(always)]
    fn send(&mut self, message: &[u64; W]) -> Outcome<()> {
        // SAFETY: in a round trip the place is ours from the moment the answer came until the sequence moves.
        unsafe { self.out.place.write(message) };
        self.out.turn += 1;
        self.out.sequence.store(self.out.turn, Ordering::Release);
        Ok(())
    }

    #[inline(always)]
    fn receive(&mut self) -> Outcome<()> {
        self.back.turn += 1;
        while self.back.sequence.load(Ordering::Acquire) != self.back.turn {}
        // SAFETY: the sequence gave the place to us until we answer.
        unsafe { self.back.place.read(&mut self.copy) };
        Ok(())
    }

    #[inline(always)]
    fn received(&self) -> &[u64; W] {
        &self.copy
    }
}

impl<const W: usize> LoanLink<W> for CopyFloor<W> {
    #[inline(always)]
    fn send_in_place(&mut self, number: u64) -> Outcome<()> {
        // SAFETY: as in `send`.
        unsafe { self.out.place.set_ends(number, number) };
        self.out.turn += 1;
        self.out.sequence.store(self.out.turn, Ordering::Release);
        Ok(())
    }

    #[inline(always)]
    fn receive_in_place(&mut self) -> Outcome<(u64, u64)> {
        self.back.turn += 1;
        while self.back.sequence.load(Ordering::Acquire) != self.back.turn {}
        // SAFETY: as in `receive`.
        Ok(unsafe { self.back.place.ends() })
    }
}
