//! What is wrong with bytes that were to be a message, and with values that were to become one.

/// Bytes that are not the message they were taken for: where, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[error("byte {offset}: {fault}")]
pub struct DecodeError {
    /// Position in the payload of the field at fault.
    pub offset: usize,
    /// What is wrong with it.
    pub fault: Fault,
}

/// One way in which a payload can break the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// The payload ends before the structure does.
    #[error("truncated: the structure needs {needed} bytes, {have} are there")]
    Truncated {
        /// Bytes that the structure takes.
        needed: u64,
        /// Bytes that are there.
        have: u64,
    },
    /// A layout version that this crate does not know.
    #[error("layout version {found}; only 1 is defined")]
    Layout {
        /// The version found.
        found: u16,
    },
    /// A flags field with bits set; none are defined.
    #[error("flags {found:#06x}; none are defined")]
    Flags {
        /// The bits found.
        found: u16,
    },
    /// A reserved field that is not zero.
    #[error("reserved field holds {found}; it must be 0")]
    Reserved {
        /// The value found.
        found: u32,
    },
    /// A directory entry whose offset is not a multiple of 8.
    #[error("item offset {found} is not a multiple of 8")]
    Misaligned {
        /// The offset found.
        found: u32,
    },
    /// A range that leaves the area it must lie in.
    #[error("range {start}..{end} leaves its area of {len} bytes")]
    OutOfBounds {
        /// First byte of the range, from the start of the area.
        start: u64,
        /// One past its last byte.
        end: u64,
        /// Length of the area.
        len: u64,
    },
    /// A directory entry that starts before the one in front of it ends.
    #[error("item starts at {start}, inside the one before it, which ends at {previous_end}")]
    ItemOverlap {
        /// Where the item starts.
        start: u64,
        /// Where the item before it ends.
        previous_end: u64,
    },
    /// A directory entry of the wrong size.
    #[error("item is {found} bytes long; {expected} expected")]
    ItemLength {
        /// The length that the contract wants, or its minimum.
        expected: u32,
        /// The length found.
        found: u32,
    },
    /// A string offset that points into the fixed part of its item.
    #[error("string offset {found} lies inside the {header} bytes of fixed fields")]
    StringOffset {
        /// The offset found.
        found: u32,
        /// Size of the fixed part.
        header: u32,
    },
    /// No NUL byte behind a string.
    #[error("a NUL byte must follow the string")]
    NoTerminator,
    /// A NUL byte inside a string.
    #[error("NUL byte inside a string")]
    InteriorNul,
    /// Two strings of one item share bytes.
    #[error("two strings of the item overlap")]
    StringOverlap,
    /// A string or key that must not be empty.
    #[error("{field} must not be empty")]
    Empty {
        /// The field's name.
        field: &'static str,
    },
    /// A string longer than the contract allows.
    #[error("{field} is {len} bytes long; {max} are allowed")]
    TooLong {
        /// The field's name.
        field: &'static str,
        /// Its length.
        len: u32,
        /// The largest length allowed.
        max: u32,
    },
    /// A status outside the defined values.
    #[error("status {found} is not defined")]
    Status {
        /// The value found.
        found: u16,
    },
    /// A cgroup status outside the defined values.
    #[error("cgroup status {found} is not defined")]
    CgroupStatus {
        /// The value found.
        found: u16,
    },
    /// A field that the item's status requires to be blank.
    #[error("{field} must be blank under this status")]
    NotBlank {
        /// The field's name.
        field: &'static str,
    },
    /// Padding in front of a label table that is not zero.
    #[error("padding in front of the labels must be 0")]
    Padding,
    /// A label string that does not start where the one before it ended.
    #[error("label string at {found}; it must start at {expected}")]
    LabelOffset {
        /// Where it must start.
        expected: u64,
        /// Where it claims to start.
        found: u32,
    },
    /// An item with bytes behind its last string.
    #[error("item ends at {found}; its last string ends at {expected}")]
    ItemEnd {
        /// Where the last string ends.
        expected: u64,
        /// Where the item ends.
        found: u64,
    },
    /// Strings that together are larger than the message they came in: items share bytes.
    #[error("strings of {strings} bytes claimed in a message of {message}: items overlap")]
    Amplified {
        /// Sum of the claimed lengths.
        strings: u64,
        /// Length of the message.
        message: u64,
    },
}

impl DecodeError {
    pub(crate) const fn new(offset: usize, fault: Fault) -> Self {
        Self { offset, fault }
    }

    /// Fails unless `have` bytes suffice for a structure of `needed` that starts at `offset`.
    #[inline]
    pub(crate) fn need(have: usize, needed: usize, offset: usize) -> Result<(), Self> {
        if have < needed {
            return Err(Self::new(offset, Fault::Truncated { needed: needed as u64, have: have as u64 }));
        }
        Ok(())
    }
}

/// Values that cannot become a valid message. Nothing of the refused item is left in the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// The message would exceed its limit.
    #[error("the message would take {needed} bytes; the limit is {limit}")]
    TooLarge {
        /// Bytes that the message would take.
        needed: u64,
        /// Bytes that it may take.
        limit: u64,
    },
    /// A string with a NUL byte inside: the wire ends strings by NUL.
    #[error("{field} contains a NUL byte")]
    InteriorNul {
        /// The field's name.
        field: &'static str,
    },
    /// A string or key that must not be empty.
    #[error("{field} must not be empty")]
    Empty {
        /// The field's name.
        field: &'static str,
    },
    /// A string longer than the contract allows.
    #[error("{field} is {len} bytes long; {max} are allowed")]
    TooLong {
        /// The field's name.
        field: &'static str,
        /// Its length.
        len: usize,
        /// The largest length allowed.
        max: usize,
    },
    /// More labels than a 16-bit count can hold.
    #[error("{count} labels; at most 65535 are possible")]
    TooManyLabels {
        /// The number given.
        count: usize,
    },
    /// A response that must answer every key of its request did not.
    #[error("{answered} answers for {asked} keys")]
    Unanswered {
        /// Keys of the request.
        asked: usize,
        /// Answers given.
        answered: usize,
    },
}
