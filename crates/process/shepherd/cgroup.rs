//! The control groups of one command: made before it starts, removed when its tree is gone.

use crate::frame::{Exit, Group, Take, group};
use crate::sys::{self, Errno, Fd, Path};
use crate::text;
use core::ffi::CStr;

struct Made<'a> {
    kind: u8,
    /// It holds limits, whose counters are worth a look.
    limits: bool,
    path: Path<'a>,
    dir: Fd,
}

/// Version 2, and up to three controllers of version 1.
const MOST: usize = 4;

/// The groups that exist. Dropping removes them.
#[derive(Default)]
pub(crate) struct Groups<'a> {
    made: [Option<Made<'a>>; MOST],
    /// Why the unified group could not be made.
    pub(crate) unified_errno: Errno,
}

impl<'a> Groups<'a> {
    /// Makes every group of the frame; the index says which required one failed.
    pub(crate) fn make(mut list: Take<'a>) -> Result<Groups<'a>, (Errno, u32)> {
        let mut groups = Groups { unified_errno: sys::ENOENT, ..Groups::default() };
        for index in 0..MOST {
            let Some(wanted) = Group::take(&mut list) else { break };
            let path = CStr::from_bytes_with_nul(wanted.path).map_err(|_| (sys::EINVAL, index as u32))?;
            let made = make(&wanted, path);
            match made {
                Ok(made) => {
                    if wanted.kind == group::UNIFIED {
                        groups.unified_errno = 0;
                    }
                    groups.made[index] = Some(made);
                }
                // Without descriptors the command does not start; a lower protection for that reason would surprise.
                Err(errno) if wanted.required || sys::no_descriptor(errno) => return Err((errno, index as u32)),
                Err(errno) => groups.unified_errno = errno,
            }
        }
        Ok(groups)
    }

    fn of(&self, kind: u8) -> Option<&Made<'a>> {
        self.made.iter().flatten().find(|made| made.kind == kind)
    }

    pub(crate) fn unified(&self) -> Option<&Fd> {
        self.of(group::UNIFIED).map(|made| &made.dir)
    }

    /// The command could not enter the unified group: it does not protect, so it must not be claimed.
    pub(crate) fn give_up_unified(&mut self, errno: Errno) {
        for made in &mut self.made {
            if made.as_ref().is_some_and(|made| made.kind == group::UNIFIED) {
                *made = None;
            }
        }
        self.unified_errno = errno;
    }

    /// Puts the calling process into every group, the unified one only when `unified` says so. Gives the kind that
    /// refused.
    pub(crate) fn enter(&self, unified: bool) -> Result<(), (Errno, u8)> {
        for made in self.made.iter().flatten().filter(|made| unified || made.kind != group::UNIFIED) {
            sys::open_at(made.dir.number(), c"cgroup.procs", sys::O_WRONLY)
                .and_then(|procs| sys::write(&procs, b"0"))
                .map_err(|errno| (errno, made.kind))?;
        }
        Ok(())
    }

    /// `cgroup.kill` (Linux 5.14): every process of the group at once, also one that is being forked.
    pub(crate) fn kill(&self) -> bool {
        self.unified().is_some_and(|dir| {
            sys::open_at(dir.number(), c"cgroup.kill", sys::O_WRONLY).and_then(|file| sys::write(&file, b"1")).is_ok()
        })
    }

    /// Removes every group. Nothing must be in them any more.
    pub(crate) fn remove(&mut self) {
        self.made = [const { None }; MOST];
    }

    /// What the controllers counted.
    pub(crate) fn account(&self, exit: &mut Exit) {
        for made in self.made.iter().flatten().filter(|made| made.limits) {
            let counter =
                |file, key: &[u8]| read(made, file).and_then(|content| text::value_of(content.as_bytes(), key));
            let plain = |file| read(made, file).and_then(|content| text::parse(content.as_bytes().trim_ascii()));
            let (oom, forks, peak) = match made.kind {
                group::UNIFIED => {
                    (counter(c"memory.events", b"oom_kill"), counter(c"pids.events", b"max"), plain(c"memory.peak"))
                }
                group::MEMORY_V1 => {
                    (counter(c"memory.oom_control", b"oom_kill"), None, plain(c"memory.max_usage_in_bytes"))
                }
                group::PIDS_V1 => (None, counter(c"pids.events", b"max"), None),
                _ => (None, None, None),
            };
            exit.oom_kills += oom.unwrap_or(0);
            exit.fork_refusals += forks.unwrap_or(0);
            exit.group_peak = exit.group_peak.max(peak.unwrap_or(0));
        }
    }
}

fn make<'a>(wanted: &Group<'a>, path: Path<'a>) -> sys::Result<Made<'a>> {
    sys::mkdir(path)?;
    let made = sys::open_at(sys::AT_FDCWD, path, sys::O_RDONLY | sys::O_DIRECTORY)
        .map(|dir| Made { kind: wanted.kind, limits: !wanted.writes.is_empty(), path, dir })
        .inspect_err(|_| {
            let _ = sys::rmdir_at(sys::AT_FDCWD, path);
        })?;
    // As long as this is held, nobody takes the group for one that was left behind.
    let _ = sys::lock(&made.dir);
    let mut words = text::strings(wanted.writes);
    while let (Some(name), Some(value)) = (words.next(), words.next()) {
        let file = sys::open_at(made.dir.number(), name, sys::O_WRONLY)?;
        sys::write(&file, value.to_bytes())?;
    }
    Ok(made)
}

fn read(made: &Made<'_>, name: Path<'_>) -> Option<text::Text<512>> {
    let mut bytes = [0u8; 511];
    let file = sys::open_at(made.dir.number(), name, sys::O_RDONLY).ok()?;
    let len = sys::read(&file, &mut bytes).ok()?;
    let mut content = text::Text::new();
    content.push(&bytes[..len]);
    Some(content)
}

impl Drop for Made<'_> {
    fn drop(&mut self) {
        const PATIENCE: u32 = 20;
        for _ in 0..PATIENCE {
            if sys::rmdir_at(sys::AT_FDCWD, self.path).is_ok() {
                return;
            }
            // Somebody of the tree has made groups below, and has not removed them: another shepherd that was killed,
            // for one.
            if let Ok(dir) = sys::open_at(sys::AT_FDCWD, self.path, sys::O_RDONLY | sys::O_DIRECTORY) {
                remove_below(&dir, DEEPEST);
            }
            // Or a process that was just reaped is still on its way out.
            sys::poll(&mut [], Some(500_000));
        }
    }
}

/// Groups in groups: further down nobody is looked for.
const DEEPEST: u32 = 32;

fn remove_below(dir: &Fd, deepest: u32) {
    const DT_DIR: u8 = 4;
    let _ = sys::each_entry(dir, |name, kind| {
        if kind == DT_DIR && deepest > 0 && !name.to_bytes().starts_with(b".") && sys::rmdir_at(dir.number(), name).is_err() {
            if let Ok(below) = sys::open_at(dir.number(), name, sys::O_RDONLY | sys::O_DIRECTORY) {
                remove_below(&below, deepest - 1);
            }
            let _ = sys::rmdir_at(dir.number(), name);
        }
        Ok(())
    });
}
