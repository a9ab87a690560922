//! The structured error: the payload of a response whose status is not OK.
//!
//! ```text
//!  0 u32 code         the service's own number; 0 if the status says it all
//!  4 u16 flags        bit 0 RETRYABLE, the others 0
//!  6 u16 reserved 0
//!  8 u32 message_len  bytes of UTF-8
//! 12 u32 details_len  bytes whose meaning the interface gives to `code`
//! 16 message, zeros up to a multiple of 8, details
//! ```

use crate::bytes::{align8, put, u16_at, u32_at};
use alloc::vec::Vec;

/// Bytes of a structured error in front of its message.
pub const FAILURE_HEAD_LEN: usize = 16;
/// Largest structured error in bytes. Every receiver takes one of this size, whatever response limit was agreed.
pub const MAX_FAILURE_LEN: usize = 4096;

const RETRYABLE: u16 = 1;

/// A structured error, borrowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Failure<'a> {
    /// The service's own number; 0 if the status says it all.
    pub code: u32,
    /// The same request may succeed later.
    pub retryable: bool,
    /// For people.
    pub message: &'a str,
    /// For programs; its meaning belongs to `code`.
    pub details: &'a [u8],
}

/// Why a payload is not a structured error. Checks run in the order of the variants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FailureError {
    /// Fewer than 16 bytes.
    #[error("error is truncated: {len} of 16 bytes")]
    Truncated {
        /// Bytes there were.
        len: usize,
    },
    /// More bytes than an error may have.
    #[error("error has {len} bytes, more than 4096")]
    TooLong {
        /// Bytes there were.
        len: usize,
    },
    /// Flags that this version does not know.
    #[error("error flags are {found:#x}, not 0 or 1")]
    Flags {
        /// What was there.
        found: u16,
    },
    /// The reserved field is not zero.
    #[error("error reserved field is {found:#x}, not 0")]
    Reserved {
        /// What was there.
        found: u16,
    },
    /// Message and details do not fill the payload exactly.
    #[error(
        "error of a {message}-byte message and {details} bytes of details needs {needed} bytes, the payload has {len}"
    )]
    Length {
        /// Length of the message.
        message: u32,
        /// Length of the details.
        details: u32,
        /// What both need.
        needed: u64,
        /// Bytes there were.
        len: usize,
    },
    /// The message is no UTF-8.
    #[error("error message is not UTF-8 from byte {valid_up_to} on")]
    Message {
        /// How much of it is.
        valid_up_to: usize,
    },
    /// The bytes between message and details are not zero.
    #[error("error padding at {offset} is not 0")]
    Padding {
        /// The first that is not.
        offset: usize,
    },
}

impl<'a> Failure<'a> {
    /// An error that only says something.
    #[must_use]
    pub const fn new(message: &'a str) -> Self {
        Self { code: 0, retryable: false, message, details: &[] }
    }

    /// Reads the whole payload of a response whose status is not OK and that has a payload.
    ///
    /// # Errors
    /// The first check that fails, in the order of [`FailureError`].
    pub fn decode(payload: &'a [u8]) -> Result<Self, FailureError> {
        let len = payload.len();
        if len < FAILURE_HEAD_LEN {
            return Err(FailureError::Truncated { len });
        }
        if len > MAX_FAILURE_LEN {
            return Err(FailureError::TooLong { len });
        }
        let flags = u16_at(payload, 4);
        if flags & !RETRYABLE != 0 {
            return Err(FailureError::Flags { found: flags });
        }
        if u16_at(payload, 6) != 0 {
            return Err(FailureError::Reserved { found: u16_at(payload, 6) });
        }
        let (message, details) = (u32_at(payload, 8), u32_at(payload, 12));
        let details_at = FAILURE_HEAD_LEN as u64 + align8(u64::from(message));
        let needed = details_at + u64::from(details);
        if needed != len as u64 {
            return Err(FailureError::Length { message, details, needed, len });
        }
        // Both fit the payload now, and so a usize.
        let (end, details_at) = (FAILURE_HEAD_LEN + message as usize, details_at as usize);
        let text = core::str::from_utf8(&payload[FAILURE_HEAD_LEN..end])
            .map_err(|error| FailureError::Message { valid_up_to: error.valid_up_to() })?;
        if let Some(at) = payload[end..details_at].iter().position(|&byte| byte != 0) {
            return Err(FailureError::Padding { offset: end + at });
        }
        Ok(Self {
            code: u32_at(payload, 0),
            retryable: flags & RETRYABLE != 0,
            message: text,
            details: &payload[details_at..],
        })
    }

    /// The payload. Details that do not fit [`MAX_FAILURE_LEN`] are left out, since half of them would be worth
    /// nothing; a message that does not fit is cut at the end of a character.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let room = MAX_FAILURE_LEN - FAILURE_HEAD_LEN;
        let room = room.min(self.message.len());
        let end = (0..=room).rev().find(|at| self.message.is_char_boundary(*at)).unwrap_or(0);
        let message = &self.message[..end];
        let details_at = FAILURE_HEAD_LEN + align8(message.len() as u64) as usize;
        let details = if self.details.len() <= MAX_FAILURE_LEN - details_at { self.details } else { &[] };
        let mut out = alloc::vec![0; details_at + details.len()];
        put(&mut out, 0, self.code.to_ne_bytes());
        put(&mut out, 4, u16::from(self.retryable).to_ne_bytes());
        put(&mut out, 8, (message.len() as u32).to_ne_bytes());
        put(&mut out, 12, (details.len() as u32).to_ne_bytes());
        out[FAILURE_HEAD_LEN..FAILURE_HEAD_LEN + message.len()].copy_from_slice(message.as_bytes());
        out[details_at..].copy_from_slice(details);
        out
    }
}
