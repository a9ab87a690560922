//! `ginnel run`: a command whose whole process tree goes with it.

use crate::terminal::{Keyboard, Raw, show, unblock};
use crate::{interrupt, quantity};
use ginnel_process::{
    Backoff, Cause, Child, Command, ExitReport, Guarantee, Handle, Isolation, KillLadder, Limit, Pty, PtyMaster,
    Restart, Signal, Size, SpawnError, Stage, WaitError,
};
use serde::Serialize;
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP, SIGWINCH};
use signal_hook::low_level::emulate_default_handler;
use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Run a command; when it ends, or this one does, in whatever way, its whole process tree is gone.
///
/// Streams and exit code are the command's own. ^C asks the tree to end, a second ^C kills it; ^Z suspends it until `fg` or `bg`.
#[derive(clap::Args)]
#[command(after_help = "\
Exit codes: the command's own; 128 and the number of the signal that ended it; 124 timeout;
127 not found; 126 found, but it cannot be executed; 125 it could not be run for another reason,
or how it ended is not known.

Examples:
  ginnel run -- make -j4                       nothing of the build outlives the ^C
  ginnel run --timeout 30s --grace 2s -- ./test.sh
  ginnel run --pty -- vim notes.txt            with a terminal of its own
  ginnel run --memory 512M --pids 64 --report - -- ./job
  ginnel run --isolate -- ./untrusted          in a pid namespace
  ginnel run --restart on-failure -- ./server  also as the first process of a container")]
pub(crate) struct Run {
    /// Give the command a terminal of its own.
    #[arg(long)]
    pty: bool,
    /// End it after this time (500ms, 30s, 5m).
    #[arg(long, value_name = "TIME", value_parser = quantity::duration)]
    timeout: Option<Duration>,
    /// How long the tree may take to obey TERM before it is killed.
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = quantity::duration)]
    grace: Duration,
    /// Run it in a pid namespace: nothing survives, whoever is killed.
    #[arg(long)]
    isolate: bool,
    /// Memory of the whole tree (512M, 2G).
    #[arg(long, value_name = "SIZE", value_parser = quantity::size)]
    memory: Option<u64>,
    /// CPUs the whole tree may use (1.5).
    #[arg(long, value_name = "CPUS")]
    cpu: Option<f64>,
    /// Processes and threads of the whole tree.
    #[arg(long, value_name = "COUNT")]
    pids: Option<u64>,
    /// Set a variable of its environment.
    #[arg(long, value_name = "NAME=VALUE", value_parser = variable)]
    env: Vec<(String, String)>,
    /// Write how it ended, as JSON, to this file (`-`: stdout).
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Start it again when it ends.
    #[arg(long, value_enum, default_value = "no")]
    restart: RestartWhen,
    /// The command and its arguments.
    #[arg(required = true, trailing_var_arg = true, value_name = "CMD")]
    command: Vec<OsString>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum RestartWhen {
    No,
    OnFailure,
    Always,
}

fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write NAME=VALUE".to_owned()),
    }
}

const TIMED_OUT: u8 = 124;
const FAILED: u8 = 125;
const NOT_EXECUTABLE: u8 = 126;
const NOT_FOUND: u8 = 127;
/// What a shell says of a command that wrote to a pipe without a reader: 128 and `SIGPIPE`.
const BROKEN_PIPE: u8 = 141;

/// What the signals have asked for, and whom they are for.
#[derive(Default)]
struct Asked {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    current: Option<Handle>,
    /// A command is on its way, and may run before there is a handle to it.
    starting: bool,
    terminal: Option<PtyMaster>,
    /// How often the user has asked for the end, and with which signal first.
    stops: u32,
    first: Option<Signal>,
}

impl Asked {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stop(&self, signal: Signal) {
        let mut state = self.state();
        state.stops += 1;
        state.first.get_or_insert(signal);
        state.pass_on();
        self.changed.notify_all();
    }

    /// The next command to tell; one that was asked to end before it had started is told now.
    fn now(&self, child: &Child) {
        let mut state = self.state();
        (state.current, state.starting) = (Some(child.handle()), false);
        self.changed.notify_all();
        state.terminal = child.pty.as_ref().and_then(|pty| pty.try_clone().ok());
        state.pass_on();
    }

    fn over(&self) {
        let mut state = self.state();
        (state.current, state.terminal, state.starting) = (None, None, false);
        self.changed.notify_all();
    }

    /// What the command writes to its terminal cannot be shown any more. Its own writes succeed, so it is told by us.
    fn unheard(&self, error: &io::Error) {
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

    /// The whole tree stops with us, and goes on with us. (`TSTP` would not do: without a shell above it in its session, nobody could be
    /// relied on to continue it, and so the kernel ignores it.)
    fn suspend(&self) {
        // A second is far more than a start takes; one that hangs must not hold the user up.
        drop(self.changed.wait_timeout_while(self.state(), Duration::from_secs(1), |state| state.starting));
        let tree = |signal| {
            let current = self.state().current.clone();
            // One that has ended meanwhile needs no signal.
            let _ = current.map(|handle| handle.signal_tree(signal));
        };
        tree(Signal::STOP);
        // Fails for signals that do not exist.
        let _ = emulate_default_handler(SIGTSTP);
        tree(Signal::CONT);
    }

    /// Sleeps between two starts; false when the user does not want another.
    fn pause(&self, pause: Duration) -> bool {
        let (state, _) = self
            .changed
            .wait_timeout_while(self.state(), pause, |state| state.stops == 0)
            .unwrap_or_else(PoisonError::into_inner);
        state.stops == 0
    }
}

impl State {
    fn pass_on(&self) {
        let Some(handle) = &self.current else { return };
        match (self.stops, self.first) {
            (0, _) | (_, None) => {}
            (1, Some(signal)) => handle.stop_with(signal),
            _ => handle.kill(),
        }
    }
}

/// One run, from its start to its end.
struct Ended {
    report: ExitReport,
    guarantee: Guarantee,
    /// Whether all that it wrote to a terminal of its own has been shown.
    shown: io::Result<()>,
}

impl Run {
    pub(crate) fn run(self) -> ExitCode {
        match self.supervise() {
            Ok(code) => ExitCode::from(code),
            Err((code, message)) => {
                eprintln!("ginnel run: {message}");
                ExitCode::from(code)
            }
        }
    }

    fn supervise(&self) -> Result<u8, (u8, String)> {
        let asked = Arc::new(Asked::default());
        self.listen(&asked).map_err(|error| (FAILED, format!("cannot catch signals: {error}")))?;
        let restart = match self.restart {
            RestartWhen::No => Restart::Never,
            RestartWhen::OnFailure => Restart::OnFailure,
            RestartWhen::Always => Restart::Always,
        };
        let keyboard = self.pty.then(Keyboard::new);
        let mut backoff = Backoff::default();
        let mut restarts = 0;
        loop {
            let Ended { report, guarantee, shown } = self.once(&asked, keyboard.as_ref())?;
            if let Some(path) = &self.report {
                let report = Report::new(&report, &guarantee, restarts);
                write_report(path, &report)
                    .map_err(|error| (FAILED, format!("cannot write {}: {error}", path.display())))?;
            }
            explain(&report);
            let again = shown.is_ok() && restart.wanted(&report) && asked.state().stops == 0;
            if !again || !asked.pause(backoff.after(report.duration)) {
                return match shown {
                    _ if report.cause == Cause::TimedOut => Ok(TIMED_OUT),
                    Ok(()) => Ok(report.shell_code()),
                    Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(BROKEN_PIPE),
                    Err(error) => Err((FAILED, format!("cannot show what it writes: {error}"))),
                };
            }
            restarts += 1;
            eprintln!("ginnel run: starting it again ({restarts})");
        }
    }

    /// A thread that turns signals into requests. As the first process of a container, where orphans of others end up as well, it also
    /// reaps. What we were started to ignore (by `nohup`, say) stays ignored.
    fn listen(&self, asked: &Arc<Asked>) -> io::Result<()> {
        let mut wanted = vec![SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGWINCH, SIGCHLD];
        // ^Z at a terminal of the command's own is a key like any other.
        if !self.pty {
            wanted.push(SIGTSTP);
        }
        let ignored = ignored_signals()?;
        wanted.retain(|signal| ignored & 1 << (signal - 1) == 0);
        let mut signals = interrupt::signals(&wanted)?;
        let asked = Arc::clone(asked);
        let first = rustix::process::getpid().is_init();
        std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
            for signal in signals.forever() {
                match signal {
                    SIGWINCH => {
                        let state = asked.state();
                        if let (Some(terminal), Ok(size)) = (&state.terminal, Size::of(io::stdin())) {
                            let _ = terminal.resize(size);
                        }
                    }
                    SIGCHLD if first => {
                        while let Ok(Some(_)) = rustix::process::wait(rustix::process::WaitOptions::NOHANG) {}
                    }
                    SIGCHLD => {}
                    SIGTSTP => asked.suspend(),
                    number => asked.stop(Signal::new(number).unwrap_or(Signal::TERM)),
                }
            }
        })?;
        Ok(())
    }

    /// From one start to one end.
    fn once(&self, asked: &Arc<Asked>, keyboard: Option<&Keyboard>) -> Result<Ended, (u8, String)> {
        let stdin = io::stdin();
        let mut command = self.command();
        if self.pty {
            let size = Size::of(&stdin).unwrap_or(Size::new(24, 80));
            let pty = Pty::new(size);
            let pty = if stdin.is_terminal() { pty.clone().like(&stdin).unwrap_or(pty) } else { pty };
            command.pty(pty);
        }
        asked.state().starting = true;
        let mut child = command.spawn().map_err(|error| {
            asked.over();
            (spawn_code(&error), error.to_string())
        })?;
        let guarantee = child.guarantee().clone();
        asked.now(&child);
        let raw = self.pty.then(Raw::new);
        let screen = child.pty.take().map(|master| {
            if let (Some(keyboard), Ok(keys), Ok(())) = (keyboard, master.try_clone(), unblock(&master)) {
                keyboard.attach(keys);
            }
            let asked = Arc::clone(asked);
            show(master, move |error| asked.unheard(error))
        });
        let report = child.wait();
        asked.over();
        if let Some(keyboard) = keyboard {
            keyboard.detach();
        }
        // Everything the command wrote is shown before its end is told.
        let shown = screen.map_or(Ok(()), |screen| screen.join().unwrap_or_else(|panic| resume_unwind(panic)));
        drop(raw);
        let report = report.map_err(|error: WaitError| (FAILED, error.to_string()))?;
        Ok(Ended { report, guarantee, shown })
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.command[0]);
        command.args(&self.command[1..]).kill_ladder(KillLadder::grace(self.grace));
        for (name, value) in &self.env {
            command.env(name, value);
        }
        if self.isolate {
            command.isolation(Isolation::PidNamespace);
        }
        if let Some(timeout) = self.timeout {
            command.timeout(timeout);
        }
        if let Some(bytes) = self.memory {
            command.memory_limit(bytes);
        }
        if let Some(count) = self.pids {
            command.pids_limit(count);
        }
        if let Some(cpus) = self.cpu {
            command.cpu_limit(cpus);
        }
        command
    }
}

/// One bit for each signal, from the lowest.
fn ignored_signals() -> io::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let mask = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("SigIgn:")?.trim(), 16).ok());
    mask.ok_or_else(|| io::Error::other("/proc/self/status does not tell which signals are ignored"))
}

fn spawn_code(error: &SpawnError) -> u8 {
    match error {
        SpawnError::Failed { stage: Stage::Exec, errno, .. } if *errno == rustix::io::Errno::NOENT => NOT_FOUND,
        SpawnError::Failed { stage: Stage::Exec, .. } => NOT_EXECUTABLE,
        _ => FAILED,
    }
}

/// What the exit code alone does not tell.
fn explain(report: &ExitReport) {
    match report.cause {
        Cause::TimedOut => eprintln!("ginnel run: it was ended by its timeout"),
        Cause::Limit(Limit::Memory) => eprintln!("ginnel run: it was killed for its memory limit"),
        Cause::ShepherdSignaled(signal) => eprintln!("ginnel run: its shepherd was asked to end, by {signal}"),
        _ => {}
    }
    if report.survivors > 0 {
        eprintln!("ginnel run: {} processes could not be killed: {:?}", report.survivors, report.survivor_pids);
    }
}

/// The report as JSON; times in seconds, memory in bytes.
#[derive(Serialize)]
struct Report {
    cause: String,
    code: Option<i32>,
    signal: Option<String>,
    core_dumped: bool,
    duration: f64,
    user: f64,
    system: f64,
    peak_memory: u64,
    tree_peak_memory: Option<u64>,
    killed: u32,
    survivors: u32,
    oom_kills: u64,
    fork_refusals: u64,
    restarts: u32,
    guarantee: String,
    unavailable: Vec<String>,
    limits: Vec<String>,
}

impl Report {
    fn new(report: &ExitReport, guarantee: &Guarantee, restarts: u32) -> Report {
        let (cause, core_dumped) = match report.cause {
            Cause::Exited(_) => ("exited".to_owned(), false),
            Cause::Signaled { core, .. } => ("signaled".to_owned(), core),
            Cause::Stopped => ("stopped".to_owned(), false),
            Cause::TimedOut => ("timeout".to_owned(), false),
            Cause::Limit(limit) => (format!("{limit}-limit"), false),
            Cause::ParentDeath => ("parent-death".to_owned(), false),
            Cause::ShepherdSignaled(_) => ("shepherd-signaled".to_owned(), false),
            other => (format!("{other:?}").to_lowercase(), false),
        };
        Report {
            cause,
            code: report.code(),
            signal: report.signal().map(|signal| signal.to_string()),
            core_dumped,
            duration: report.duration.as_secs_f64(),
            user: report.usage.user.as_secs_f64(),
            system: report.usage.system.as_secs_f64(),
            peak_memory: report.usage.peak_memory,
            tree_peak_memory: report.tree_peak_memory,
            killed: report.killed,
            survivors: report.survivors,
            oom_kills: report.oom_kills,
            fork_refusals: report.fork_refusals,
            restarts,
            guarantee: guarantee.protection.to_string(),
            unavailable: guarantee
                .unavailable
                .iter()
                .map(|(protection, reason)| format!("{protection}: {reason}"))
                .collect(),
            limits: guarantee.limits.iter().map(|(limit, enforcement)| format!("{limit}: {enforcement}")).collect(),
        }
    }
}

fn write_report(path: &std::path::Path, report: &Report) -> io::Result<()> {
    let mut text = serde_json::to_string(report)?;
    text.push('\n');
    if path.as_os_str() == "-" {
        return io::stdout().write_all(text.as_bytes());
    }
    std::fs::write(path, text)
}
