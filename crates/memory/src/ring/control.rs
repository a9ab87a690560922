//! The control segment: what readers write, and the writer therefore never believes.
//!
//! ```text
//! word  0  attention        bits set by readers, swapped to 0 by the writer: ARMED, JOINED
//! word 16 + 16 n, slot n    one cache line pair each
//!   +0 token     0 free, else the random number of the reader that has it (compare-and-swap)
//!   +1 cursor    position of the next record that the reader wants; everything below is released
//!   +2 sequence  its number
//!   +3 armed     1 while the reader sleeps or is about to
//!   +4 pid       +5 start time   who it is, for `ls` and for freeing the slots of the dead
//!   +6 missed    records skipped so far
//!   +7 namespace the pid and time namespace in which +4 and +5 mean something
//!   +8 welcomed  the token again, once the writer has the reader's connection and wakes it (written by the writer)
//! ```
//!
//! All readers of a channel share this segment. A hostile one can spoil the cursors and wake-ups of its co-readers
//! (they have the same permission as it), or end their membership; never what they read, and nothing of the writer's.

use crate::identity::{Identity, namespaces};
use crate::sync::Ordering;
use crate::words::WordsMut;

const ATTENTION: usize = 0;
const FIRST_SLOT: usize = 16;
const SLOT_WORDS: usize = 16;
const TOKEN: usize = 0;
const CURSOR: usize = 1;
const SEQUENCE: usize = 2;
const ARMED: usize = 3;
const PID: usize = 4;
const START: usize = 5;
const MISSED: usize = 6;
const NAMESPACE: usize = 7;
const WELCOMED: usize = 8;

/// A reader is about to sleep.
pub const ATTENTION_ARMED: u64 = 1;
/// A reader has joined.
pub const ATTENTION_JOINED: u64 = 2;

/// The control area of a ring.
#[derive(Debug, Clone)]
pub struct Control {
    words: WordsMut,
    slots: usize,
}

/// What a reader's slot says about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct SlotInfo {
    /// Which slot.
    pub slot: usize,
    /// The reader's token.
    pub token: u64,
    /// Who the reader says it is.
    pub identity: Identity,
    /// Whether that identity means something in this process's namespaces.
    pub comparable: bool,
    /// Position of the next record that it wants.
    pub cursor: u64,
    /// Number of that record.
    pub sequence: u64,
    /// Records that it has missed.
    pub missed: u64,
    /// Whether it sleeps.
    pub armed: bool,
    /// Whether the writer has its connection, and wakes it.
    pub welcomed: bool,
}

impl Control {
    /// Bytes that a control area of `slots` readers takes.
    #[must_use]
    pub const fn bytes(slots: usize) -> usize {
        slots.saturating_mul(SLOT_WORDS).saturating_add(FIRST_SLOT).saturating_mul(8)
    }

    /// The control area in `words`, `None` if it is too small for `slots` readers.
    #[must_use]
    pub fn new(words: WordsMut, slots: usize) -> Option<Self> {
        (slots <= (words.len().saturating_sub(FIRST_SLOT)) / SLOT_WORDS).then_some(Self { words, slots })
    }

    /// Whether the memory was taken away from under the control area.
    #[inline(always)]
    #[must_use]
    pub fn truncated(&self) -> bool {
        self.words.truncated()
    }

    /// Index of a word of `slot`. Panics if there is no such slot: numbers that come from elsewhere are judged before.
    #[inline(always)]
    fn at(&self, slot: usize, field: usize) -> usize {
        assert!(slot < self.slots, "no such slot");
        FIRST_SLOT + slot * SLOT_WORDS + field
    }

    /// How many slots there are.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.slots
    }

    /// The hint that a reader wants something. One load of a line that rarely changes.
    #[inline(always)]
    pub(super) fn attention(&self) -> u64 {
        // Relaxed: the fence before it (`fence::light`) orders it; acting on it goes through `take_attention`.
        self.words.load(ATTENTION, Ordering::Relaxed)
    }

    /// Takes the attention bits; what readers did before they set them is visible afterwards.
    pub fn take_attention(&self) -> u64 {
        // SYNC control.attention: AcqRel read-modify-write, pairs with `raise`.
        self.words.swap(ATTENTION, 0, Ordering::AcqRel)
    }

    /// Sets attention bits, after whatever they announce.
    pub fn raise(&self, bits: u64) {
        self.words.fetch_or(ATTENTION, bits, Ordering::AcqRel); // SYNC control.attention
    }

    /// Takes a free slot for the reader `token`, or one whose reader is dead. `None` if all are in use.
    pub fn claim(&self, token: u64, identity: Identity) -> Option<usize> {
        let slot = (0..self.slots)
            .find(|&slot| self.words.replace(self.at(slot, TOKEN), 0, token))
            .or_else(|| (0..self.slots).find(|&slot| self.inherit(slot, token)))?;
        self.settle(slot, identity);
        Some(slot)
    }

    /// Takes a slot that `is_mine` grants, for the reader `token`: of the free ones first, then of any. `is_mine` takes
    /// something that one process at a time can have, and that its death gives back (a lock): so whoever had the slot
    /// before is gone, whether or not it had signed, in whatever namespace. `None` if none is granted.
    pub fn claim_by<E>(
        &self,
        token: u64,
        identity: Identity,
        mut is_mine: impl FnMut(usize) -> Result<bool, E>,
    ) -> Result<Option<usize>, E> {
        for only_free in [true, false] {
            for slot in 0..self.slots {
                let free = self.words.load(self.at(slot, TOKEN), Ordering::Relaxed) == 0;
                if free == only_free && is_mine(slot)? {
                    // Before anything else changes: what the former reader's messages say concerns its own token only.
                    self.words.swap(self.at(slot, TOKEN), token, Ordering::AcqRel);
                    self.settle(slot, identity);
                    return Ok(Some(slot));
                }
            }
        }
        Ok(None)
    }

    fn settle(&self, slot: usize, identity: Identity) {
        self.words.store(self.at(slot, ARMED), 0, Ordering::Relaxed);
        self.words.store(self.at(slot, MISSED), 0, Ordering::Relaxed);
        self.sign(slot, identity);
    }

    /// Takes the slot of a dead reader of this pid namespace (of others an id says nothing here: their hang-up frees
    /// them). The pid is taken first: of several who see the same dead reader one wins, and until
    /// the winner has signed, its slot carries no pid that could still be found dead.
    fn inherit(&self, slot: usize, token: u64) -> bool {
        let info = self.read(slot);
        info.token != 0
            && info.identity.pid != 0
            && self.words.load(self.at(slot, NAMESPACE), Ordering::Relaxed) == namespaces()
            && !info.identity.alive()
            && self.words.replace(self.at(slot, PID), u64::from(info.identity.pid), 0)
            && self.words.replace(self.at(slot, TOKEN), info.token, token)
    }

    /// Records who reads through `slot`: for a slot that was claimed on behalf of a child.
    ///
    /// # Panics
    ///
    /// If there is no such slot.
    pub fn sign(&self, slot: usize, identity: Identity) {
        // Never the pid of one process beside the start time of another: that would look like a dead reader.
        self.words.store(self.at(slot, PID), 0, Ordering::Relaxed);
        self.words.store(self.at(slot, NAMESPACE), namespaces(), Ordering::Relaxed);
        self.words.store(self.at(slot, START), identity.start, Ordering::Release);
        self.words.store(self.at(slot, PID), u64::from(identity.pid), Ordering::Release); // SYNC control.identity
    }

    /// Notes, for those who look, that the writer wakes the reader `token` of `slot`.
    pub fn welcome(&self, slot: usize, token: u64) {
        if slot < self.slots {
            // Release: who sees the end of the ring (`closed`), stored later, sees this, too.
            self.words.store(self.at(slot, WELCOMED), token, Ordering::Release);
        }
    }

    /// Whether the writer has noted [`welcome`](Self::welcome) for the reader `token` of `slot`.
    #[must_use]
    pub fn welcomed(&self, slot: usize, token: u64) -> bool {
        slot < self.slots && self.words.load(self.at(slot, WELCOMED), Ordering::Acquire) == token
    }

    /// Frees `slot` if `token` still has it.
    pub fn release(&self, slot: usize, token: u64) {
        if self.holds(slot, token) {
            self.words.store(self.at(slot, PID), 0, Ordering::Relaxed);
            self.words.replace(self.at(slot, TOKEN), token, 0);
        }
    }

    /// Whether `slot` exists and belongs to `token`.
    #[must_use]
    pub fn holds(&self, slot: usize, token: u64) -> bool {
        slot < self.slots && token != 0 && self.words.load(self.at(slot, TOKEN), Ordering::Acquire) == token
    }

    /// The slots in use.
    pub fn readers(&self) -> impl Iterator<Item = SlotInfo> + '_ {
        (0..self.slots).map(|slot| self.read(slot)).filter(|info| info.token != 0)
    }

    fn read(&self, slot: usize) -> SlotInfo {
        let word = |field| self.words.load(self.at(slot, field), Ordering::Relaxed);
        let token = word(TOKEN);
        // SYNC control.identity: Acquire, so that the start time belongs to the pid.
        let pid = self.words.load(self.at(slot, PID), Ordering::Acquire);
        SlotInfo {
            slot,
            token,
            identity: Identity { pid: u32::try_from(pid).unwrap_or(0), start: word(START) },
            comparable: word(NAMESPACE) == namespaces(),
            cursor: word(CURSOR),
            sequence: word(SEQUENCE),
            missed: word(MISSED),
            armed: word(ARMED) != 0,
            welcomed: word(WELCOMED) == token,
        }
    }

    #[inline]
    pub(super) fn set_cursor(&self, slot: usize, cursor: u64, sequence: u64) {
        self.words.store(self.at(slot, SEQUENCE), sequence, Ordering::Relaxed);
        // SYNC control.cursor: Release, so that the copy out comes before the release of its bytes.
        self.words.store(self.at(slot, CURSOR), cursor, Ordering::Release);
    }

    pub(super) fn cursor(&self, slot: usize) -> u64 {
        self.words.load(self.at(slot, CURSOR), Ordering::Acquire) // SYNC control.cursor
    }

    pub(super) fn place(&self, slot: usize) -> (u64, u64) {
        let cursor = self.cursor(slot);
        (cursor, self.words.load(self.at(slot, SEQUENCE), Ordering::Relaxed))
    }

    pub(super) fn set_missed(&self, slot: usize, missed: u64) {
        self.words.store(self.at(slot, MISSED), missed, Ordering::Relaxed);
    }

    /// Announces that the reader of `slot` is about to sleep. A fence and another look follow (see `Consumer::arm`).
    pub(super) fn arm(&self, slot: usize) {
        // SYNC control.armed: a read-modify-write on both sides, so that the taking of an earlier arm comes before this
        // one.
        self.words.swap(self.at(slot, ARMED), 1, Ordering::AcqRel);
        self.raise(ATTENTION_ARMED);
    }

    /// Takes the announcement back.
    ///
    /// # Panics
    ///
    /// If there is no such slot.
    pub fn disarm(&self, slot: usize) {
        self.words.store(self.at(slot, ARMED), 0, Ordering::Relaxed);
    }

    /// Whether the reader of `slot` sleeps; if so the caller must wake it, since the announcement is taken.
    #[must_use]
    pub fn take_armed(&self, slot: usize) -> bool {
        slot < self.slots
            && self.words.load(self.at(slot, ARMED), Ordering::Relaxed) != 0
            && self.words.swap(self.at(slot, ARMED), 0, Ordering::AcqRel) != 0 // SYNC control.armed
    }
}
