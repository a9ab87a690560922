//! From `vfork` to `execve`: the child makes itself what the frame says, or leaves the stage and errno at which it
//! failed.

use crate::cgroup::Groups;
use crate::frame::{self, Failed, Spawn, Take, UNSET, flag, group, stage};
use crate::sys::{self, Args, Errno};
use crate::text;

/// What the child needs; it shares the shepherd's memory, so what it writes here the shepherd reads.
pub(crate) struct Plan<'a> {
    pub(crate) spawn: &'a Spawn<'a>,
    pub(crate) args: Args,
    pub(crate) groups: &'a Groups<'a>,
    /// What becomes fd 0, 1 and 2.
    pub(crate) stdio: [i32; 3],
    /// What becomes the extra descriptors, in the order of `Spawn::targets`.
    pub(crate) extra: &'a mut [i32],
    pub(crate) shepherd: i32,
    pub(crate) failed: Failed,
    /// Set when the unified control group could not be entered, which is not fatal.
    pub(crate) unified_errno: Errno,
}

/// The body of the vfork child.
pub(crate) fn run(plan: &mut Plan<'_>, inside: bool) -> ! {
    if let Err(failed) = prepare(plan, inside) {
        plan.failed = failed;
    }
    sys::exit(127)
}

fn at<T>(stage: u8, result: sys::Result<T>) -> Result<T, Failed> {
    at_index(stage, 0, result)
}

fn at_index<T>(stage: u8, index: u32, result: sys::Result<T>) -> Result<T, Failed> {
    result.map_err(|errno| Failed { stage, errno, index })
}

fn prepare(plan: &mut Plan<'_>, inside: bool) -> Result<(), Failed> {
    let spawn = plan.spawn;
    // The session is the shepherd's, without a terminal: one of its own would cost a slice of the CPU's time
    // (autogroup), and only who is to have a terminal needs it.
    let own = if spawn.flags & flag::PTY != 0 { sys::new_session() } else { sys::new_group() };
    at(stage::SESSION, own)?;
    enter_groups(plan, inside)?;
    descriptors(plan)?;
    if spawn.flags & flag::PTY != 0 {
        const TIOCSCTTY: usize = 0x540e;
        let terminal = sys::Fd::new(0);
        at(stage::PTY, sys::ioctl(&terminal, TIOCSCTTY, 0))?;
        core::mem::forget(terminal);
    }
    // Signals as a new program expects them: the shepherd blocks all and ignores SIGPIPE.
    sys::set_ignored(sys::SIGPIPE, false);
    limits(spawn)?;
    identity(spawn)?;
    if let Some(path) = text::strings(spawn.cwd).next() {
        at(stage::CWD, sys::change_directory(path))?;
    }
    // After the change of user, which clears it. A shepherd that died before this line is seen by the check.
    at(stage::SESSION, sys::set_parent_death_signal(sys::SIGKILL))?;
    if sys::parent_pid() != plan.shepherd {
        sys::exit(127);
    }
    sys::set_signal_mask(0);
    at(stage::EXEC, Err(execute(spawn, &plan.args)))
}

fn enter_groups(plan: &mut Plan<'_>, inside: bool) -> Result<(), Failed> {
    match plan.groups.enter(!inside) {
        Err((errno, group::UNIFIED)) => {
            plan.unified_errno = errno;
            at(stage::CGROUP, plan.groups.enter(false).map_err(|(errno, _)| errno))
        }
        Err((errno, kind)) => at_index(stage::CGROUP, u32::from(kind), Err(errno)),
        Ok(()) => Ok(()),
    }
}

/// Puts every descriptor at its number.
///
/// A number may lie beyond the limit of open files: a shell that lowers the limit keeps what it has, and passes it on.
/// So the limit is raised meanwhile, as far as this process may.
fn descriptors(plan: &mut Plan<'_>) -> Result<(), Failed> {
    let targets = plan.spawn.targets;
    let target = |index: usize| Take(targets.get(index * 4..).unwrap_or(&[])).u32().unwrap_or(0) as i32;
    let above = (0..plan.extra.len()).map(target).fold(2, i32::max).saturating_add(1);
    let needed = above as u64 + (plan.stdio.len() + plan.extra.len()) as u64;
    let (soft, hard) = at(stage::DESCRIPTORS, sys::rlimit(sys::RLIMIT_NOFILE))?;
    // Where it may not be raised, the number that is out of reach is what is told.
    let raised = soft < needed && sys::set_rlimit(sys::RLIMIT_NOFILE, needed, hard.max(needed)).is_ok();
    place(plan, above, target)?;
    if raised {
        at(stage::DESCRIPTORS, sys::set_rlimit(sys::RLIMIT_NOFILE, soft, hard))?;
    }
    Ok(())
}

/// All are first moved above the highest target, so that none is overwritten while it is still needed; everything else
/// is closed by `execve`.
fn place(plan: &mut Plan<'_>, above: i32, target: impl Fn(usize) -> i32) -> Result<(), Failed> {
    for (index, source) in plan.stdio.iter_mut().enumerate() {
        *source = at_index(stage::DESCRIPTORS, index as u32, sys::duplicate_above(*source, above))?;
    }
    for (index, source) in plan.extra.iter_mut().enumerate() {
        *source = at_index(stage::DESCRIPTORS, target(index) as u32, sys::duplicate_above(*source, above))?;
    }
    for (number, source) in plan.stdio.iter().enumerate() {
        at_index(stage::DESCRIPTORS, number as u32, sys::duplicate_to(*source, number as i32))?;
    }
    for (index, source) in plan.extra.iter().enumerate() {
        at_index(stage::DESCRIPTORS, target(index) as u32, sys::duplicate_to(*source, target(index)))?;
    }
    Ok(())
}

fn limits(spawn: &Spawn<'_>) -> Result<(), Failed> {
    let mut list = Take(spawn.rlimits);
    while let (Some(resource), Some(soft), Some(hard)) = (list.u32(), list.u64(), list.u64()) {
        at_index(stage::RLIMIT, resource, sys::set_rlimit(resource, soft, hard))?;
    }
    if spawn.flags & flag::NICE != 0 {
        at(stage::NICE, sys::set_nice(spawn.nice))?;
    }
    if !spawn.affinity.is_empty() {
        at(stage::AFFINITY, sys::set_affinity(spawn.affinity))?;
    }
    if spawn.umask != UNSET {
        sys::set_umask(spawn.umask);
    }
    Ok(())
}

fn identity(spawn: &Spawn<'_>) -> Result<(), Failed> {
    if spawn.flags & flag::GROUPS != 0 {
        at(stage::GROUPS, sys::set_groups(spawn.groups))?;
    }
    if spawn.gid != UNSET {
        at(stage::GID, sys::set_gid(spawn.gid))?;
    }
    if spawn.uid != UNSET {
        at(stage::UID, sys::set_uid(spawn.uid))?;
    }
    Ok(())
}

/// As `execvp` searches, but without its fallback to a shell: a file that is no program is an error, not a script by
/// chance.
fn execute(spawn: &Spawn<'_>, args: &Args) -> Errno {
    let mut outcome = sys::ENOENT;
    for path in text::strings(spawn.candidates) {
        match sys::execute(path, args) {
            sys::ENOENT | sys::ENOTDIR => {}
            // There is one, but we may not: a later directory may have another.
            sys::EACCES => outcome = sys::EACCES,
            errno => return errno,
        }
    }
    outcome
}

/// Whether the frame's stdio byte takes a descriptor from the parent.
pub(crate) fn given(mode: u8) -> bool {
    mode == frame::stdio::GIVEN
}
