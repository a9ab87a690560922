//! The cgroup hierarchies of a machine, found by what is mounted, not by where it usually is.
//!
//! A machine may have version 1 hierarchies (one or more controllers each), the version 2 hierarchy, or both
//! ("hybrid"). A directory that somebody made on the tmpfs between them is no cgroup: only mounts of type `cgroup` and
//! `cgroup2` count.

use super::{Host, read_bounded};
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// Mount tables of hosts with thousands of containers stay below this.
const MOUNTINFO_MAX: u64 = 16 << 20;

/// Version 1 hierarchies in the order in which they are trusted to tell where a process belongs, after version 2.
const PREFERRED: [&str; 8] = ["name=systemd", "memory", "cpu", "cpuacct", "pids", "blkio", "cpuset", "devices"];

/// One mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hierarchy {
    /// `None` for version 2, else the controllers (`cpu`, `name=systemd`) that name it.
    pub(super) controllers: Option<Vec<String>>,
    /// Where it is mounted, as the machine says.
    pub(super) mount: PathBuf,
    /// Which part of the hierarchy the mount shows: `/`, or a subtree in a container without a cgroup namespace.
    pub(super) root: Vec<u8>,
}

impl Hierarchy {
    pub(super) fn is_v2(&self) -> bool {
        self.controllers.is_none()
    }

    fn rank(&self) -> usize {
        let names = self.controllers.iter().flatten().map(|name| name.as_bytes());
        if self.is_v2() { 0 } else { rank_v1(names) }
    }
}

/// How much the controllers field of a `/proc/<pid>/cgroup` line (empty for version 2) is trusted; 0 is the most.
pub(super) fn rank(field: &[u8]) -> usize {
    if field.is_empty() { 0 } else { rank_v1(field.split(|byte| *byte == b',')) }
}

fn rank_v1<'a>(names: impl Iterator<Item = &'a [u8]> + Clone) -> usize {
    let position = PREFERRED.iter().position(|preferred| names.clone().any(|name| name == preferred.as_bytes()));
    1 + position.unwrap_or(PREFERRED.len())
}

/// All hierarchies, most trusted first.
pub(super) fn hierarchies(host: &Host) -> io::Result<Vec<Hierarchy>> {
    let table = read_bounded(File::open(host.file("/proc/self/mountinfo"))?, MOUNTINFO_MAX)?;
    Ok(parse(&table))
}

/// Reads the lines described in proc_pid_mountinfo(5):
/// `id parent major:minor root mount-point options [optional...] - type source super-options`.
fn parse(table: &[u8]) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in table.split(|byte| *byte == b'\n') {
        let mut fields = line.split(|byte| *byte == b' ');
        let (Some(root), Some(mount)) = (fields.nth(3), fields.next()) else { continue };
        let mut tail = fields.skip_while(|field| *field != b"-").skip(1);
        let (kind, options) = (tail.next(), tail.nth(1));
        let controllers = match kind {
            Some(b"cgroup2") => None,
            Some(b"cgroup") => Some(controllers(options.unwrap_or_default())),
            _ => continue,
        };
        let mount = PathBuf::from(OsString::from_vec(unescape(mount)));
        let hierarchy = Hierarchy { controllers, mount, root: unescape(root) };
        // Mounted twice (bind mounts), the mount that shows the most is the one to read.
        match found.iter_mut().find(|other| other.controllers == hierarchy.controllers) {
            Some(other) if hierarchy.root.len() < other.root.len() => *other = hierarchy,
            Some(_) => {}
            None => found.push(hierarchy),
        }
    }
    found.sort_by_key(Hierarchy::rank);
    found
}

/// The super options of a version 1 mount mix flags and controllers: `rw,xattr,name=systemd`, `rw,cpu,cpuacct`.
fn controllers(options: &[u8]) -> Vec<String> {
    const FLAGS: [&[u8]; 6] = [b"rw", b"ro", b"xattr", b"noprefix", b"clone_children", b"cpuset_v2_mode"];
    options
        .split(|byte| *byte == b',')
        .filter(|option| !FLAGS.contains(option) && !option.starts_with(b"release_agent="))
        .map(|option| String::from_utf8_lossy(option).into_owned())
        .collect()
}

/// Undoes the kernel's `\040` for blanks, tabs, newlines and backslashes.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, behind)) = rest.split_first() {
        let octal = behind
            .get(..3)
            .filter(|digits| *first == b'\\' && digits.iter().all(|digit| (b'0'..=b'7').contains(digit)));
        match octal {
            Some(digits) => {
                plain.push(digits.iter().fold(0u8, |value, digit| value.wrapping_mul(8).wrapping_add(digit - b'0')));
                rest = &behind[3..];
            }
            None => {
                plain.push(*first);
                rest = behind;
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &[u8] = b"\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/lib/agent,name=systemd
90 31 0:37 /lxc/a /mnt/with\\040blank rw - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:1 master:2 - cgroup2 cgroup2 rw
junk line
";

    #[test]
    fn a_hybrid_machine_has_all_its_hierarchies_most_trusted_first() {
        let found = parse(HYBRID);
        let mounts: Vec<_> = found.iter().map(|hierarchy| hierarchy.mount.to_str().unwrap()).collect();
        assert_eq!(
            mounts,
            ["/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd", "/sys/fs/cgroup/memory", "/sys/fs/cgroup/cpu,cpuacct"]
        );
        assert!(found[0].is_v2() && !found[1].is_v2());
        assert!(found[3].controllers.as_deref() == Some(&["cpu".to_owned(), "cpuacct".to_owned()]));
        assert!(rank(b"") < rank(b"name=systemd") && rank(b"memory") < rank(b"cpu,cpuacct"));
        assert!(rank(b"devices") < rank(b"freezer"));
    }

    #[test]
    fn a_bind_mount_of_a_subtree_alone_is_used_with_its_root() {
        let line = b"90 31 0:37 /lxc/a /mnt/with\\040blank rw - cgroup cgroup rw,name=systemd\n";
        let found = parse(line);
        assert_eq!(found[0].mount.to_str(), Some("/mnt/with blank"));
        assert_eq!(found[0].root, b"/lxc/a");
    }
}
