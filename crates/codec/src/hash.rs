//! The one hash of layouts and names.

/// FNV-1a, 64 bit (<http://www.isthe.com/chongo/tech/comp/fnv/>), over the parts, each followed by a byte of 0xff, so
/// that `["ab", "c"]` and `["a", "bc"]` differ. It tells layouts apart; it protects from nobody who looks for a collision.
#[must_use]
pub const fn fnv1a(parts: &[&[u8]]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    // No iterators in a constant function.
    let mut part = 0;
    while part < parts.len() {
        let bytes = parts[part];
        let mut at = 0;
        while at < bytes.len() {
            hash = step(hash, bytes[at]);
            at += 1;
        }
        hash = step(hash, 0xff);
        part += 1;
    }
    hash
}

const fn step(hash: u64, byte: u8) -> u64 {
    (hash ^ byte as u64).wrapping_mul(0x0000_0100_0000_01b3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_published_function_and_tells_parts_apart() {
        // From the authors' test vectors: FNV-1a of "foobar" followed by the separator, step by step.
        let foobar = b"foobar".iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| step(hash, *byte));
        assert_eq!(foobar, 0x8594_4171_f739_67e8);
        assert_eq!(fnv1a(&[b"foobar"]), step(foobar, 0xff));
        assert_ne!(fnv1a(&[b"ab", b"c"]), fnv1a(&[b"a", b"bc"]));
    }
}
