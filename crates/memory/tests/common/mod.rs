//! What the tests of segments share.
#![allow(dead_code)] // each test binary uses its part

use ginnel_memory::{Expect, RunDir, Spec};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

pub(crate) const KIND: u32 = 0x6b31;
pub(crate) const LAYOUT: u64 = 0x1a70;
pub(crate) const INSTANCE: u64 = 0x1257;

pub(crate) fn spec(data: usize) -> Spec {
    Spec { kind: KIND, layout: LAYOUT, instance: INSTANCE, params: [5; _], data, mirror: false }
}

pub(crate) const EXPECT: Expect = Expect { kind: KIND, layout: Some(LAYOUT), instance: Some(INSTANCE), owner: None };

/// A runtime directory of the test's own, removed at its end.
pub(crate) struct Place {
    pub(crate) dir: RunDir,
    temp: tempfile::TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        Self { dir: RunDir::at(&temp.path().join("run")).unwrap(), temp }
    }

    pub(crate) fn path(&self, file: &str) -> std::path::PathBuf {
        self.dir.path().join(file)
    }
}

const CHILD: &str = "GINNEL_TEST_CHILD";

/// Whether this is the process that [`child`] started for the test `name`.
pub(crate) fn is_child(name: &str) -> bool {
    std::env::var(CHILD).is_ok_and(|child| child == name)
}

/// This test binary once more, to run the test `name` alone in a process of its own.
pub(crate) fn child(name: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([name, "--exact", "--nocapture", "--test-threads=1"]).env(CHILD, name);
    command
}

/// Runs a child to its end, or kills it after a minute. Gives its status and what it said.
pub(crate) fn run(mut command: Command) -> (ExitStatus, String) {
    let output = tempfile::tempfile().unwrap();
    let mut child = command.stdout(output.try_clone().unwrap()).stderr(output.try_clone().unwrap()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if Instant::now() > deadline {
            child.kill().unwrap();
            break child.wait().unwrap();
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let mut output = output;
    let mut said = String::new();
    std::io::Seek::rewind(&mut output).unwrap();
    std::io::Read::read_to_string(&mut output, &mut said).unwrap();
    (status, said)
}

/// Runs the body in a process of its own: for tests that change what a whole process shares.
pub(crate) fn alone(name: &str, body: impl FnOnce()) {
    if is_child(name) {
        return body();
    }
    let (status, said) = run(child(name));
    assert!(status.success() && said.contains("1 passed"), "{status} (signal {:?}): {said}", status.signal());
}

/// Looks until `found` says yes.
pub(crate) fn eventually(what: &str, mut found: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !found() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::yield_now();
    }
}
