//! `membarrier(2)`: a full fence on every processor that runs a registered process.

use libc::{SYS_membarrier, c_int, syscall};

/// Registers this process for [`membarrier_global`]. False where the kernel has no such call or a filter refuses it.
pub(crate) fn membarrier_register() -> bool {
    membarrier(libc::MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED)
}

/// A full fence on every processor that runs a registered process just now; the others pass one when they switch.
pub(crate) fn membarrier_global() -> bool {
    membarrier(libc::MEMBARRIER_CMD_GLOBAL_EXPEDITED)
}

fn membarrier(command: c_int) -> bool {
    // SAFETY: takes three integers and touches no memory of ours.
    unsafe { syscall(SYS_membarrier, command, 0, 0) == 0 }
}

/// Whether this process has one thread: then a registration is immediate, else it waits for an RCU grace period.
pub(crate) fn single_threaded() -> bool {
    // A directory's link count is 2 and one for each subdirectory; each thread has one in `task`.
    rustix::fs::stat("/proc/self/task").is_ok_and(|stat| stat.st_nlink == 3)
}
