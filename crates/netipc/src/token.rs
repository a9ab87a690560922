//! The auth token of a Netdata installation.

use xxhash_rust::xxh3::xxh3_64;

/// Why a text is no invocation id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "an invocation id is 32 hexadecimal digits, with or without dashes; found {found} digits, first fault at byte {at}"
)]
pub struct InvocationIdError {
    /// Hexadecimal digits found.
    pub found: usize,
    /// Where the text stops being one.
    pub at: usize,
}

/// The token that plugins of one Netdata agent share: XXH3-64 of the 16 bytes of `NETDATA_INVOCATION_ID`.
///
/// Accepts the spellings of a UUID in the field: 32 hexadecimal digits, dashes anywhere between them ignored.
///
/// ```
/// let dashed = ginnel_netipc::token_of_invocation("f47ac10b-58cc-4372-a567-0e02b2c3d479")?;
/// assert_eq!(dashed, ginnel_netipc::token_of_invocation("F47AC10B58CC4372A5670E02B2C3D479")?);
/// # Ok::<(), ginnel_netipc::InvocationIdError>(())
/// ```
///
/// # Errors
/// [`InvocationIdError`] for anything else.
pub fn token_of_invocation(id: &str) -> Result<u64, InvocationIdError> {
    let mut bytes = [0u8; 16];
    let mut found = 0;
    for (at, character) in id.trim().char_indices() {
        match (character.to_digit(16), bytes.get_mut(found / 2)) {
            (Some(digit), Some(byte)) => {
                *byte = *byte << 4 | digit as u8;
                found += 1;
            }
            _ if character == '-' => {}
            _ => return Err(InvocationIdError { found, at }),
        }
    }
    if found < 32 {
        return Err(InvocationIdError { found, at: id.trim().len() });
    }
    Ok(xxh3_64(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_is_the_hash_of_the_sixteen_bytes() {
        let bytes: Vec<u8> = (0..16).collect();
        assert_eq!(token_of_invocation("00010203-0405-0607-0809-0a0b0c0d0e0f"), Ok(xxh3_64(&bytes)));
        // Published test vector of the algorithm's authors for an empty input; pins variant and seed.
        assert_eq!(xxh3_64(b""), 0x2d06_8005_38d3_94c2);
    }

    #[test]
    fn anything_else_is_refused_with_its_position() {
        assert_eq!(token_of_invocation(""), Err(InvocationIdError { found: 0, at: 0 }));
        assert_eq!(token_of_invocation("00010203"), Err(InvocationIdError { found: 8, at: 8 }));
        assert_eq!(token_of_invocation("0001x203"), Err(InvocationIdError { found: 4, at: 4 }));
        let long = "0".repeat(33);
        assert_eq!(token_of_invocation(&long), Err(InvocationIdError { found: 32, at: 32 }));
    }
}
