//! The descendants of the shepherd: found in /proc, signalled without ever hitting a stranger.
//!
//! The shepherd is a subreaper, so every process of the tree has a chain of parents that ends here, whatever it
//! forks, and `ECHILD` from `wait` says that the tree is empty. A child is signalled through a pidfd that `waitid`
//! has confirmed to be a child's, any other process through the `/proc/<pid>` directory in which it was looked at
//! again just before: the directory stays with its process, so a reused number cannot misdirect it. All of that is
//! true of one /proc only: that of the shepherd's own pid namespace, which is made sure of at the start. Where there
//! is none, see `children`.

use crate::children;
use crate::frame::{Exit, NAMED_SURVIVORS};
use crate::sys::{self, Errno, Fd, Pages};
use crate::text::{self, Text};

/// What one `/proc/<pid>/stat` told. Integers only.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Member {
    pub(crate) start: u64,
    pub(crate) pid: i32,
    parent: i32,
    group: i32,
    session: i32,
    state: u8,
    /// Whether the chain of its parents ends at the shepherd: `NOT_OURS`, `OURS` or `SHELTERED`.
    ours: u8,
    /// It is a shepherd too, by its name. (A process that only bears the name is asked itself, and its children are
    /// not, until all are killed.)
    nested: u8,
    /// The bytes that would be padding.
    zero: [u8; 5],
}

const NOT_OURS: u8 = 0;
const OURS: u8 = 1;
/// Below another shepherd of the tree, which passes on what it is sent.
const SHELTERED: u8 = 2;

/// What a shepherd that is sent it passes on to its own tree.
pub(crate) fn is_passed_on(signal: u32) -> bool {
    matches!(signal, sys::SIGTERM | sys::SIGINT | sys::SIGQUIT | sys::SIGHUP)
}

impl Member {
    fn is(&self, other: &Member) -> bool {
        (self.pid, self.start) == (other.pid, other.start)
    }
}

/// How a signal reached the tree.
#[derive(Clone, Copy, Default)]
pub(crate) struct Reached {
    pub(crate) count: u32,
    /// The first refusal, if any.
    pub(crate) errno: Errno,
}

/// All processes of the machine (or namespace) at one moment, those of the tree marked.
pub(crate) struct Scan {
    list: List,
    proc_dir: Fd,
}

struct List {
    pages: Pages,
    count: usize,
}

const FIRST_PAGES: usize = 64 * 1024;

/// Whether `proc_dir` shows the pid namespace of `leader`, which is the shepherd's own too. `EXDEV`: it shows another
/// namespace, in which the numbers that we know are those of strangers.
pub(crate) fn check_proc(proc_dir: &Fd, leader: i32, pidfd: &Fd) -> sys::Result<()> {
    let mut path = Text::<32>::new();
    path.push(b"self/fdinfo/").number(pidfd.number() as u64);
    // In a namespace that this /proc does not show we are not in it at all.
    let file = sys::open_at(proc_dir.number(), path.path(), sys::O_RDONLY)
        .map_err(|errno| if errno == sys::ENOENT { sys::EXDEV } else { errno })?;
    let mut bytes = [0u8; 256];
    let len = sys::read(&file, &mut bytes)?;
    let field = |name: &[u8]| bytes[..len].split(|&byte| byte == b'\n').find_map(|line| line.strip_prefix(name));
    // The numbers of the process from the namespace of this /proc down to its own; without namespaces in the kernel
    // there is but one.
    let numbers = field(b"NSpid:\t").or(field(b"Pid:\t"));
    if numbers.and_then(text::parse) == Some(leader as u64) { Ok(()) } else { Err(sys::EXDEV) }
}

impl Scan {
    /// Reads `own`, which `check_proc` has found to be ours. The memory is given back with the value: a big machine
    /// costs a shepherd nothing in between.
    pub(crate) fn new(own: &Fd) -> sys::Result<Scan> {
        let proc_dir = sys::open_at(own.number(), c".", sys::O_RDONLY | sys::O_DIRECTORY)?;
        let mut list = List { pages: Pages::new(FIRST_PAGES)?, count: 0 };
        sys::each_entry(&proc_dir, |name, _| {
            match text::parse(name.to_bytes()).and_then(|pid| look(&proc_dir, pid as i32, true)) {
                Some(member) => list.push(member),
                None => Ok(()),
            }
        })?;
        list.mark();
        Ok(Scan { list, proc_dir })
    }

    /// Sends `signal` to the tree, or only to those of it in process group `group`.
    pub(crate) fn signal(&mut self, signal: u32, group: Option<i32>) -> Reached {
        self.deliver(signal, |member| group.is_none_or(|group| member.group == group))
    }

    /// Sends `signal` to the tree, so that no process gets it twice: what is below a shepherd gets it from that one.
    ///
    /// The shepherds come first. Their parents may react by a request to them, or by their death, and then they must
    /// know that it was this signal.
    pub(crate) fn ask(&mut self, signal: u32) -> Reached {
        let mut reached = self.deliver(signal, |member| member.ours == OURS && member.nested != 0);
        let others = self.deliver(signal, |member| member.ours == OURS && member.nested == 0);
        reached.count += others.count;
        if reached.errno == 0 {
            reached.errno = others.errno;
        }
        reached
    }

    /// Whether there is another shepherd in the tree.
    pub(crate) fn has_shepherd(&mut self) -> bool {
        self.list.tree().iter().any(|member| member.nested != 0)
    }

    fn deliver(&mut self, signal: u32, wanted: impl Fn(&Member) -> bool) -> Reached {
        let mut reached = Reached::default();
        for member in self.list.tree().iter().filter(|member| wanted(member)) {
            match deliver(&self.proc_dir, member, signal) {
                Ok(()) => reached.count += 1,
                Err(sys::ESRCH) => {}
                Err(errno) if reached.errno == 0 => reached.errno = errno,
                Err(_) => {}
            }
        }
        reached
    }

    /// Sends `signal` to the orphans that this scan, which got the signal before, has not seen: they were forked while
    /// it went round, and their parents have died of it. A new process with a parent is left to that, for it may be
    /// what a handler does at the end.
    pub(crate) fn signal_new_orphans(&mut self, signal: u32) -> sys::Result<()> {
        let shepherd = sys::pid();
        let mut now = Scan::new(&self.proc_dir)?;
        for orphan in now.list.tree().iter().filter(|member| member.parent == shepherd) {
            if !self.list.tree().iter().any(|known| known.is(orphan)) && deliver(&now.proc_dir, orphan, signal).is_ok() {
                self.list.push(*orphan)?;
            }
        }
        Ok(())
    }

    /// Whether anybody of the tree may still do something after `before`, when all of it was told to stop. Who sleeps
    /// in the kernel since then (in `vfork`, for a child that is stopped) stops before it returns from there.
    fn runs_on(&mut self, before: Option<&mut Scan>) -> bool {
        let told = before.map_or(&[][..], |scan| scan.list.tree());
        self.list.tree().iter().any(|member| match member.state {
            b'T' | b't' => false,
            b'D' => !told.iter().any(|other| other.is(member)),
            _ => true,
        })
    }

    /// Counts those that are left, for the report.
    pub(crate) fn survivors(mut self, exit: &mut Exit) {
        let tree = self.list.tree();
        exit.survivors = tree.len() as u32;
        for (name, member) in exit.named.iter_mut().zip(tree.iter().take(NAMED_SURVIVORS)) {
            *name = member.pid as u32;
        }
    }
}

impl List {
    fn push(&mut self, member: Member) -> sys::Result<()> {
        if self.count == self.pages.records::<Member>().len() {
            let len = self.pages.bytes().len();
            self.pages.grow(len * 2)?;
        }
        self.pages.records()[self.count] = member;
        self.count += 1;
        Ok(())
    }

    /// /proc lists by number, and a child's is mostly above its parent's: one pass nearly always, more after a wrap.
    fn mark(&mut self) {
        let shepherd = sys::pid();
        let members = &mut self.pages.records::<Member>()[..self.count];
        loop {
            let mut changed = false;
            for index in 0..members.len() {
                let parent = members[index].parent;
                if members[index].ours != NOT_OURS {
                    continue;
                }
                let ours = if parent == shepherd {
                    OURS
                } else {
                    let at = members.partition_point(|other| other.pid < parent);
                    match members.get(at).filter(|other| other.pid == parent) {
                        Some(other) if other.ours == OURS && other.nested != 0 => SHELTERED,
                        Some(other) => other.ours,
                        None => NOT_OURS,
                    }
                };
                changed |= ours != NOT_OURS;
                members[index].ours = ours;
            }
            if !changed {
                return;
            }
        }
    }

    /// The tree's processes that still run. All others are forgotten.
    fn tree(&mut self) -> &[Member] {
        let members = &mut self.pages.records::<Member>()[..self.count];
        let mut kept = 0;
        for index in 0..members.len() {
            if members[index].ours != 0 && members[index].state != b'Z' && members[index].state != b'X' {
                members[kept] = members[index];
                kept += 1;
            }
        }
        self.count = kept;
        &members[..kept]
    }
}

/// Stops the tree, whatever it forks meanwhile: a process that is stopped forks no more, so again until a look at /proc
/// finds nobody who runs on.
pub(crate) fn stop(own: &Fd) -> sys::Result<Reached> {
    const ROUNDS: usize = 50;
    let mut reached = Reached::default();
    let mut before = None;
    for _ in 0..ROUNDS {
        let mut scan = Scan::new(own)?;
        reached = scan.signal(sys::SIGSTOP, None);
        if !scan.runs_on(before.as_mut()) {
            break;
        }
        before = Some(scan);
    }
    Ok(reached)
}

/// Kills the tree as far as /proc shows it; how many were reached. All of it is stopped before, unless it is the
/// `first` round: nearly every tree is gone after a plain one.
pub(crate) fn kill(own: &Fd, first: bool) -> u32 {
    if !first {
        let _ = stop(own);
    }
    Scan::new(own).map_or(0, |mut scan| scan.signal(sys::SIGKILL, None).count)
}

fn deliver(proc_dir: &Fd, member: &Member, signal: u32) -> sys::Result<()> {
    if member.parent == sys::pid() {
        return children::signal_child(member.pid, signal);
    }
    let mut path = Text::<16>::new();
    path.number(member.pid as u64);
    let process = sys::open_at(proc_dir.number(), path.path(), sys::O_RDONLY | sys::O_DIRECTORY).map_err(gone)?;
    let again = look(&process, 0, false).ok_or(sys::ESRCH)?;
    // The start is known to a clock tick only. A stranger that has got the number within it has neither the parent nor
    // the session: both are of the tree. Who has changed both is met by the next look.
    let related = again.parent == member.parent || again.session == member.session;
    if again.start != member.start || !related {
        return Err(sys::ESRCH);
    }
    sys::signal_process(&process, signal)
}

fn gone(errno: Errno) -> Errno {
    if errno == sys::ENOENT { sys::ESRCH } else { errno }
}

/// Reads `<pid>/stat` below /proc, or `stat` of the process whose directory `dir` is.
fn look(dir: &Fd, pid: i32, below: bool) -> Option<Member> {
    let mut path = Text::<24>::new();
    if below {
        path.number(pid as u64).push(b"/");
    }
    path.push(b"stat");
    let mut bytes = [0u8; 512];
    let file = sys::open_at(dir.number(), path.path(), sys::O_RDONLY).ok()?;
    let len = sys::read(&file, &mut bytes).ok()?;
    let line = &bytes[..len];
    // The name in parentheses may hold anything, also spaces and parentheses.
    let after = line.iter().rposition(|&byte| byte == b')')? + 2;
    let nested = line[..after - 2].ends_with(b"(ginnel-shepherd");
    let mut fields = line.get(after..)?.split(|&byte| byte == b' ');
    let state = *fields.next()?.first()?;
    let parent = text::parse(fields.next()?)? as i32;
    let group = text::parse(fields.next()?)? as i32;
    let session = text::parse(fields.next()?)? as i32;
    // Fields 20 and 22 of the line; the session was field 6.
    let threads = text::parse(fields.nth(13)?)?;
    let start = text::parse(fields.nth(1)?)?;
    // One whose main thread alone has ended shows as a zombie, and goes on.
    let state = if state == b'Z' && threads > 1 { b'R' } else { state };
    Some(Member { start, pid, parent, group, session, state, ours: NOT_OURS, nested: u8::from(nested), zero: [0; 5] })
}
