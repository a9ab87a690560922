//! The two test services of the field: INCREMENT and STRING_REVERSE.

use crate::bytes::{put_u32, u32_at, u64_at};
use crate::error::{DecodeError, EncodeError, Fault};

/// Offset of the text in a STRING_REVERSE payload, and the only value its offset field may have.
const TEXT_AT: usize = 8;

/// Appends an INCREMENT payload, request or response: one `u64`.
#[inline]
pub fn encode_increment(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_ne_bytes());
}

/// Reads an INCREMENT payload. Bytes behind the value are ignored, as every known peer does.
///
/// # Errors
/// [`Fault::Truncated`] below 8 bytes.
#[inline]
pub fn decode_increment(payload: &[u8]) -> Result<u64, DecodeError> {
    DecodeError::need(payload.len(), 8, 0)?;
    Ok(u64_at(payload, 0))
}

/// Appends a STRING_REVERSE payload, request or response: offset, length, the bytes, NUL.
///
/// # Errors
/// [`EncodeError::TooLarge`] if the payload would exceed `limit` bytes.
pub fn encode_string(out: &mut Vec<u8>, text: &[u8], limit: usize) -> Result<(), EncodeError> {
    let needed = TEXT_AT + text.len() + 1;
    let limit = limit.min(u32::MAX as usize);
    if needed > limit {
        return Err(EncodeError::TooLarge { needed: needed as u64, limit: limit as u64 });
    }
    let start = out.len();
    out.resize(start + TEXT_AT, 0);
    put_u32(&mut out[start..], 0, TEXT_AT as u32);
    put_u32(&mut out[start..], 4, text.len() as u32);
    out.extend_from_slice(text);
    out.push(0);
    Ok(())
}

/// Reads a STRING_REVERSE payload: the bytes in front of the NUL, which may be any bytes.
///
/// # Errors
/// [`Fault::Truncated`], [`Fault::StringOffset`] for any offset but 8, [`Fault::OutOfBounds`], [`Fault::NoTerminator`].
pub fn decode_string(payload: &[u8]) -> Result<&[u8], DecodeError> {
    DecodeError::need(payload.len(), TEXT_AT + 1, 0)?;
    let (offset, len) = (u32_at(payload, 0), u32_at(payload, 4));
    if offset as usize != TEXT_AT {
        return Err(DecodeError::new(0, Fault::StringOffset { found: offset, header: TEXT_AT as u32 }));
    }
    let end = TEXT_AT as u64 + u64::from(len) + 1;
    if end > payload.len() as u64 {
        let fault = Fault::OutOfBounds { start: TEXT_AT as u64, end, len: payload.len() as u64 };
        return Err(DecodeError::new(4, fault));
    }
    let nul = TEXT_AT + len as usize;
    if payload[nul] != 0 {
        return Err(DecodeError::new(nul, Fault::NoTerminator));
    }
    Ok(&payload[TEXT_AT..nul])
}
