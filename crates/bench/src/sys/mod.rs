//! What needs `unsafe`: the time stamp counter, a shared mapping, what the process has used, POSIX message queues and
//! mutexes.

pub(crate) mod lane;
pub(crate) mod message_queue;
pub(crate) mod slot;

use crate::model::Usage;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::io;
use std::sync::atomic::{AtomicU32, AtomicU64};

/// The time stamp counter; `None` where there is none.
#[inline(always)]
pub(crate) fn time_stamp_counter() -> Option<u64> {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: RDTSC reads a counter and touches no memory; user mode may execute it on every Linux that has not
    // switched it off by prctl, which this program does not.
    return Some(unsafe { core::arch::x86_64::_rdtsc() });
    #[cfg(not(target_arch = "x86_64"))]
    None
}

/// What this process has used so far.
pub(crate) fn usage() -> Usage {
    // SAFETY: all-zero is a valid rusage, which the kernel overwrites.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a rusage that outlives the call. It cannot fail with these arguments.
    unsafe { libc::getrusage(libc::RUSAGE_SELF, &mut usage) };
    let nanoseconds = |time: libc::timeval| time.tv_sec as u64 * 1_000_000_000 + time.tv_usec as u64 * 1000;
    Usage {
        user_ns: nanoseconds(usage.ru_utime),
        system_ns: nanoseconds(usage.ru_stime),
        voluntary_switches: usage.ru_nvcsw as u64,
        involuntary_switches: usage.ru_nivcsw as u64,
        system_calls: None,
    }
}

/// The descriptor that this process's parent has given it under this number, and that nothing here has taken before.
pub(crate) fn inherited(number: i32) -> io::Result<OwnedFd> {
    // The environment is not to be trusted: a number that is not open is an error of `fcntl`.
    if number < 3 {
        return Err(io::Error::from(rustix::io::Errno::BADF));
    }
    // SAFETY: it is borrowed for the time of one system call, which fails if it is not open.
    let fd = unsafe { BorrowedFd::borrow_raw(number) };
    Ok(rustix::io::fcntl_dupfd_cloexec(fd, 3)?)
}

/// Registers a descriptor with tokio's reactor.
#[cfg(feature = "tokio")]
pub(crate) fn async_fd(fd: OwnedFd) -> io::Result<tokio::io::unix::AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` names the same open descriptor for as long as it lives, and nothing takes it out of the
    // result.
    Ok(unsafe { tokio::io::unix::AsyncFd::register(fd) }?)
}

/// A shared, pre-faulted mapping.
///
/// * **B1** It is mapped from construction to drop, for reading and writing, and what it hands out borrows it.
/// * **B2** Every access is in bounds and aligned, which is asserted where a place is taken.
/// * **B3** Words are accessed as atomics only. Other bytes are accessed by the side that has the turn, which words say.
#[derive(Debug)]
pub(crate) struct Region {
    start: *mut u8,
    len: usize,
}

// SAFETY: an address and a length of a mapping that belongs to this value (B1), accessed by B3.
unsafe impl Send for Region {}
// SAFETY: as above; the turn excludes threads as it excludes processes.
unsafe impl Sync for Region {}

impl Region {
    /// Maps the first `len` bytes of `fd`, which must be at least that long and stay so.
    pub(crate) fn map(fd: impl AsFd, len: usize) -> io::Result<Self> {
        let real = rustix::fs::fstat(&fd)?.st_size as u64;
        if len == 0 || real < len as u64 {
            return Err(io::Error::other(format!("shared memory of {real} bytes, expected {len}")));
        }
        // SAFETY: a fresh mapping at an address that the kernel chooses overlaps nothing that Rust knows.
        let start = unsafe {
            let flags = MapFlags::SHARED | MapFlags::POPULATE;
            mmap(std::ptr::null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, flags, fd, 0)?
        };
        Ok(Self { start: start.cast(), len })
    }

    /// The word at byte `offset`.
    #[inline(always)]
    pub(crate) fn word(&self, offset: usize) -> &AtomicU64 {
        assert!(offset.is_multiple_of(8) && offset + 8 <= self.len);
        // SAFETY: B1, B2 as asserted, B3.
        unsafe { &*self.start.add(offset).cast::<AtomicU64>() }
    }

    /// The 32-bit word at byte `offset`, for a futex.
    #[inline(always)]
    pub(crate) fn half_word(&self, offset: usize) -> &AtomicU32 {
        assert!(offset.is_multiple_of(4) && offset + 4 <= self.len);
        // SAFETY: B1, B2 as asserted, B3.
        unsafe { &*self.start.add(offset).cast::<AtomicU32>() }
    }

    /// Copies `bytes` in at byte `offset`.
    ///
    /// # Safety
    /// The caller has the turn (B3): no other thread or process accesses these bytes now.
    #[inline(always)]
    pub(crate) unsafe fn write(&self, offset: usize, bytes: &[u8]) {
        assert!(offset <= self.len && bytes.len() <= self.len - offset);
        // SAFETY: B1, B2 as asserted, exclusive by the caller's promise. `bytes` is private memory.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.start.add(offset), bytes.len()) }
    }

    /// Copies bytes out from byte `offset`.
    ///
    /// # Safety
    /// The caller has the turn (B3): no other thread or process writes these bytes now.
    #[inline(always)]
    pub(crate) unsafe fn read(&self, offset: usize, bytes: &mut [u8]) {
        assert!(offset <= self.len && bytes.len() <= self.len - offset);
        // SAFETY: B1, B2 as asserted, not written by the caller's promise. `bytes` is private memory.
        unsafe { std::ptr::copy_nonoverlapping(self.start.add(offset), bytes.as_mut_ptr(), bytes.len()) }
    }

    /// The place of a `T` at byte `offset`, for objects that the C library shares between processes.
    pub(crate) fn place<T>(&self, offset: usize) -> *mut T {
        assert!(offset.is_multiple_of(align_of::<T>()) && offset + size_of::<T>() <= self.len);
        self.start.wrapping_add(offset).cast()
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: B1: nothing that borrowed it is left. It was mapped with this length.
        let _ = unsafe { munmap(self.start.cast(), self.len) };
    }
}
