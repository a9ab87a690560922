//! Which protection and which limits a command gets on this machine.

use crate::cgroup::{self, LimitFiles, LimitGroup, Unavailable};
use crate::command::{Isolation, Orphans, Resource};
use crate::error::{SpawnError, Stage};
use crate::frame::{Group, HEADER, Put, group};
use crate::guarantee::{Enforcement, Guarantee, Limit, Protection};
use crate::launch::Attempt;
use crate::proc_table;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// A control group that is to be made.
struct Wanted {
    kind: u8,
    base: PathBuf,
    writes: Vec<(&'static str, String)>,
    /// It holds a limit: without it there is no command.
    required: bool,
}

/// Resource limits by their number.
pub(crate) type Rlimits = std::collections::BTreeMap<u32, (u64, u64)>;

/// Decides what protects the command, and writes the control groups it needs. Gives the directory of the unified group,
/// and those of the others.
pub(crate) fn protect(
    attempt: &Attempt<'_>,
    id: &str,
    cgroups: &mut Vec<u8>,
    rlimits: &mut Rlimits,
) -> Result<(Guarantee, Option<PathBuf>, Vec<PathBuf>), SpawnError> {
    let command = attempt.0;
    let mut guarantee = Guarantee { protection: Protection::PidNamespace, unavailable: Vec::new(), limits: Vec::new() };
    let not_asked = || "not asked for".to_owned();
    let mut unified = None;
    if command.isolation != Isolation::PidNamespace {
        guarantee.lower(Protection::Cgroup, not_asked());
        let base = match (command.isolation, command.orphans) {
            (Isolation::Subreaper, _) => Err(Unavailable::Lasting(not_asked())),
            (_, Orphans::Leave) => {
                Err(Unavailable::Lasting("orphans are to be left, and a group would hold them".to_owned()))
            }
            _ => cgroup::unified(),
        };
        match base {
            Ok(base) => unified = Some(base.to_path_buf()),
            Err(Unavailable::Lasting(reason)) => guarantee.lower(Protection::Subreaper, reason),
            Err(Unavailable::Passing(errno)) => return Err(attempt.failed(Stage::Cgroup, errno)),
        }
    }
    if guarantee.protection == Protection::Subreaper {
        let hides = proc_table::hides().map_err(|errno| attempt.failed(Stage::Shepherd, errno))?;
        if let Some(reason) = hides {
            guarantee.lower(Protection::Children, reason.to_owned());
        }
    }
    let mut wanted: Vec<Wanted> = Vec::new();
    wanted.extend(unified.map(|base| Wanted { kind: group::UNIFIED, base, writes: Vec::new(), required: false }));
    let limits = [
        (Limit::Memory, command.memory.map(LimitFiles::memory)),
        (Limit::Pids, command.pids.map(LimitFiles::pids)),
        (Limit::Cpu, command.cpus.map(LimitFiles::cpu)),
    ];
    for (limit, files) in limits.into_iter().filter_map(|(limit, files)| Some((limit, files?))) {
        match files.find() {
            Ok(found) => {
                let v2 = found.kind == group::UNIFIED;
                guarantee.limits.push((limit, if v2 { Enforcement::CgroupV2 } else { Enforcement::CgroupV1 }));
                match wanted.iter_mut().find(|group| group.kind == found.kind) {
                    Some(group) => {
                        group.writes.extend(found.writes);
                        group.required = true;
                    }
                    None => {
                        let LimitGroup { kind, base, writes } = found;
                        wanted.push(Wanted { kind, base, writes, required: true });
                    }
                }
            }
            Err(Unavailable::Passing(errno)) => return Err(attempt.failed(Stage::Cgroup, errno)),
            Err(Unavailable::Lasting(reason)) => match (limit, command.memory) {
                (Limit::Memory, Some(bytes)) => {
                    guarantee.limits.push((limit, Enforcement::Rlimit));
                    rlimits.insert(Resource::AddressSpace.number(), (bytes, bytes));
                    tracing::debug!(%reason, "no memory control group: each process's address space is limited instead");
                }
                _ => return Err(SpawnError::LimitUnavailable { program: command.program.clone(), limit, reason }),
            },
        }
    }
    let (mut unified_dir, mut others) = (None, Vec::new());
    for Wanted { kind, base, writes, required } in wanted {
        let dir = base.join(format!("ginnel-{id}"));
        let path = [dir.as_os_str().as_bytes(), b"\0"].concat();
        let files: Vec<u8> =
            writes.iter().flat_map(|(name, value)| [*name, "\0", value, "\0"]).flat_map(str::bytes).collect();
        let mut buf = vec![0; HEADER + path.len() + files.len() + 64];
        let mut put = Put::new(&mut buf, 0, 0);
        Group { kind, required, path: &path, writes: &files }.put(&mut put);
        let len = put.finish().ok_or_else(|| attempt.invalid("a control group's path is too long"))?;
        cgroups.extend(&buf[HEADER..len]);
        if kind == group::UNIFIED {
            unified_dir = Some(dir);
        } else {
            others.push(dir);
        }
    }
    Ok((guarantee, unified_dir, others))
}
