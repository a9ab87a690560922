//! What needs `unsafe` or the kernel: the time stamp counter, shared mappings, scheduling.

use crate::Outcome;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap};
use rustix::thread::{CpuSet, sched_getcpu, sched_setaffinity};
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::time::{Duration, Instant};

/// The cheapest clock there is: the time stamp counter where there is one, else the monotonic clock.
#[inline(always)]
pub fn ticks() -> u64 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: RDTSC reads a counter and touches no memory; user mode may execute it on every Linux that has not
    // switched it off by prctl, which this program does not.
    unsafe {
        core::arch::x86_64::_rdtsc()
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
    }
}

/// How long a tick is, measured against the monotonic clock.
#[derive(Clone, Copy)]
pub struct TickLength {
    picoseconds: f64,
}

impl TickLength {
    /// Spins for 10 ms: long enough for an error below 1 in 10,000.
    pub fn measure() -> Self {
        let (start, first) = (Instant::now(), ticks());
        while start.elapsed() < Duration::from_millis(10) {}
        let (elapsed, last) = (start.elapsed(), ticks());
        Self { picoseconds: elapsed.as_nanos() as f64 * 1000.0 / (last - first) as f64 }
    }

    pub fn picoseconds(self, ticks: u64) -> u64 {
        (ticks as f64 * self.picoseconds) as u64
    }

    pub fn ticks_in(self, time: Duration) -> u64 {
        (time.as_nanos() as f64 * 1000.0 / self.picoseconds) as u64
    }
}

/// Pins the calling thread to `core` and proves it.
pub fn pin(core: usize) -> Outcome<()> {
    let mut set = CpuSet::new();
    set.set(core);
    sched_setaffinity(None, &set).map_err(|error| format!("cannot pin to core {core}: {error}"))?;
    verify_pinned(core)
}

/// An error if the calling thread is not on `core`.
pub fn verify_pinned(core: usize) -> Outcome<()> {
    let now = sched_getcpu();
    if now == core { Ok(()) } else { Err(format!("pinned to core {core}, yet running on core {now}").into()) }
}

/// Takes the last place in the queue for a CPU: what a SCHED_IDLE burner wants.
pub fn schedule_idle() -> Outcome<()> {
    // SAFETY: the parameter is an initialised sched_param that outlives the call.
    let result = unsafe {
        let parameter: libc::sched_param = std::mem::zeroed();
        libc::sched_setscheduler(0, libc::SCHED_IDLE, &parameter)
    };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error().into()) }
}

/// Asks for the highest ordinary priority; without the right to it nothing changes, which the caller reports.
///
/// Where sessions are scheduled as groups, a process's niceness counts only inside its session. So the parent of a
/// measurement leads a session of its own and raises that one too.
pub fn raise_priority() -> bool {
    let raised = rustix::process::setpriority_process(None, -20).is_ok();
    if raised && rustix::process::setsid().is_ok() {
        // Without groups there is no such file, and nothing to do.
        let _ = std::fs::write("/proc/self/autogroup", "-20");
    }
    raised
}

/// Dies with the parent, so that no peer outlives a measurement that was killed.
pub fn die_with_parent() -> Outcome<()> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    Ok(())
}

/// Anonymous memory that two processes can share.
pub fn shared_memory(len: usize) -> Outcome<OwnedFd> {
    let fd = memfd_create("rivals", MemfdFlags::CLOEXEC)?;
    ftruncate(&fd, len as u64)?;
    Ok(fd)
}

/// A shared, pre-faulted mapping that lives as long as the process.
#[derive(Clone, Copy)]
pub struct Region {
    start: *mut u8,
    len: usize,
}

// SAFETY: a `Region` is an address and a length of a mapping that is never removed; every access through it goes
// through atomics or through the unsafe methods below, whose callers uphold exclusion.
unsafe impl Send for Region {}

impl Region {
    pub fn map(fd: impl AsFd, len: usize) -> Outcome<Self> {
        // SAFETY: a fresh mapping at an address that the kernel chooses overlaps nothing that Rust knows.
        let start = unsafe {
            mmap(
                std::ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED | MapFlags::POPULATE,
                fd,
                0,
            )?
        };
        Ok(Self { start: start.cast(), len })
    }

    /// The word at byte `offset`.
    #[inline(always)]
    pub fn word(&self, offset: usize) -> &'static AtomicU64 {
        assert!(offset.is_multiple_of(8) && offset + 8 <= self.len);
        // SAFETY: in bounds and aligned as asserted, and the mapping is never removed.
        unsafe { &*self.start.add(offset).cast::<AtomicU64>() }
    }

    /// The 32-bit word at byte `offset`, for a futex.
    pub fn half_word(&self, offset: usize) -> &'static AtomicU32 {
        assert!(offset.is_multiple_of(4) && offset + 4 <= self.len);
        // SAFETY: in bounds and aligned as asserted, and the mapping is never removed.
        unsafe { &*self.start.add(offset).cast::<AtomicU32>() }
    }

    /// The place of a `[u64; W]` at byte `offset`, checked once, to be used often.
    pub fn place<const W: usize>(&self, offset: usize) -> Place<W> {
        assert!(offset.is_multiple_of(8) && offset + 8 * W <= self.len);
        // SAFETY: in bounds as asserted.
        Place { address: unsafe { self.start.add(offset) }.cast() }
    }
}

/// A payload's place in shared memory. Whoever holds the turn (an acquired index or sequence word) may touch it.
#[derive(Clone, Copy)]
pub struct Place<const W: usize> {
    address: *mut [u64; W],
}

// SAFETY: as for `Region`.
unsafe impl<const W: usize> Send for Place<W> {}

impl<const W: usize> Place<W> {
    /// The place `index` payloads further on.
    ///
    /// # Safety
    /// The mapping holds at least `index + 1` payloads from here.
    #[inline(always)]
    pub unsafe fn nth(self, index: usize) -> Self {
        // SAFETY: the caller's promise.
        Self { address: unsafe { self.address.add(index) } }
    }

    /// Copies a payload in.
    ///
    /// # Safety
    /// The caller holds the turn: nobody reads or writes this place now.
    #[inline(always)]
    pub unsafe fn write(self, from: &[u64; W]) {
        // SAFETY: valid and aligned (`Region::place`), exclusive by the caller's promise.
        unsafe { std::ptr::copy_nonoverlapping(from, self.address, 1) }
    }

    /// Copies a payload out.
    ///
    /// # Safety
    /// The caller holds the turn: nobody writes this place now.
    #[inline(always)]
    pub unsafe fn read(self, into: &mut [u64; W]) {
        // SAFETY: valid and aligned (`Region::place`), not written by the caller's promise.
        unsafe { std::ptr::copy_nonoverlapping(self.address, into, 1) }
    }

    /// Writes the first and the last word where they lie.
    ///
    /// # Safety
    /// As for [`Place::write`].
    #[inline(always)]
    pub unsafe fn set_ends(self, first: u64, last: u64) {
        // SAFETY: as for `write`.
        unsafe {
            (*self.address)[W - 1] = last;
            (*self.address)[0] = first;
        }
    }

    /// Reads the first and the last word where they lie.
    ///
    /// # Safety
    /// As for [`Place::read`].
    #[inline(always)]
    pub unsafe fn ends(self) -> (u64, u64) {
        // SAFETY: as for `read`.
        unsafe { ((*self.address)[0], (*self.address)[W - 1]) }
    }
}
