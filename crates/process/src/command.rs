//! What to run, and how.

use crate::capture::Output;
use crate::child::Child;
use crate::error::{RunError, SpawnError};
use crate::input::{self, Input, Tee};
use crate::ladder::KillLadder;
use crate::lines::{BothLines, Lines};
use crate::pty::Pty;
use crate::stdio::{Kind, Stdio};

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// What becomes of processes that are still there when the leader has ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Orphans {
    /// The kill ladder ends them.
    #[default]
    Kill,
    /// They may go on; the report comes when the last has ended. Timeout, stop and parent death still end them.
    Wait,
    /// They are left to themselves, as `std::process` leaves them. Nothing is guaranteed about them, and nothing may
    /// hold them: neither a pid namespace nor a limit of the tree (of memory, processes or CPU time) can be had with
    /// it.
    Leave,
}

/// By what the tree is held together. Whatever is chosen, [`Guarantee`](crate::Guarantee) says what was established.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Isolation {
    /// A control group of its own where one can be had, else the shepherd alone.
    #[default]
    Auto,
    /// The shepherd alone; no control group is made.
    Subreaper,
    /// A pid namespace, in which the command sees only its own tree. Required: without it there is no command. A user
    /// without privilege gets a user namespace around it, in which only the own user exists.
    PidNamespace,
}

/// What becomes of the tree when the parent dies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ParentDeath {
    /// The kill ladder ends it.
    #[default]
    Kill,
    /// It goes on until its leader ends; the shepherd stays with it. Timeout and limits hold on.
    Outlive,
}

/// A resource limit of one process, see setrlimit(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Resource {
    /// CPU time, in seconds.
    Cpu,
    /// The largest file it may write, in bytes.
    FileSize,
    /// Data, heap and private mappings, in bytes.
    Data,
    /// The main thread's stack, in bytes.
    Stack,
    /// The largest core dump, in bytes; 0 is none.
    Core,
    /// Processes and threads of its user in the whole machine, the other commands' among them.
    Processes,
    /// The highest descriptor it may open, plus one.
    OpenFiles,
    /// Memory locked into RAM, in bytes.
    LockedMemory,
    /// Mapped memory, used or not, in bytes.
    AddressSpace,
}

impl Resource {
    #[allow(clippy::unnecessary_cast, reason = "it is necessary with musl")]
    pub(crate) fn number(self) -> u32 {
        // The type of the C library's constants differs between C libraries.
        (match self {
            Resource::Cpu => libc::RLIMIT_CPU,
            Resource::FileSize => libc::RLIMIT_FSIZE,
            Resource::Data => libc::RLIMIT_DATA,
            Resource::Stack => libc::RLIMIT_STACK,
            Resource::Core => libc::RLIMIT_CORE,
            Resource::Processes => libc::RLIMIT_NPROC,
            Resource::OpenFiles => libc::RLIMIT_NOFILE,
            Resource::LockedMemory => libc::RLIMIT_MEMLOCK,
            Resource::AddressSpace => libc::RLIMIT_AS,
        }) as u32
    }
}

/// A command to run, as often as wanted.
///
/// ```
/// use ginnel_process::{Command, Stdio};
/// use std::io::{Read, Write};
///
/// let mut child = Command::new("tr").args(["a-z", "A-Z"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
/// child.stdin.take().unwrap().write_all(b"quiet")?;
/// let mut loud = String::new();
/// child.stdout.take().unwrap().read_to_string(&mut loud)?;
/// assert_eq!(loud, "QUIET");
/// assert!(child.wait().unwrap().success());
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "a command does nothing until it is spawned, run or streamed"]
pub struct Command {
    pub(crate) program: OsString,
    pub(crate) args: Vec<OsString>,
    pub(crate) arg0: Option<OsString>,
    pub(crate) env: BTreeMap<OsString, Option<OsString>>,
    pub(crate) env_clear: bool,
    pub(crate) cwd: Option<PathBuf>,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
    pub(crate) groups: Option<Vec<u32>>,
    pub(crate) umask: Option<u32>,
    pub(crate) nice: Option<i32>,
    pub(crate) affinity: Vec<usize>,
    pub(crate) rlimits: BTreeMap<Resource, (u64, u64)>,
    pub(crate) memory: Option<u64>,
    pub(crate) pids: Option<u64>,
    pub(crate) cpus: Option<f64>,
    pub(crate) fds: BTreeMap<u32, Arc<OwnedFd>>,
    pub(crate) stdio: [Option<Stdio>; 3],
    pub(crate) pty: Option<Pty>,
    pub(crate) ladder: KillLadder,
    pub(crate) timeout: Option<Duration>,
    pub(crate) max_output: Option<u64>,
    pub(crate) capture_limit: usize,
    pub(crate) input: Option<Input>,
    pub(crate) tees: [Option<Tee>; 2],
    pub(crate) orphans: Orphans,
    pub(crate) isolation: Isolation,
    pub(crate) parent_death: ParentDeath,
    pub(crate) report: Option<Arc<OwnedFd>>,
}

impl Command {
    /// What [`run`](Self::run) keeps of each stream when nothing else is said: 16 MiB.
    pub const DEFAULT_CAPTURE: usize = 16 << 20;

    /// A program: a path when it has a slash, else a name that is looked up in the `PATH` the command will have.
    ///
    /// With [`spawn`](Self::spawn) its streams are the parent's until something else is said.
    pub fn new(program: impl AsRef<OsStr>) -> Command {
        Command {
            program: program.as_ref().to_owned(),
            args: Vec::new(),
            arg0: None,
            env: BTreeMap::new(),
            env_clear: false,
            cwd: None,
            uid: None,
            gid: None,
            groups: None,
            umask: None,
            nice: None,
            affinity: Vec::new(),
            rlimits: BTreeMap::new(),
            memory: None,
            pids: None,
            cpus: None,
            fds: BTreeMap::new(),
            stdio: [None, None, None],
            pty: None,
            ladder: KillLadder::default(),
            timeout: None,
            max_output: None,
            capture_limit: Self::DEFAULT_CAPTURE,
            input: None,
            tees: [None, None],
            orphans: Orphans::default(),
            isolation: Isolation::default(),
            parent_death: ParentDeath::default(),
            report: None,
        }
    }

    /// Adds an argument.
    pub fn arg(&mut self, arg: impl AsRef<OsStr>) -> &mut Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    pub fn args<S: AsRef<OsStr>>(&mut self, args: impl IntoIterator<Item = S>) -> &mut Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// What the program sees as its own name, instead of the one it is found by.
    pub fn arg0(&mut self, name: impl AsRef<OsStr>) -> &mut Self {
        self.arg0 = Some(name.as_ref().to_owned());
        self
    }

    /// Sets a variable of the environment; the others are the parent's. `spawn` refuses a name that is empty or holds a
    /// `=`.
    pub fn env(&mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> &mut Self {
        self.env.insert(name.as_ref().to_owned(), Some(value.as_ref().to_owned()));
        self
    }

    /// Takes a variable out of the environment.
    pub fn env_remove(&mut self, name: impl AsRef<OsStr>) -> &mut Self {
        self.env.insert(name.as_ref().to_owned(), None);
        self
    }

    /// Starts from an empty environment. (Where no pid namespace protects the command, one variable, `GINNEL_TREE`,
    /// is added whatever is asked: by it the tree is found again when the shepherd is killed.)
    pub fn env_clear(&mut self) -> &mut Self {
        self.env.clear();
        self.env_clear = true;
        self
    }

    /// The working directory. A relative program path is looked up from there.
    pub fn current_dir(&mut self, dir: impl AsRef<Path>) -> &mut Self {
        self.cwd = Some(dir.as_ref().to_owned());
        self
    }

    /// Runs as this user. Without [`groups`](Self::groups), a privileged parent's supplementary groups are dropped.
    pub fn uid(&mut self, uid: u32) -> &mut Self {
        self.uid = Some(uid);
        self
    }

    /// Runs as this group.
    pub fn gid(&mut self, gid: u32) -> &mut Self {
        self.gid = Some(gid);
        self
    }

    /// The supplementary groups.
    pub fn groups(&mut self, groups: &[u32]) -> &mut Self {
        self.groups = Some(groups.to_vec());
        self
    }

    /// The file mode creation mask.
    pub fn umask(&mut self, mask: u32) -> &mut Self {
        self.umask = Some(mask & 0o777);
        self
    }

    /// The nice value, -20 to 19.
    pub fn nice(&mut self, nice: i32) -> &mut Self {
        self.nice = Some(nice);
        self
    }

    /// The CPUs it may run on, by number. `spawn` refuses numbers that no machine has (65,536 and above).
    pub fn affinity(&mut self, cpus: &[usize]) -> &mut Self {
        self.affinity = cpus.to_vec();
        self
    }

    /// A resource limit for each process: soft and hard; `u64::MAX` is unlimited.
    pub fn rlimit(&mut self, resource: Resource, soft: u64, hard: u64) -> &mut Self {
        self.rlimits.insert(resource, (soft, hard));
        self
    }

    /// Memory of the whole tree in bytes, by a control group. Where there is none, each process's address space is
    /// limited instead, and the [`Guarantee`](crate::Guarantee) says so.
    pub fn memory_limit(&mut self, bytes: u64) -> &mut Self {
        self.memory = Some(bytes);
        self
    }

    /// Processes and threads of the whole tree, by a control group; without one there is no command. `spawn` refuses 0,
    /// which would allow not even the command.
    pub fn pids_limit(&mut self, count: u64) -> &mut Self {
        self.pids = Some(count);
        self
    }

    /// CPU time of the whole tree, in CPUs (1.5 is one and a half), by a control group; without one there is no
    /// command. `spawn` refuses less than a thousandth, which the kernel cannot express. What no machine has (100,000
    /// CPUs and more) is no limit, and holds by itself.
    pub fn cpu_limit(&mut self, cpus: f64) -> &mut Self {
        self.cpus = Some(cpus);
        self
    }

    /// Gives the command a descriptor at the next free number from 3, which is returned: put it into an argument or a
    /// variable.
    pub fn inherit(&mut self, fd: impl Into<OwnedFd>) -> u32 {
        let number = (3..).find(|number| !self.fds.contains_key(number)).unwrap_or(u32::MAX);
        self.inherit_as(number, fd);
        number
    }

    /// Gives the command a descriptor at a number of 3 or above. It sees 0 to 2, those it was given, and no other.
    pub fn inherit_as(&mut self, number: u32, fd: impl Into<OwnedFd>) -> &mut Self {
        self.fds.insert(number, Arc::new(fd.into()));
        self
    }

    /// Gives the command every descriptor from 3 that this process would pass on at an `execve` (those without
    /// close-on-exec), at its own number: what a wrapper that knows nothing of them does. Those given by
    /// [`inherit_as`](Self::inherit_as) before have precedence.
    ///
    /// Copies are made now and held by this value. Do this at the start of a program, while no other thread closes
    /// descriptors.
    ///
    /// # Errors
    /// When no descriptor is left for a copy. (Without a /proc of our own, numbers from 1,048,576 are not found.)
    pub fn inherit_all(&mut self) -> io::Result<&mut Self> {
        for (number, fd) in crate::sys::inherited()? {
            self.fds.entry(number).or_insert_with(|| Arc::new(fd));
        }
        Ok(self)
    }

    /// Where stdin comes from.
    pub fn stdin(&mut self, stdio: impl Into<Stdio>) -> &mut Self {
        self.stdio[0] = Some(stdio.into());
        self
    }

    /// Where stdout goes.
    pub fn stdout(&mut self, stdio: impl Into<Stdio>) -> &mut Self {
        self.stdio[1] = Some(stdio.into());
        self
    }

    /// Where stderr goes.
    pub fn stderr(&mut self, stdio: impl Into<Stdio>) -> &mut Self {
        self.stdio[2] = Some(stdio.into());
        self
    }

    /// A terminal of its own instead of the three streams; they must not be set then.
    pub fn pty(&mut self, pty: Pty) -> &mut Self {
        self.pty = Some(pty);
        self
    }

    /// How the tree is ended, on every occasion. Default: TERM, two seconds, kill.
    pub fn kill_ladder(&mut self, ladder: KillLadder) -> &mut Self {
        self.ladder = ladder;
        self
    }

    /// The longest it may take, measured by the shepherd: it holds also when the parent is stuck.
    pub fn timeout(&mut self, timeout: Duration) -> &mut Self {
        self.timeout = Some(timeout);
        self
    }

    /// The most bytes of stdout and stderr (or the terminal) together. A read past them fails and ends the tree.
    pub fn max_output(&mut self, bytes: u64) -> &mut Self {
        self.max_output = Some(bytes);
        self
    }

    /// The most bytes [`run`](Self::run) keeps of each stream. What comes after is read, counted and thrown away.
    pub fn capture_limit(&mut self, bytes: usize) -> &mut Self {
        self.capture_limit = bytes;
        self
    }

    /// What [`run`](Self::run) writes to stdin (or types at the terminal, and then its end of input) while it reads the
    /// other streams.
    pub fn input(&mut self, bytes: impl Into<Arc<[u8]>>) -> &mut Self {
        self.input = Some(Input::Bytes(bytes.into()));
        self
    }

    /// What one [`run`](Self::run) reads from here it writes to stdin, on a thread of its own, no faster than the
    /// command takes it. A second run has no input any more and fails. When the command ends first, nobody waits for
    /// the reader: it is dropped after its next read.
    ///
    /// An error of the reader ends the tree, and is the error of the run.
    ///
    /// ```
    /// use ginnel_process::Command;
    /// use std::io::Read;
    ///
    /// let endless = std::io::repeat(b'x');
    /// let output = Command::new("wc").arg("-c").input_reader(endless.take(1_000_000)).run()?;
    /// assert_eq!(output.stdout.trim_ascii(), b"1000000");
    /// # Ok::<(), ginnel_process::RunError>(())
    /// ```
    pub fn input_reader(&mut self, reader: impl Read + Send + 'static) -> &mut Self {
        self.input = Some(Input::Reader(input::Once::new(reader)));
        self
    }

    /// As [`input_reader`](Self::input_reader), from an iterator of chunks, which are written one after the other with
    /// nothing in between.
    ///
    /// ```
    /// use ginnel_process::Command;
    ///
    /// let lines = (1..=3).map(|number| format!("line {number}\n"));
    /// let output = Command::new("tail").args(["-n", "1"]).input_chunks(lines).run()?;
    /// assert_eq!(output.stdout, b"line 3\n");
    /// # Ok::<(), ginnel_process::RunError>(())
    /// ```
    pub fn input_chunks<I>(&mut self, chunks: I) -> &mut Self
    where
        I: IntoIterator<Item: AsRef<[u8]> + Send, IntoIter: Send + 'static>,
        I::Item: 'static,
    {
        self.input_reader(input::Chunks::new(chunks.into_iter()))
    }

    /// Writes what [`run`](Self::run) reads of stdout (or the terminal) here as well, all of it, also what is beyond
    /// the capture limit, as it comes. While a write blocks, the command's output waits; an error ends the tree and is
    /// the error of the run. See [`RotatingFile`](crate::RotatingFile) for a file that does not grow without end.
    ///
    /// ```
    /// use ginnel_process::Command;
    ///
    /// // At the same time on our own stdout and in the output.
    /// let output = Command::new("echo").arg("seen twice").tee_stdout(std::io::stdout()).run()?;
    /// assert_eq!(output.stdout, b"seen twice\n");
    /// # Ok::<(), ginnel_process::RunError>(())
    /// ```
    pub fn tee_stdout(&mut self, writer: impl Write + Send + 'static) -> &mut Self {
        self.tees[0] = Some(Tee::new(writer));
        self
    }

    /// As [`tee_stdout`](Self::tee_stdout), of stderr.
    pub fn tee_stderr(&mut self, writer: impl Write + Send + 'static) -> &mut Self {
        self.tees[1] = Some(Tee::new(writer));
        self
    }

    /// What becomes of processes that are left when the leader ends.
    pub fn orphans(&mut self, orphans: Orphans) -> &mut Self {
        self.orphans = orphans;
        self
    }

    /// By what the tree is held together.
    pub fn isolation(&mut self, isolation: Isolation) -> &mut Self {
        self.isolation = isolation;
        self
    }

    /// What becomes of the tree when the parent dies.
    pub fn on_parent_death(&mut self, parent_death: ParentDeath) -> &mut Self {
        self.parent_death = parent_death;
        self
    }

    /// A descriptor to which the shepherd writes the report as well, for whoever outlives the parent; see
    /// [`ExitReport::from_bytes`](crate::ExitReport::from_bytes). A pipe that is full does not hold up the parent:
    /// the shepherd waits for room in it, at most ten seconds, and then gives the copy up.
    pub fn report_to(&mut self, fd: impl Into<OwnedFd>) -> &mut Self {
        self.report = Some(Arc::new(fd.into()));
        self
    }

    /// Starts the command. Returns when it is executing, or with the stage and errno at which that failed.
    ///
    /// Blocks for the time of the start, at most 30 seconds. Costs the same whatever the size of this process.
    ///
    /// # Errors
    /// See [`SpawnError`]; nothing of the command is left then.
    pub fn spawn(&self) -> Result<Child, SpawnError> {
        crate::launch::launch(self)
    }

    /// Runs the command to its end and captures what it writes (stderr as well; stdin is empty unless there is
    /// [`input`](Self::input)). Streams that were set otherwise stay so.
    ///
    /// # Errors
    /// When it does not start, when a stream fails, when the shepherd is killed. An exit code is not an error.
    pub fn run(&self) -> Result<Output, RunError> {
        crate::capture::run(&self.for_run())
    }

    /// The command as `run` starts it.
    pub(crate) fn for_run(&self) -> Command {
        let mut command = self.clone();
        if command.pty.is_none() {
            let stdin = if command.input.is_some() { Stdio::piped() } else { Stdio::null() };
            let [first, second, third] = &mut command.stdio;
            first.get_or_insert(stdin);
            second.get_or_insert(Stdio::piped());
            third.get_or_insert(Stdio::piped());
        }
        command
    }

    /// Starts the command and yields the lines of its stdout as they come. Dropping the iterator ends the tree at once.
    ///
    /// stdin is empty and stderr the parent's unless something else is said. Piped, stdin is empty too, and stderr is
    /// thrown away: nobody can have the parent's ends of them.
    ///
    /// # Errors
    /// As [`spawn`](Self::spawn).
    pub fn stream(&self) -> Result<Lines, SpawnError> {
        Lines::start(self)
    }

    /// As [`stream`](Self::stream), with the lines of stderr beside those of stdout.
    ///
    /// # Errors
    /// As [`spawn`](Self::spawn).
    pub fn stream_both(&self) -> Result<BothLines, SpawnError> {
        BothLines::start(self)
    }

    /// What a stream is when it was not set.
    pub(crate) fn stdio_kind(&self, index: usize) -> Kind {
        self.stdio[index].as_ref().map_or(Kind::Inherit, |stdio| stdio.0.clone())
    }
}

#[cfg(feature = "channel")]
impl ginnel_channel::Inherit for Command {
    fn inherit_fd(&mut self, fd: OwnedFd) -> std::os::fd::RawFd {
        // Numbers are counted from 3 up: one that no `i32` holds would take two thousand million descriptors.
        self.inherit(fd).cast_signed()
    }

    fn set_env(&mut self, variable: &str, value: &OsStr) {
        self.env(variable, value);
    }
}
