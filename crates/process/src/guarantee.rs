//! What protects a child on this machine.

use std::fmt;

/// Which mechanism ends the tree when everything goes wrong, from the strongest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum Protection {
    /// The shepherd is pid 1 of a pid namespace: the kernel kills the whole tree when it dies, also when parent and
    /// shepherd are killed together.
    PidNamespace,
    /// The tree is in a control group of its own and cannot leave it without privilege: `cgroup.kill` ends it in one
    /// write, and so does the parent when the shepherd is killed. Parent and shepherd killed together: the leader dies
    /// with the shepherd, the rest stays.
    Cgroup,
    /// The shepherd adopts every orphan and kills descendants until none is left. When the shepherd is killed, the
    /// parent finds the tree by parentage, session and a mark in the environment; a process that has shed all three
    /// survives that.
    Subreaper,
    /// As [`Subreaper`](Self::Subreaper), where /proc does not show the whole tree: it is that of another pid
    /// namespace, it hides processes (`hidepid`), or there is none. The signals of the kill ladder reach the leader's
    /// process group and the children of the shepherd, at least; the kill at its end reaches everything, because
    /// whatever loses its parent becomes such a child. When the shepherd is killed, the leader's group dies with it,
    /// and what else there is may go on unseen.
    Children,
}

impl fmt::Display for Protection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protection::PidNamespace => "pid-namespace",
            Protection::Cgroup => "cgroup",
            Protection::Subreaper => "subreaper",
            Protection::Children => "children",
        })
    }
}

/// A limit on the whole tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum Limit {
    /// Bytes of memory.
    Memory,
    /// Number of processes and threads.
    Pids,
    /// CPU time per time.
    Cpu,
    /// Bytes of output.
    Output,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Limit::Memory => "memory",
            Limit::Pids => "pids",
            Limit::Cpu => "cpu",
            Limit::Output => "output",
        })
    }
}

/// By what a limit is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum Enforcement {
    /// A controller of cgroup version 2: the whole tree together.
    CgroupV2,
    /// A controller of cgroup version 1: the whole tree together.
    CgroupV1,
    /// A resource limit: each process of the tree by itself, and address space instead of memory in use. The tree
    /// together may use more.
    Rlimit,
}

impl fmt::Display for Enforcement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Enforcement::CgroupV2 => "cgroup v2",
            Enforcement::CgroupV1 => "cgroup v1",
            Enforcement::Rlimit => "rlimit (each process by itself)",
        })
    }
}

/// What holds for one child, and why not more.
///
/// ```
/// let mut child = ginnel_process::Command::new("true").spawn()?;
/// println!("{}", child.guarantee());
/// child.wait().unwrap();
/// # Ok::<(), ginnel_process::SpawnError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Guarantee {
    /// What was established for this child.
    pub protection: Protection,
    /// Each stronger protection, with the reason why this child does not have it.
    pub unavailable: Vec<(Protection, String)>,
    /// The limits that were asked for, and what holds them.
    pub limits: Vec<(Limit, Enforcement)>,
}

impl Guarantee {
    pub(crate) fn lower(&mut self, to: Protection, reason: String) {
        self.unavailable.push((self.protection, reason));
        self.protection = to;
    }
}

impl fmt::Display for Guarantee {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.protection)?;
        for (protection, reason) in &self.unavailable {
            write!(f, "; no {protection}: {reason}")?;
        }
        for (limit, enforcement) in &self.limits {
            write!(f, "; {limit} limit by {enforcement}")?;
        }
        Ok(())
    }
}
