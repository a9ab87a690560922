//! What the signals of `ginnel run` ask for, and the command they are for.

use crate::interrupt;
use crate::job::Job;
use ginnel_process::{Child, Handle, PtyMaster, Signal, Size};
use rustix::fs::{Mode, OFlags};
use signal_hook::consts::{SIGCHLD, SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP, SIGWINCH};
use signal_hook::low_level::emulate_default_handler;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Signals that would end this process, and whose meaning only the command knows: they are passed on, and nothing else
/// is done. (`PIPE` is not among them: Rust's programs ignore it, and ours would come from our own writes. A fault is
/// always our own.)
const PASSED: [Signal; 13] = [
    Signal::TRAP,
    Signal::ABRT,
    Signal::USR1,
    Signal::USR2,
    Signal::ALRM,
    Signal::URG,
    Signal::XCPU,
    Signal::XFSZ,
    Signal::VTALRM,
    Signal::PROF,
    Signal::IO,
    Signal::PWR,
    Signal::SYS,
];
/// The real-time signals that the C library leaves to programs.
const REAL_TIME: std::ops::RangeInclusive<i32> = 34..=64;
/// A reader that has taken nothing for so long, of a command that was to end, is not waited for.
const UNREAD: Duration = Duration::from_secs(1);

/// What the signals have asked for, and whom they are for.
#[derive(Default)]
pub(super) struct Asked {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
pub(super) struct State {
    current: Option<Handle>,
    shepherd: u32,
    /// A command is on its way, and may run before there is a handle to it.
    starting: bool,
    terminal: Option<PtyMaster>,
    /// How often the user has asked for the end, and with which signal first.
    pub(super) stops: u32,
    pub(super) first: Option<Signal>,
    /// How often we were continued after a stop.
    continued: u64,
    /// To be passed on to the command that is on its way.
    pending: Vec<(Signal, Whom)>,
    /// What has become of the showing of its terminal.
    shown: Option<io::Result<()>>,
}

impl Asked {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stop(&self, signal: Signal) {
        let mut state = self.state();
        state.stops += 1;
        state.first.get_or_insert(signal);
        state.pass_on();
        self.changed.notify_all();
    }

    /// A command is about to start.
    pub(super) fn starts(&self) {
        let mut state = self.state();
        (state.starting, state.shown) = (true, None);
    }

    /// The next command to tell; one that was asked to end before it had started is told now.
    pub(super) fn now(&self, child: &Child) {
        let mut state = self.state();
        let handle = child.handle();
        state.shepherd = child.shepherd_id();
        (state.current, state.starting) = (Some(handle.clone()), false);
        self.changed.notify_all();
        state.terminal = child.pty.as_ref().and_then(|pty| pty.try_clone().ok());
        state.pass_on();
        let pending = std::mem::take(&mut state.pending);
        drop(state);
        for (signal, whom) in pending {
            whom.send(&handle, signal);
        }
    }

    pub(super) fn over(&self) {
        let mut state = self.state();
        (state.current, state.terminal, state.starting) = (None, None, false);
        state.pending.clear();
        self.changed.notify_all();
    }

    /// Passes a signal on to the command, or to the one that is on its way. False when there is none.
    fn pass(&self, signal: Signal, whom: Whom) -> bool {
        let handle = {
            let mut state = self.state();
            if state.starting {
                state.pending.push((signal, whom));
                return true;
            }
            state.current.clone()
        };
        // Without the lock: the answer may take its time.
        let _ = handle.as_ref().map(|handle| whom.send(handle, signal));
        handle.is_some()
    }

    /// `HUP` as the command would see it: from a terminal that is gone it goes to everybody, else to the leader, for
    /// which it may mean something (to read its configuration again, mostly). Between two runs nobody could give it a
    /// meaning, and it ends us.
    fn hang_up(&self, had_terminal: bool) {
        let whom = if had_terminal && !has_terminal() { Whom::Tree } else { Whom::Leader };
        if !self.pass(Signal::HUP, whom) {
            self.stop(Signal::HUP);
        }
    }

    /// The size of our terminal has changed: the command's own is changed, or it hears of it.
    fn resize(&self) {
        let (own, handle) = {
            let state = self.state();
            if let (Some(terminal), Ok(size)) = (&state.terminal, Size::of(io::stdin())) {
                let _ = terminal.resize(size);
            }
            (state.terminal.is_some(), state.current.clone())
        };
        if let Some(handle) = handle.filter(|_| !own) {
            // As the kernel does, to the whole group. Nobody is ended by it.
            let _ = handle.signal_group(Signal::WINCH);
        }
    }

    /// What the command writes to its terminal cannot be shown any more. Its own writes succeed, so it is told by us.
    pub(super) fn unheard(&self, error: &io::Error) {
        let handle = {
            let state = self.state();
            if state.stops > 0 { None } else { state.current.clone() }
        };
        let Some(handle) = handle else { return };
        if error.kind() == io::ErrorKind::BrokenPipe {
            let _ = handle.signal_tree(Signal::PIPE);
        }
        // For those who ignore SIGPIPE: they would have had an error.
        handle.stop();
    }

    /// Everything that the command wrote has been shown, or cannot be.
    pub(super) fn has_shown(&self, shown: io::Result<()>) {
        self.state().shown = Some(shown);
        self.changed.notify_all();
    }

    /// Waits until all has been shown; of a command that was to end, only as long as somebody takes it: `progress`
    /// counts the bytes.
    pub(super) fn await_shown(&self, progress: &AtomicU64, was_to_end: bool) -> io::Result<()> {
        let mut state = self.state();
        let mut seen = progress.load(Ordering::Relaxed);
        loop {
            if let Some(shown) = state.shown.take() {
                return shown;
            }
            if state.stops == 0 && !was_to_end {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let (again, waited) = self.changed.wait_timeout(state, UNREAD).unwrap_or_else(PoisonError::into_inner);
            state = again;
            let now = progress.load(Ordering::Relaxed);
            if waited.timed_out() && now == seen && state.shown.is_none() {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "nobody reads it"));
            }
            seen = now;
        }
    }

    /// The whole tree stops with us, and goes on with us. (`TSTP` would not do: without a shell above it in its
    /// session, nobody could be relied on to continue it, and so the kernel ignores it.)
    fn suspend(&self) {
        // A second is far more than a start takes; one that hangs must not hold the user up.
        drop(self.changed.wait_timeout_while(self.state(), Duration::from_secs(1), |state| state.starting));
        self.tree(Signal::STOP);
        // Fails for signals that do not exist.
        let _ = emulate_default_handler(SIGTSTP);
        self.tree(Signal::CONT);
    }

    /// A signal to everybody of the current tree.
    fn tree(&self, signal: Signal) {
        let current = self.state().current.clone();
        // One that has ended meanwhile needs no signal.
        let _ = current.map(|handle| handle.signal_tree(signal));
    }

    fn is_continued(&self) {
        self.state().continued += 1;
        self.changed.notify_all();
    }

    /// Job control for a command that reads our terminal, for as long as this process runs.
    pub(super) fn keep_keys(&self, job: &Job) {
        /// How often we look, in the background only.
        const EVERY: Duration = Duration::from_millis(100);
        loop {
            let state = self.state();
            let (seen, shepherd) = (state.continued, state.current.is_some().then_some(state.shepherd));
            drop(state);
            // We come to the background by our start, or by a stop and `bg`.
            if !job.in_background() {
                drop(self.changed.wait_while(self.state(), |state| state.continued == seen));
                continue;
            }
            if shepherd.is_some_and(|shepherd| job.is_read_below(shepherd)) {
                self.tree(Signal::STOP);
                let stopped = job.stop(|| self.state().continued);
                self.tree(Signal::CONT);
                if !stopped {
                    return;
                }
            } else {
                std::thread::sleep(EVERY);
            }
        }
    }

    /// Sleeps between two starts; false when the user does not want another.
    pub(super) fn pause(&self, pause: Duration) -> bool {
        let (state, _) = self
            .changed
            .wait_timeout_while(self.state(), pause, |state| state.stops == 0)
            .unwrap_or_else(PoisonError::into_inner);
        state.stops == 0
    }
}

/// Whom a signal is passed on to.
#[derive(Clone, Copy)]
enum Whom {
    Leader,
    Tree,
}

impl Whom {
    fn send(self, handle: &Handle, signal: Signal) {
        // One that has ended meanwhile needs no signal.
        let _ = match self {
            Whom::Leader => handle.signal_leader(signal),
            Whom::Tree => handle.signal_tree(signal).map(drop),
        };
    }
}

impl State {
    fn pass_on(&self) {
        let Some(handle) = &self.current else { return };
        match (self.stops, self.first) {
            (0, _) | (_, None) => {}
            // What ends the tree is the ladder's to say.
            (1, Some(Signal::TERM)) => handle.stop(),
            (1, Some(signal)) => handle.stop_with(signal),
            _ => handle.kill(),
        }
    }
}

/// A thread that turns signals into requests. As the first process of a container, where orphans of others end up as
/// well, it also reaps. What we were started to ignore (by `nohup`, say) stays ignored, by the command too.
pub(super) fn listen(asked: &Arc<Asked>, own_terminal: bool) -> io::Result<()> {
    let mut wanted = vec![SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGWINCH, SIGCHLD, SIGCONT];
    wanted.extend(PASSED.map(Signal::number));
    wanted.extend(REAL_TIME);
    // ^Z at a terminal of the command's own is a key like any other.
    if !own_terminal {
        wanted.push(SIGTSTP);
    }
    let ignored = ginnel_base::ignored_signals();
    wanted.retain(|signal| ignored & 1 << (signal - 1) == 0);
    let had_terminal = has_terminal();
    let mut signals = interrupt::signals(&wanted)?;
    let asked = Arc::clone(asked);
    let first = rustix::process::getpid().is_init();
    ginnel_base::thread::spawn("signals", move || {
        for signal in signals.forever() {
            match signal {
                SIGWINCH => asked.resize(),
                SIGCHLD if first => {
                    while let Ok(Some(_)) = rustix::process::wait(rustix::process::WaitOptions::NOHANG) {}
                }
                SIGCHLD => {}
                SIGTSTP => asked.suspend(),
                SIGCONT => asked.is_continued(),
                SIGHUP => asked.hang_up(had_terminal),
                SIGINT | SIGTERM | SIGQUIT => asked.stop(Signal::new(signal).unwrap_or(Signal::TERM)),
                other => drop(Signal::new(other).map(|signal| asked.pass(signal, Whom::Leader))),
            }
        }
    })?;
    Ok(())
}

/// Whether this process has a controlling terminal that is still there.
fn has_terminal() -> bool {
    let flags = OFlags::RDONLY | OFlags::NOCTTY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    rustix::fs::open("/dev/tty", flags, Mode::empty()).is_ok()
}
