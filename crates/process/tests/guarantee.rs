//! What is claimed is what was established: with control groups, with none, and with something that only looks like one.

mod common;

use common::{LONG, Mark, has_unified_groups, inherited_mark};
use ginnel_process::{Child, Command, Enforcement, Isolation, Limit, Orphans, Protection, SpawnError};
use std::fs;

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

#[test]
fn a_limit_is_held_by_what_is_named_or_refused() {
    let limits = [(Limit::Pids, "pids"), (Limit::Cpu, "cpu"), (Limit::Memory, "memory")];
    for (limit, controller) in limits {
        let mut command = Command::new("sleep");
        command.arg("1000");
        match limit {
            Limit::Pids => command.pids_limit(10),
            Limit::Cpu => command.cpu_limit(0.5),
            _ => command.memory_limit(100 << 20),
        };
        match command.spawn() {
            Ok(mut child) => {
                let [(held, enforcement)] = child.guarantee().limits[..] else { panic!("{}", child.guarantee()) };
                assert_eq!(held, limit);
                match enforcement {
                    Enforcement::CgroupV1 => assert!(has_group(&child, controller), "{}", membership(&child)),
                    Enforcement::CgroupV2 => assert!(has_group(&child, ""), "{}", membership(&child)),
                    _ => assert_eq!(limit, Limit::Memory),
                }
                child.kill().unwrap();
            }
            Err(SpawnError::LimitUnavailable { limit: refused, reason, .. }) => {
                assert!(refused == limit && limit != Limit::Memory && !reason.is_empty());
            }
            Err(error) => panic!("{error}"),
        }
    }
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
