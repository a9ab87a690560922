//! The explicit choice to borrow memory that a peer can write.

/// A promise that the writer of a segment is honest, needed to borrow its memory instead of copying it out.
///
/// Copying is the default because a borrow of memory that somebody else changes is undefined behaviour in Rust. Where the
/// writer is known to keep the ring's protocol (it is your own program, say), borrowing a large record saves the copy.
#[derive(Debug, Clone, Copy)]
#[must_use]
pub struct Trust(());

impl Trust {
    /// Promises that the writer is honest.
    ///
    /// # Safety
    ///
    /// For as long as a borrow made with this value lives, the process that writes the segment must not change the
    /// borrowed record: it runs Ginnel's writer in lossless mode (which never overwrites a record that a live reader has
    /// not released), and nobody else can write to the segment.
    pub const unsafe fn assume_honest_writer() -> Self {
        Self(())
    }
}
