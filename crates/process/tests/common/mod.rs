//! What the tests share: a mark by which survivors are found in /proc, waiting with a deadline, and roles (a process of
//! its own that runs a function of the test program instead of its tests).
#![allow(dead_code, unreachable_pub, reason = "each test program uses its part")]

pub mod sys;

use ginnel_process::Command;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Far longer than anything takes here; only a failure waits for it.
pub const LONG: Duration = Duration::from_secs(20);

/// A variable that everything a test starts inherits. Whoever still has it at the end of the test is killed.
pub struct Mark {
    value: String,
    /// A role borrows the mark of the test that started it.
    owned: bool,
    /// Processes with commands of their own, which are told to die.
    parents: Mutex<Vec<u32>>,
}

pub const MARK: &str = "GINNEL_TEST_MARK";

impl Mark {
    pub fn new() -> Mark {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let value = format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        Mark { value, owned: true, parents: Mutex::default() }
    }

    pub fn value(&self) -> &str {
        &self.value
    }

    /// A command that carries the mark.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env(MARK, &self.value);
        command
    }

    /// A shell script that carries the mark.
    pub fn shell(&self, script: &str) -> Command {
        let mut command = self.command("sh");
        command.args(["-c", script]);
        command
    }

    /// Everybody who runs with the mark, apart from shepherds and this process.
    pub fn alive(&self) -> Vec<u32> {
        let wanted = format!("{MARK}={}", self.value).into_bytes();
        // Of each thread: the main one's is empty once it has ended.
        let marked =
            |pid: &u32| {
                fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten().any(|thread| {
                    environment(&thread.path()).split(|byte| *byte == 0).any(|variable| variable == wanted)
                })
            };
        pids().filter(|pid| *pid != std::process::id()).filter(marked).filter(|pid| !is_shepherd(*pid)).collect()
    }

    /// Remembers a role that starts commands: once it is dead, its shepherds count as survivors too.
    pub fn parent(&self, pid: u32) {
        self.parents.lock().unwrap().push(pid);
    }

    /// The shepherds that the remembered parents have left behind.
    pub fn shepherds(&self) -> Vec<u32> {
        let parents = self.parents.lock().unwrap();
        pids().filter(|pid| orphaned_shepherd_of(*pid).is_some_and(|parent| parents.contains(&parent))).collect()
    }

    fn survivors(&self) -> Vec<u32> {
        [self.alive(), self.shepherds()].concat()
    }

    /// Fails unless nobody with the mark, and no shepherd of a dead parent, is left at this moment.
    #[track_caller]
    pub fn assert_gone(&self) {
        let alive = self.survivors();
        assert!(alive.is_empty(), "survivors: {:?}", alive.iter().map(|pid| describe(*pid)).collect::<Vec<_>>());
    }

    /// Fails unless nobody with the mark, and no shepherd of a dead parent, is left soon.
    #[track_caller]
    pub fn assert_gone_soon(&self) {
        if !wait_until(LONG, || self.survivors().is_empty()) {
            self.assert_gone();
        }
    }

    /// Waits until so many run.
    #[track_caller]
    pub fn await_alive(&self, count: usize) {
        assert!(
            wait_until(LONG, || self.alive().len() >= count),
            "only {} of {count} have started",
            self.alive().len()
        );
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        // Only after a failure is anybody left.
        for pid in if self.owned { self.survivors() } else { Vec::new() } {
            if let Some(pid) = rustix::process::Pid::from_raw(pid as i32) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
    }
}

pub fn pids() -> impl Iterator<Item = u32> {
    fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

pub fn is_shepherd(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "ginnel-shepherd")
}

/// The dead parent of a shepherd that is still there. Its arguments name it (its environment may be given back to the
/// kernel); one that still has a parent of that number is somebody else's, for numbers are used again.
fn orphaned_shepherd_of(pid: u32) -> Option<u32> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    // The name, the number of the socket, `<protection>:<parent>`, the command.
    let mut words = line.split(|byte| *byte == 0).map(String::from_utf8_lossy);
    let parent = words.next().filter(|name| name == "ginnel-shepherd").and_then(|_| words.nth(1))?;
    let parent = parent.rsplit_once(':')?.1.parse().ok()?;
    let now: u32 =
        fs::read_to_string(format!("/proc/{pid}/stat")).ok()?.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()?;
    (now != parent).then_some(parent)
}

/// The environment of a thread's process. In the middle of an `execve` it is empty, as the arguments are: then a look
/// is not enough.
fn environment(task: &Path) -> Vec<u8> {
    let read = |name: &str| fs::read(task.join(name)).unwrap_or_default();
    let deadline = Instant::now() + Duration::from_millis(20);
    loop {
        let environment = read("environ");
        // A zombie has no program, and what is empty for so long stays so.
        if !environment.is_empty() || fs::read_link(task.join("exe")).is_err() || Instant::now() > deadline {
            return environment;
        }
        if !read("cmdline").is_empty() {
            return read("environ");
        }
        std::thread::sleep(Duration::from_micros(100));
    }
}

fn describe(pid: u32) -> String {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    format!("{pid} {}", String::from_utf8_lossy(&line).replace('\0', " "))
}

/// Whether a process is there and is no zombie.
pub fn runs(pid: u32) -> bool {
    !['Z', 'X', ' '].contains(&state(pid))
}

/// The kernel's letter for what a process does; a space when it is gone.
pub fn state(pid: u32) -> char {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next()).unwrap_or(' ')
}

/// Polls a condition until it holds; false when it did not within the time.
pub fn wait_until(patience: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + patience;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Whether the machine gives control groups to this user: what `Isolation::Auto` is expected to find, told without the
/// library.
pub fn has_unified_groups() -> bool {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let point = mounts.lines().find(|line| line.contains(" - cgroup2 ")).and_then(|line| line.split(' ').nth(4));
    let own = fs::read_to_string("/proc/self/cgroup").unwrap();
    let path =
        own.lines().find_map(|line| line.strip_prefix("0::")).map(|path| path.trim_start_matches('/').to_owned());
    let Some(dir) = point.zip(path).map(|(point, path)| PathBuf::from(point).join(path)) else { return false };
    let trial = dir.join(format!("ginnel-test-{}", std::process::id()));
    let made = fs::create_dir(&trial).is_ok();
    let kills = trial.join("cgroup.kill").exists();
    let _ = fs::remove_dir(&trial);
    made && kills
}

/// The control groups that these parents have made and that still exist, at the places where they are made.
pub fn groups_of(parents: &[u32]) -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let own = fs::read_to_string("/proc/self/cgroup").unwrap();
    let paths: Vec<&str> = own.lines().filter_map(|line| line.splitn(3, ':').nth(2)).collect();
    let points = mounts.lines().filter(|line| line.contains(" - cgroup")).filter_map(|line| line.split(' ').nth(4));
    let places = points.flat_map(|point| paths.iter().map(move |path| PathBuf::from(format!("{point}{path}"))));
    let groups = places.filter_map(|place| fs::read_dir(place).ok()).flatten().flatten().map(|entry| entry.path());
    let ours = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        // `ginnel-<parent>-<random>`
        name.strip_prefix("ginnel-")
            .and_then(|rest| rest.split('-').find_map(|part| part.parse().ok()))
            .is_some_and(|pid: u32| parents.contains(&pid))
    };
    groups.filter(ours).collect()
}

/// The path of this test program.
pub fn own_program() -> String {
    std::env::current_exe().unwrap().to_str().unwrap().to_owned()
}

/// Starts this test program again in a role of `sys::roles!`, marked.
pub fn role(name: &str, mark: &Mark) -> std::process::Command {
    let mut command = std::process::Command::new("/proc/self/exe");
    command.env(sys::ROLE, name).env(MARK, mark.value());
    command
}

/// In a role: the mark it was started with.
pub fn inherited_mark() -> Mark {
    Mark { value: std::env::var(MARK).unwrap(), owned: false, parents: Mutex::default() }
}
