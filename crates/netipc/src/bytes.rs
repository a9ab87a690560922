//! Fixed-width integers in host byte order, as the protocol wants them: both ends share one machine.
//!
//! Callers check the length of what they read and write first; an index out of bounds here is a defect of this crate.

macro_rules! field {
    ($get:ident, $put:ident, $int:ty) => {
        #[inline]
        pub(crate) fn $get(bytes: &[u8], at: usize) -> $int {
            let mut word = [0; size_of::<$int>()];
            word.copy_from_slice(&bytes[at..at + size_of::<$int>()]);
            <$int>::from_ne_bytes(word)
        }

        #[inline]
        pub(crate) fn $put(bytes: &mut [u8], at: usize, value: $int) {
            bytes[at..at + size_of::<$int>()].copy_from_slice(&value.to_ne_bytes());
        }
    };
}

field!(u16_at, put_u16, u16);
field!(u32_at, put_u32, u32);
field!(u64_at, put_u64, u64);

/// Rounds up to the next multiple of 8, where every item of a packed area starts.
#[inline]
pub(crate) const fn align8(len: usize) -> usize {
    (len + 7) & !7
}
