//! The explicit choice to borrow memory that a peer can write.

/// A promise that the writer of a segment is honest, needed to borrow its memory instead of copying it out.
///
/// Copying is the default because a borrow of memory that somebody else changes is undefined behaviour in Rust. Where
/// the writer is known to keep the ring's protocol (it is your own program, say), borrowing a large record saves the
/// copy.
#[derive(Debug, Clone, Copy)]
#[must_use]
pub struct Trust(());

impl Trust {
    /// Promises that the writer is honest.
    ///
    /// # Safety
    ///
    /// For as long as a borrow made with this value lives, the process that writes the segment must not change the
    /// borrowed record. Ginnel's writer keeps this in lossless mode if it waits or fails when the ring is full (it must
    /// not evict:
    /// `OnFull::Evict` overwrites what slow readers still borrow), and if all readers of the channel are honest: they
    /// share the control segment, where one could release in another's name. Nobody else may be able to write to the
    /// segment.
    pub const unsafe fn assume_honest_writer() -> Self {
        Self(())
    }
}
