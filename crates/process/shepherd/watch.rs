//! The life of a shepherd: wait for the leader, the parent, the clock, a request; end the tree; report; exit last.

use crate::cgroup::Groups;
use crate::children;
use crate::frame::{self, Exit, HEADER, Put, Spawn, Step, cause, flag, kind, orphans, target};
use crate::sys::{self, Args, Errno, Fd, Watched};
use crate::tree::{self, Reached, Scan};

/// What a tree may still do.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Running,
    /// On this rung of the ladder, until then.
    Asked(usize, u64),
    /// Being killed: the next round is due then, at the latest then; and after the last moment we give up.
    Killing {
        next: u64,
        latest: u64,
        until: u64,
        round: u32,
    },
}

/// A round of killing is repeated, and newcomers are looked for, when nobody has ended for so long ...
const SILENCE: u64 = 5_000_000;
/// ... or after so long in any case: in a fork storm somebody ends all the time.
const ROUND: u64 = 30_000_000;
/// Killed processes that have not gone by then are reported as survivors: the kernel holds them, or they are not ours
/// to kill.
const PATIENCE: u64 = 5_000_000_000;

/// A reader that has not made room for the report by then does not get it.
const REPORT_PATIENCE: u64 = 10_000_000_000;

/// The leader and everything it started.
pub(crate) struct Flock<'a> {
    pub(crate) spawn: &'a Spawn<'a>,
    pub(crate) groups: Groups<'a>,
    pub(crate) leader: i32,
    pub(crate) pidfd: Fd,
    /// The /proc of our own pid namespace, if there is one.
    pub(crate) proc_dir: Option<Fd>,
    pub(crate) parent: Fd,
    pub(crate) report: Option<Fd>,
    pub(crate) signals: Fd,
    pub(crate) started: u64,
}

/// The signal of the rung we are on, for who was forked while it went round.
struct Asked {
    signal: u32,
    scan: Scan,
    /// When to look for them, and when at the latest.
    look: Option<(u64, u64)>,
}

struct Watch<'a> {
    flock: Flock<'a>,
    phase: Phase,
    asked: Option<Asked>,
    exit: Exit,
    /// The parent is there, or the tree does not depend on it.
    listening: bool,
    /// What the tree was sent by the ladder or by us: a bit for each signal that we pass on.
    sent: u64,
    /// Those of them that were passed on beside the ladder.
    passed_on: u64,
    /// A child may have ended.
    reap_due: bool,
    /// No child is left.
    empty: bool,
    /// The leader, who led a session, has ended not before this clock tick, and others go on: the parent must know, in
    /// case it has to end them without us.
    untold: Option<u64>,
    args: Args,
}

/// Watches until the tree is gone (or is to be left), then reports. The parent does not know of a `doomed` one: it is
/// killed.
pub(crate) fn keep(socket: &Fd, flock: Flock<'_>, args: Args, doomed: bool) {
    let exit = Exit { cause: cause::LEADER, ..Exit::default() };
    let (phase, asked, sent, passed_on, reap_due) = (Phase::Running, None, 0, 0, false);
    let (listening, empty, untold) = (true, false, None);
    let mut watch = Watch { flock, phase, asked, exit, listening, sent, passed_on, reap_due, empty, untold, args };
    watch.reap();
    if doomed {
        watch.end(cause::STOPPED, 0, true);
    }
    // The environment was the command's business; whoever is fast has its report before this costs anything.
    if !watch.done() {
        watch.args.forget_environment();
    }
    while !watch.done() {
        watch.turn(socket);
    }
    if doomed {
        watch.flock.groups.remove();
    } else {
        watch.report(socket);
    }
}

impl Watch<'_> {
    fn done(&self) -> bool {
        let left = self.exit.ended != 0 && self.flock.spawn.orphans == orphans::LEAVE && self.phase == Phase::Running;
        self.empty || left || self.exit.survivors > 0
    }

    fn turn(&mut self, socket: &Fd) {
        if let Some(tick) = self.untold.take() {
            let mut buf = [0u8; 64];
            let mut put = Put::new(&mut buf, kind::LEADER_ENDED, 0);
            put.u64(tick);
            if let Some(len) = put.finish() {
                let _ = sys::send(socket, &buf[..len], &[]);
            }
        }
        let now = sys::now();
        let wake = self.due(now);
        let mut watched = [
            Watched::new(self.listening.then_some(socket)),
            Watched::new(Some(&self.flock.signals)),
            Watched::new(self.listening.then_some(&self.flock.parent)),
        ];
        sys::poll(&mut watched, wake.map(|wake| wake.saturating_sub(now)));
        // Requests first, also those that came since: what the parent asked for before the leader ended is the cause of
        // that end.
        if self.listening {
            while self.request(socket) {}
        }
        if watched[1].ready != 0 {
            self.hear();
        }
        if self.reap_due {
            self.reap_due = false;
            self.reap();
        }
        if watched[2].ready != 0 {
            self.parent_died();
        }
        self.clock(sys::now());
    }

    /// The moment at which the clock has something to say.
    fn due(&self, now: u64) -> Option<u64> {
        let step = match self.phase {
            Phase::Running => None,
            Phase::Asked(_, until) => Some(self.look().map_or(until, |look| look.min(until))),
            Phase::Killing { next, .. } => Some(next),
        };
        let timeout = match (self.phase, self.flock.spawn.timeout_ns) {
            (Phase::Running, timeout @ 1..) => Some(self.flock.started.saturating_add(timeout)),
            _ => None,
        };
        step.or(timeout).map(|moment| moment.max(now))
    }

    fn look(&self) -> Option<u64> {
        self.asked.as_ref()?.look.map(|(next, _)| next)
    }

    fn clock(&mut self, now: u64) {
        if self.empty {
            return;
        }
        match self.phase {
            Phase::Running => {
                let timeout = self.flock.spawn.timeout_ns;
                if timeout != 0 && now >= self.flock.started.saturating_add(timeout) {
                    self.end(cause::TIMEOUT, 0, false);
                }
            }
            Phase::Asked(rung, until) if now >= until => self.rung(rung + 1, 0),
            Phase::Asked(..) if self.look().is_some_and(|look| now >= look) => {
                if let Some(asked) = &mut self.asked {
                    asked.look = None;
                    // Whoever is missed waits for the next rung.
                    let _ = asked.scan.signal_new_orphans(asked.signal);
                }
            }
            Phase::Killing { next, until, round, .. } if now >= next => self.kill(until, round),
            _ => {}
        }
    }

    /// Takes the signals that have come to us. Comes before what a parent asks for or its death: if the same signal
    /// has made it do so, the tree is sent that signal, and only once.
    fn hear(&mut self) {
        // `struct signalfd_siginfo`: the number is the first word.
        const INFO: usize = 128;
        let mut infos = [0u8; 8 * INFO];
        let mut more = true;
        while more && let Ok(len @ 1..) = sys::read(&self.flock.signals, &mut infos) {
            more = len == infos.len();
            for info in infos[..len].chunks_exact(INFO) {
                let signal = u32::from(info[0]);
                self.reap_due |= signal == sys::SIGCHLD;
                if tree::is_passed_on(signal) {
                    self.pass_on(signal);
                }
            }
        }
    }

    /// The signal takes the place of the first rung's. On a later rung it is passed on beside that, once.
    fn pass_on(&mut self, signal: u32) {
        match self.phase {
            Phase::Running => {
                self.exit.cause_signal = signal;
                self.end(cause::SHEPHERD_SIGNALLED, signal, false);
            }
            Phase::Asked(..) if self.sent & bit(signal) == 0 => {
                self.sent |= bit(signal);
                self.passed_on |= bit(signal);
                let _ = self.signal_tree(signal);
            }
            _ => {}
        }
    }

    /// Reaps whoever has ended. `ECHILD` is the proof that the tree is empty.
    fn reap(&mut self) {
        let (lived, before) = (self.exit.ended == 0, sys::tick());
        loop {
            match sys::reap() {
                Ok((0, ..)) => break,
                Ok((pid, status, usage)) => self.reaped(pid, status, usage),
                Err(sys::ECHILD) => {
                    self.empty = true;
                    return;
                }
                Err(_) => break,
            }
        }
        if lived && self.exit.ended != 0 && self.flock.spawn.flags & flag::PTY != 0 {
            self.untold = Some(before);
        }
        // Children are left. Once the leader has gone they are orphans.
        if self.exit.ended != 0 && self.phase == Phase::Running && self.flock.spawn.orphans == orphans::KILL {
            self.end(cause::LEADER, 0, false);
        }
    }

    fn reaped(&mut self, pid: i32, status: u32, usage: sys::Usage) {
        self.exit.reaped += 1;
        if let Phase::Killing { next, latest, .. } = &mut self.phase {
            // As long as they end, a look at all of them would only be in their way.
            *next = (sys::now() + SILENCE).min(*latest);
        }
        match self.phase {
            Phase::Running => {}
            Phase::Killing { .. } if status & 0x7f == sys::SIGKILL => self.exit.killed += 1,
            _ => self.exit.obeyed += 1,
        }
        if let Some(asked) = &mut self.asked {
            let now = sys::now();
            let latest = asked.look.map_or(now + ROUND, |(_, latest)| latest);
            asked.look = Some(((now + SILENCE).min(latest), latest));
        }
        if pid == self.flock.leader && self.exit.ended == 0 {
            self.exit.ended = 1;
            self.exit.status = status;
            self.exit.duration_ns = sys::now() - self.flock.started;
            // Seconds and microseconds twice, then maxrss, three that Linux leaves zero, the faults, swaps, blocks,
            // messages, switches.
            let word = |index: usize| usage.0[index] as u64;
            let micros = |index| word(index) * 1_000_000 + word(index + 1);
            self.exit.rusage =
                [micros(0), micros(2), word(4), word(8), word(9), word(11), word(12), word(16), word(17)];
        }
    }

    fn parent_died(&mut self) {
        self.listening = false;
        self.hear();
        if self.flock.spawn.flags & flag::OUTLIVE_PARENT == 0 {
            self.end(cause::PARENT_DEATH, 0, false);
        }
    }

    /// Starts the ladder. The first cause is the one reported; `signal` replaces the first rung's, `at_once` skips all
    /// rungs.
    fn end(&mut self, cause: u8, signal: u32, at_once: bool) {
        if self.empty {
            return;
        }
        if self.phase == Phase::Running {
            self.exit.cause = cause;
            if at_once {
                self.start_killing();
            } else {
                self.rung(0, signal);
            }
        } else if at_once && matches!(self.phase, Phase::Asked(..)) {
            self.start_killing();
        }
    }

    /// Steps on this rung; `signal` replaces its own, unless 0.
    fn rung(&mut self, rung: usize, signal: u32) {
        let spawn = self.flock.spawn;
        let Some(Step { signal: usual, grace_ns }) = spawn.ladder[..spawn.steps as usize].get(rung).copied() else {
            return self.start_killing();
        };
        let now = sys::now();
        self.phase = Phase::Asked(rung, now.saturating_add(grace_ns));
        let signal = if signal == 0 { usual } else { signal };
        // One that is stopped could not obey.
        let wake = (signal != sys::SIGCONT && signal != sys::SIGSTOP).then_some(sys::SIGCONT);
        let signals = [Some(signal), wake];
        self.asked = None;
        // Passed on before, beside an earlier rung.
        let repeated = self.passed_on & bit(signal) != 0;
        self.sent |= bit(signal);
        let mut scan = self.scan();
        if self.alone() && !scan.as_mut().is_ok_and(Scan::has_shepherd) {
            // Pid 1 of a namespace of its own: the kernel reaches everybody else in it, at once and without /proc.
            for signal in signals.into_iter().flatten().filter(|_| !repeated) {
                let _ = sys::signal_namespace(signal);
            }
        } else if let Ok(mut scan) = scan {
            for signal in signals.into_iter().flatten().filter(|_| !repeated) {
                scan.ask(signal);
            }
            self.asked = Some(Asked { signal, scan, look: Some((now + SILENCE, now + ROUND)) });
        } else {
            for signal in signals.into_iter().flatten().filter(|_| !repeated) {
                self.signal_children(signal);
            }
        }
    }

    /// What /proc shows of the tree.
    fn scan(&self) -> sys::Result<Scan> {
        Scan::new(self.flock.proc_dir.as_ref().ok_or(sys::EXDEV)?)
    }

    /// What can be done without /proc.
    fn signal_children(&self, signal: u32) -> Reached {
        children::signal(self.flock.leader, self.exit.ended == 0, &self.flock.pidfd, signal)
    }

    fn signal_tree(&self, signal: u32) -> Reached {
        let mut scan = self.scan();
        if self.alone() && !(tree::is_passed_on(signal) && scan.as_mut().is_ok_and(Scan::has_shepherd)) {
            let errno = sys::signal_namespace(signal).err().unwrap_or(0);
            return Reached { count: u32::from(errno == 0), errno };
        }
        match (&self.flock.proc_dir, scan) {
            (Some(own), Ok(_)) if signal == sys::SIGSTOP => tree::stop(own).unwrap_or_else(refused),
            (_, Ok(mut scan)) if tree::is_passed_on(signal) => scan.ask(signal),
            (_, Ok(mut scan)) => scan.signal(signal, None),
            (None, _) => self.signal_children(signal),
            (_, Err(errno)) => refused(errno),
        }
    }

    fn alone(&self) -> bool {
        self.flock.spawn.flags & flag::PID_NAMESPACE != 0 && sys::pid() == 1
    }

    fn start_killing(&mut self) {
        self.asked = None;
        let until = sys::now().saturating_add(PATIENCE);
        self.kill(until, 0);
    }

    fn kill(&mut self, until: u64, round: u32) {
        let now = sys::now();
        if now >= until {
            self.give_up();
            return;
        }
        self.phase = Phase::Killing { next: now + SILENCE, latest: now + ROUND, until, round: round + 1 };
        if self.alone() {
            let _ = sys::signal_namespace(sys::SIGKILL);
        } else {
            // Most trees are the leader's process group.
            let leader = (self.exit.ended == 0).then_some(self.flock.leader);
            let leaders_group = || round == 0 && sys::signal_group(&self.flock.pidfd, leader, sys::SIGKILL).is_ok();
            // A process may have left either group: the next round looks for it.
            if !(self.flock.groups.kill() || leaders_group()) || round > 0 {
                let seen = self.flock.proc_dir.as_ref().map_or(0, |own| tree::kill(own, round == 0));
                self.reap();
                // As long as `wait` finds a child, a process is left, whatever /proc shows.
                if seen == 0 && !self.empty {
                    children::kill(self.flock.leader);
                }
            }
        }
        self.reap();
    }

    /// The tree is not gone, and does not go.
    fn give_up(&mut self) {
        self.reap();
        if self.empty {
            return;
        }
        if let Ok(scan) = self.scan() {
            scan.survivors(&mut self.exit);
        }
        if self.exit.survivors == 0 {
            children::survivors(&mut self.exit);
        }
        // `wait` has found one, even if its number is not known.
        self.exit.survivors = self.exit.survivors.max(1);
    }

    /// One frame from the parent, if there is one.
    fn request(&mut self, socket: &Fd) -> bool {
        let (mut buf, mut fds) = ([0u8; 128], [-1; frame::MAX_FDS]);
        let (len, count) = match sys::receive(socket, &mut buf, &mut fds) {
            Ok((0, _)) => {
                self.parent_died();
                return false;
            }
            Ok(received) => received,
            Err(sys::EAGAIN) => return false,
            // A frame that does not fit, or a reset: the next look tells.
            Err(errno) => return errno == sys::EMSGSIZE || errno == sys::EMFILE,
        };
        for fd in &fds[..count] {
            drop(Fd::new(*fd));
        }
        let Some((kind, id, mut payload)) = frame::open(&buf[..len]) else { return true };
        let reached = match kind {
            kind::SIGNAL => match (payload.u8(), payload.u32()) {
                (Some(target), Some(signal)) => self.signal(target, signal),
                _ => refused(sys::EINVAL),
            },
            kind::STOP => match (payload.u8(), payload.u32(), payload.u8()) {
                (Some(cause), Some(signal), Some(at_once)) => {
                    self.hear();
                    if self.exit.cause == cause::SHEPHERD_SIGNALLED && matches!(self.phase, Phase::Asked(..)) {
                        // The parent has got the same signal, and wants the same.
                        self.exit.cause = cause;
                    }
                    self.end(cause, signal, at_once != 0);
                    Reached::default()
                }
                _ => refused(sys::EINVAL),
            },
            _ => refused(sys::ENOSYS),
        };
        let mut buf = [0u8; 64];
        let mut put = Put::new(&mut buf, kind::ACK, id);
        put.u32(reached.errno);
        put.u32(reached.count);
        if let Some(len) = put.finish() {
            let _ = sys::send(socket, &buf[..len], &[]);
        }
        true
    }

    fn signal(&self, to: u8, signal: u32) -> Reached {
        let leader = (self.exit.ended == 0).then_some(self.flock.leader);
        let one = |result: sys::Result<()>| match result {
            Ok(()) => Reached { count: 1, errno: 0 },
            Err(errno) => refused(errno),
        };
        match to {
            target::LEADER => one(sys::signal_process(&self.flock.pidfd, signal)),
            target::GROUP => match sys::signal_group(&self.flock.pidfd, leader, signal) {
                // A kernel that cannot, and a leader that has ended.
                Err(sys::ENOSYS) => match self.scan() {
                    Ok(mut scan) => none_is_gone(scan.signal(signal, Some(self.flock.leader))),
                    Err(errno) => refused(errno),
                },
                result => one(result),
            },
            target::TREE => none_is_gone(self.signal_tree(signal)),
            _ => refused(sys::EINVAL),
        }
    }

    fn report(&mut self, socket: &Fd) {
        self.flock.groups.account(&mut self.exit);
        let has_room = |report: &Fd, patience| {
            let mut watched = [Watched::for_room(report)];
            sys::poll(&mut watched, Some(patience));
            watched[0].ready != 0
        };
        // It is the user's pipe, and may be full: the parent is told first, and need not wait for us then.
        let ready = self.flock.report.as_ref().is_none_or(|report| has_room(report, 0));
        self.exit.lingers = u8::from(!ready);
        let mut buf = [0u8; HEADER + 256];
        let mut put = Put::new(&mut buf, kind::EXIT, 0);
        self.exit.put(&mut put);
        let Some(len) = put.finish() else { return };
        // The parent waits for our end before it believes the report, and wakes up while we still clear away.
        let _ = sys::send(socket, &buf[..len], &[]);
        self.flock.groups.remove();
        if let Some(report) = &self.flock.report
            && (ready || has_room(report, REPORT_PATIENCE))
        {
            let _ = sys::write(report, &buf[..len]);
        }
    }
}

/// Of a signal that is passed on; none for any other.
fn bit(signal: u32) -> u64 {
    if tree::is_passed_on(signal) { 1 << signal } else { 0 }
}

fn refused(errno: Errno) -> Reached {
    Reached { count: 0, errno }
}

fn none_is_gone(reached: Reached) -> Reached {
    if reached.count == 0 && reached.errno == 0 { refused(sys::ESRCH) } else { reached }
}
