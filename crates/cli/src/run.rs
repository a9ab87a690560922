//! `ginnel run`: a command whose whole process tree goes with it.

use crate::job::Job;
use crate::quantity;
use crate::terminal::{Keyboard, Raw, show, tell, unblock};
use account::Account;
use asked::Asked;
use ginnel_process::{
    Backoff, Cause, Command, ExitReport, Guarantee, Isolation, KillLadder, Limit, Pty, Restart, Signal, Size,
    SpawnError, Stage, WaitError,
};
use report::{Destination, NotStarted, Report};
use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

mod account;
mod asked;
mod report;

/// Run a command; when it ends, or this one does, in whatever way, its whole process tree is gone.
///
/// Streams, descriptors and exit code are the command's own. ^C asks the tree to end, a second ^C kills it; ^Z suspends
/// it until `fg` or
/// `bg`. INT, QUIT and TERM end the tree; other signals (HUP, USR1, USR2, ALRM, ...) reach the command as if they had
/// been sent to it.
#[derive(clap::Args)]
#[command(after_help = "\
Exit codes: the command's own; 128 and the number of the signal that ended it; 124 timeout;
127 not found; 126 found, but it cannot be executed; 125 it could not be run for another reason
(its report cannot be written, for one), or how it ended is not known; 2 the command line of
`ginnel run` is wrong, and nothing was run.

Examples:
  ginnel run -- make -j4                       nothing of the build outlives the ^C
  ginnel run --timeout 30s --grace 2s -- ./test.sh
  ginnel run --pty -- vim notes.txt            with a terminal of its own
  ginnel run --memory 512M --pids 64 --report - -- ./job
  ginnel run --isolate -- ./untrusted          in a pid namespace
  ginnel run --restart on-failure -- ./server  also as the first process of a container
  ginnel run --user www-data --cwd / --env-clear --env PATH=/usr/bin:/bin -- ./worker")]
pub(crate) struct Run {
    /// Give the command a terminal of its own.
    #[arg(long)]
    pty: bool,
    /// End it after this time (500ms, 30s, 5m; 0 is no limit).
    #[arg(long, value_name = "TIME", value_parser = quantity::duration)]
    timeout: Option<Duration>,
    /// The signal that asks the tree to end, instead of TERM.
    #[arg(long, value_name = "SIGNAL", default_value = "TERM")]
    signal: Signal,
    /// How long the tree may take to obey that signal before it is killed.
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
    /// Take a variable out of its environment.
    #[arg(long, value_name = "NAME")]
    env_remove: Vec<OsString>,
    /// Start from an empty environment; PATH is empty too, so give one or name the program by its path.
    #[arg(long)]
    env_clear: bool,
    /// Its working directory.
    #[arg(long, value_name = "DIR")]
    cwd: Option<PathBuf>,
    /// Run it as this user, with its groups (NAME, or UID:GID).
    #[arg(long, value_name = "USER", value_parser = Account::parse)]
    user: Option<Account>,
    /// Its nice value, -20 to 19.
    #[arg(long, value_name = "NICE", allow_negative_numbers = true, value_parser = clap::value_parser!(i32).range(-20..=19))]
    nice: Option<i32>,
    /// Do not pass on the descriptors from 3 that were inherited.
    #[arg(long)]
    close_fds: bool,
    /// Write how it ended, as JSON, to this file (`-`: stdout). It is opened, and emptied, before the command starts.
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
                tell(&message);
                ExitCode::from(code)
            }
        }
    }

    fn supervise(&self) -> Result<u8, (u8, String)> {
        // Before signals are caught: the open of a named pipe may wait for its reader.
        let destination = Destination::open(self.report.as_deref()).map_err(|error| {
            let path = self.report.as_deref().unwrap_or("-".as_ref());
            (FAILED, format!("cannot write the report to {}: {error}; nothing was run", path.display()))
        })?;
        let command = self.command().map_err(|error| (FAILED, error))?;
        let asked = Arc::new(Asked::default());
        // What comes before the first command is for it.
        asked.starts();
        let failed = |what: &'static str| move |error: io::Error| (FAILED, format!("cannot {what}: {error}"));
        asked::listen(&asked, self.pty).map_err(failed("catch signals"))?;
        if let Some(job) = Job::new().filter(|_| !self.pty) {
            let asked = Arc::clone(&asked);
            ginnel_base::thread::spawn("job", move || asked.keep_keys(&job)).map_err(failed("start a thread"))?;
        }
        let restart = match self.restart {
            RestartWhen::No => Restart::Never,
            RestartWhen::OnFailure => Restart::OnFailure,
            RestartWhen::Always => Restart::Always,
        };
        let keyboard = self.pty.then(Keyboard::new).transpose().map_err(failed("start a thread"))?;
        let mut backoff = Backoff::default();
        let mut restarts = 0;
        loop {
            let Ended { report, guarantee, shown } = match self.once(&command, &asked, keyboard.as_ref()) {
                Ok(ended) => ended,
                Err(Broken::Spawn(error)) => {
                    write_report(&destination, &NotStarted::new(&error, restarts), || asked.state().stops == 0);
                    return Err((spawn_code(&error), error.to_string()));
                }
                Err(Broken::Other(message)) => return Err((FAILED, message)),
            };
            let unread = shown.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::TimedOut);
            if unread && matches!(destination, Destination::Stdout) {
                tell("the report is not written either: nobody reads stdout");
            } else {
                let was_to_end = report.cause == Cause::TimedOut;
                let patient = || asked.state().stops == 0 && !was_to_end;
                write_report(&destination, &Report::new(&report, &guarantee, restarts), patient);
            }
            explain(&report);
            let again = shown.is_ok() && restart.wanted(&report) && asked.state().stops == 0;
            if again && !asked.pause(backoff.after(report.duration)) {
                // Between two runs there is nobody but us whom the signal could have ended.
                return Ok(asked.state().first.map_or(report.shell_code(), |signal| 128 + signal.number() as u8));
            }
            if !again {
                return match shown {
                    _ if report.cause == Cause::TimedOut => Ok(TIMED_OUT),
                    Ok(()) => Ok(report.shell_code()),
                    Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(BROKEN_PIPE),
                    Err(_) if unread => {
                        tell("not all that it wrote was shown: nobody reads stdout");
                        Ok(report.shell_code())
                    }
                    Err(error) => Err((FAILED, format!("cannot show what it writes: {error}"))),
                };
            }
            restarts += 1;
            tell(&format!("starting it again ({restarts})"));
        }
    }

    /// From one start to one end.
    fn once(&self, command: &Command, asked: &Arc<Asked>, keyboard: Option<&Keyboard>) -> Result<Ended, Broken> {
        let stdin = io::stdin();
        let mut command = command.clone();
        if self.pty {
            let size = Size::of(&stdin).unwrap_or(Size::new(24, 80));
            let pty = Pty::new(size);
            let pty = if stdin.is_terminal() { pty.clone().like(&stdin).unwrap_or(pty) } else { pty };
            command.pty(pty);
        }
        asked.starts();
        let mut child = command.spawn().map_err(|error| {
            asked.over();
            Broken::Spawn(error)
        })?;
        let guarantee = child.guarantee().clone();
        asked.now(&child);
        let raw = self.pty.then(Raw::new);
        let progress = Arc::new(AtomicU64::new(0));
        let behind = child.pty.as_ref().filter(|_| stdin.is_terminal()).and_then(|master| master.try_clone().ok());
        let mut screen = Ok(());
        if let Some(master) = child.pty.take() {
            if let (Some(keyboard), Ok(keys), Ok(())) = (keyboard, master.try_clone(), unblock(&master)) {
                keyboard.attach(keys);
            }
            let (first, second) = (Arc::clone(asked), Arc::clone(asked));
            let lost = move |error: &io::Error| first.unheard(error);
            screen = show(master, Arc::clone(&progress), lost, move |shown| second.has_shown(shown));
            if screen.is_err() {
                child.handle().stop();
            }
        }
        let report = child.wait();
        asked.over();
        let detached = keyboard.is_some_and(Keyboard::detach);
        // Everything the command wrote is shown before its end is told.
        let was_to_end = report.as_ref().is_ok_and(|report| report.cause == Cause::TimedOut);
        let shown = match screen {
            Ok(()) if self.pty => asked.await_shown(&progress, was_to_end),
            screen => screen,
        };
        // What was typed and not read is for whoever reads our terminal next. It was echoed when it was typed, so
        // before the echo is back.
        if let (Some(behind), Ok(()), true) = (behind, &shown, detached) {
            let unread = behind.take_unread().unwrap_or_default();
            // A kernel that forbids it leaves no other way: it is lost.
            let _ = ginnel_process::type_ahead(&stdin, &unread);
        }
        drop(raw);
        let report = report.map_err(|error: WaitError| Broken::Other(error.to_string()))?;
        Ok(Ended { report, guarantee, shown })
    }

    fn command(&self) -> Result<Command, String> {
        let mut command = Command::new(&self.command[0]);
        command.args(&self.command[1..]).kill_ladder(KillLadder::at_once().then(self.signal, self.grace));
        if !self.close_fds {
            command.inherit_all().map_err(|error| format!("cannot pass descriptors on: {error}"))?;
        }
        if self.env_clear {
            command.env_clear();
        }
        for name in &self.env_remove {
            command.env_remove(name);
        }
        for (name, value) in &self.env {
            command.env(name, value);
        }
        if let Some(dir) = &self.cwd {
            command.current_dir(dir);
        }
        if let Some(Account { uid, gid, groups }) = &self.user {
            command.uid(*uid).gid(*gid);
            // Who is no root may only be who it is.
            if rustix::process::geteuid().is_root() {
                command.groups(groups);
            }
        }
        if let Some(nice) = self.nice {
            command.nice(nice);
        }
        if self.isolate {
            command.isolation(Isolation::PidNamespace);
        }
        // As `timeout 0` has it.
        if let Some(timeout) = self.timeout.filter(|timeout| !timeout.is_zero()) {
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
        Ok(command)
    }
}

/// Why there is no end to report.
enum Broken {
    Spawn(SpawnError),
    Other(String),
}

/// That it cannot be written hides no exit code.
fn write_report(destination: &Destination, report: &impl serde::Serialize, patient: impl Fn() -> bool) {
    if let Err(error) = destination.write(report, patient) {
        tell(&format!("cannot write the report: {error}"));
    }
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
        Cause::TimedOut => tell("it was ended by its timeout"),
        Cause::Limit(Limit::Memory) => tell("it was killed for its memory limit"),
        Cause::ShepherdSignaled(signal) => tell(&format!("its shepherd was asked to end, by {signal}")),
        _ => {}
    }
    if report.survivors > 0 {
        tell(&format!("{} processes could not be killed: {:?}", report.survivors, report.survivor_pids));
    }
}
