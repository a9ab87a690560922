//! The shared-memory profile 0x02/0x04: one region per session, one slot per direction, futex wake-ups; the socket
//! stays open as liveness signal.

mod layout;
mod region;
mod stale;
pub(crate) mod watch;

pub(crate) use layout::{Lane, Layout};
pub(crate) use region::{OwnedRegion, Region, attach, create, region_name};
pub(crate) use stale::sweep;
