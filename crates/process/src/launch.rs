//! From a `Command` to a running `Child`.

use crate::child::Child;
use crate::command::{Command, Isolation, Orphans, ParentDeath};
use crate::error::{SpawnError, Stage};
use crate::frame::{self, Failed, HEADER, MAX_FDS, Put, Spawn, Started, UNSET, cause, flag, kind, orphans, stdio};
use crate::guarantee::{Guarantee, Protection};
use crate::ladder::nanoseconds;
use crate::link::{Link, LinkParts};
use crate::proc_table::pid_of;
use crate::protect::protect;
use crate::second_line::{Identity, PATIENCE, Session};
use crate::stdio::Kind;
use crate::strings::Strings;
use crate::sys::{self, Launch, Namespace};
use crate::watch;
use ginnel_base::Deadline;
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use std::ffi::{CString, OsStr, OsString};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

/// The longest a start may take; a file system that does not answer is the usual reason.
const START_DEADLINE: Duration = Duration::from_secs(30);
/// CPUs by number; the kernel's own limit is 8,192.
const MOST_CPUS: usize = 1 << 16;
/// The variable that marks a tree where no pid namespace holds it together: its mark, behind those of the trees that it
/// is a part of, with colons between them.
pub(crate) const MARK: &str = "GINNEL_TREE";

/// Errors know the program they are about.
pub(crate) struct Attempt<'a>(pub(crate) &'a Command);

impl Attempt<'_> {
    pub(crate) fn failed(&self, stage: Stage, errno: Errno) -> SpawnError {
        SpawnError::Failed { stage, errno, program: self.0.program.clone(), index: 0 }
    }

    fn at(&self, stage: Stage) -> impl Fn(Errno) -> SpawnError + '_ {
        move |errno| self.failed(stage, errno)
    }

    pub(crate) fn invalid(&self, reason: impl Into<String>) -> SpawnError {
        SpawnError::Invalid { program: self.0.program.clone(), reason: reason.into() }
    }

    fn c_string(&self, what: &str, text: &OsStr) -> Result<CString, SpawnError> {
        CString::new(text.as_bytes()).map_err(|_| self.invalid(format!("{what} holds a NUL byte: {text:?}")))
    }
}

/// What the frame borrows.
#[derive(Default)]
struct Buffers {
    targets: Vec<u8>,
    groups: Vec<u8>,
    affinity: Vec<u8>,
    rlimits: Vec<u8>,
    cwd: Vec<u8>,
    candidates: Vec<u8>,
    cgroups: Vec<u8>,
}

pub(crate) fn launch(command: &Command) -> Result<Child, SpawnError> {
    let attempt = Attempt(command);
    check(&attempt)?;
    // Without it nobody would look after a command whose handle is dropped.
    watch::ready().map_err(attempt.at(Stage::Watch))?;
    let id = unique_id();
    let mut buffers = Buffers::default();
    let mut rlimits = command.rlimits.iter().map(|(resource, limit)| (resource.number(), *limit)).collect();
    let (mut guarantee, group, limits) = protect(&attempt, &id, &mut buffers.cgroups, &mut rlimits)?;
    for (resource, (soft, hard)) in rlimits {
        buffers.rlimits.extend(resource.to_le_bytes());
        buffers.rlimits.extend(soft.to_le_bytes());
        buffers.rlimits.extend(hard.to_le_bytes());
    }
    // Also with a control group: a tree that has left it is found by the mark.
    let mark = guarantee.protection != Protection::PidNamespace;
    let env = environment(&attempt, mark.then_some(id.as_str()))?;
    fill(&attempt, &env, &mut buffers)?;

    let parent = rustix::process::pidfd_open(rustix::process::getpid(), rustix::process::PidfdFlags::empty())
        .map_err(attempt.at(Stage::Socket))?;
    let (modes, given) = streams(&attempt)?;
    let mut fds: Vec<BorrowedFd<'_>> = vec![parent.as_fd()];
    fds.extend(command.report.as_ref().map(|fd| fd.as_fd()));
    fds.extend(given.iter().map(AsFd::as_fd));
    fds.extend(command.fds.values().map(|fd| fd.as_fd()));
    if fds.len() > MAX_FDS {
        return Err(
            attempt.invalid(format!("{} descriptors are more than fit beside one message ({MAX_FDS})", fds.len()))
        );
    }
    let spawn = describe(&attempt, modes, &buffers)?;
    let (ours, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(attempt.at(Stage::Socket))?;
    send_spawn(&attempt, &ours, &spawn, &fds)?;

    drop(fds);
    let image = sys::shepherd_image().map_err(attempt.at(Stage::Embed))?;
    let reserved = reserve(parent, &modes).map_err(attempt.at(Stage::Stdio))?;
    let namespace = (command.isolation == Isolation::PidNamespace).then(namespace);
    // For the look at the leader's number.
    let spare = namespace.is_some().then(|| reserved[0].try_clone()).transpose();
    let spare =
        spare.map_err(|error| attempt.failed(Stage::Stdio, Errno::from_io_error(&error).unwrap_or(Errno::MFILE)))?;
    let args = arguments(&attempt, &guarantee, theirs.as_raw_fd())?;
    let launch =
        Launch { image: image.as_fd(), socket: theirs.as_fd(), args: &args, env: &env, namespace: namespace.as_ref() };
    let (shepherd_pid, shepherd) =
        sys::clone_shepherd(&launch).map_err(|(stage, errno)| attempt.failed(stage, errno))?;
    let mut identity = Identity {
        protection: guarantee.protection,
        group,
        limits,
        mark: mark.then_some(id),
        leader_pid: 0,
        leader: None,
        session: if command.pty.is_some() { Session::Leader } else { Session::Shepherd(shepherd_pid) },
    };
    let started = answer(&attempt, &ours, &shepherd, reserved);
    // Only now: until it has answered, the shepherd may be waiting for this CPU. Its end is seen by the pidfd, not by
    // these.
    drop(theirs);
    let (started, mut ends) = match started {
        Ok(started) => started,
        Err(NotStarted { error, runs }) => {
            let mut ended = false;
            if runs {
                // Its shepherd ends it more thoroughly than the death of the shepherd would.
                ended = stop_at_once(&ours).is_ok() && crate::link::await_end(&shepherd, crate::link::KILLING);
            }
            if !ended {
                // A shepherd that failed is about to end; one that hangs takes the half-made child with it.
                let _ = rustix::process::pidfd_send_signal(&shepherd, rustix::process::Signal::KILL);
                crate::link::await_end(&shepherd, PATIENCE);
            }
            // One that has told its failure had cleared away before.
            let told = matches!(error, SpawnError::Failed { stage, .. } if !runs && !matches!(stage, Stage::Socket));
            if !told && !ended {
                let aftermath = identity.end_tree(&shepherd, None);
                tracing::warn!(program = ?command.program, %aftermath, "a start was given up");
            }
            crate::link::reap(&shepherd);
            return Err(error);
        }
    };
    if started.cgroup_errno != 0 && guarantee.protection == Protection::Cgroup {
        let errno = Errno::from_raw_os_error(started.cgroup_errno as i32);
        guarantee.lower(Protection::Subreaper, format!("the group could not be used: {}", std::io::Error::from(errno)));
        identity.group = None;
    }
    if started.proc_errno != 0 && guarantee.protection == Protection::Subreaper {
        let reason = match Errno::from_raw_os_error(started.proc_errno as i32) {
            Errno::XDEV => "/proc does not show the pid namespace of this process".to_owned(),
            errno => format!("/proc cannot be used: {}", std::io::Error::from(errno)),
        };
        guarantee.lower(Protection::Children, reason);
    }
    identity.protection = guarantee.protection;
    // `answer` has counted them.
    let leader = ends.remove(0);
    drop(spare);
    identity.leader_pid = if namespace.is_some() { pid_of(&leader).unwrap_or(0).max(0) } else { started.leader as i32 };
    identity.leader = Some(leader);
    let leader_pid = identity.leader_pid;
    tracing::debug!(program = ?command.program, leader = leader_pid, shepherd = shepherd_pid, protection = %guarantee.protection, "started");
    let parts = LinkParts {
        socket: ours,
        shepherd,
        shepherd_pid,
        identity,
        max_output: command.max_output,
        grace: command.ladder.total(),
        timeout: command.timeout,
    };
    let link = Arc::new(Link::new(parts));
    Ok(Child::new(link, guarantee, modes, ends))
}

fn check(attempt: &Attempt<'_>) -> Result<(), SpawnError> {
    let command = attempt.0;
    let refuse = |reason: &str| Err(attempt.invalid(reason));
    if command.program.is_empty() {
        return refuse("the program's name is empty");
    }
    if command.pty.is_some() && command.stdio.iter().any(Option::is_some) {
        return refuse("a terminal takes the place of stdin, stdout and stderr: set one or the other");
    }
    if [0, 1].into_iter().any(|index| matches!(command.stdio_kind(index), Kind::Merged)) {
        return refuse("only stderr can be merged, into stdout");
    }
    if command.isolation == Isolation::PidNamespace && command.orphans == Orphans::Leave {
        return refuse(
            "a pid namespace ends with its shepherd, so nothing can be left in it: choose Orphans::Wait or another isolation",
        );
    }
    if command.orphans == Orphans::Leave
        && (command.memory.is_some() || command.pids.is_some() || command.cpus.is_some())
    {
        return refuse(
            "a limit is held by a control group, which what is left would keep: choose Orphans::Wait, or no limit of the tree",
        );
    }
    if command.fds.keys().next().is_some_and(|number| *number < 3) {
        return refuse("descriptors 0 to 2 are the standard streams: give others numbers from 3");
    }
    if command.fds.keys().next_back().is_some_and(|number| *number >= i32::MAX as u32) {
        return refuse("a descriptor's number is too large");
    }
    if command.uid == Some(UNSET) || command.gid == Some(UNSET) {
        return refuse("4294967295 is no user and no group: the kernel means `unchanged` by it");
    }
    if command.cpus.is_some_and(|cpus| !cpus.is_finite() || cpus < 0.001) {
        return refuse("the CPU limit must be a positive number of CPUs, a thousandth at least");
    }
    if command.pids == Some(0) || command.memory == Some(0) {
        return refuse("a limit of no process or no memory would not allow the command itself");
    }
    if let Some(cpu) = command.affinity.iter().find(|cpu| **cpu >= MOST_CPUS) {
        return refuse(&format!("no machine has a CPU with the number {cpu}"));
    }
    let bad = |name: &&OsString| name.is_empty() || name.as_bytes().contains(&b'=');
    if let Some(name) = command.env.iter().filter(|(_, value)| value.is_some()).map(|(name, _)| name).find(bad) {
        return refuse(&format!("a variable's name must not be empty nor hold a `=`: {name:?}"));
    }
    Ok(())
}

/// Unlikely to be met again on this machine, also across forks and pid namespaces.
fn unique_id() -> String {
    format!("{}-{:016x}", std::process::id(), ginnel_base::random_u64())
}

fn environment(attempt: &Attempt<'_>, mark: Option<&str>) -> Result<Strings, SpawnError> {
    let command = attempt.0;
    let mut strings = Strings::default();
    let mut put = |name: &OsStr, value: &OsStr| {
        let whole = strings.push(&[name.as_bytes(), b"=", value.as_bytes()]);
        whole
            .then_some(())
            .ok_or_else(|| attempt.invalid(format!("the environment holds a NUL byte: {name:?}={value:?}")))
    };
    let inherited = (!command.env_clear).then(std::env::vars_os);
    for (name, value) in inherited.into_iter().flatten() {
        if !command.env.contains_key(&name) && name != MARK {
            put(&name, &value)?;
        }
    }
    for (name, value) in &command.env {
        if let Some(value) = value.as_ref().filter(|_| name != MARK) {
            put(name, value)?;
        }
    }
    if let Some(id) = mark {
        put(OsStr::new(MARK), &marks(command, id))?;
    }
    Ok(strings)
}

/// The marks of the trees that this one is a part of, from the outermost, and its own: whoever ends one of those finds
/// this one by it, also when every process between them is gone.
fn marks(command: &Command, id: &str) -> OsString {
    /// Deeper, the outermost is left out.
    const DEEPEST: usize = 64;
    let outer = match command.env.get(OsStr::new(MARK)) {
        Some(given) => given.clone(),
        None => std::env::var_os(MARK),
    };
    let outer = outer.unwrap_or_default();
    let mut marks: Vec<&[u8]> = outer.as_bytes().split(|&byte| byte == b':').filter(|mark| !mark.is_empty()).collect();
    marks.push(id.as_bytes());
    OsString::from_vec(marks[marks.len().saturating_sub(DEEPEST)..].join(&b':'))
}

/// The shepherd's name, its socket, a word for `ginnel ps`, then the command's arguments.
fn arguments(attempt: &Attempt<'_>, guarantee: &Guarantee, socket: RawFd) -> Result<Strings, SpawnError> {
    let command = attempt.0;
    let name = command.arg0.as_ref().unwrap_or(&command.program);
    let word = format!("{}:{}", guarantee.protection, std::process::id());
    let own = ["ginnel-shepherd", &socket.to_string(), &word].map(OsString::from);
    let mut strings = Strings::default();
    for arg in own.iter().chain([name]).chain(&command.args) {
        if !strings.push(&[arg.as_bytes()]) {
            return Err(attempt.invalid(format!("an argument holds a NUL byte: {arg:?}")));
        }
    }
    Ok(strings)
}

fn fill(attempt: &Attempt<'_>, env: &Strings, buffers: &mut Buffers) -> Result<(), SpawnError> {
    let command = attempt.0;
    let words = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
    buffers.targets = words(&command.fds.keys().copied().collect::<Vec<_>>());
    buffers.groups = words(command.groups.as_deref().unwrap_or(&[]));
    if let Some(last) = command.affinity.iter().max() {
        // The kernel takes whole longs.
        buffers.affinity = vec![0; (last / 64 + 1) * 8];
        for cpu in &command.affinity {
            buffers.affinity[cpu / 8] |= 1 << (cpu % 8);
        }
    }
    if let Some(cwd) = &command.cwd {
        buffers.cwd = attempt.c_string("the working directory", cwd.as_os_str())?.into_bytes_with_nul();
    }
    let program = command.program.as_bytes();
    if program.contains(&b'/') {
        buffers.candidates = attempt.c_string("the program's name", &command.program)?.into_bytes_with_nul();
        return Ok(());
    }
    let name = attempt.c_string("the program's name", &command.program)?;
    let path = env.iter().find_map(|pair| pair.strip_prefix(b"PATH="));
    // What the C library uses where there is no PATH. Nothing of an environment holds a NUL.
    for dir in path.unwrap_or(b"/usr/local/bin:/bin:/usr/bin").split(|&byte| byte == b':') {
        let dir = if dir.is_empty() { b".".as_slice() } else { dir };
        for part in [dir, b"/", name.as_bytes_with_nul()] {
            buffers.candidates.extend_from_slice(part);
        }
    }
    Ok(())
}

/// The mode of each stream, and the descriptors for those that are given.
fn streams(attempt: &Attempt<'_>) -> Result<([u8; 3], Vec<Given>), SpawnError> {
    let command = attempt.0;
    let mut given = Vec::new();
    let mut modes = [stdio::PTY; 3];
    if command.pty.is_some() {
        return Ok((modes, given));
    }
    for (index, mode) in modes.iter_mut().enumerate() {
        *mode = match command.stdio_kind(index) {
            Kind::Null => stdio::NULL,
            Kind::Piped => stdio::PIPE,
            Kind::Merged => stdio::MERGED,
            Kind::Given(fd) => {
                given.push(Given::Shared(fd));
                stdio::GIVEN
            }
            Kind::Once(slot) => {
                let fd = slot.lock().unwrap_or_else(PoisonError::into_inner).take();
                let stream = ["stdin", "stdout", "stderr"][index];
                given.push(Given::Taken(fd.ok_or_else(|| {
                    attempt.invalid(format!("the descriptor for its {stream} was for one spawn, which has had it"))
                })?));
                stdio::GIVEN
            }
            Kind::Inherit => {
                let own = Given::Own(index);
                // Asked, for a program may have closed it.
                match rustix::io::fcntl_getfd(&own) {
                    Ok(_) => {
                        given.push(own);
                        stdio::GIVEN
                    }
                    Err(Errno::BADF) => stdio::NULL,
                    Err(errno) => return Err(attempt.failed(Stage::Stdio, errno)),
                }
            }
        };
    }
    Ok((modes, given))
}

enum Given {
    Shared(Arc<OwnedFd>),
    Taken(OwnedFd),
    /// Our own stdin, stdout or stderr.
    Own(usize),
}

impl AsFd for Given {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Given::Shared(fd) => fd.as_fd(),
            Given::Taken(fd) => fd.as_fd(),
            Given::Own(0) => rustix::stdio::stdin(),
            Given::Own(1) => rustix::stdio::stdout(),
            Given::Own(_) => rustix::stdio::stderr(),
        }
    }
}

fn describe<'a>(attempt: &Attempt<'a>, modes: [u8; 3], buffers: &'a Buffers) -> Result<Spawn<'a>, SpawnError> {
    let command = attempt.0;
    let (ladder, steps) = command.ladder.encode().ok_or_else(|| {
        let most = crate::ladder::KillLadder::MAX_STEPS;
        attempt.invalid(format!("a kill ladder has at most {most} steps before the kill"))
    })?;
    let mut flags = 0;
    let mut set = |condition, bits| flags |= if condition { bits } else { 0 };
    set(command.isolation == Isolation::PidNamespace, flag::PID_NAMESPACE);
    set(command.report.is_some(), flag::REPORT);
    set(command.parent_death == ParentDeath::Outlive, flag::OUTLIVE_PARENT);
    // As std::process: a change of user by root does not keep root's groups.
    let drops = command.uid.is_some() && rustix::process::geteuid().is_root();
    set(command.groups.is_some() || drops, flag::GROUPS);
    set(command.nice.is_some(), flag::NICE);
    set(command.pty.is_some(), flag::PTY);
    if let Some(pty) = &command.pty {
        set(true, pty.flags);
    }
    Ok(Spawn {
        flags,
        orphans: match command.orphans {
            Orphans::Kill => orphans::KILL,
            Orphans::Wait => orphans::WAIT,
            Orphans::Leave => orphans::LEAVE,
        },
        stdio: modes,
        ladder,
        steps,
        timeout_ns: command.timeout.map_or(0, |timeout| nanoseconds(timeout).max(1)),
        umask: command.umask.unwrap_or(UNSET),
        uid: command.uid.unwrap_or(UNSET),
        gid: command.gid.unwrap_or(UNSET),
        nice: command.nice.unwrap_or(0),
        size: command
            .pty
            .as_ref()
            .map_or([0; 4], |pty| [pty.size.rows, pty.size.columns, pty.size.width, pty.size.height]),
        termios: command.pty.as_ref().and_then(|pty| pty.modes.as_ref()).map_or(&[], |modes| modes.as_slice()),
        targets: &buffers.targets,
        groups: &buffers.groups,
        affinity: &buffers.affinity,
        rlimits: &buffers.rlimits,
        cwd: &buffers.cwd,
        candidates: &buffers.candidates,
        cgroups: &buffers.cgroups,
    })
}

/// Puts the frame into the socket before the shepherd exists: it need not wait for it.
fn send_spawn(
    attempt: &Attempt<'_>,
    socket: &OwnedFd,
    spawn: &Spawn<'_>,
    fds: &[BorrowedFd<'_>],
) -> Result<(), SpawnError> {
    let lists = [
        spawn.termios,
        spawn.targets,
        spawn.groups,
        spawn.affinity,
        spawn.rlimits,
        spawn.cwd,
        spawn.candidates,
        spawn.cgroups,
    ];
    let mut buf = vec![0; HEADER + 256 + lists.iter().map(|list| list.len()).sum::<usize>()];
    let mut put = Put::new(&mut buf, kind::SPAWN, 0);
    spawn.put(&mut put);
    let len = put.finish().ok_or_else(|| attempt.failed(Stage::Protocol, Errno::MSGSIZE))?;
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(fds));
    // EMSGSIZE: groups or search path beyond what a socket takes in one message.
    rustix::net::sendmsg(socket, &[IoSlice::new(&buf[..len])], &mut control, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)
        .map(drop)
        .map_err(attempt.at(Stage::Socket))
}

/// How many descriptors come beside `STARTED`: the leader's pidfd and our ends.
fn expected(modes: &[u8; 3]) -> usize {
    1 + modes.iter().filter(|mode| **mode == stdio::PIPE).count() + usize::from(modes[0] == stdio::PTY)
}

/// As many descriptors as will come, so that a program that has no more of them is told before its command runs.
/// `parent` is one of them.
fn reserve(parent: OwnedFd, modes: &[u8; 3]) -> Result<Vec<OwnedFd>, Errno> {
    let mut reserved = vec![parent];
    for _ in 1..expected(modes) {
        reserved.push(rustix::io::fcntl_dupfd_cloexec(&reserved[0], 0)?);
    }
    Ok(reserved)
}

struct NotStarted {
    error: SpawnError,
    /// Its shepherd has started it, and it is to be ended.
    runs: bool,
}

impl From<SpawnError> for NotStarted {
    fn from(error: SpawnError) -> NotStarted {
        NotStarted { error, runs: false }
    }
}

/// Waits for `STARTED` or `FAILED`. What is reserved is given back just before the descriptors come.
fn answer(
    attempt: &Attempt<'_>,
    socket: &OwnedFd,
    shepherd: &OwnedFd,
    reserved: Vec<OwnedFd>,
) -> Result<(Started, Vec<OwnedFd>), NotStarted> {
    let deadline = Deadline::after(START_DEADLINE);
    let program = || attempt.0.program.clone();
    let mut reserved = Some(reserved);
    let wanted = reserved.as_ref().map_or(0, Vec::len);
    loop {
        if deadline.passed() {
            return Err(SpawnError::TimedOut { program: program(), after: START_DEADLINE }.into());
        }
        // The socket hangs up only when every copy of it is closed; the pidfd tells of the shepherd's death whatever it
        // has started.
        let mut watched = [PollFd::new(socket, PollFlags::IN), PollFd::new(shepherd, PollFlags::IN)];
        match rustix::event::poll(&mut watched, deadline.timespec().as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(attempt.failed(Stage::Socket, errno).into()),
        }
        let ended = !watched[1].revents().is_empty();
        drop(reserved.take());
        match receive(socket) {
            Ok(Some((bytes, fds))) => return decode(attempt, &bytes, fds, wanted),
            Ok(None) => return Err(SpawnError::ShepherdLost { program: program() }.into()),
            Err(Errno::AGAIN) if ended => return Err(SpawnError::ShepherdLost { program: program() }.into()),
            Err(Errno::AGAIN | Errno::INTR) => {}
            // Another thread has taken what was reserved. `FAILED` brings no descriptors: the command runs.
            Err(errno) => return Err(NotStarted { error: attempt.failed(Stage::Stdio, errno), runs: true }),
        }
    }
}

fn decode(
    attempt: &Attempt<'_>,
    bytes: &[u8],
    fds: Vec<OwnedFd>,
    wanted: usize,
) -> Result<(Started, Vec<OwnedFd>), NotStarted> {
    let mut opened = frame::open(bytes);
    let words = opened.as_mut().and_then(|(kind, _, payload)| match *kind {
        kind::STARTED => {
            let (leader, cgroup_errno, proc_errno) = (payload.u32()?, payload.u32()?, payload.u32()?);
            Some(Ok(Started { leader, cgroup_errno, proc_errno }))
        }
        kind::FAILED => Some(Err(Failed { stage: payload.u8()?, errno: payload.u32()?, index: payload.u32()? })),
        _ => None,
    });
    let odd = |runs| NotStarted { error: attempt.failed(Stage::Protocol, Errno::PROTO), runs };
    match words {
        Some(Ok(started)) if fds.len() == wanted => Ok((started, fds)),
        Some(Ok(_)) => Err(odd(true)),
        Some(Err(Failed { stage, errno, index })) => Err(SpawnError::Failed {
            stage: Stage::from_frame(stage),
            errno: Errno::from_raw_os_error(errno as i32),
            program: attempt.0.program.clone(),
            index,
        }
        .into()),
        None => Err(odd(true)),
    }
}

fn stop_at_once(socket: &OwnedFd) -> Result<(), Errno> {
    let mut buf = [0u8; HEADER + 16];
    let mut put = Put::new(&mut buf, kind::STOP, 0);
    put.u8(cause::STOPPED);
    put.u32(0);
    put.u8(1);
    let len = put.finish().ok_or(Errno::MSGSIZE)?;
    rustix::net::send(socket, &buf[..len], SendFlags::NOSIGNAL | SendFlags::DONTWAIT).map(drop)
}

/// A message and its descriptors.
type Received = (Vec<u8>, Vec<OwnedFd>);

/// One message and its descriptors, without waiting; `None` is the end.
///
/// # Errors
/// `EMFILE` when this process had no room for all of the descriptors; then it has got none.
pub(crate) fn receive(socket: &OwnedFd) -> Result<Option<Received>, Errno> {
    let mut buf = [0u8; HEADER + 512];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let received = rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut buf)], &mut control, flags)?;
    let fds: Vec<OwnedFd> = control
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        })
        .flatten()
        .collect();
    if received.flags.contains(ReturnFlags::CTRUNC) {
        return Err(Errno::MFILE);
    }
    Ok((received.bytes > 0).then(|| (buf[..received.bytes].to_vec(), fds)))
}

/// A namespace for the shepherd; a caller without privilege needs a user namespace around it, with its own ids only.
fn namespace() -> Namespace {
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    let map = |id: u32| CString::new(format!("{id} {id} 1")).ok();
    let maps = map(uid.as_raw()).zip(map(gid.as_raw())).filter(|_| !uid.is_root());
    Namespace { maps }
}
