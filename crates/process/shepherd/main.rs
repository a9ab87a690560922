//! The shepherd: one small process beside each command, from before it starts until its whole tree is gone.
//!
//! It has no heap, no C library and no thread: what it does must work when everything around it is out of memory or
//! dying.

#![no_std]
#![no_main]
#![deny(unsafe_code)]

mod cgroup;
mod child;
mod children;
// Half of it is for the parent's side.
#[allow(dead_code)]
mod frame;
mod setup;
mod sys;
mod text;
mod tree;
mod watch;

use sys::{Args, Fd};

/// Called by the entry code in `sys`: the arguments are the control socket's number, a word for `ps`, then the
/// command's own.
pub(crate) fn start(args: Args) -> ! {
    if let Some(number) = args.get(1).and_then(text::parse) {
        setup::tend(&Fd::new(number as i32), args);
    }
    sys::exit(0)
}
