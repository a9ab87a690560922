//! A reader's side of a ring.

use super::control::{ATTENTION_JOINED, Control};
use super::layout::{CLAIM, CLOSED, FENCED, Geometry, LAST, MARK, MAX_POSITION, Mode, NO_RECORD, Place, TAIL, WAITING};
#[cfg(not(loom))]
use crate::fence::UNSURE_NAP_MS;
use crate::fence::{Heavy, heavy, light};
use crate::sync::{Ordering, fence};
use crate::words::Words;

/// Where a new reader begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Start {
    /// At the oldest record that is still there.
    #[default]
    Oldest,
    /// Behind the newest record: only what is published from now on.
    Latest,
}

/// Why a reader did not get a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It was overtaken and continues at a later record.
    Lagged {
        /// Records that it missed.
        skipped: u64,
    },
    /// The file under the ring was shrunk.
    Truncated,
    /// The system has no memory for a copy of the record, which is still there.
    NoMemory {
        /// Its length.
        len: usize,
    },
    /// A record is longer than the ring allows: the writer is broken or hostile.
    Length {
        /// What the record says.
        len: u64,
    },
    /// The ring's positions make no sense: the writer is broken or hostile.
    Position {
        /// The impossible position or number.
        value: u64,
    },
}

/// One reader of a ring.
#[derive(Debug)]
pub struct Consumer {
    geometry: Geometry,
    head: Words,
    data: Words,
    control: Control,
    slot: usize,
    token: u64,
    at: Place,
    /// Where records are bare: everything below was published when this reader last looked.
    published: u64,
    flushed: u64,
    /// Where the last record that was taken begins; `at` itself where there is none.
    from: u64,
    missed: u64,
    /// How often in a row the newest value was announced and not there.
    stalls: u32,
}

impl Consumer {
    /// How often a look is repeated when the writer is faster: each is a few loads.
    const TRIES: u32 = if cfg!(loom) {
        3
    } else if cfg!(fuzzing) {
        100 // a fuzzer makes hopeless looks by the million
    } else {
        10_000
    };
    /// How often a join is tried again. After the first ones come naps, half a second in all: a writer that was
    /// suspended within its change of mark gets on with it.
    const JOINS: u32 = if cfg!(loom) {
        3
    } else if cfg!(fuzzing) {
        100
    } else {
        5_000
    };

    /// A reader in `slot`, which it has claimed as `token`. `None` if the words are smaller than the geometry says, or
    /// there is no such slot.
    #[must_use]
    pub fn new(
        geometry: Geometry,
        head: Words,
        data: Words,
        control: Control,
        slot: usize,
        token: u64,
    ) -> Option<Self> {
        let words = data.len() as u64 * 8;
        if words < geometry.capacity * if geometry.mirror() { 2 } else { 1 } || slot >= control.slots() {
            return None;
        }
        let (at, published, flushed, from, missed, stalls) = (Place::START, 0, 0, 0, 0, 0);
        Some(Self { geometry, head, data, control, slot, token, at, published, flushed, from, missed, stalls })
    }

    /// Chooses the first record and announces the reader. What `connect` does (telling the writer where to find the
    /// reader) happens between the announcement of the cursor and that of the reader.
    pub fn join<E>(&mut self, start: Start, connect: impl FnOnce() -> Result<(), E>) -> Result<Result<(), Fault>, E> {
        self.choose(start);
        if self.geometry.mode != Mode::Lossless {
            // Begins here and nowhere else: what is overwritten from now on is a lag, of which the first read tells.
            // Only a place that was overwritten while it was chosen is chosen anew (a writer may stay faster than that,
            // too).
            for attempt in 0..Self::JOINS {
                if !self.overtaken(self.at.pos) {
                    break;
                }
                pause(attempt);
                self.choose(start);
            }
            self.control.set_cursor(self.slot, self.at.pos, self.at.seq);
            connect()?;
            self.control.raise(ATTENTION_JOINED);
            return Ok(Ok(()));
        }
        self.control.set_cursor(self.slot, self.at.pos, self.at.seq);
        connect()?;
        for attempt in 0..Self::JOINS {
            self.control.raise(ATTENTION_JOINED);
            // Dekker with `Producer::claim`: it stores the claim, passes its light fence, and looks for the bit.
            if heavy() == Heavy::Unsure {
                // A claim that was made without the bit being seen is out by then.
                #[cfg(not(loom))]
                std::thread::sleep(std::time::Duration::from_millis(UNSURE_NAP_MS));
            }
            // SYNC ring.claim: Acquire, so that the next choice is never an older one; the writer takes that for
            // madness.
            if self.head.load(CLAIM, Ordering::Acquire) <= self.at.pos + self.geometry.capacity {
                return Ok(Ok(()));
            }
            pause(attempt);
            self.choose(start);
            self.control.set_cursor(self.slot, self.at.pos, self.at.seq);
        }
        Ok(Err(Fault::Position { value: self.at.pos }))
    }

    fn choose(&mut self, start: Start) {
        let last = self.head.load(LAST, Ordering::Acquire);
        if last == NO_RECORD {
            self.at = Place::START;
        } else {
            let at = if start == Start::Latest { last } else { self.head.load(TAIL, Ordering::Acquire) };
            // An anchor that is overwritten at this moment leaves us where we are: the caller's check sends us here
            // again.
            if let Some(seq) = self.number_at(at) {
                self.move_to(at, seq);
                if start == Start::Latest
                    && let Some(len) = self.length_at(at, seq)
                {
                    self.move_to(at + self.geometry.record_bytes(self.geometry.word(at, seq), len), seq + 1);
                }
            }
        }
        self.flushed = self.at.pos;
    }

    fn move_to(&mut self, pos: u64, seq: u64) {
        self.at = Place::new(&self.geometry, pos, seq);
        self.from = pos;
    }

    /// The number of the record at `pos`, if it is still whole.
    fn number_at(&self, pos: u64) -> Option<u64> {
        if pos > MAX_POSITION {
            return None;
        }
        if let Some(seq) = self.geometry.fixed_seq(pos) {
            return Some(seq);
        }
        if !pos.is_multiple_of(16) {
            return None;
        }
        let flag = self.data.load(self.geometry.word(pos, 0), Ordering::Acquire);
        fence(Ordering::Acquire);
        ((1..MAX_POSITION).contains(&flag) && !self.overtaken(pos)).then(|| flag - 1)
    }

    fn length_at(&self, pos: u64, seq: u64) -> Option<usize> {
        if self.geometry.fixed.is_some() {
            return self.geometry.fixed;
        }
        let len = self.data.load(self.geometry.word(pos, seq) + 1, Ordering::Relaxed);
        fence(Ordering::Acquire);
        (len <= self.geometry.max_record as u64 && !self.overtaken(pos)).then_some(len as usize)
    }

    #[inline(always)]
    fn overtaken(&self, pos: u64) -> bool {
        self.head.load(MARK, Ordering::Relaxed) > pos + self.geometry.capacity
    }

    /// The ring's shape.
    #[must_use]
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// The number of the next record.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.at.seq
    }

    /// Records missed so far.
    #[must_use]
    pub fn missed(&self) -> u64 {
        self.missed
    }

    /// How many bytes are published and not yet read.
    #[must_use]
    pub fn lag_bytes(&self) -> u64 {
        match self.head.load(LAST, Ordering::Relaxed) {
            NO_RECORD => 0,
            last => (last + 1).saturating_sub(self.at.pos),
        }
    }

    /// One more than the position of the newest record, 0 before the first: below it the next record is there.
    #[inline(always)]
    fn announced(&self, order: Ordering) -> u64 {
        const _: () = assert!(NO_RECORD.wrapping_add(1) == 0);
        self.head.load(LAST, order).wrapping_add(1)
    }

    /// Whether the next record is there. One load, where records have flags of the line that will carry it.
    #[inline(always)]
    #[must_use]
    pub fn ready(&self) -> bool {
        if self.geometry.mode == Mode::Latest {
            let last = self.head.load(LAST, Ordering::Relaxed);
            return last != NO_RECORD && last >= self.at.pos;
        }
        if self.geometry.bare() {
            return self.at.pos < self.published || self.at.pos < self.announced(Ordering::Relaxed);
        }
        self.data.load(self.at.word, Ordering::Relaxed) == self.at.seq + 1
    }

    /// The length of the next record, `None` if there is none yet.
    ///
    /// The record may be overwritten at any time: copy it with [`take`](Self::take), which tells.
    #[inline(always)]
    pub fn peek(&mut self) -> Result<Option<usize>, Fault> {
        if self.geometry.mode == Mode::Latest && !self.skip_to_last()? {
            return if self.truncated() { Err(Fault::Truncated) } else { Ok(None) };
        }
        if self.geometry.bare() {
            return if self.at.pos < self.published { Ok(self.geometry.fixed) } else { self.look() };
        }
        let word = self.at.word;
        // SYNC ring.flag
        if self.data.load(word, Ordering::Acquire) != self.at.seq + 1 {
            return self.absent();
        }
        if let Some(len) = self.geometry.fixed {
            return Ok(Some(len));
        }
        let len = self.data.load(word + 1, Ordering::Relaxed);
        if len > self.geometry.max_record as u64 {
            return Err(self.too_long(len));
        }
        Ok(Some(len as usize))
    }

    /// Looks how much is published, where records are bare.
    #[inline]
    fn look(&mut self) -> Result<Option<usize>, Fault> {
        let published = self.announced(Ordering::Acquire); // SYNC ring.last
        if published <= self.at.pos {
            return self.absent();
        }
        // The mark goes ahead of every record, so more than the capacity is there only for a reader that was overtaken.
        // A writer that says so without having marked it would be believed for ever, even once it is dead.
        if published > self.at.pos + self.geometry.capacity {
            fence(Ordering::Acquire);
            return Err(if self.overtaken(self.at.pos) {
                self.resync()?
            } else {
                Fault::Position { value: published }
            });
        }
        if self.truncated() {
            return Err(Fault::Truncated);
        }
        self.published = published;
        Ok(self.geometry.fixed)
    }

    #[cold]
    fn too_long(&mut self, len: u64) -> Fault {
        fence(Ordering::Acquire);
        if self.overtaken(self.at.pos) { self.resync().unwrap_or_else(|fault| fault) } else { Fault::Length { len } }
    }

    #[inline(never)]
    fn absent(&mut self) -> Result<Option<usize>, Fault> {
        fence(Ordering::Acquire);
        if self.overtaken(self.at.pos) && self.geometry.mode != Mode::Latest {
            return Err(self.resync()?);
        }
        if self.truncated() {
            return Err(Fault::Truncated);
        }
        if self.geometry.mode != Mode::Latest {
            self.lost()?;
        }
        if self.geometry.mode == Mode::Latest && self.ready() {
            // The writer has replaced it meanwhile: look again, but not for ever. One that never delivers what it
            // announces would keep us from sleeping, and from noticing its end.
            self.stalls += 1;
            if self.stalls > Self::TRIES {
                return Err(Fault::Position { value: self.at.pos });
            }
        }
        Ok(None)
    }

    /// Whether what is published contradicts that the next record is not there: a length or a flag was not the
    /// writer's. Waiting would be waiting for ever.
    fn lost(&self) -> Result<(), Fault> {
        // SYNC ring.last: Acquire, so that the flags up to there are seen by the second look.
        let last = self.head.load(LAST, Ordering::Acquire);
        if last == NO_RECORD || last <= self.from && last != self.at.pos || self.ready() {
            return Ok(());
        }
        // It may have been overwritten meanwhile: the next look tells.
        fence(Ordering::Acquire);
        if self.overtaken(self.at.pos) { Ok(()) } else { Err(Fault::Position { value: last }) }
    }

    /// Moves on to the newest value; says whether it is newer than the last one that was taken.
    #[inline(always)]
    fn skip_to_last(&mut self) -> Result<bool, Fault> {
        let last = self.head.load(LAST, Ordering::Acquire);
        if last == self.at.pos {
            return Ok(true); // nothing was missed: its number needs no division
        }
        if last == NO_RECORD || last < self.at.pos {
            return Ok(false);
        }
        self.skip_to(last)
    }

    #[inline(never)]
    fn skip_to(&mut self, mut last: u64) -> Result<bool, Fault> {
        for _ in 0..Self::TRIES {
            if let Some(seq) = self.number_at(last) {
                if seq < self.at.seq {
                    return Err(Fault::Position { value: seq });
                }
                // Every newer value that was never taken counts, so that `missed` and what was taken make up the
                // sequence.
                self.missed += seq - self.at.seq;
                self.move_to(last, seq);
                return Ok(true);
            }
            if self.truncated() {
                return Err(Fault::Truncated);
            }
            pause(0);
            last = self.head.load(LAST, Ordering::Acquire);
            if last == NO_RECORD || last < self.at.pos {
                return Ok(false);
            }
        }
        Err(Fault::Position { value: self.at.pos })
    }

    /// Copies the record that [`peek`](Self::peek) announced, `out.len()` bytes of it, and moves on. The fault says why
    /// the copy must not be used.
    ///
    /// # Panics
    ///
    /// If the ring has no records of `out.len()` bytes.
    #[inline]
    pub fn take(&mut self, out: &mut [u8]) -> Result<(), Fault> {
        self.check_len(out.len());
        self.data.copy_out(self.geometry.payload(self.at.word, out.len()), crate::words::as_uninit(out));
        self.finish(out.len())
    }

    /// Like [`take`](Self::take), but the record that [`peek`](Self::peek) announced and those of the ring's fixed size
    /// that follow it, one behind the other: as many of `most` as are there, up to a sixteenth of the ring. Says how
    /// many. A fault concerns all of them: nothing of the copy must be used.
    ///
    /// # Panics
    ///
    /// If `out` is shorter than `most` records.
    #[inline]
    pub fn take_many(&mut self, out: &mut [u8], most: usize) -> Result<usize, Fault> {
        let len = self.geometry.max_record;
        let out = &mut out[..most.checked_mul(len).expect("more records than memory holds")];
        let mut most = most.min(if self.geometry.mode == Mode::Latest { 1 } else { self.geometry.run() });
        if self.geometry.bare() {
            let there = self.published.saturating_sub(self.at.pos).div_ceil(self.geometry.slot_bytes());
            most = most.min(there as usize);
        }
        let (mut at, mut done) = (self.at, 0);
        while done < most {
            // SYNC ring.flag (`peek` has seen the first one's)
            if done > 0 && !self.geometry.bare() && self.data.load(at.word, Ordering::Acquire) != at.seq + 1 {
                break;
            }
            let run = self.geometry.contiguous(at.word, most - done);
            let room = &mut out[done * len..(done + run) * len];
            self.data.copy_out(self.geometry.payload(at.word, len), crate::words::as_uninit(room));
            at.advance_many(&self.geometry, run);
            done += run;
        }
        self.confirm()?;
        if done > 0 {
            self.from = at.pos - self.geometry.slot_bytes();
        }
        self.at = at;
        Ok(done)
    }

    /// Like [`take`](Self::take), into a vector that becomes exactly the record. It grows but never shrinks.
    ///
    /// # Panics
    ///
    /// If the ring has no records of `len` bytes.
    pub fn take_vec(&mut self, len: usize, out: &mut Vec<u8>) -> Result<(), Fault> {
        self.check_len(len);
        out.clear();
        // The length is the writer's word: what is too much must not end this process.
        if out.capacity() < len && out.try_reserve(len).is_err() {
            return Err(Fault::NoMemory { len });
        }
        self.data.copy_to_vec(self.geometry.payload(self.at.word, len), len, out);
        self.finish(len)
    }

    /// Borrows the record that [`peek`](Self::peek) announced. Call [`release`](Self::release) with its length
    /// afterwards.
    ///
    /// # Panics
    ///
    /// If the ring has no records of `len` bytes.
    #[cfg(not(loom))]
    #[must_use]
    pub fn borrow(&self, trust: crate::Trust, len: usize) -> &[u8] {
        self.check_len(len);
        self.data.borrow(trust, self.geometry.payload(self.at.word, len), len)
    }

    #[cfg(all(test, loom))]
    pub(super) fn borrow(&self, trust: crate::Trust, len: usize) -> crate::lent::Borrow {
        self.check_len(len);
        self.data.borrow(trust, self.geometry.payload(self.at.word, len), len)
    }

    /// The bytes of a record as somebody sees them who borrows it against the promise.
    #[cfg(all(test, loom))]
    pub(super) fn bytes(&self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.data.copy_to_vec(self.geometry.payload(self.at.word, len), len, &mut bytes);
        bytes
    }

    /// Moves on behind a borrowed record; the fault says that it was overwritten meanwhile.
    ///
    /// # Panics
    ///
    /// If the ring has no records of `len` bytes.
    pub fn release(&mut self, len: usize) -> Result<(), Fault> {
        self.check_len(len);
        self.finish(len)
    }

    #[inline(always)]
    fn check_len(&self, len: usize) {
        assert!(self.geometry.allows(len), "the ring has no record of this length");
    }

    #[inline(always)]
    fn finish(&mut self, len: usize) -> Result<(), Fault> {
        self.confirm()?;
        self.from = self.at.pos;
        self.at.advance(&self.geometry, self.geometry.record_bytes(self.at.word, len));
        Ok(())
    }

    /// Makes sure that what was copied from here on was not overwritten meanwhile.
    #[inline(always)]
    fn confirm(&mut self) -> Result<(), Fault> {
        fence(Ordering::Acquire); // SYNC ring.mark: the copy comes before the look at the mark
        if self.overtaken(self.at.pos) {
            return Err(self.resync()?);
        }
        if self.data.truncated() {
            self.published = 0; // the next look tells, too
            return Err(Fault::Truncated);
        }
        self.stalls = 0;
        Ok(())
    }

    /// Finds the oldest whole record after being overtaken; returns how many were missed, as a fault to report.
    #[cold]
    fn resync(&mut self) -> Result<Fault, Fault> {
        fence(Ordering::Acquire); // SYNC ring.tail: the tail that belongs to the mark that was seen, or a later one
        for _ in 0..Self::TRIES {
            let tail = self.head.load(TAIL, Ordering::Acquire);
            if let Some(seq) = self.number_at(tail)
                && !self.overtaken(tail)
            {
                if tail < self.at.pos || seq < self.at.seq {
                    return Err(Fault::Position { value: tail });
                }
                let skipped = seq - self.at.seq;
                self.move_to(tail, seq);
                self.missed += skipped;
                self.control.set_missed(self.slot, self.missed);
                self.flush();
                return Ok(Fault::Lagged { skipped });
            }
            if self.truncated() {
                return Err(Fault::Truncated);
            }
            pause(0);
        }
        Err(Fault::Position { value: self.at.pos })
    }

    /// Whether enough was read since the last [`flush`](Self::flush) to be worth telling.
    #[inline(always)]
    #[must_use]
    pub fn should_flush(&self) -> bool {
        self.at.pos - self.flushed >= self.geometry.step()
    }

    /// Publishes the cursor: releases what was read. Says whether the writer waits for it and must be told.
    pub fn flush(&mut self) -> bool {
        if self.flushed == self.at.pos {
            return false;
        }
        self.flushed = self.at.pos;
        if self.geometry.mode == Mode::Latest {
            self.control.set_missed(self.slot, self.missed);
        }
        self.control.set_cursor(self.slot, self.at.pos, self.at.seq);
        if self.geometry.mode != Mode::Lossless {
            return false;
        }
        light(); // pairs with `Producer::start_waiting`
        self.head.load(WAITING, Ordering::Relaxed) != 0
    }

    /// Whether the writer has closed the ring. Read what is left before giving up.
    #[must_use]
    pub fn closed(&self) -> bool {
        self.head.load(CLOSED, Ordering::Acquire) != 0 // SYNC ring.closed
    }

    /// Announces that this reader is about to sleep, against every look of the writer for sleepers. Follow it with a
    /// look at [`ready`](Self::ready).
    pub fn arm(&self) -> Heavy {
        self.control.arm(self.slot);
        if self.writer_fences() { Heavy::Done } else { heavy() }
    }

    /// Whether the writer sees, by a fence of its own, what was announced before.
    pub(super) fn writer_fences(&self) -> bool {
        fence(Ordering::SeqCst); // pairs with the fences in `Producer::wanted_behind_a_fence` and `Producer::set_fenced`
        self.head.load(FENCED, Ordering::Acquire) == 1 // SYNC ring.fenced
    }

    /// Whether the writer has this reader's connection.
    #[must_use]
    pub fn welcomed(&self) -> bool {
        self.control.welcomed(self.slot, self.token)
    }

    /// Makes the writer look around: for its readers, and whether its memory is whole.
    pub fn alert(&self) {
        self.control.raise(ATTENTION_JOINED);
    }

    /// Takes the announcement back.
    pub fn disarm(&self) {
        self.control.disarm(self.slot);
    }

    /// Records this process as the reader: for a slot that was claimed on its behalf.
    pub fn sign(&self) {
        self.control.sign(self.slot, crate::identity::Identity::own());
    }

    /// Whether the writer waits for space: then it must be told of a cursor that has moved.
    #[must_use]
    pub fn writer_waits(&self) -> bool {
        self.head.load(WAITING, Ordering::Relaxed) != 0
    }

    /// Continues where the slot's cursor stands: for a reader whose slot somebody claimed and placed for it.
    pub fn resume(&mut self) {
        let (cursor, sequence) = self.control.place(self.slot);
        if cursor <= MAX_POSITION && sequence <= MAX_POSITION {
            // Other readers can write there: number and position must be those of one record, or a bare one could not
            // be told from another's.
            let sequence = self.geometry.fixed_seq(cursor).unwrap_or(sequence);
            let cursor = self.geometry.fixed.map_or(cursor, |_| sequence * self.geometry.slot_bytes());
            self.move_to(cursor, sequence);
            self.flushed = cursor;
        }
    }

    /// Gives the reader up without freeing its slot: somebody else continues it (see [`resume`](Self::resume)).
    pub fn hand_over(mut self) {
        self.token = 0; // nobody's token: the drop below finds nothing of ours to free
    }

    /// Whether the writer has overtaken this reader: the next look will say by how much.
    #[must_use]
    pub fn lagged(&self) -> bool {
        self.geometry.mode != Mode::Latest && self.overtaken(self.at.pos)
    }

    /// Whether the memory was taken away from under the ring.
    #[inline(always)]
    #[must_use]
    pub fn truncated(&self) -> bool {
        // Header and data are one mapping.
        self.data.truncated() || self.control.truncated()
    }

    /// The slot and token that identify this reader to the writer.
    #[must_use]
    pub fn membership(&self) -> (usize, u64) {
        (self.slot, self.token)
    }
}

/// What to do between two looks: little at first, then let others run, then sleep.
fn pause(attempt: u32) {
    #[cfg(loom)]
    {
        let _ = attempt;
        loom::thread::yield_now();
    }
    #[cfg(not(loom))]
    match attempt {
        0..64 => std::hint::spin_loop(),
        64..1_000 => std::thread::yield_now(),
        _ => std::thread::sleep(std::time::Duration::from_micros(100)),
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.control.release(self.slot, self.token);
    }
}
