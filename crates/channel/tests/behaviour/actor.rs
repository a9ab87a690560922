//! Child processes that play a role: this test binary again, told by its environment what to do.
//!
//! A role speaks to its test in lines: what it prints with [`tell`] the test gets with [`Actor::hear`], and the other
//! way round by [`Actor::say`] and [`listen`]. An actor dies with its `Actor` value, with the test's thread, or after
//! five minutes.

use crate::sys;
use std::io::{BufRead, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a test waits for what must come: far longer than it ever takes, so that only a hang reaches it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

const ENTRY: &str = "a_child_process_plays_its_role_and_tells_what_it_did";
const ROLE: &str = "GINNEL_TEST_ROLE";
/// Marks the lines of a role among those of the test harness.
const MARK: &str = "@@";

/// Every role, by name.
const ROLES: &[(&str, fn())] = &[
    ("echo", || tell(listen())),
    ("idle_reader", crate::idle::reader),
    ("idle_writer", crate::idle::writer),
    ("traffic_reader", crate::traffic::reader),
    ("crowd_writer", crate::crowds::writer),
    ("crowd_reader", crate::crowds::reader),
    ("cut_reader", crate::truncation::reader),
    ("cut_writer", crate::truncation::writer),
    ("doomed_writer", crate::deaths::writer),
    ("doomed_reader", crate::deaths::reader),
    ("counted_writer", crate::syscalls::writer),
    ("dormitory_readers", crate::sleepers::readers),
    ("dormitory_writer", crate::sleepers::writer),
    ("full_file_system", crate::denials::full_file_system),
    #[cfg(feature = "tokio")]
    ("no_barrier", crate::asynchronous::no_barrier),
    ("no_descriptor_left", crate::denials::no_descriptor_left),
    ("poor_writer", crate::denials::poor_writer),
    ("full_fd_table", crate::denials::full_fd_table),
    ("scarce_memory", crate::scarce::reader),
    ("stranger", crate::denials::stranger),
    ("namespaced_reader", crate::denials::namespaced_reader),
    ("odd_umask", crate::denials::odd_umask),
    ("dies_while_creating", crate::leftovers::dies_while_creating),
    ("hoarder", crate::leftovers::hoarder),
    ("link_child", crate::exports::child),
    ("link_parent", crate::exports::parent),
    ("env_errors", crate::exports::env_errors),
    ("descriptors", crate::exports::descriptors),
    ("owner_of_inherited", crate::exports::owner),
    ("heir_of_an_odd_header", crate::exports::heir),
    ("producer", crate::producers::producer),
    ("hasty_writer", crate::glimpses::hasty_writer),
    ("one_state", crate::glimpses::one_state),
];

/// Plays the role that the environment names. False if it names none.
pub(crate) fn play() -> bool {
    let Ok(role) = std::env::var(ROLE) else { return false };
    sys::die_in_time();
    if std::env::var_os("GINNEL_TEST_outlives").is_none() {
        sys::die_with_parent();
    }
    let (_, play) = ROLES.iter().find(|(name, _)| *name == role).unwrap_or_else(|| panic!("no role {role:?}"));
    play();
    true
}

/// The argument `name` of this role.
pub(crate) fn argument(name: &str) -> String {
    std::env::var(format!("GINNEL_TEST_{name}")).unwrap_or_else(|_| panic!("the role lacks its argument {name:?}"))
}

/// The argument `name` as a number.
pub(crate) fn number(name: &str) -> u64 {
    argument(name).parse().expect("a number")
}

/// Tells the test something.
pub(crate) fn tell(line: impl std::fmt::Display) {
    let mut out = std::io::stdout().lock();
    // The harness prints the test's name without a line end first.
    writeln!(out, "\n{MARK}{line}").expect("the test listens");
    out.flush().expect("the test listens");
}

/// Waits for a line from the test. Ends the process when the test has hung up.
pub(crate) fn listen() -> String {
    let mut line = String::new();
    if std::io::stdin().lock().read_line(&mut line).unwrap_or(0) == 0 {
        std::process::exit(3);
    }
    line.trim_end().to_owned()
}

/// A child process that plays a role.
#[derive(Debug)]
pub(crate) struct Actor {
    child: Child,
    stdin: ChildStdin,
    stdout: ChildStdout,
    heard: Vec<u8>,
    reaped: bool,
}

/// How to start an actor of `role`.
pub(crate) fn command(role: &str, arguments: &[(&str, &str)]) -> Command {
    prepare(Command::new(std::env::current_exe().expect("this binary")), role, arguments)
}

/// How to start an actor of `role` in a pid namespace of its own, with the `/proc` of that. Needs root.
pub(crate) fn namespaced(role: &str, arguments: &[(&str, &str)]) -> Command {
    let mut unshare = Command::new("unshare");
    unshare.args(["--pid", "--fork", "--kill-child", "--mount-proc"]);
    unshare.arg(std::env::current_exe().expect("this binary"));
    prepare(unshare, role, arguments)
}

fn prepare(mut command: Command, role: &str, arguments: &[(&str, &str)]) -> Command {
    command.args(["--exact", ENTRY, "--nocapture", "--test-threads=1"]).env(ROLE, role);
    for (name, value) in arguments {
        command.env(format!("GINNEL_TEST_{name}"), value);
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    command
}

impl Actor {
    /// Starts an actor.
    pub(crate) fn start(role: &str, arguments: &[(&str, &str)]) -> Self {
        Self::spawn(&mut command(role, arguments))
    }

    /// Starts an actor from a command of [`command`] that still lives: a test may have exported channels to it.
    pub(crate) fn spawn(command: &mut Command) -> Self {
        let mut child = command.spawn().expect("start this binary again");
        let stdin = child.stdin.take().expect("piped");
        let stdout = child.stdout.take().expect("piped");
        Self { child, stdin, stdout, heard: Vec::new(), reaped: false }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Says a line to the role.
    pub(crate) fn say(&mut self, line: &str) {
        self.stdin.write_all(format!("{line}\n").as_bytes()).expect("the role listens");
    }

    /// The role's next line.
    pub(crate) fn hear(&mut self) -> String {
        self.hear_or_end().unwrap_or_else(|| panic!("the role ended without a word: {:?}", self.child.wait()))
    }

    /// The role's next line, `None` if it has ended.
    pub(crate) fn hear_or_end(&mut self) -> Option<String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            while let Some(end) = self.heard.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.heard.drain(..=end).collect();
                if let Some(told) = String::from_utf8_lossy(&line).trim_end().strip_prefix(MARK) {
                    return Some(told.to_owned());
                }
            }
            assert!(sys::readable(&self.stdout, deadline), "the role said nothing for {PATIENCE:?}");
            let mut bytes = [0; 4096];
            match self.stdout.read(&mut bytes).expect("read from the role") {
                0 => return None,
                got => self.heard.extend_from_slice(&bytes[..got]),
            }
        }
    }

    /// Stops the process; returns when it stands still.
    pub(crate) fn stop(&self) {
        self.signal(rustix::process::Signal::STOP);
        until("it is stopped", || {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).expect("not reaped");
            stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
        });
    }

    /// Lets it go on.
    pub(crate) fn resume(&self) {
        self.signal(rustix::process::Signal::CONT);
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).expect("signal the role");
    }

    /// Kills the process as `kill -9` does and reaps it; returns when it was certainly dead.
    pub(crate) fn kill(&mut self) -> Instant {
        self.child.kill().expect("kill the role");
        self.child.wait().expect("reap the role");
        self.reaped = true;
        Instant::now()
    }

    /// Waits for the role's success.
    pub(crate) fn finish(mut self) {
        assert_eq!(self.hear_or_end(), None, "the role still had something to say");
        let status = self.child.wait().expect("reap the role");
        self.reaped = true;
        assert!(status.success(), "the role failed: {status}");
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        if !self.reaped {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Waits until `condition` holds, looking every millisecond; panics with `what` if it does not within [`PATIENCE`].
pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Whether the long proofs are to run in full (`cargo xtask soak`).
pub(crate) fn soak() -> bool {
    std::env::var_os("GINNEL_SOAK").is_some_and(|value| value == "1")
}

/// A runtime directory that goes with the test.
#[derive(Debug)]
pub(crate) struct Dir {
    _temp: tempfile::TempDir,
    run: std::path::PathBuf,
}

impl Dir {
    pub(crate) fn new() -> Self {
        let temp = tempfile::tempdir().expect("a temporary directory");
        Self { run: temp.path().join("run"), _temp: temp }
    }

    pub(crate) fn path(&self) -> &std::path::Path {
        &self.run
    }

    pub(crate) fn text(&self) -> &str {
        self.run.to_str().expect("a path of ours")
    }

    /// The files in it.
    pub(crate) fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.run).expect("the runtime directory");
        let mut names: Vec<String> =
            entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}
