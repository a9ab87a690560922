//! Finding control groups that really are control groups, and that we may use.
//!
//! Machines are unified (version 2), hybrid (version 2 beside the controllers of version 1) or have none at all, and a
//! container may show any part of that. So: the mounts come from `/proc/self/mountinfo`, our place in them from
//! `/proc/self/cgroup`, the file system is checked by its magic number, and whether we may make a group is asked of the
//! kernel.

use crate::frame::group;
use rustix::fs::{Access, AtFlags, FlockOperation, statfs};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;
use std::{fs, io};

/// `CGROUP2_SUPER_MAGIC` and `CGROUP_SUPER_MAGIC` of linux/magic.h.
const MAGIC_V2: u64 = 0x6367_7270;
const MAGIC_V1: u64 = 0x0027_e0eb;

/// A hierarchy, or a controller of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hierarchy {
    V2,
    V1(&'static str),
}

/// Where the group of a new command is made: the group this process is in.
fn own_group(hierarchy: Hierarchy, mountinfo: &str, own: &str) -> Result<PathBuf, String> {
    let what = match hierarchy {
        Hierarchy::V2 => "cgroup version 2".to_owned(),
        Hierarchy::V1(controller) => format!("the {controller} controller of cgroup version 1"),
    };
    let (mount_root, mount_point) =
        mountinfo.lines().find_map(|line| mount(hierarchy, line)).ok_or_else(|| format!("{what} is not mounted"))?;
    let path = own
        .lines()
        .find_map(|line| membership(hierarchy, line))
        .ok_or_else(|| format!("this process has no place in {what}"))?;
    // A container may mount only the part of the hierarchy below `mount_root`.
    let below = Path::new(path)
        .strip_prefix(&mount_root)
        .map_err(|_| format!("{what} is mounted without the group of this process ({path})"))?;
    let dir = mount_point.join(below);
    let magic = if hierarchy == Hierarchy::V2 { MAGIC_V2 } else { MAGIC_V1 };
    let found = statfs(&dir).map_err(|errno| format!("{}: {errno}", dir.display()))?.f_type as u64;
    if found != magic {
        return Err(format!("{} is not {what} but a file system of type {found:#x}", dir.display()));
    }
    Ok(dir)
}

/// Root and mount point of a line of mountinfo: `id parent dev root point options [tags] - type source super-options`.
fn mount(hierarchy: Hierarchy, line: &str) -> Option<(PathBuf, PathBuf)> {
    let (left, right) = line.split_once(" - ")?;
    let mut left = left.split(' ').skip(3);
    let (root, point) = (unescape(left.next()?), unescape(left.next()?));
    let mut right = right.split(' ');
    let (kind, options) = (right.next()?, right.nth(1)?);
    let fits = match hierarchy {
        Hierarchy::V2 => kind == "cgroup2",
        Hierarchy::V1(controller) => kind == "cgroup" && options.split(',').any(|option| option == controller),
    };
    fits.then_some((root, point))
}

/// Space, tab, newline and backslash are written in octal.
fn unescape(text: &str) -> PathBuf {
    let bytes = text.as_bytes();
    let (mut plain, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while at < bytes.len() {
        let octal = (bytes[at] == b'\\')
            .then(|| text.get(at + 1..at + 4).and_then(|code| u8::from_str_radix(code, 8).ok()))
            .flatten();
        plain.push(octal.unwrap_or(bytes[at]));
        at += if octal.is_some() { 4 } else { 1 };
    }
    PathBuf::from(OsStr::from_bytes(&plain))
}

/// The path in a line of /proc/self/cgroup: `id:controllers:path`, where version 2 is `0::path`.
fn membership(hierarchy: Hierarchy, line: &str) -> Option<&str> {
    let mut parts = line.splitn(3, ':');
    let (id, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
    let fits = match hierarchy {
        Hierarchy::V2 => id == "0" && controllers.is_empty(),
        Hierarchy::V1(controller) => controllers.split(',').any(|name| name == controller),
    };
    fits.then_some(path)
}

/// Why there is no group.
#[derive(Debug)]
pub(crate) enum Unavailable {
    /// The machine or the user has none, and that stays so.
    Lasting(String),
    /// This process has no descriptor or memory to look: there is no telling.
    Passing(Errno),
}

impl From<String> for Unavailable {
    fn from(reason: String) -> Unavailable {
        Unavailable::Lasting(reason)
    }
}

fn find(hierarchy: Hierarchy) -> Result<PathBuf, Unavailable> {
    let read = |path: &str| {
        fs::read_to_string(path).map_err(|error| match Errno::from_io_error(&error) {
            Some(errno @ (Errno::MFILE | Errno::NFILE | Errno::NOMEM)) => Unavailable::Passing(errno),
            _ => Unavailable::Lasting(format!("{path}: {error}")),
        })
    };
    Ok(own_group(hierarchy, &read("/proc/self/mountinfo")?, &read("/proc/self/cgroup")?)?)
}

/// Whether this user may make a group here. Asked, not tried: a trial would stay behind if we were killed in the
/// middle.
fn may_make(base: &Path) -> Result<(), String> {
    let needed = Access::WRITE_OK | Access::EXEC_OK;
    rustix::fs::accessat(rustix::fs::CWD, base, needed, AtFlags::EACCESS)
        .map_err(|errno| format!("no group can be made in {}: {}", base.display(), io::Error::from(errno)))
}

/// Removes the empty groups of commands whose parent and shepherd were both killed. Once in a process for each place.
fn sweep(base: &Path) {
    static SWEPT: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
    if !SWEPT.lock().unwrap_or_else(PoisonError::into_inner).insert(base.to_path_buf()) {
        return;
    }
    // A shepherd locks its groups microseconds after it has made them, and is the only one to do so for longer than a
    // moment.
    const LOCKED: Duration = Duration::from_secs(1);
    let abandoned = |group: &PathBuf| {
        let ours = group.file_name().is_some_and(|name| name.as_bytes().starts_with(b"ginnel-"));
        ours && fs::File::open(group).is_ok_and(|dir| {
            let age = dir.metadata().and_then(|data| data.modified()).ok().and_then(|made| made.elapsed().ok());
            age.is_some_and(|age| age > LOCKED)
                && rustix::fs::flock(&dir, FlockOperation::NonBlockingLockExclusive).is_ok()
        })
    };
    for group in below(base).filter(abandoned) {
        // Busy where something of the tree goes on.
        if remove(&group).is_ok() {
            tracing::debug!(group = %group.display(), "removed a group that was left behind");
        }
    }
}

/// The version 2 group below which a command can have one with `cgroup.kill`, or why not. Found once per process.
pub(crate) fn unified() -> Result<&'static Path, Unavailable> {
    static BASE: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let base = match BASE.get() {
        Some(base) => base,
        None => {
            let base = match find_unified() {
                Ok(base) => Ok(base),
                Err(Unavailable::Lasting(reason)) => Err(reason),
                Err(passing) => return Err(passing),
            };
            BASE.get_or_init(|| base)
        }
    };
    base.as_deref().map_err(|reason| Unavailable::Lasting(reason.clone()))
}

fn find_unified() -> Result<PathBuf, Unavailable> {
    let base = find(Hierarchy::V2)?;
    may_make(&base)?;
    // To enter the group, a process must be allowed to leave the one it is in.
    let procs = base.join("cgroup.procs");
    rustix::fs::accessat(rustix::fs::CWD, &procs, Access::WRITE_OK, AtFlags::EACCESS)
        .map_err(|errno| format!("{} is not ours to leave: {}", base.display(), io::Error::from(errno)))?;
    // Every group but the root has the file, if the kernel knows it.
    let root = !base.join("cgroup.type").exists();
    let known = if root { kernel_is_at_least(5, 14) } else { base.join("cgroup.kill").exists() };
    if !known {
        return Err(Unavailable::Lasting("this kernel has no cgroup.kill (Linux 5.14)".to_owned()));
    }
    sweep(&base);
    Ok(base)
}

fn kernel_is_at_least(major: u32, minor: u32) -> bool {
    let name = rustix::system::uname();
    let mut numbers = name
        .release()
        .to_str()
        .unwrap_or("")
        .split(|c: char| !c.is_ascii_digit())
        .map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (major, minor)
}

/// The groups below a group.
fn below(group: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(group).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path())
}

/// Removes a group, and those that its processes have made below it. `EBUSY` while anybody is in one of them.
pub(crate) fn remove(group: &Path) -> Result<(), Errno> {
    match rustix::fs::rmdir(group) {
        Err(Errno::BUSY) => {
            for group in below(group) {
                match remove(&group) {
                    Ok(()) | Err(Errno::NOENT) => {}
                    busy => return busy,
                }
            }
            rustix::fs::rmdir(group)
        }
        result => result,
    }
}

/// How many processes are in a group and in those below it, as far as they show.
pub(crate) fn members(group: &Path) -> u32 {
    let own = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    own.lines().count() as u32 + below(group).map(|group| members(&group)).sum::<u32>()
}

/// A group that holds a limit: its hierarchy, the directory below which it is made, and the files to write.
#[derive(Clone, Debug)]
pub(crate) struct LimitGroup {
    pub(crate) kind: u8,
    pub(crate) base: PathBuf,
    pub(crate) writes: Vec<(&'static str, String)>,
}

/// How the two versions name one limit.
pub(crate) struct LimitFiles {
    pub(crate) v2: (&'static str, String),
    pub(crate) v1_kind: u8,
    pub(crate) controller: &'static str,
    pub(crate) v1: Vec<(&'static str, String)>,
}

/// No machine has so many CPUs.
const MOST_CPUS: f64 = 100_000.0;

impl LimitFiles {
    pub(crate) fn memory(bytes: u64) -> LimitFiles {
        let v1 = vec![("memory.limit_in_bytes", bytes.to_string())];
        LimitFiles { v2: ("memory.max", bytes.to_string()), v1_kind: group::MEMORY_V1, controller: "memory", v1 }
    }

    pub(crate) fn pids(count: u64) -> LimitFiles {
        // The kernel refuses a number beyond the one of all its process numbers, which limits nothing.
        const MOST: u64 = 4 << 20;
        let count = if count > MOST { "max".to_owned() } else { count.to_string() };
        let v1 = vec![("pids.max", count.clone())];
        LimitFiles { v2: ("pids.max", count), v1_kind: group::PIDS_V1, controller: "pids", v1 }
    }

    pub(crate) fn cpu(cpus: f64) -> LimitFiles {
        // The kernel refuses a quota of less than a millisecond, and a period of more than a second.
        let period: u32 = if cpus < 0.01 { 1_000_000 } else { 100_000 };
        // And a quota of some years. More than any machine has is as good.
        let quota = ((cpus.min(MOST_CPUS) * f64::from(period)).round() as u64).max(1000);
        let v1 = vec![("cpu.cfs_period_us", period.to_string()), ("cpu.cfs_quota_us", quota.to_string())];
        LimitFiles { v2: ("cpu.max", format!("{quota} {period}")), v1_kind: group::CPU_V1, controller: "cpu", v1 }
    }

    /// A usable group for this limit: version 2 when it has the controller here, else version 1, else why neither.
    pub(crate) fn find(self) -> Result<LimitGroup, Unavailable> {
        let (file, value) = self.v2;
        // A controller that is passed on to the groups below.
        let passed_on = |base: &Path| {
            let control = fs::read_to_string(base.join("cgroup.subtree_control")).unwrap_or_default();
            let has = control.split_whitespace().any(|name| name == self.controller);
            has.then_some(())
                .ok_or_else(|| format!("cgroup version 2 has no {} controller in {}", self.controller, base.display()))
        };
        let v2_reason = match unified().and_then(|base| Ok(passed_on(base).map(|()| base.to_path_buf())?)) {
            Ok(base) => return Ok(LimitGroup { kind: group::UNIFIED, base, writes: vec![(file, value)] }),
            Err(Unavailable::Lasting(reason)) => reason,
            Err(passing) => return Err(passing),
        };
        let v1 = find(Hierarchy::V1(self.controller)).and_then(|base| Ok(may_make(&base).map(|()| base)?));
        match v1.inspect(|base| sweep(base)) {
            Ok(base) => Ok(LimitGroup { kind: self.v1_kind, base, writes: self.v1 }),
            Err(Unavailable::Lasting(v1_reason)) => Err(Unavailable::Lasting(format!("{v2_reason}; {v1_reason}"))),
            Err(passing) => Err(passing),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
        32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
        41 31 0:38 / /sys/fs/cgroup/unified rw shared:3 master:1 - cgroup2 cgroup2 rw\n";

    #[test]
    fn a_hybrid_machine_is_told_apart() {
        let find = |hierarchy| HYBRID.lines().find_map(|line| mount(hierarchy, line)).map(|(_, point)| point);
        assert_eq!(find(Hierarchy::V2), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(find(Hierarchy::V1("cpu")), Some("/sys/fs/cgroup/cpu,cpuacct".into()));
        assert_eq!(find(Hierarchy::V1("memory")), None);
        let own = "4:cpu,cpuacct:/a\n3:memory:/m\n0::/b/c\n";
        let place = |hierarchy| own.lines().find_map(|line| membership(hierarchy, line));
        assert_eq!(place(Hierarchy::V2), Some("/b/c"));
        assert_eq!(place(Hierarchy::V1("cpuacct")), Some("/a"));
    }

    #[test]
    fn a_directory_on_another_file_system_is_not_taken_for_a_group() {
        let dir = tempfile::tempdir().unwrap();
        let mountinfo = format!("41 31 0:38 / {} rw - cgroup2 cgroup2 rw\n", dir.path().display());
        let reason = own_group(Hierarchy::V2, &mountinfo, "0::/\n").unwrap_err();
        assert!(reason.contains("is not cgroup version 2 but a file system of type"), "{reason}");
    }

    #[test]
    fn a_machine_without_groups_says_so() {
        let reason = own_group(Hierarchy::V2, "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n", "").unwrap_err();
        assert_eq!(reason, "cgroup version 2 is not mounted");
        let reason =
            own_group(Hierarchy::V2, "1 1 0:1 /box /mnt rw - cgroup2 none rw\n", "0::/elsewhere\n").unwrap_err();
        assert_eq!(reason, "cgroup version 2 is mounted without the group of this process (/elsewhere)");
    }

    #[test]
    fn octal_escapes_in_mount_points_are_undone() {
        assert_eq!(unescape(r"/a\040b\134c"), PathBuf::from(r"/a b\c"));
    }
}
