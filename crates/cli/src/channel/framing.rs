//! Where a record ends: the same rule for `pub`, which cuts its input, and `sub`, which puts it together again.
//!
//! | | record | on standard input and output |
//! |---|---|---|
//! | lines | a line **with** its newline | the records, one after the other |
//! | frames | any bytes | each behind its length, 4 bytes, little-endian |
//!
//! Because a line keeps its newline, writing the records one after the other gives exactly the bytes that were read: a
//! last line without a newline is a record without one, and a line that is longer than a record may be is several
//! records, of which only the last ends in a newline.

use std::num::TryFromIntError;

/// Bytes of a frame before its payload.
const PREFIX: usize = 4;

/// How records are told from each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// By newlines.
    Lines {
        /// Whether a line that is too long becomes several records, rather than an error.
        split: bool,
    },
    /// By a length before each.
    Frames,
}

/// What is at the beginning of a piece of input.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Cut<'a> {
    /// A record, and how many bytes it took.
    Record { payload: &'a [u8], consumed: usize },
    /// The beginning of one; there is more to come.
    More,
    /// One that is too long.
    TooLong { len: usize },
}

impl Framing {
    /// Cuts the first record off `input`. `ended`: nothing comes after it.
    #[inline]
    pub(super) fn cut<'a>(self, input: &'a [u8], max: usize, ended: bool) -> Cut<'a> {
        match self {
            Self::Lines { split } => cut_line(input, max, split, ended),
            Self::Frames => cut_frame(input, max),
        }
    }

    /// The most input that it can take to see one record of `max` bytes, or that it is longer.
    pub(super) fn longest(self, max: usize) -> usize {
        match self {
            Self::Lines { .. } => max + 1,
            Self::Frames => max + PREFIX,
        }
    }

    /// Writes a record as `sub` does. Fails if four bytes cannot say its length.
    pub(super) fn put(self, record: &[u8], out: &mut Vec<u8>) -> Result<(), TryFromIntError> {
        if self == Self::Frames {
            out.extend_from_slice(&u32::try_from(record.len())?.to_le_bytes());
        }
        out.extend_from_slice(record);
        Ok(())
    }
}

#[inline]
fn cut_line(input: &[u8], max: usize, split: bool, ended: bool) -> Cut<'_> {
    let window = &input[..input.len().min(max)];
    let len = match memchr::memchr(b'\n', window) {
        Some(newline) => newline + 1,
        None if input.len() > max && !split => return Cut::TooLong { len: input.len() },
        None if input.len() >= max && split => max,
        None if ended && !input.is_empty() => input.len(),
        None => return Cut::More,
    };
    Cut::Record { payload: &input[..len], consumed: len }
}

#[inline]
fn cut_frame(input: &[u8], max: usize) -> Cut<'_> {
    let Some((prefix, rest)) = input.split_first_chunk::<PREFIX>() else { return Cut::More };
    let len = u32::from_le_bytes(*prefix) as usize;
    if len > max {
        return Cut::TooLong { len };
    }
    match rest.get(..len) {
        Some(payload) => Cut::Record { payload, consumed: PREFIX + len },
        None => Cut::More,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(framing: Framing, mut input: &[u8], max: usize) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        while let Cut::Record { payload, consumed } = framing.cut(input, max, true) {
            all.push(payload.to_vec());
            input = &input[consumed..];
        }
        assert!(input.is_empty(), "{input:?} is left");
        all
    }

    #[test]
    fn lines_keep_their_newline_so_that_the_records_are_the_input() {
        let lines = Framing::Lines { split: true };
        for input in ["", "\n", "a", "a\n", "a\nb", "\n\n\na", "0123456789abcdef\nx", "01234567\n"] {
            let records = records(lines, input.as_bytes(), 8);
            assert_eq!(records.concat(), input.as_bytes());
            assert!(records.iter().all(|record| !record.is_empty() && record.len() <= 8), "{records:?}");
        }
        assert_eq!(records(lines, b"a\nbc\n", 8), [b"a\n".to_vec(), b"bc\n".to_vec()]);
    }

    #[test]
    fn a_line_that_has_not_ended_yet_is_waited_for() {
        assert_eq!(Framing::Lines { split: true }.cut(b"abc", 8, false), Cut::More);
        assert_eq!(Framing::Lines { split: false }.cut(b"abcdefgh", 8, false), Cut::More);
    }

    #[test]
    fn where_a_value_must_be_whole_a_long_line_is_refused() {
        let whole = Framing::Lines { split: false };
        assert_eq!(whole.cut(b"abcdefghi", 8, false), Cut::TooLong { len: 9 });
        assert_eq!(whole.cut(b"abcdefgh", 8, true), Cut::Record { payload: b"abcdefgh", consumed: 8 });
    }

    #[test]
    fn frames_carry_any_bytes_and_come_out_as_they_went_in() {
        let mut input = Vec::new();
        for record in [b"".as_slice(), b"\n\n", b"12345678"] {
            Framing::Frames.put(record, &mut input).unwrap();
        }
        assert_eq!(records(Framing::Frames, &input, 8), [b"".to_vec(), b"\n\n".to_vec(), b"12345678".to_vec()]);
        assert_eq!(Framing::Frames.cut(&9_u32.to_le_bytes(), 8, false), Cut::TooLong { len: 9 });
        assert_eq!(Framing::Frames.cut(&input[..3], 8, true), Cut::More);
    }
}
