//! Servers to run, machines to describe, and what `ps` says.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

pub(crate) use rustix::process::Signal;

/// Longer than anything takes on a machine with a hundred times the work it should have.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for a condition; fails with its name.
pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A directory for sockets, removed at the end.
pub(crate) struct RunDir(tempfile::TempDir);

impl RunDir {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn files(&self) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(self.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

pub(crate) fn command(run: &RunDir, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ginnel"));
    command.arg("netipc").args(arguments).stdin(Stdio::null());
    if arguments.len() > 1 && arguments[1] != "--help" {
        command.arg("--run-dir").arg(run.path());
    }
    command
}

pub(crate) fn ginnel(run: &RunDir, arguments: &[&str]) -> Output {
    command(run, arguments).output().unwrap()
}

pub(crate) fn signal(child: &Child, signal: Signal) {
    let pid = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(pid, signal).unwrap();
}

/// A child that does not outlive its test.
pub(crate) struct Reaped(pub(crate) Child);

/// What a child says until its end, and how it ends.
pub(crate) fn output(mut child: Reaped) -> Output {
    let read = |pipe: Option<&mut dyn std::io::Read>| {
        let mut said = Vec::new();
        pipe.unwrap().read_to_end(&mut said).unwrap();
        said
    };
    // They say little: no pipe fills while the other is read.
    let stdout = read(child.0.stdout.as_mut().map(|pipe| pipe as _));
    let stderr = read(child.0.stderr.as_mut().map(|pipe| pipe as _));
    Output { status: child.0.wait().unwrap(), stdout, stderr }
}

impl Drop for Reaped {
    fn drop(&mut self) {
        // Killing also works on one that was stopped; an error says that it is over.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A running `ginnel netipc serve`.
pub(crate) struct Serving(Reaped);

impl Serving {
    pub(crate) fn start(run: &RunDir, arguments: &[&str]) -> Self {
        Self::start_with_env(run, arguments, &[])
    }

    pub(crate) fn start_with_env(run: &RunDir, arguments: &[&str], env: &[(&str, &str)]) -> Self {
        let mut serve = vec!["serve"];
        serve.extend(arguments);
        let mut command = command(run, &serve);
        command.envs(env.iter().copied()).stderr(Stdio::piped());
        let mut server = Self(Reaped(command.spawn().unwrap()));
        let mut said = String::new();
        BufReader::new(server.0.0.stderr.take().unwrap()).read_line(&mut said).unwrap();
        assert!(said.starts_with("serving at "), "{said}");
        server
    }

    /// SIGKILL: no time to clean up.
    pub(crate) fn kill(&mut self) {
        self.0.0.kill().unwrap();
        self.0.0.wait().unwrap();
    }

    pub(crate) fn signal(&self, which: Signal) {
        signal(&self.0.0, which);
    }

    /// Ctrl-C, and how it ended.
    pub(crate) fn interrupt(mut self) -> ExitStatus {
        self.signal(Signal::INT);
        self.0.0.wait().unwrap()
    }
}

/// A made-up machine with one version 2 hierarchy.
pub(crate) struct Machine {
    directory: tempfile::TempDir,
}

impl Machine {
    pub(crate) fn new() -> Self {
        let machine = Self { directory: tempfile::tempdir().unwrap() };
        machine.write("proc/self/mountinfo", "30 20 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
        machine.write("sys/fs/cgroup/cgroup.events", "populated 1\n");
        // Parents that exist from the start: making one is then one change.
        fs::create_dir_all(machine.path("sys/fs/cgroup/")).unwrap();
        machine
    }

    pub(crate) fn root(&self) -> &str {
        self.directory.path().to_str().unwrap()
    }

    fn path(&self, path: &str) -> PathBuf {
        self.directory.path().join(path)
    }

    /// Appears whole, as files of the kernel do: written aside and renamed.
    fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let aside = self.directory.path().join("aside");
        fs::write(&aside, text).unwrap();
        fs::rename(aside, path).unwrap();
    }

    pub(crate) fn cgroup(&self, path: &str, events: &str) {
        self.write(&format!("sys/fs/cgroup/{path}/cgroup.events"), events);
    }

    pub(crate) fn remove(&self, path: &str) {
        fs::remove_dir_all(self.path(&format!("sys/fs/cgroup/{path}"))).unwrap();
    }
}

/// A cgroup of this machine's version 2 hierarchy, removed at the end with the process in it.
pub(crate) struct RealCgroup {
    directory: PathBuf,
    path: String,
    process: std::cell::RefCell<Option<Reaped>>,
}

impl RealCgroup {
    /// `None` where there is no such hierarchy, or this process may not change it.
    pub(crate) fn new() -> Option<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mount = mounts.lines().find(|line| line.contains(" - cgroup2 "))?.split(' ').nth(4)?;
        let path = format!("/ginnel-netipc-test-{}", std::process::id());
        let directory = PathBuf::from(format!("{mount}{path}"));
        fs::create_dir(&directory).ok()?;
        Some(Self { directory, path, process: std::cell::RefCell::new(None) })
    }

    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// Moves a new process into it.
    pub(crate) fn populate(&self) -> u32 {
        let process = Reaped(Command::new("sleep").arg("1000").spawn().unwrap());
        let pid = process.0.id();
        *self.process.borrow_mut() = Some(process);
        fs::write(self.directory.join("cgroup.procs"), pid.to_string()).unwrap();
        pid
    }
}

impl Drop for RealCgroup {
    fn drop(&mut self) {
        self.process.borrow_mut().take();
        // The kernel needs a moment after the last process is reaped.
        let deadline = Instant::now() + PATIENCE;
        while fs::remove_dir(&self.directory).is_err() && self.directory.exists() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// What `ps` says about a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) ppid: u32,
    pub(crate) uid: u32,
    pub(crate) comm: String,
}

pub(crate) fn ps() -> BTreeMap<u32, Said> {
    let output =
        Command::new("ps").args(["-e", "-ww", "-o", "pid=,ppid=,uid=,comm="]).output().expect("procps is installed");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let parse = |line: &str| {
        let mut rest = line;
        let mut number = || {
            let text = rest.trim_start();
            let end = text.find(' ')?;
            rest = &text[end..];
            text[..end].parse().ok()
        };
        let (pid, ppid, uid) = (number()?, number()?, number()?);
        Some((pid, Said { ppid, uid, comm: rest.trim().to_owned() }))
    };
    let said: BTreeMap<_, _> = text.lines().filter_map(parse).collect();
    assert_eq!(said.len(), text.lines().count(), "every line of ps is understood");
    said
}

/// Names are cut at 15 bytes on the wire; `ps` shows more of kernel workers, which are renamed with what they do, and
/// marks the dead.
pub(crate) fn assert_same_name(ours: &str, said: &str) {
    let said = said.strip_suffix(" <defunct>").unwrap_or(said);
    // `-` before what it has done, `+` before what it is doing.
    let stem = |name: &str| name.split(['-', '+']).next().unwrap_or_default().to_owned();
    if said.starts_with("kworker/") {
        assert_eq!(stem(ours), stem(said));
    } else if ours.len() >= 15 {
        assert!(said.starts_with(ours), "{ours:?} against {said:?}");
    } else {
        assert_eq!(ours.trim(), said);
    }
}

/// Field 22 of `/proc/<pid>/stat`, read without the library.
pub(crate) fn starttime(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}
