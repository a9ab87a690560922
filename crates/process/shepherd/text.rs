//! Numbers and paths as text, without a heap.

use crate::sys::Path;
use core::ffi::CStr;

/// A number of decimal digits only.
pub(crate) fn parse(digits: &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for &digit in digits {
        let digit = digit.checked_sub(b'0').filter(|digit| *digit < 10)?;
        value = value.checked_mul(10)?.checked_add(u64::from(digit))?;
    }
    (!digits.is_empty()).then_some(value)
}

/// The strings of a list in which each ends with NUL.
pub(crate) fn strings(list: &[u8]) -> impl Iterator<Item = Path<'_>> {
    list.split_inclusive(|&byte| byte == 0).filter_map(|string| CStr::from_bytes_with_nul(string).ok())
}

/// The value behind `key` in a file of `key value` lines.
pub(crate) fn value_of(file: &[u8], key: &[u8]) -> Option<u64> {
    let line =
        file.split(|&byte| byte == b'\n').find(|line| line.starts_with(key) && line.get(key.len()) == Some(&b' '))?;
    parse(&line[key.len() + 1..])
}

/// Text put together on the stack.
pub(crate) struct Text<const SIZE: usize> {
    bytes: [u8; SIZE],
    len: usize,
}

impl<const SIZE: usize> Text<SIZE> {
    pub(crate) fn new() -> Self {
        Text { bytes: [0; SIZE], len: 0 }
    }

    /// What does not fit is cut; the last byte stays NUL.
    pub(crate) fn push(&mut self, text: &[u8]) -> &mut Self {
        for &byte in text {
            if self.len + 1 < SIZE {
                self.bytes[self.len] = byte;
                self.len += 1;
            }
        }
        self
    }

    pub(crate) fn number(&mut self, mut value: u64) -> &mut Self {
        let mut digits = [0u8; 20];
        let mut at = digits.len();
        loop {
            at -= 1;
            digits[at] = b'0' + (value % 10) as u8;
            value /= 10;
            if value == 0 {
                break;
            }
        }
        self.push(&digits[at..])
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    pub(crate) fn path(&self) -> Path<'_> {
        CStr::from_bytes_until_nul(&self.bytes).unwrap_or(c"")
    }
}
