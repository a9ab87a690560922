//! The system calls of this crate (Linux).

pub(crate) mod futex;
mod guard;
mod mapping;
mod membarrier;

pub(crate) use mapping::{Mapping, Protection};
pub(crate) use membarrier::{membarrier_global, membarrier_register, single_threaded};
