//! The children of the shepherd, found without /proc.
//!
//! `waitid` tells of any number whether it is that of a child of ours, so asking for every number finds them all:
//! also those that a /proc hides, and in a namespace that has none of its own. What is further down is not seen, but
//! as the shepherd is a subreaper, it becomes a child when its parents are gone.

use crate::frame::Exit;
use crate::sys::{self, Errno, Fd};
use crate::tree::Reached;
use core::ops::RangeInclusive;

/// No number is higher (the kernel's `PID_MAX_LIMIT`).
const HIGHEST: i32 = 1 << 22;

/// The numbers given out since the leader's, as long as they have not begun again from below. Nearly always all there
/// are.
fn recent(leader: i32) -> RangeInclusive<i32> {
    match sys::vfork(&mut (), |(), _| sys::exit(0), None) {
        Ok((newest, _)) => {
            sys::reap_this(newest);
            leader..=newest
        }
        Err(_) => leader..=HIGHEST,
    }
}

/// Signals the leader's group, and the children that are not in it.
pub(crate) fn signal(leader: i32, unreaped: bool, pidfd: &Fd, signal: u32) -> Reached {
    let mut reached = Reached::default();
    let mut note = |result: sys::Result<()>| match result {
        Ok(()) => reached.count += 1,
        Err(errno) => note_refusal(&mut reached.errno, errno),
    };
    let group = sys::signal_group(pidfd, unreaped.then_some(leader), signal);
    note(group);
    for pid in recent(leader).filter(|pid| sys::is_child(*pid)) {
        if group.is_err() || sys::group_of(pid) != Ok(leader) {
            note(signal_child(pid, signal));
        }
    }
    reached
}

fn note_refusal(first: &mut Errno, errno: Errno) {
    if *first == 0 && errno != sys::ESRCH && errno != sys::ENOSYS {
        *first = errno;
    }
}

/// Kills every child. Those that this makes our children are met by the next round.
pub(crate) fn kill(leader: i32) {
    let kill = |range: RangeInclusive<i32>| {
        range.filter(|pid| sys::is_child(*pid)).filter(|pid| signal_child(*pid, sys::SIGKILL).is_ok()).count()
    };
    if kill(recent(leader)) == 0 {
        kill(1..=HIGHEST);
    }
}

/// Counts the children that are left, for the report.
pub(crate) fn survivors(exit: &mut Exit) {
    for pid in (1..=HIGHEST).filter(|pid| sys::is_child(*pid)) {
        if let Some(name) = exit.named.get_mut(exit.survivors as usize) {
            *name = pid as u32;
        }
        exit.survivors += 1;
    }
}

/// Through a pidfd that is asked again: whatever the number came from, only a child of ours is ever reached.
pub(crate) fn signal_child(pid: i32, signal: u32) -> sys::Result<()> {
    let process = sys::open_process(pid)?;
    if sys::is_child_process(&process) { sys::signal_process(&process, signal) } else { Err(sys::ESRCH) }
}
