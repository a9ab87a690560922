//! A mapping of a segment's file: header page, then the data, the latter twice in a row when it is a mirrored ring.

use super::guard::{self, Guard};
use rustix::fd::BorrowedFd;
use rustix::io;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous, munmap};
use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::atomic::AtomicBool;

/// What this process may do with a mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protection {
    Read,
    ReadWrite,
}

/// Mapped memory, unmapped on drop.
#[derive(Debug)]
pub(crate) struct Mapping {
    base: NonNull<u8>,
    len: usize,
    protection: Protection,
    guard: Option<Guard>,
}

// SAFETY: the mapping is plain shared memory, accessed only through `Words` (M2).
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `header + data` bytes of `fd`, and with `mirror` the data once more right behind. All sizes are multiples of the
    /// page size. `guarded` files may be shrunk by somebody else (M4); a sealed memfd cannot.
    pub(crate) fn new(
        fd: BorrowedFd<'_>,
        header: usize,
        data: usize,
        mirror: bool,
        protection: Protection,
        guarded: bool,
    ) -> io::Result<Self> {
        let file = header.checked_add(data).ok_or(io::Errno::OVERFLOW)?;
        let len = if mirror { file.checked_add(data).ok_or(io::Errno::OVERFLOW)? } else { file };
        let prot = match protection {
            Protection::Read => ProtFlags::READ,
            Protection::ReadWrite => ProtFlags::READ | ProtFlags::WRITE,
        };
        // SAFETY: reserves fresh addresses, replaced below; nothing points there yet.
        let base = unsafe { mmap_anonymous(std::ptr::null_mut(), len, ProtFlags::empty(), MapFlags::PRIVATE)? };
        let base = NonNull::new(base.cast::<u8>()).ok_or(io::Errno::NOMEM)?;
        // From here on `Drop` gives the whole reservation back.
        let mut mapping = Self { base, len, protection, guard: None };
        let fixed = MapFlags::SHARED | MapFlags::FIXED;
        // SAFETY: the address range lies inside our own reservation.
        unsafe { mmap(base.as_ptr().cast(), file, prot, fixed, fd, 0)? };
        if mirror {
            // SAFETY: as above, the second half of the reservation.
            unsafe { mmap(base.as_ptr().add(file).cast(), data, prot, fixed, fd, header as u64)? };
        }
        if guarded {
            mapping.guard = Some(guard::register(base.as_ptr() as usize, len)?);
        }
        Ok(mapping)
    }

    /// Faults every page in, so that no later access pays for it. Failure is harmless: the pages come when they are used.
    pub(crate) fn populate(&self) {
        let advice = match self.protection {
            Protection::Read => Advice::LinuxPopulateRead,
            Protection::ReadWrite => Advice::LinuxPopulateWrite,
        };
        // SAFETY: our own mapping; populating changes no content.
        let _ = unsafe { madvise(self.base.as_ptr().cast::<c_void>(), self.len, advice) };
    }

    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn writable(&self) -> bool {
        self.protection == Protection::ReadWrite
    }

    /// The flag that is raised when the file is shrunk; a sealed file needs none.
    pub(crate) fn tripped(&self) -> Option<&'static AtomicBool> {
        self.guard.as_ref().map(Guard::tripped)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // The guard goes first: it must never describe addresses that something else may get.
        self.guard = None;
        // SAFETY: our own mapping, and no `Words` is left (M1).
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.len) };
    }
}
