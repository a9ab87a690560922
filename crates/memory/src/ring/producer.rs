//! The writer's side of a ring.

use super::consumer::{Consumer, Fault, Start};
use super::control::{ATTENTION_JOINED, Control};
use super::layout::{
    CLAIM, CLOSED, FENCED, Geometry, LAST, MARK, Mode, NO_RECORD, Place, RECORD_HEADER, TAIL, WAITING,
};
use crate::fence;
use crate::sync::{Ordering, fence as full_fence};
use crate::words::{Words, WriterWords};

/// The one writer of a ring.
///
/// Its positions are private: nothing that a reader writes can move them.
#[derive(Debug)]
pub struct Producer {
    geometry: Geometry,
    words: WriterWords,
    control: Control,
    /// Where the next record goes.
    at: Place,
    /// How far it may write: copy of the mark.
    mark: u64,
    tail: (u64, u64),
    batch: Option<Batch>,
    /// How often in a row a joining reader stopped the mark, and the claim that stays announced when that is too often.
    joins: u32,
    announced: u64,
    /// A joining reader stopped the mark, and whoever has joined has not been admitted since.
    joining: bool,
    /// The lossless readers that it honours.
    members: Vec<Member>,
    /// Whether each look for sleepers follows a full fence.
    fenced: bool,
    /// Wakes at close quarters until it does, idle looks until it no longer does.
    run: u32,
    /// How many records there were when somebody was last woken.
    woke_at: u64,
}

/// An open batch: where its first record begins, and its number. Empty while the two meet the producer's own.
#[derive(Debug, Clone, Copy)]
struct Batch {
    pos: u64,
    seq: u64,
    /// Where its newest record begins.
    last: u64,
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
    /// A reader has joined: take the attention, admit whoever joined ([`Producer::admit`]), and say so by
    /// [`Producer::welcomed`]. Until then there is no room, however often one asks.
    Joining,
    /// The reader in this slot has not released the space.
    Reader {
        /// The slowest reader's slot.
        slot: usize,
        /// Its token.
        token: u64,
    },
    /// The ring's own memory holds what the writer did not write there: somebody has scribbled over it, and it is of no
    /// more use.
    Scribbled {
        /// The length that a record of the writer's claims now, bytes.
        len: u64,
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
    /// How often readers that join may stop the mark in a row. Honest ones join once; a mad one may say so for ever.
    const PATIENCE: u32 = if cfg!(loom) { 1 } else { 8 };
    /// So many wakes, at most so many records apart, make the writer pay for the fence; so many idle looks end that.
    const CLOSE_WAKES: u32 = 8;
    const CLOSE_QUARTERS: u64 = 4;
    const IDLE_LOOKS: u32 = 16;

    /// A writer at the start of a fresh, zeroed ring. `None` if the words are smaller than the geometry says.
    ///
    /// It owns the writable words, which were taken once; so there is no second writer, and nothing of it can be
    /// copied:
    ///
    /// ```compile_fail,E0382
    /// use ginnel_memory::WriterWords;
    /// use ginnel_memory::ring::{Control, Geometry, Producer};
    ///
    /// fn twice(geometry: Geometry, words: WriterWords, control: Control) {
    ///     let first = Producer::new(geometry, words, control.clone());
    ///     let second = Producer::new(geometry, words, control);
    /// }
    /// ```
    #[must_use]
    pub fn new(geometry: Geometry, words: WriterWords, control: Control) -> Option<Self> {
        let bytes = words.data.len() as u64 * 8;
        if bytes < geometry.capacity * if geometry.mirror() { 2 } else { 1 } {
            return None;
        }
        let head = &words.head;
        head.store(LAST, NO_RECORD, Ordering::Relaxed);
        head.store(MARK, geometry.capacity, Ordering::Relaxed);
        head.store(CLAIM, geometry.capacity, Ordering::Release);
        let mark = geometry.capacity;
        Some(Self {
            geometry,
            words,
            control,
            at: Place::START,
            mark,
            tail: (0, 0),
            batch: None,
            joins: 0,
            announced: 0,
            joining: false,
            members: Vec::new(),
            fenced: false,
            run: 0,
            woke_at: 0,
        })
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
        self.at.seq
    }

    /// Bytes written so far, an open batch included.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.at.pos
    }

    /// Whether the memory was taken away from under the ring.
    #[inline(always)]
    #[must_use]
    pub fn truncated(&self) -> bool {
        // Header and data are one mapping; what readers write is another.
        self.words.data.truncated() || self.control.truncated()
    }

    /// Makes room for a record of `len` bytes. Costs a comparison, but once in a sixteenth of the capacity.
    ///
    /// An open batch that would push its own start out of the ring, or that holds what blocks it, is published and
    /// begun anew.
    ///
    /// # Panics
    ///
    /// If the ring has no records of `len` bytes: more than the geometry's `max_record`, or (where it is fixed) another
    /// length.
    #[inline]
    pub fn reserve(&mut self, len: usize) -> Result<(), Blocked> {
        assert!(self.geometry.allows(len), "a record longer than the ring's");
        let end = self.at.pos + self.geometry.record_bytes(self.at.word, len) + self.geometry.lookahead();
        if end <= self.mark { Ok(()) } else { self.advance(end) }
    }

    /// Makes room for as many of `records` records of the ring's fixed size as may become visible together, and says
    /// for how many: fewer where waiting for all would mean to wait while there is room for some. `Ok(0)` for none
    /// only.
    #[inline]
    pub fn reserve_many(&mut self, records: usize) -> Result<usize, Blocked> {
        let slot = self.geometry.slot_bytes();
        let most = records.min(self.geometry.batch());
        let end = self.at.pos + most as u64 * slot;
        if end <= self.mark { Ok(most) } else { self.advance_many(most, end) }
    }

    #[cold]
    fn advance_many(&mut self, most: usize, end: u64) -> Result<usize, Blocked> {
        let slot = self.geometry.slot_bytes();
        let room = |producer: &Self| ((producer.mark - producer.at.pos) / slot).min(most as u64) as usize;
        match self.advance(end) {
            Ok(()) => Ok(most),
            Err(_) if room(self) > 0 => Ok(room(self)),
            // The reader may have released enough for some.
            Err(Blocked::Reader { .. }) if most > 1 => self.advance(self.at.pos + slot).map(|()| room(self)),
            Err(blocked) => Err(blocked),
        }
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
            want = self.claim(end, want)?;
        }
        // The oldest record must be a published one: there late readers begin. (`step` and a record below it fit, see
        // `check`.)
        let tail = (want + self.geometry.longest_record()).saturating_sub(capacity);
        if self.batch.is_some_and(|batch| batch.seq < self.at.seq && tail > batch.pos) {
            self.split_batch();
        }
        if self.geometry.fixed.is_some() {
            let slot = self.geometry.slot_bytes();
            let overwritten = want.saturating_sub(self.tail.0 + capacity).div_ceil(slot).min(self.at.seq - self.tail.1);
            self.tail = (self.tail.0 + overwritten * slot, self.tail.1 + overwritten);
        } else {
            while self.tail.0 + capacity < want && self.tail.1 < self.at.seq {
                let word = self.geometry.word(self.tail.0, self.tail.1);
                // Our own words: readers cannot write them. Another process of this user can, through the file.
                let (flag, len) =
                    (self.words.data.load(word, Ordering::Relaxed), self.words.data.load(word + 1, Ordering::Relaxed));
                if flag != self.tail.1 + 1 || len > self.geometry.max_record as u64 {
                    return Err(Blocked::Scribbled { len });
                }
                self.tail = (self.tail.0 + self.geometry.record_bytes(word, len as usize), self.tail.1 + 1);
            }
        }
        self.words.head.store(TAIL, self.tail.0, Ordering::Release);
        // SYNC ring.tail: Release, so that whoever is overtaken by this mark finds a tail that is not.
        self.words.head.store(MARK, want, Ordering::Release);
        self.mark = want;
        full_fence(Ordering::Release); // SYNC ring.mark: before any store that it covers
        Ok(())
    }

    /// Announces how far the mark is to go in a lossless ring, and says how far it may.
    fn claim(&mut self, end: u64, want: u64) -> Result<u64, Blocked> {
        if self.joining {
            return Err(Blocked::Joining); // whoever has joined may not be a member yet
        }
        let want = match self.honoured(end, want) {
            Ok(want) => want,
            Err(blocked) => {
                self.withdraw();
                self.split_batch(); // nobody can release what nobody can see
                return Err(blocked);
            }
        };
        // A claim that stayed announced while readers were admitted (`welcomed`): those who came later have seen it.
        if self.announced >= end {
            let want = want.min(self.announced);
            (self.announced, self.joins) = (0, 0);
            return Ok(want);
        }
        // SYNC ring.claim: Release, so that a reader that must choose again finds the newest record of this claim.
        self.words.head.store(CLAIM, want, Ordering::Release);
        // Dekker with a joining reader (see `Consumer::join`): it stores cursor and bit, fences, and checks the claim.
        // Readers join rarely, so theirs is the heavy side; a full fence here would wait for the lines that readers
        // hold.
        fence::light();
        if self.control.attention() & ATTENTION_JOINED == 0 {
            self.joins = 0;
            return Ok(want);
        }
        self.joins += 1;
        self.joining = true;
        if self.joins > Self::PATIENCE {
            self.announced = want;
        } else {
            self.withdraw();
        }
        Err(Blocked::Joining)
    }

    fn withdraw(&mut self) {
        self.announced = 0;
        self.words.head.store(CLAIM, self.mark, Ordering::Release);
    }

    /// How far the slowest member lets the mark go, at least to `end`.
    fn honoured(&mut self, end: u64, want: u64) -> Result<u64, Blocked> {
        let mut limit = want;
        for member in &mut self.members {
            let cursor = self.control.cursor(member.slot);
            let (slot, token) = (member.slot, member.token);
            if cursor < member.cursor || cursor > self.at.pos {
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

    /// Whether a joining reader stopped the writer and nobody has said [`welcomed`](Self::welcomed) since.
    #[must_use]
    pub fn joining(&self) -> bool {
        self.joining
    }

    /// Says that everybody who had joined when the attention was last taken has been admitted or is gone: the writer
    /// goes on.
    pub fn welcomed(&mut self) {
        self.joining = false;
    }

    /// Keeps the records that the reader `token` in `slot` has not released (lossless rings).
    pub fn admit(&mut self, slot: usize, token: u64) -> Admission {
        if !self.control.holds(slot, token) {
            return Admission::Refused;
        }
        // A cursor below what is kept belongs to a reader that is still choosing its start: it will see the claim and
        // move. One entry a slot, however often somebody asks.
        self.members.retain(|member| member.slot != slot);
        self.members.push(Member { slot, token, cursor: 0 });
        Admission::Admitted
    }

    /// Chooses the first record of a reader that will read elsewhere through `slot`, which was claimed for it as
    /// `token`, and announces it. The slot stays claimed, but on a fault, which says why there is no place to begin.
    pub fn place(&self, slot: usize, token: u64, start: Start) -> Result<(), Fault> {
        // This reader uses the writer's own mapping, so it must not outlive the call (M6).
        let (head, data): (Words, Words) = ((*self.words.head).clone(), (*self.words.data).clone());
        let reader = Consumer::new(self.geometry, head, data, self.control.clone(), slot, token);
        let mut reader = reader.ok_or(Fault::Position { value: slot as u64 })?;
        let Ok(joined) = reader.join(start, || Ok::<(), std::convert::Infallible>(()));
        joined.map(|()| reader.hand_over())
    }

    /// Forgets a reader that is gone. Its slot becomes free.
    pub fn dismiss(&mut self, slot: usize, token: u64) {
        self.evict(slot, token);
        self.control.release(slot, token);
    }

    /// Forgets a reader that may still live. It keeps its slot until it leaves or dies, because it may be about to move
    /// its cursor: in a slot that somebody else got meanwhile that would move the other's.
    pub fn evict(&mut self, slot: usize, token: u64) {
        self.members.retain(|member| (member.slot, member.token) != (slot, token));
    }

    /// How many bytes the slowest member has still to read, `None` without members.
    #[must_use]
    pub fn backlog(&self) -> Option<u64> {
        self.members.iter().map(|member| self.at.pos.saturating_sub(self.control.cursor(member.slot))).max()
    }

    /// Says that the writer waits for space: readers then tell it when they release some. Look again after saying so,
    /// before sleeping.
    pub fn start_waiting(&self) -> fence::Heavy {
        self.words.head.store(WAITING, 1, Ordering::Relaxed);
        fence::heavy() // pairs with the light fence in `Consumer::flush`
    }

    /// Says that the writer no longer waits.
    pub fn stop_waiting(&self) {
        self.words.head.store(WAITING, 0, Ordering::Relaxed);
    }

    /// Writes one record into the room that [`reserve`](Self::reserve) made, and publishes it unless a batch is open.
    ///
    /// # Panics
    ///
    /// If there is no room for it.
    #[inline(always)]
    pub fn push(&mut self, payload: &[u8]) {
        assert!(self.has_room(payload.len()), "a record beyond the room that was made for it");
        let word = self.at.word;
        self.words.data.copy_in(self.geometry.payload(word, payload.len()), payload);
        self.seal(word, payload.len());
    }

    /// Writes `records` records of the ring's fixed size, whose payloads lie one behind the other in `payloads`, into
    /// the room that [`reserve_many`](Self::reserve_many) made, and publishes them together unless a batch is open.
    ///
    /// # Panics
    ///
    /// If `payloads` has another length than so many records, or there is no room for them.
    #[inline]
    pub fn push_many(&mut self, payloads: &[u8], records: usize) {
        let len = self.geometry.max_record;
        assert_eq!(Some(payloads.len()), records.checked_mul(len), "payloads of another size than the ring's");
        let bytes = self.geometry.slot_bytes().saturating_mul(records as u64);
        assert!(bytes <= self.mark - self.at.pos, "records beyond the room that was made for them");
        let single = self.batch.is_none();
        if single {
            self.open_batch();
        }
        let mut done = 0;
        while done < records {
            let run = self.geometry.contiguous(self.at.word, records - done);
            let bytes = &payloads[done * len..(done + run) * len];
            if run > 1 {
                self.words.data.copy_in(self.at.word, bytes);
                let last = self.at.pos + (run as u64 - 1) * self.geometry.slot_bytes();
                self.batch.as_mut().expect("opened above").last = last;
                self.at.advance_many(&self.geometry, run);
            } else {
                self.push(bytes);
            }
            done += run;
        }
        if single {
            self.publish_batch();
        }
    }

    /// Lends the payload of the next record, `len` bytes, in the room that [`reserve`](Self::reserve) made for it.
    /// `None` if there is no such room. Its content is whatever an older record left there.
    ///
    /// The grant holds the producer, so nothing else can be written, lent or published while it lives:
    ///
    /// ```compile_fail,E0499
    /// # use ginnel_memory::ring::Producer;
    /// fn two(producer: &mut Producer) {
    ///     let first = producer.lend(8).unwrap();
    ///     let second = producer.lend(8).unwrap();
    ///     first.publish();
    /// }
    /// ```
    ///
    /// ```compile_fail,E0505
    /// # use ginnel_memory::ring::Producer;
    /// fn kept(producer: &mut Producer) -> u8 {
    ///     let mut grant = producer.lend(8).unwrap();
    ///     let bytes: &mut [u8] = &mut grant;
    ///     grant.publish();
    ///     bytes[0]
    /// }
    /// ```
    #[must_use]
    pub fn lend(&mut self, len: usize) -> Option<super::Grant<'_>> {
        self.has_room(len).then(|| super::Grant::new(self, len))
    }

    #[cfg(not(loom))]
    pub(super) fn lent(&self, len: usize) -> &[u8] {
        self.words.own(self.geometry.payload(self.at.word, len), len)
    }

    #[cfg(not(loom))]
    pub(super) fn lent_mut(&mut self, len: usize) -> &mut [u8] {
        self.words.lend(self.geometry.payload(self.at.word, len), len)
    }

    #[cfg(all(test, loom))]
    pub(super) fn lent_mut(&mut self, len: usize) -> crate::lent::Loan<'_> {
        self.words.lend(self.geometry.payload(self.at.word, len), len)
    }

    pub(super) fn commit(&mut self, len: usize) {
        self.seal(self.at.word, len);
    }

    /// Whether there is room for a record of `len` bytes: it fits the ring, and `reserve` has moved the mark beyond it.
    #[inline(always)]
    fn has_room(&self, len: usize) -> bool {
        self.geometry.allows(len)
            && self.at.pos + self.geometry.record_bytes(self.at.word, len) + self.geometry.lookahead() <= self.mark
    }

    #[inline(always)]
    fn seal(&mut self, word: usize, len: usize) {
        let bytes = self.geometry.record_bytes(word, len);
        if self.geometry.fixed.is_none() {
            // The next flag's place may hold anything that an older payload left there.
            self.words.data.store(word + (bytes / 8) as usize, 0, Ordering::Relaxed);
            self.words.data.store(word + 1, len as u64, Ordering::Relaxed);
        }
        match &mut self.batch {
            None => {
                if !self.geometry.bare() {
                    self.words.data.store(word, self.at.seq + 1, Ordering::Release); // SYNC ring.flag
                }
                self.words.head.store(LAST, self.at.pos, Ordering::Release); // SYNC ring.last
            }
            Some(batch) => {
                // The first one's flag is stored by `publish_batch`.
                if !self.geometry.bare() && batch.seq != self.at.seq {
                    self.words.data.store(word, self.at.seq + 1, Ordering::Relaxed);
                }
                batch.last = self.at.pos;
            }
        }
        self.at.advance(&self.geometry, bytes);
    }

    /// Opens a batch: records written from now on become visible together.
    pub fn open_batch(&mut self) {
        // One that was leaked (`mem::forget`) would leave a hole that no reader gets past.
        self.publish_batch();
        self.batch = Some(Batch { pos: self.at.pos, seq: self.at.seq, last: self.at.pos });
    }

    /// Publishes the open batch with one store.
    pub fn publish_batch(&mut self) {
        if let Some(Batch { pos, seq, last }) = self.batch.take()
            && seq < self.at.seq
        {
            if !self.geometry.bare() {
                self.words.data.store(self.geometry.word(pos, seq), seq + 1, Ordering::Release); // SYNC ring.flag
            }
            self.words.head.store(LAST, last, Ordering::Release); // SYNC ring.last
        }
    }

    /// Whether the open batch has outgrown an eighth of the ring and should be published.
    #[inline]
    #[must_use]
    pub fn batch_is_large(&self) -> bool {
        self.batch.is_some_and(|batch| self.at.pos - batch.pos >= self.geometry.capacity / 8)
    }

    fn split_batch(&mut self) {
        if self.batch.is_some() {
            self.publish_batch();
            self.open_batch();
        }
    }

    /// Whether a reader wants something after what was published: it sleeps, or has joined. Nothing but a load when
    /// nobody does.
    #[inline(always)]
    #[must_use]
    pub fn wanted(&mut self) -> bool {
        if self.fenced {
            return self.wanted_behind_a_fence();
        }
        fence::light();
        self.control.attention() != 0
    }

    #[inline(never)]
    fn wanted_behind_a_fence(&mut self) -> bool {
        full_fence(Ordering::SeqCst); // pairs with the fence in `Consumer::arm`
        let wanted = self.control.attention() != 0;
        self.run = if wanted { 0 } else { self.run + 1 };
        if self.run > Self::IDLE_LOOKS {
            self.set_fenced(false);
        }
        wanted
    }

    /// Says that a sleeper was woken after the newest record.
    pub fn woke(&mut self) {
        let since = self.at.seq - self.woke_at;
        self.woke_at = self.at.seq;
        if self.fenced {
            return;
        }
        self.run = if since <= Self::CLOSE_QUARTERS { self.run + 1 } else { 0 };
        if self.run >= Self::CLOSE_WAKES {
            self.set_fenced(true);
        }
    }

    /// Begins or ends to fence each look for sleepers.
    pub(super) fn set_fenced(&mut self, fenced: bool) {
        // SYNC ring.fenced: Release, so that who sees 1 sees what was published before, perhaps without a fence.
        self.words.head.store(FENCED, u64::from(fenced), Ordering::Release);
        // Pairs with the fence in `Consumer::arm`: who armed and still saw 1 is seen by every look from here on, fence
        // or not.
        full_fence(Ordering::SeqCst);
        (self.fenced, self.run) = (fenced, 0);
    }

    /// Says that no more records will come.
    pub fn close(&mut self) {
        self.publish_batch();
        self.words.head.store(CLOSED, 1, Ordering::Release); // SYNC ring.closed
    }
}

const _: () = assert!(RECORD_HEADER == 16);
