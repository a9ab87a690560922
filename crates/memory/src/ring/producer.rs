//! The writer's side of a ring.

use super::control::{ATTENTION_JOINED, Control};
use super::layout::{CLAIM, CLOSED, Geometry, LAST, MARK, Mode, NO_RECORD, RECORD_HEADER, TAIL, WAITING};
use crate::fence;
use crate::sync::{Ordering, fence as full_fence};
use crate::words::WordsMut;

/// The one writer of a ring.
///
/// Its positions are private: nothing that a reader writes can move them.
#[derive(Debug)]
pub struct Producer {
    geometry: Geometry,
    head: WordsMut,
    data: WordsMut,
    control: Control,
    /// Where the next record goes, and its number.
    pos: u64,
    seq: u64,
    /// How far it may write: copy of the mark.
    mark: u64,
    tail: (u64, u64),
    /// First record of an open batch: its word and its number.
    batch: Option<(usize, u64)>,
    /// The lossless readers that it honours.
    members: Vec<Member>,
}

#[derive(Debug)]
struct Member {
    slot: usize,
    token: u64,
    cursor: u64,
}

/// Why a record cannot be written now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blocked {
    /// A reader has joined: admit it ([`Producer::admit`]), then try again.
    Joining,
    /// The reader in this slot has not released the space.
    Reader {
        /// The slowest reader's slot.
        slot: usize,
        /// Its token.
        token: u64,
    },
    /// A reader claims a position that it cannot have: dismiss it, then try again.
    Mad {
        /// Its slot.
        slot: usize,
        /// Its token.
        token: u64,
    },
}

/// What became of a request to be honoured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// The reader's records are kept from now on.
    Admitted,
    /// It does not hold the slot that it claims.
    Refused,
}

impl Producer {
    /// A writer at the start of a fresh, zeroed ring. `None` if the words are smaller than the geometry says.
    #[must_use]
    pub fn new(geometry: Geometry, head: WordsMut, data: WordsMut, control: Control) -> Option<Self> {
        let words = data.len() as u64 * 8;
        if words < geometry.capacity * if geometry.mirror() { 2 } else { 1 } {
            return None;
        }
        head.store(LAST, NO_RECORD, Ordering::Relaxed);
        head.store(MARK, geometry.capacity, Ordering::Relaxed);
        head.store(CLAIM, geometry.capacity, Ordering::Release);
        let mark = geometry.capacity;
        Some(Self { geometry, head, data, control, pos: 0, seq: 0, mark, tail: (0, 0), batch: None, members: Vec::new() })
    }

    /// The ring's shape.
    #[must_use]
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// The ring's control area.
    #[must_use]
    pub fn control(&self) -> &Control {
        &self.control
    }

    /// Records written so far, an open batch included.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.seq
    }

    /// Bytes written so far, an open batch included.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.pos
    }

    /// Whether the memory was taken away from under the ring.
    #[must_use]
    pub fn truncated(&self) -> bool {
        self.data.truncated() || self.head.truncated()
    }

    /// Makes room for a record of `len` bytes. Costs a comparison, but once in a sixteenth of the capacity.
    ///
    /// `len` must be at most the geometry's `max_record`.
    #[inline]
    pub fn reserve(&mut self, len: usize) -> Result<(), Blocked> {
        let end = self.pos + self.geometry.record_bytes(len) + self.geometry.lookahead();
        if end <= self.mark { Ok(()) } else { self.advance(end) }
    }

    #[cold]
    fn advance(&mut self, end: u64) -> Result<(), Blocked> {
        let capacity = self.geometry.capacity;
        let step = self.geometry.step();
        let mut want = end + step;
        if self.geometry.fixed.is_none() {
            want = want.next_multiple_of(16);
        }
        if self.geometry.mode == Mode::Lossless {
            want = self.honoured(end, want)?;
            self.head.store(CLAIM, want, Ordering::Relaxed);
            // Dekker with a joining reader (see `Consumer::join`): it stores cursor and bit, fences, and checks the claim.
            full_fence(Ordering::SeqCst);
            if self.control.attention() & ATTENTION_JOINED != 0 {
                self.head.store(CLAIM, self.mark, Ordering::Relaxed);
                return Err(Blocked::Joining);
            }
        }
        while self.tail.0 + capacity < want && self.tail.1 < self.seq {
            let word = self.geometry.word(self.tail.0, self.tail.1);
            // Our own words: readers cannot write them.
            let len = self.data.load(word + 1, Ordering::Relaxed) as usize;
            self.tail = (self.tail.0 + self.geometry.record_bytes(len), self.tail.1 + 1);
        }
        self.head.store(TAIL, self.tail.0, Ordering::Release);
        self.head.store(MARK, want, Ordering::Relaxed);
        self.mark = want;
        full_fence(Ordering::Release); // SYNC ring.mark: before any store that it covers
        Ok(())
    }

    /// How far the slowest member lets the mark go, at least to `end`.
    fn honoured(&mut self, end: u64, want: u64) -> Result<u64, Blocked> {
        let mut limit = want;
        for member in &mut self.members {
            let cursor = self.control.cursor(member.slot);
            let (slot, token) = (member.slot, member.token);
            if cursor < member.cursor || cursor > self.pos {
                return Err(Blocked::Mad { slot, token });
            }
            member.cursor = cursor;
            let reach = cursor + self.geometry.capacity;
            if reach < end {
                return Err(Blocked::Reader { slot, token });
            }
            limit = limit.min(reach);
        }
        Ok(limit)
    }

    /// Keeps the records that the reader `token` in `slot` has not released (lossless rings).
    pub fn admit(&mut self, slot: usize, token: u64) -> Admission {
        if !self.control.holds(slot, token) {
            return Admission::Refused;
        }
        // A cursor below what is kept belongs to a reader that is still choosing its start: it will see the claim and move.
        self.members.push(Member { slot, token, cursor: 0 });
        Admission::Admitted
    }

    /// Forgets a reader: it is gone, mad or evicted. Its slot becomes free.
    pub fn dismiss(&mut self, slot: usize, token: u64) {
        self.members.retain(|member| (member.slot, member.token) != (slot, token));
        self.control.release(slot, token);
    }

    /// How many records and bytes the slowest member has still to read, `None` without members.
    #[must_use]
    pub fn backlog(&self) -> Option<u64> {
        self.members.iter().map(|member| self.pos.saturating_sub(self.control.cursor(member.slot))).max()
    }

    /// Says that the writer waits for space (readers then tell it when they release some), or no longer does. Look again
    /// after saying so, before sleeping.
    pub fn set_waiting(&self, waiting: bool) {
        self.head.store(WAITING, u64::from(waiting), Ordering::Relaxed);
        full_fence(Ordering::SeqCst); // pairs with the fence in `Consumer::flush`
    }

    /// Writes one record into the room that [`reserve`](Self::reserve) made, and publishes it unless a batch is open.
    #[inline]
    pub fn push(&mut self, payload: &[u8]) {
        let word = self.geometry.word(self.pos, self.seq);
        self.data.copy_in(word + 2, payload);
        self.seal(word, payload.len());
    }

    /// Lends the payload of the next record, `len` bytes, in the room that [`reserve`](Self::reserve) made. Its content is
    /// whatever an older record left there.
    #[cfg(not(loom))]
    #[must_use]
    pub fn lend(&mut self, len: usize) -> &mut [u8] {
        let word = self.geometry.word(self.pos, self.seq);
        self.data.lend(word + 2, len)
    }

    /// Publishes the record that was filled through [`lend`](Self::lend).
    pub fn commit(&mut self, len: usize) {
        let word = self.geometry.word(self.pos, self.seq);
        self.seal(word, len);
    }

    #[inline(always)]
    fn seal(&mut self, word: usize, len: usize) {
        let bytes = self.geometry.record_bytes(len);
        if self.geometry.fixed.is_none() {
            // The next flag's place may hold anything that an older payload left there.
            self.data.store(word + (bytes / 8) as usize, 0, Ordering::Relaxed);
        }
        self.data.store(word + 1, len as u64, Ordering::Relaxed);
        match &mut self.batch {
            None => {
                self.data.store(word, self.seq + 1, Ordering::Release); // SYNC ring.flag
                self.head.store(LAST, self.pos, Ordering::Release);
            }
            Some((_, first)) if *first == u64::MAX => {
                // Not published yet, and its old flag may be anything: it is stored by `publish_batch`.
                self.batch = Some((word, self.seq));
            }
            Some(_) => self.data.store(word, self.seq + 1, Ordering::Relaxed),
        }
        self.pos += bytes;
        self.seq += 1;
    }

    /// Opens a batch: records written from now on become visible together.
    pub fn open_batch(&mut self) {
        debug_assert!(self.batch.is_none(), "batches do not nest");
        self.batch = Some((0, u64::MAX));
    }

    /// Publishes the open batch with one store.
    pub fn publish_batch(&mut self) {
        if let Some((word, seq)) = self.batch.take()
            && seq != u64::MAX
        {
            self.data.store(word, seq + 1, Ordering::Release); // SYNC ring.flag
            self.head.store(LAST, self.last_of_batch(word, seq), Ordering::Release);
        }
    }

    /// Position of the newest record, found by walking the batch that began at `word` with number `seq`.
    fn last_of_batch(&self, word: usize, seq: u64) -> u64 {
        if self.geometry.fixed.is_some() {
            return self.pos - self.geometry.record_bytes(0);
        }
        let (mut at, mut last) = (word, 0);
        for _ in seq..self.seq {
            let bytes = self.geometry.record_bytes(self.data.load(at + 1, Ordering::Relaxed) as usize);
            last = bytes;
            at = (at + (bytes / 8) as usize) % (self.geometry.capacity / 8) as usize;
        }
        self.pos - last
    }

    /// Whether a reader wants something after what was published: it sleeps, or has joined. Nothing but a load when nobody
    /// does.
    #[inline(always)]
    #[must_use]
    pub fn wanted(&self) -> bool {
        fence::light();
        self.control.attention() != 0
    }

    /// Says that no more records will come.
    pub fn close(&mut self) {
        self.publish_batch();
        self.head.store(CLOSED, 1, Ordering::Release); // SYNC ring.closed
    }
}

const _: () = assert!(RECORD_HEADER == 16);
