//! A command that does not start says at which stage and why; it is never an exit code 127, and leaves nothing.

mod common;

use common::{Mark, is_shepherd, pids};
use ginnel_process::{Command, Isolation, KillLadder, Orphans, Pty, Resource, Signal, Size, SpawnError, Stage, Stdio};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

/// Nothing of a failed command is left: no process, and no descriptor of this process.
#[track_caller]
fn fails(command: &Command, stage: Stage, errno: i32) -> SpawnError {
    // The first spawn of a process makes what the later ones share.
    let _ = command.spawn();
    let before = descriptors();
    let error = command.spawn().unwrap_err();
    assert_eq!((error.stage(), error.errno()), (Some(stage), Some(errno)), "{error}");
    assert_eq!(descriptors(), before);
    let parent = format!("PPid:\t{}", std::process::id());
    let ours =
        |pid: &u32| fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|status| status.contains(&parent));
    assert_eq!(pids().filter(ours).filter(|pid| is_shepherd(*pid)).count(), 0);
    error
}

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn a_missing_file_is_enoent() {
    for isolation in [Isolation::Subreaper, Isolation::Auto, Isolation::PidNamespace] {
        let error = fails(Command::new("/nowhere/at/all").isolation(isolation), Stage::Exec, libc::ENOENT);
        assert_eq!(
            error.to_string(),
            r#"cannot run "/nowhere/at/all": executing: No such file or directory (os error 2)"#
        );
        assert_eq!(std::io::Error::from(error).kind(), std::io::ErrorKind::NotFound);
    }
}

#[test]
fn a_name_that_is_in_no_directory_of_the_path_is_enoent() {
    fails(&Command::new("no-such-program-anywhere"), Stage::Exec, libc::ENOENT);
    fails(Command::new("true").env("PATH", "/nowhere"), Stage::Exec, libc::ENOENT);
}

#[test]
fn the_path_searched_is_the_commands_own() {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("only-here");
    fs::write(&program, "#!/bin/sh\nexit 9\n").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let output = Command::new("only-here").env("PATH", dir.path()).run().unwrap();
    assert_eq!(output.report.code(), Some(9));
}

#[test]
fn a_file_without_permission_is_eacces() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("data");
    fs::write(&file, "#!/bin/sh\n").unwrap();
    fails(&Command::new(&file), Stage::Exec, libc::EACCES);
    fails(&Command::new(dir.path()), Stage::Exec, libc::EACCES);
}

#[test]
fn a_file_that_is_no_program_is_enoexec() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("text");
    fs::write(&file, "neither a script nor a binary\n").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    fails(&Command::new(&file), Stage::Exec, libc::ENOEXEC);
}

#[test]
fn too_long_arguments_are_e2big() {
    // One argument beyond the kernel's 128 KiB, and too many in all.
    fails(Command::new("true").arg("x".repeat(200_000)), Stage::Exec, libc::E2BIG);
    fails(Command::new("true").args(vec!["x".repeat(100_000); 200]), Stage::Exec, libc::E2BIG);
    fails(Command::new("true").env("LONG", "x".repeat(200_000)), Stage::Exec, libc::E2BIG);
}

#[test]
fn arguments_just_within_the_limit_arrive() {
    let output = Command::new("sh").args(["-c", "echo ${#1}", "sh", &"x".repeat(131_000)]).run().unwrap();
    assert_eq!(output.stdout, b"131000\n");
}

#[test]
fn a_bad_working_directory_is_named_as_the_stage() {
    fails(Command::new("true").current_dir("/nowhere"), Stage::Cwd, libc::ENOENT);
    fails(Command::new("true").current_dir("/dev/null"), Stage::Cwd, libc::ENOTDIR);
}

#[test]
fn a_bad_group_is_named_as_the_stage() {
    // The one number that is never a group.
    fails(Command::new("true").groups(&[u32::MAX]), Stage::Groups, libc::EINVAL);
}

#[test]
fn limits_the_kernel_refuses_are_named_as_the_stage() {
    fails(Command::new("true").rlimit(Resource::OpenFiles, 100, 50), Stage::Rlimit, libc::EINVAL);
    fails(Command::new("true").affinity(&[4000]), Stage::Affinity, libc::EINVAL);
    fails(
        Command::new("true").env("X", "y").inherit_as(2_000_000_000, fs::File::open("/dev/null").unwrap()),
        Stage::Descriptors,
        libc::EMFILE,
    );
}

#[test]
fn contradictions_are_refused_before_anything_starts() {
    let refused = |command: &Command, hint: &str| match command.spawn() {
        Err(SpawnError::Invalid { reason, .. }) => assert!(reason.contains(hint), "{reason}"),
        other => panic!("{other:?}"),
    };
    refused(&Command::new(""), "name is empty");
    refused(Command::new("true").arg("a\0b"), "NUL");
    refused(Command::new("true").env("A", "a\0b"), "NUL");
    refused(Command::new("true").pty(Pty::new(Size::new(1, 1))).stdin(Stdio::null()), "one or the other");
    refused(Command::new("true").stdout(Stdio::merged()), "only stderr");
    refused(Command::new("true").isolation(Isolation::PidNamespace).orphans(Orphans::Leave), "Orphans::Wait");
    refused(Command::new("true").pids_limit(9).orphans(Orphans::Leave), "no limit of the tree");
    refused(Command::new("true").cpu_limit(1.0).orphans(Orphans::Leave), "no limit of the tree");
    refused(Command::new("true").memory_limit(1 << 30).orphans(Orphans::Leave), "no limit of the tree");
    refused(Command::new("true").inherit_as(1, fs::File::open("/dev/null").unwrap()), "from 3");
    refused(Command::new("true").cpu_limit(0.0), "positive");
    refused(Command::new("true").uid(u32::MAX), "is no user");
    refused(Command::new("true").gid(u32::MAX), "no group");
    let steep = (0..5).fold(KillLadder::at_once(), |ladder, _| ladder.then(Signal::TERM, Duration::ZERO));
    refused(Command::new("true").kill_ladder(steep), "at most 4");
}

#[test]
fn a_failed_start_leaves_no_process_with_its_mark() {
    let mark = Mark::new();
    for _ in 0..50 {
        mark.command("/nowhere").spawn().unwrap_err();
    }
    mark.assert_gone();
}

#[test]
fn what_cannot_be_expressed_is_refused_before_anything_starts() {
    let refused = |change: &dyn Fn(&mut Command) -> &mut Command| {
        let mut command = Command::new("true");
        change(&mut command);
        matches!(command.spawn(), Err(SpawnError::Invalid { .. }))
    };
    assert!(refused(&|command| command.env("PATH=/x", "y")));
    assert!(refused(&|command| command.env("", "y")));
    // Removing what cannot be there is no contradiction.
    assert!(!refused(&|command| command.env_remove("PATH=/x")));
    for cpu in [usize::MAX, usize::MAX - 63, 1 << 40, 1 << 16] {
        assert!(refused(&|command| command.affinity(&[0, cpu])), "{cpu}");
    }
    assert!(refused(&|command| command.pids_limit(0)));
    assert!(refused(&|command| command.memory_limit(0)));
    for cpus in [0.0, -1.0, 1e-9, f64::NAN, f64::INFINITY] {
        assert!(refused(&|command| command.cpu_limit(cpus)), "{cpus}");
    }
}

#[test]
fn a_cpu_limit_beyond_any_machine_is_no_error() {
    for cpus in [0.001, 0.0099, 1e6, 1e9, f64::MAX] {
        match Command::new("true").cpu_limit(cpus).spawn() {
            Ok(mut child) => assert!(child.wait().unwrap().success()),
            Err(error) => assert!(matches!(error, SpawnError::LimitUnavailable { .. }), "{cpus}: {error}"),
        }
    }
}
