//! The part of a segment's header that kinds share, apart from the mapping itself.

/// The first word of the header that a kind may define for itself, changing while the segment is in use.
pub const WORD_PARAMS: usize = 64;

/// How many words of parameters a kind has.
pub const PARAMS: usize = 24;
