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
    /// Maps `header + data` bytes of `fd`, and with `mirror` the data once more right behind. All sizes are multiples
    /// of the page size. `guarded` files may be shrunk by somebody else (M4); a sealed memfd cannot.
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
        let mut mapping = Self::reserve(len, protection)?;
        mapping.place(fd, 0, 0, file)?;
        if mirror {
            mapping.place(fd, file, header, data)?;
        }
        if guarded {
            mapping.guard = Some(guard::register(mapping.base.as_ptr() as usize, len)?);
        }
        Ok(mapping)
    }

    /// Addresses that nothing is mapped at yet.
    fn reserve(len: usize, protection: Protection) -> io::Result<Self> {
        // SAFETY: reserves fresh addresses; nothing points there yet.
        let base = unsafe { mmap_anonymous(std::ptr::null_mut(), len, ProtFlags::empty(), MapFlags::PRIVATE)? };
        let base = NonNull::new(base.cast::<u8>()).ok_or(io::Errno::NOMEM)?;
        // From here on `Drop` gives the whole reservation back.
        Ok(Self { base, len, protection, guard: None })
    }

    /// Maps `len` bytes of `fd` from `offset` on at byte `at` of the reservation.
    fn place(&self, fd: BorrowedFd<'_>, at: usize, offset: usize, len: usize) -> io::Result<()> {
        assert!(at <= self.len && len <= self.len - at, "a mapping outside its reservation");
        let prot = match self.protection {
            Protection::Read => ProtFlags::READ,
            Protection::ReadWrite => ProtFlags::READ | ProtFlags::WRITE,
        };
        let fixed = MapFlags::SHARED | MapFlags::FIXED;
        // SAFETY: the address range lies inside our own reservation, which nobody has words of yet.
        unsafe { mmap(self.base.as_ptr().add(at).cast(), len, prot, fixed, fd, offset as u64)? };
        Ok(())
    }

    /// Maps `header` bytes of `fd` and then each of `areas`, which follow the header in the file, twice in a row. All
    /// sizes are multiples of the page size.
    pub(crate) fn of_areas(
        fd: BorrowedFd<'_>,
        header: usize,
        areas: [usize; 2],
        protection: Protection,
        guarded: bool,
    ) -> io::Result<Self> {
        let twice = |area: usize| area.checked_mul(2).ok_or(io::Errno::OVERFLOW);
        let len = twice(areas[0])?.checked_add(twice(areas[1])?).and_then(|data| data.checked_add(header));
        let mut mapping = Self::reserve(len.ok_or(io::Errno::OVERFLOW)?, protection)?;
        // Neighbours in the file that are neighbours here make one mapping for the kernel: three in all.
        mapping.place(fd, 0, 0, header + areas[0])?;
        let (mut at, mut offset) = (header + areas[0], header);
        mapping.place(fd, at, offset, areas[0])?;
        (at, offset) = (at + areas[0], offset + areas[0]);
        mapping.place(fd, at, offset, areas[1])?;
        mapping.place(fd, at + areas[1], offset, areas[1])?;
        if guarded {
            mapping.guard = Some(guard::register(mapping.base.as_ptr() as usize, mapping.len)?);
        }
        Ok(mapping)
    }

    /// Faults every page in, so that no later access pays for it. Failure is harmless: the pages come when they are
    /// used.
    pub(crate) fn populate(&self) {
        let advice = match self.protection {
            Protection::Read => Advice::LinuxPopulateRead,
            Protection::ReadWrite => Advice::LinuxPopulateWrite,
        };
        // SAFETY: our own mapping; populating changes no content.
        let _ = unsafe { madvise(self.base.as_ptr().cast::<c_void>(), self.len, advice) };
    }

    #[inline]
    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn writable(&self) -> bool {
        self.protection == Protection::ReadWrite
    }

    /// Raises the flag, although nothing that was cut off has been touched yet.
    pub(crate) fn trip(&self) {
        if let Some(tripped) = self.tripped() {
            tripped.store(true, std::sync::atomic::Ordering::Release); // pairs with the load in `Words::truncated`
        }
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
