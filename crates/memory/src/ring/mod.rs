//! The broadcast ring: one writer, many readers, who never make the writer wait unless it chose to.
//!
//! Two areas. The **data** segment (header words and records) is written by the writer alone; readers map it read-only.
//! The
//! **control** segment holds what readers write: one slot each (cursor, armed) and the attention word. The writer
//! treats it as hostile: the worst that a wrong value there can do is to end that reader's own membership.
//!
//! ```text
//! header words of the data segment, from WORD_PARAMS on                     written by the writer
//!   +0  tail     position of the oldest record that is still whole          when the mark advances
//!   +1  mark     everything below mark - capacity may be overwritten        every 1/16 of the capacity
//!   +2  claim    what the mark is about to become (lossless joins check it) before the mark
//!   +3  closed   1 when the writer has closed                               once
//!   +4  waiting  1 while the writer waits for space                         when it waits
//!   +5  fenced   1 while the writer pays for the fence of a sleeper         when most publications wake somebody, and again not
//!  +16  last     position of the newest record, u64::MAX before the first   every publish; on a line of its own
//!
//! a record, 16-byte aligned                                                 written by the writer
//!   0  sequence + 1   u64   the flag: holds this record's number when the record is complete (release)
//!   8  length         u64   of the payload, bytes; only where it varies
//!  16  payload; from 256 bytes on at the next multiple of 64, so that vector moves do not straddle cache lines
//! a fixed record, of no multiple of 16 bytes: its payload begins at 8
//! a bare record (fixed, more than 56 bytes, not of a Latest ring): its payload and nothing else
//! ```
//!
//! Positions count bytes since the ring was made and never wrap. Flag and first 48 bytes of payload share a cache line,
//! so a spinning reader gets both with one transfer.
//!
//! **Bare** records would need a second line for their flags anyway. What is published is everything up to `last`
//! (release), so a reader looks at one word for many records, and moves a run of them with one copy.
//!
//! Other **fixed** records lie in slots whose flags never move, so a stale flag holds an older number and cannot be
//! taken for a new one. **Variable** records lie anywhere in a mirrored area; there the writer clears the place of the *next* flag before
//! it publishes, so that old payload bytes can never pass for a record, whoever chose them.
//!
//! **Overwriting** (after Aeron's broadcast buffer): the writer raises `mark`, release fence, then writes. A reader
//! copies, acquire fence, then reads `mark`: if it covers what was copied, the copy is discarded. The mark moves in
//! steps of a sixteenth of the capacity, so a reader keeps its line in cache.
//!
//! **Batch**: the writer fills several records and stores the first one's flag last: one release store publishes all,
//! because a reader arrives at the first one first. Of bare records `last` is stored once. A reader that takes a **run** checks the mark
//! once behind the whole copy, against the first record of it, and drops all of them if that one is covered.
//!
//! **Joining a lossless ring** is a Dekker handshake: the reader stores its cursor, sets the JOINED bit, full fence,
//! checks
//! `claim`; the writer stores `claim`, a light fence, checks the bit; the reader's fence is [`crate::fence::heavy`]. At
//! least one sees the other: the reader starts again further on, or the writer honours the cursor. **Sleeping** is the
//! same with arm and publish: the sleeper pays for both fences. While most publications wake somebody, so that a fence
//! is little beside the system call, the writer pays for its own and says so (`fenced`), and sleepers are spared
//! theirs.

#[cfg(all(test, not(loom)))]
mod borrows;
mod consumer;
mod control;
mod grant;
mod layout;
#[cfg(all(test, loom))]
mod models;
mod producer;
mod view;

pub use consumer::{Consumer, Fault, Start};
pub use control::{ATTENTION_ARMED, ATTENTION_JOINED, Control, SlotInfo};
pub use grant::Grant;
pub use layout::{Geometry, GeometryError, Mode};
pub use producer::{Admission, Blocked, Producer};
pub use view::View;
