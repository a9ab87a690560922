//! Memory from the kernel.

use super::{Result, call, check, nr};

/// Anonymous memory that grows; only touched pages count.
pub(crate) struct Pages {
    start: *mut u8,
    len: usize,
}

impl Pages {
    pub(crate) fn new(len: usize) -> Result<Pages> {
        const PRIVATE_ANONYMOUS: usize = 0x22;
        let start = check(call(nr::MMAP, [0, len, 3, PRIVATE_ANONYMOUS, -1isize as usize, 0]))?;
        Ok(Pages { start: start as *mut u8, len })
    }

    pub(crate) fn grow(&mut self, len: usize) -> Result<()> {
        const MAY_MOVE: usize = 1;
        let start = check(call(nr::MREMAP, [self.start as usize, self.len, len, MAY_MOVE, 0, 0]))?;
        (self.start, self.len) = (start as *mut u8, len);
        Ok(())
    }

    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: `start` maps `len` readable and writable, zeroed bytes, ours alone until drop; the borrow holds
        // `self`.
        unsafe { core::slice::from_raw_parts_mut(self.start, self.len) }
    }

    /// The same bytes as records; `T` is plain words.
    pub(crate) fn records<T: Plain>(&mut self) -> &mut [T] {
        // SAFETY: as in `bytes`; a page is aligned for any `Plain`, and every bit pattern is one.
        unsafe { core::slice::from_raw_parts_mut(self.start.cast(), self.len / size_of::<T>()) }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        call(nr::MUNMAP, [self.start as usize, self.len, 0, 0, 0, 0]);
    }
}

/// Types for which every bit pattern is a value.
///
/// # Safety
/// `repr(C)`, integers only, no padding, alignment at most a page.
pub(crate) unsafe trait Plain: Copy {}
// SAFETY: integers only, see its definition.
unsafe impl Plain for crate::tree::Member {}
