//! What is claimed is what was established: with control groups, with none, and with something that only looks like
//! one.

mod common;

use common::{LONG, Mark, has_unified_groups, inherited_mark};
use ginnel_process::{Cause, Child, Command, Enforcement, Isolation, Limit, Orphans, Protection, SpawnError};
use std::fs;
use std::path::PathBuf;

roles!(without_groups);

fn membership(child: &Child) -> String {
    fs::read_to_string(format!("/proc/{}/cgroup", child.id())).unwrap()
}

/// Whether the leader is in a group of its own in the hierarchy whose line has this start.
fn has_group(child: &Child, controllers: &str) -> bool {
    let wanted =
        |line: &str| line.split(':').nth(1).is_some_and(|names| names.split(',').any(|name| name == controllers));
    membership(child).lines().any(|line| wanted(line) && line.contains("/ginnel-"))
}

#[test]
fn the_default_is_a_control_group_exactly_where_one_can_be_had() {
    let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
    let expected = if has_unified_groups() { Protection::Cgroup } else { Protection::Subreaper };
    assert_eq!(child.guarantee().protection, expected, "{}", child.guarantee());
    assert_eq!(has_group(&child, ""), expected == Protection::Cgroup, "{}", membership(&child));
    // Each stronger protection has its reason.
    let stronger: Vec<Protection> = child.guarantee().unavailable.iter().map(|(protection, _)| *protection).collect();
    assert_eq!(stronger, [Protection::PidNamespace, Protection::Cgroup][..stronger.len()]);
    assert_eq!(stronger.len(), if expected == Protection::Cgroup { 1 } else { 2 });
    child.kill().unwrap();
}

#[test]
fn what_was_not_asked_for_is_not_made() {
    let mut child = Command::new("sleep").arg("1000").isolation(Isolation::Subreaper).spawn().unwrap();
    assert_eq!(child.guarantee().protection, Protection::Subreaper);
    assert!(!has_group(&child, ""));
    child.kill().unwrap();
    let mark = Mark::new();
    let mut child = mark.command("sleep").arg("1000").orphans(Orphans::Leave).spawn().unwrap();
    assert_eq!(child.guarantee().protection, Protection::Subreaper);
    assert!(child.guarantee().to_string().contains("orphans are to be left"), "{}", child.guarantee());
    child.kill().unwrap();
}

#[test]
fn a_pid_namespace_shows_the_command_its_own_tree_only() {
    let mut command = Command::new("sh");
    let output =
        command.args(["-c", "echo $$ $(ls -d /proc/[0-9]* | wc -l)"]).isolation(Isolation::PidNamespace).run().unwrap();
    // The shepherd, the shell, its subshell with ls, wc.
    let text = String::from_utf8(output.stdout).unwrap();
    let numbers: Vec<u32> = text.split_whitespace().map(|word| word.parse().unwrap()).collect();
    assert_eq!(numbers[0], 2);
    assert!(numbers[1] <= 5, "{text}");
}

/// Where the mount table and the memberships of a process say that its group is, in the hierarchy of a controller
/// (version 2: "").
fn group_dir(pid: &str, controller: &str) -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let names = |list: &str| list.split(',').any(|name| name == controller);
    let point = mounts.lines().find_map(|line| {
        let (place, file_system) = line.split_once(" - ")?;
        let (kind, rest) = file_system.split_once(' ')?;
        let found =
            if controller.is_empty() { kind == "cgroup2" } else { kind == "cgroup" && names(rest.split(' ').nth(1)?) };
        found.then(|| place.split(' ').nth(4)).flatten()
    })?;
    let path = groups.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        names(parts.next()?).then(|| parts.next()).flatten()
    })?;
    Some(PathBuf::from(format!("{point}{path}")))
}

/// Who must hold a limit here, told without the library.
fn holder(controller: &str) -> Option<Enforcement> {
    let passed_on = |dir: PathBuf| fs::read_to_string(dir.join("cgroup.subtree_control")).unwrap_or_default();
    if has_unified_groups()
        && group_dir("self", "").map(passed_on).unwrap_or_default().split_whitespace().any(|name| name == controller)
    {
        return Some(Enforcement::CgroupV2);
    }
    let trial = group_dir("self", controller)?.join(format!("ginnel-test-{}", std::process::id()));
    fs::create_dir(&trial).ok()?;
    fs::remove_dir(&trial).unwrap();
    Some(Enforcement::CgroupV1)
}

#[test]
fn a_limit_is_held_by_what_is_named_or_refused() {
    type Files = &'static [(&'static str, &'static str)];
    let limits: [(Limit, &str, Files, Files); 3] = [
        (Limit::Pids, "pids", &[("pids.max", "10")], &[("pids.max", "10")]),
        (
            Limit::Cpu,
            "cpu",
            &[("cpu.max", "50000 100000")],
            &[("cpu.cfs_quota_us", "50000"), ("cpu.cfs_period_us", "100000")],
        ),
        (Limit::Memory, "memory", &[("memory.max", "104857600")], &[("memory.limit_in_bytes", "104857600")]),
    ];
    for (limit, controller, v2, v1) in limits {
        let mut command = Command::new("sleep");
        command.arg("1000");
        match limit {
            Limit::Pids => command.pids_limit(10),
            Limit::Cpu => command.cpu_limit(0.5),
            _ => command.memory_limit(100 << 20),
        };
        let holder = holder(controller);
        let mut child = match command.spawn() {
            Err(SpawnError::LimitUnavailable { limit: refused, reason, .. }) => {
                // What is refused is named, and nothing here could have held it.
                assert_eq!((refused, holder), (limit, None));
                assert!(limit != Limit::Memory && reason.contains(controller), "{reason}");
                continue;
            }
            spawned => spawned.unwrap(),
        };
        assert_eq!(child.guarantee().limits, [(limit, holder.unwrap_or(Enforcement::Rlimit))]);
        let pid = child.id().to_string();
        let (hierarchy, files) = match holder {
            Some(Enforcement::CgroupV2) => ("", v2),
            Some(_) => (controller, v1),
            None => {
                let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
                let line = limits.lines().find(|line| line.starts_with("Max address space")).unwrap();
                assert_eq!(line.split_whitespace().nth(3), Some("104857600"), "{limits}");
                child.kill().unwrap();
                continue;
            }
        };
        assert!(has_group(&child, hierarchy), "{}", membership(&child));
        let dir = group_dir(&pid, hierarchy).unwrap();
        for (name, value) in files {
            assert_eq!(fs::read_to_string(dir.join(name)).unwrap().trim(), *value, "{name}");
        }
        child.kill().unwrap();
        assert!(!dir.exists(), "{} is left", dir.display());
    }
}

#[test]
fn a_limit_of_processes_is_felt_and_told() {
    let Some(_) = holder("pids") else { return };
    // The one too many is refused; that the shell gives up is its own decision, and so its own exit.
    let mark = Mark::new();
    let mut command = mark.shell("for i in 1 2 3 4 5 6 7 8 9; do sleep 1000 & done");
    let output = command.pids_limit(5).run().unwrap();
    assert!(matches!(output.report.cause, Cause::Exited(1..)), "{:?}", output.report);
    assert!(output.report.fork_refusals > 0);
    assert!(String::from_utf8_lossy(&output.stderr).contains("fork"), "{}", String::from_utf8_lossy(&output.stderr));
    mark.assert_gone();
}

/// Runs where tmpfs covers /sys/fs/cgroup: the mounts are still listed, and a directory stands where each of them was.
fn without_groups() {
    let mark = inherited_mark();
    let mut child = mark.command("sleep").arg("1000").spawn().unwrap();
    let guarantee = child.guarantee();
    assert_eq!(guarantee.protection, Protection::Subreaper, "{guarantee}");
    assert!(
        guarantee.to_string().contains("is not cgroup version 2 but a file system of type 0x1021994"),
        "{guarantee}"
    );
    child.kill().unwrap();
    let refused = mark.command("true").pids_limit(5).spawn().unwrap_err();
    assert!(matches!(refused, SpawnError::LimitUnavailable { limit: Limit::Pids, .. }), "{refused}");
    let mut child = mark.command("sleep").arg("1000").memory_limit(100 << 20).spawn().unwrap();
    assert_eq!(child.guarantee().limits, [(Limit::Memory, Enforcement::Rlimit)]);
    child.kill().unwrap();
    assert!(
        fs::read_dir("/sys/fs/cgroup").unwrap().all(|entry| !entry
            .unwrap()
            .file_name()
            .to_string_lossy()
            .contains("ginnel"))
    );
    println!("honest");
}

#[test]
fn a_directory_that_looks_like_a_group_is_not_taken_for_one() {
    if !ginnel_testing::has_namespaces("-Urm") {
        return;
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let points: Vec<&str> =
        mounts.lines().filter(|line| line.contains(" - cgroup")).filter_map(|line| line.split(' ').nth(4)).collect();
    let mark = Mark::new();
    let own = fs::read_to_string("/proc/self/cgroup").unwrap();
    let paths: Vec<&str> = own.lines().filter_map(|line| line.splitn(3, ':').nth(2)).collect();
    let dirs: String =
        points.iter().flat_map(|point| paths.iter().map(move |path| format!("mkdir -p {point}{path}; "))).collect();
    let script = format!("mount -t tmpfs none /sys/fs/cgroup && {{ {dirs} exec {}; }}", common::own_program());
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", &script]);
    command.env(common::sys::ROLE, "without_groups").env(common::MARK, mark.value()).timeout(LONG);
    // In a group of its own it would not be where we are.
    command.isolation(Isolation::Subreaper);
    let output = command.run().unwrap();
    assert_eq!(output.stdout, b"honest\n", "{}", String::from_utf8_lossy(&output.stderr));
    mark.assert_gone();
}
