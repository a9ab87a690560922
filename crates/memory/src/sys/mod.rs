//! The system calls of this crate (Linux).

pub(crate) mod futex;
mod guard;
mod mapping;
mod membarrier;

pub(crate) use mapping::{Mapping, Protection};
pub(crate) use membarrier::{membarrier_global, membarrier_register, single_threaded};

/// How many processors this machine has online.
pub(crate) fn online_processors() -> usize {
    // SAFETY: asks for a number.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) }).unwrap_or(1)
}
