//! Shared memory between processes that need not trust each other.
//!
//! This crate holds everything that is `unsafe` about shared memory, so that the crates above it contain none:
//!
//! * [`Segment`]: a sealed memfd or a fully backed file, with a header that is validated before anything else is read;
//! * [`Words`] and [`WordsMut`]: the only access to mapped memory, through atomics and one hostile-safe copy;
//! * [`WriterWords`]: the writable words of a segment, taken once: what a [`ring::Producer`] is made of and lends from;
//! * [`ForeignFile`]: a file whose layout another protocol dictates, with the same guards;
//! * [`ring`]: the single-writer, many-reader broadcast ring and its control area (cursors, arming);
//! * [`byte_ring`]: the two-sided ring of a session: one producer, one consumer, records of any size;
//! * [`fence`]: the asymmetric fence that makes "is anybody asleep?" free for a publisher;
//! * [`Spin`]: the adaptive spin budget that precedes every sleep;
//! * [`RunDir`]: the directory where named segments live, checked for owner and mode.
//!
//! # The rules (invariants that `SAFETY` comments name)
//!
//! * **M1** A mapping lives as long as any `Words` made from it: each holds an `Arc` of it.
//! * **M2** A word is only ever accessed as an `AtomicU64` or by the one copy in `copy`, never through `&[u8]`.
//! * **M3** Every index is checked against a length that is private to this process before it is used.
//! * **M4** A mapping of a file, or of a memfd that somebody else made, is registered with the SIGBUS guard for as long
//!   as it is mapped, so a file that a peer shrinks reads as zero and marks the segment as truncated. A memfd of our
//!   own is sealed against shrinking instead.
//! * **M5** Bytes read from a peer are copied out first and judged afterwards.
//! * **M6** Memory is lent as a slice by [`WriterWords`] alone, through `&mut`. Of one mapping there is no other access
//!   beside it, and of one file there is one of it in a process.
//!
//! Linux only for now; the system calls are in `sys` so that another platform can be added beside it.

#![deny(unsafe_code)]

#[cfg(not(loom))]
mod bell;
pub mod byte_ring;
pub mod fence;
#[cfg(not(loom))]
#[allow(unsafe_code)]
mod foreign;
pub use ginnel_base::identity;
#[cfg(all(test, loom))]
#[allow(unsafe_code)]
mod lent;
mod name;
pub mod ring;
mod run_dir;
#[cfg(not(loom))]
mod segment;
mod segment_params;
mod spin;
mod sync;
#[cfg(not(loom))]
#[allow(unsafe_code)]
mod sys;
#[allow(unsafe_code)]
mod trust;
#[allow(unsafe_code)]
mod words;

#[cfg(not(loom))]
pub use bell::{Bell, MAX_SLEEPS, Sleep, sleep_on_any};
#[cfg(not(loom))]
pub use foreign::ForeignFile;
pub use name::{Name, NameError};
pub use run_dir::{DirLock, RunDir, RunDirError};
#[cfg(not(loom))]
pub use segment::{Access, Expect, Extent, HEADER_BYTES, Header, Segment, SegmentError, Spec};
pub use segment_params::{PARAMS, WORD_PARAMS};
pub use spin::Spin;
pub use trust::Trust;
pub use words::{Words, WordsMut, WriterWords};
