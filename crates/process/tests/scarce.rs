//! Few descriptors, few processes or little memory left: the right result or a typed error, and nothing is left behind.

mod common;

use common::{Mark, inherited_mark, role};
use ginnel_process::{Command, Isolation, Pty, RunError, Size, SpawnError, Stdio};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, WaitId, WaitIdOptions};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::thread;

roles!(few_descriptors, few_processes, little_memory);

/// Ways to start a command that differ in what they need.
const WAYS: &[&str] = &[
    "run",
    "spawn",
    "null",
    "inherit",
    "extra",
    "pty",
    "namespace",
    "namespace-pty",
    "pipeline",
    #[cfg(feature = "tokio")]
    "async",
    #[cfg(feature = "tokio")]
    "async-pipeline",
];
/// So many free descriptors are enough for each.
const ENOUGH: u64 = 40;

/// Runs a command that says `seen`, in this way. What it said, or why it did not start.
fn attempt(way: &str, mark: &Mark, extra: &[OwnedFd]) -> Result<Vec<u8>, SpawnError> {
    let mut command = mark.command("echo");
    command.arg("seen");
    let spawned = |error: RunError| match error {
        RunError::Spawn(error) => error,
        other => panic!("{way}: {other}"),
    };
    let read = |command: &Command| {
        let mut child = command.spawn()?;
        let mut seen = Vec::new();
        // What was asked for is there.
        match &mut child.pty {
            Some(pty) => pty.read_to_end(&mut seen),
            None => child.stdout.as_mut().unwrap().read_to_end(&mut seen),
        }
        .unwrap();
        // In a namespace, one that has ended before the look has no number any more.
        assert!(child.id() > 0 || way.starts_with("namespace"));
        assert!(child.wait().unwrap().success());
        Ok(seen)
    };
    let pty = || Pty::new(Size::new(24, 80)).raw();
    match way {
        "run" => command.run().map(|output| output.stdout).map_err(spawned),
        "spawn" => {
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
            let mut child = command.spawn()?;
            let mut seen = Vec::new();
            assert!(child.stdin.is_some() && child.stderr.is_some());
            child.stdout.as_mut().unwrap().read_to_end(&mut seen).unwrap();
            assert!(child.wait().unwrap().success());
            Ok(seen)
        }
        "null" | "inherit" => {
            let stdio = if way == "null" { Stdio::null } else { Stdio::inherit };
            command.stdin(stdio()).stdout(Stdio::null()).stderr(stdio());
            let report = command.spawn()?.wait().unwrap();
            assert!(report.success() && report.survivors == 0, "{report:?}");
            Ok(b"seen\n".to_vec())
        }
        "extra" => {
            for fd in extra {
                command.inherit(fd.try_clone().map_err(|_| scarce())?);
            }
            read(command.stdout(Stdio::piped()))
        }
        "pty" => read(command.pty(pty())),
        "pipeline" => (command | mark.command("cat") | mark.command("cat"))
            .run()
            .map(|output| {
                assert!(output.success());
                output.stdout
            })
            .map_err(spawned),
        #[cfg(feature = "tokio")]
        "async" => on_a_runtime(async { command.run_async().await.map(|output| output.stdout).map_err(spawned) }),
        #[cfg(feature = "tokio")]
        "async-pipeline" => on_a_runtime(async {
            let pipeline = command | mark.command("cat");
            pipeline.run_async().await.map(|output| output.stdout).map_err(spawned)
        }),
        "namespace" => command.isolation(Isolation::PidNamespace).run().map(|output| output.stdout).map_err(spawned),
        _ => read(command.isolation(Isolation::PidNamespace).pty(pty())),
    }
}

/// The runtime's own descriptors are there before the limit: see [`few_descriptors`].
#[cfg(feature = "tokio")]
fn on_a_runtime<T>(work: impl Future<Output = T>) -> T {
    static RUNTIME: std::sync::OnceLock<tokio::runtime::Runtime> = std::sync::OnceLock::new();
    RUNTIME.get_or_init(|| tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()).block_on(work)
}

/// The test's own descriptors were not to be had.
fn scarce() -> SpawnError {
    let refused = Command::new("/nowhere").spawn();
    refused.map(drop).unwrap_err()
}

fn limit(resource: Resource, most: u64) {
    let now = rustix::process::getrlimit(resource);
    rustix::process::setrlimit(resource, Rlimit { current: Some(most), maximum: now.maximum }).unwrap();
}

/// Those that are open, found without opening one.
fn open() -> Vec<i32> {
    // SAFETY: asks about numbers, which may be nobody's.
    #[allow(unsafe_code)]
    (0..200).filter(|fd| unsafe { libc::fcntl(*fd, libc::F_GETFD) } >= 0).collect()
}

#[track_caller]
fn no_child_is_left(what: &str) {
    let any = rustix::process::waitid(WaitId::All, WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
    assert_eq!(any.map(|_| ()), Err(Errno::CHILD), "{what}");
}

/// As the environment says: this way, with so many descriptors free.
fn few_descriptors() {
    let mark = inherited_mark();
    let (way, free) = (std::env::var("WAY").unwrap(), std::env::var("FREE").unwrap().parse::<u64>().unwrap());
    let extra: Vec<OwnedFd> = if way == "extra" {
        (0..4).map(|_| std::fs::File::open("/dev/null").unwrap().into()).collect()
    } else {
        Vec::new()
    };
    let most = rustix::process::getrlimit(Resource::Nofile).current.unwrap();
    #[cfg(feature = "tokio")]
    on_a_runtime(async {});
    let mut warm = None;
    // The first time everything that the library keeps is new, the second time it is there.
    for round in ["first", "second"] {
        limit(Resource::Nofile, *open().last().unwrap() as u64 + 1 + free);
        let outcome = attempt(&way, &mark, &extra);
        let what = format!("{way}, {free} free, {round}: {outcome:?}");
        no_child_is_left(&what);
        limit(Resource::Nofile, most);
        match outcome {
            Ok(seen) => assert_eq!(seen, b"seen\n", "{what}"),
            Err(SpawnError::Failed { errno: Errno::MFILE, .. }) if free < ENOUGH => {}
            Err(_) => panic!("{what}"),
        }
        assert_eq!(mark.alive(), [0; 0], "{what}");
        // With enough of them it works, and nothing was left open.
        assert_eq!(attempt(&way, &mark, &extra).unwrap(), b"seen\n", "{what}");
        no_child_is_left(&what);
        assert_eq!(*warm.get_or_insert_with(open), open(), "{what}");
    }
}

#[test]
fn with_any_number_of_descriptors_a_command_runs_right_or_is_refused_by_name() {
    let each_number = |way: &str| {
        for free in (0..=20).chain([ENOUGH]) {
            let mark = Mark::new();
            let output = role("few_descriptors", &mark).env("WAY", way).env("FREE", free.to_string()).output().unwrap();
            assert!(output.status.success(), "{way}, {free}: {}", String::from_utf8_lossy(&output.stderr));
            mark.assert_gone();
        }
    };
    thread::scope(|scope| WAYS.iter().for_each(|way| drop(scope.spawn(move || each_number(way)))));
}

fn few_processes() {
    common::sys::become_user(54_321);
    std::env::set_current_dir("/").unwrap();
    let mark = inherited_mark();
    let way = std::env::var("WAY").unwrap();
    for most in 0..8 {
        limit(Resource::Nproc, most);
        let outcome = attempt(&way, &mark, &[]);
        let what = format!("{way}, {most}: {outcome:?}");
        no_child_is_left(&what);
        match outcome {
            Ok(seen) => assert_eq!(seen, b"seen\n", "{what}"),
            Err(SpawnError::Failed { errno: Errno::AGAIN, .. }) if most < 7 => {}
            // A user without namespaces.
            Err(SpawnError::Failed { stage: ginnel_process::Stage::Namespace, .. }) => {}
            Err(_) => panic!("{what}"),
        }
        assert_eq!(mark.alive(), [0; 0], "{what}");
    }
}

#[test]
fn with_any_number_of_processes_a_command_runs_right_or_is_refused_by_name() {
    if !ginnel_testing::is_root("to become a user without processes") {
        return;
    }
    // The runtime needs threads of its own.
    for way in WAYS.iter().filter(|way| **way != "extra" && !way.starts_with("async")) {
        let mark = Mark::new();
        let output = role("few_processes", &mark).env("WAY", way).output().unwrap();
        assert!(output.status.success(), "{way}: {}", String::from_utf8_lossy(&output.stderr));
        mark.assert_gone();
    }
}

/// As the environment says: this way, with so many KiB of address space free, here and (by inheritance) in the command.
fn little_memory() {
    let mark = inherited_mark();
    let (way, free) = (std::env::var("WAY").unwrap(), std::env::var("FREE").unwrap().parse::<u64>().unwrap());
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    let used = pages.split(' ').next().unwrap().parse::<u64>().unwrap() * rustix::param::page_size() as u64;
    limit(Resource::As, used + (free << 10));
    let mut command = mark.command("echo");
    command.arg("seen");
    let outcome = match &*way {
        "run" => command.run().map(|output| (output.report.success(), output.stdout)),
        "pipeline" => (command | mark.command("cat")).run().map(|output| (output.success(), output.stdout)),
        _ => {
            command.pty(Pty::new(Size::new(24, 80)).raw()).run().map(|output| (output.report.success(), output.stdout))
        }
    };
    match outcome {
        // Without the memory to be loaded the command fails, and that is told.
        Ok((success, seen)) => assert!(!success || seen == b"seen\n", "{way}, {free}: {seen:?}"),
        Err(RunError::Spawn(SpawnError::Failed { errno: Errno::NOMEM | Errno::AGAIN, .. })) => {}
        Err(error) => panic!("{way}, {free}: {error}"),
    }
    no_child_is_left("little memory");
    assert_eq!(mark.alive(), [0; 0]);
}

#[test]
fn with_little_memory_a_command_runs_right_or_is_refused_and_nothing_is_left() {
    let each_size = |way: &str| {
        for free in (0..20).map(|step| step * step * 64) {
            let mark = Mark::new();
            let output = role("little_memory", &mark).env("WAY", way).env("FREE", free.to_string()).output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            // An allocation that fails ends a program; what it had started goes with it.
            let aborted = said.contains("memory allocation of");
            assert!(output.status.success() || aborted, "{way}, {free} KiB: {} {said}", output.status);
            mark.assert_gone_soon();
        }
    };
    thread::scope(|scope| ["run", "pipeline", "pty"].map(|way| drop(scope.spawn(move || each_size(way)))));
}
