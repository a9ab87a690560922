//! The thread that keeps one daemon running.

use crate::child::Child;
use crate::daemon::{Daemon, Phase, Shared, Sink};
use crate::error::SpawnError;
use crate::restart::Restart;
use crate::stdio::Stdio;
use crate::streams::ChildStdout;
use ginnel_base::Deadline;
use rustix::event::{PollFd, PollFlags};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often readiness is asked for.
const ASK_EVERY: Duration = Duration::from_millis(20);
/// A longer line is handed on in pieces.
const LONGEST_LINE: usize = 64 * 1024;

pub(crate) struct Keeper {
    daemon: Daemon,
    shared: Arc<Shared>,
}

/// One run of the command.
struct Attempt {
    child: Child,
    output: Option<ChildStdout>,
    line: Vec<u8>,
    started: Instant,
    ready: bool,
    /// When the next question is due.
    next: Deadline,
    sick: u32,
}

/// Why a run is over.
#[derive(PartialEq, Eq)]
enum Verdict {
    Ended,
    Stop,
    NotReady,
    Sick,
}

impl Keeper {
    pub(crate) fn new(mut daemon: Daemon, shared: Arc<Shared>) -> Keeper {
        let by_line = daemon.ready.as_ref().is_some_and(|check| matches!(check, crate::Check::Line(_)));
        let (stdout, stderr) = match &daemon.sink {
            Sink::Lines(_) | Sink::Writer(_) => (Stdio::piped(), Stdio::merged()),
            // The line is waited for, so the output must come here; a file or terminal then gets it from us.
            _ if by_line => (Stdio::piped(), Stdio::merged()),
            Sink::Null => (Stdio::null(), Stdio::null()),
            Sink::Inherit => (Stdio::inherit(), Stdio::inherit()),
            Sink::File(file) => match file.try_clone() {
                Ok(file) => (Stdio::from(file), Stdio::merged()),
                Err(_) => (Stdio::piped(), Stdio::merged()),
            },
        };
        daemon.command.stdout(stdout).stderr(stderr);
        daemon.command.stdio[0].get_or_insert(Stdio::null());
        Keeper { daemon, shared }
    }

    pub(crate) fn run(mut self) {
        // Also when a sink panics: nobody must wait for a daemon without a thread.
        let ended = Ended(Arc::clone(&self.shared));
        loop {
            let begun = Instant::now();
            let again = match self.daemon.command.spawn() {
                Ok(child) => self.keep(child),
                Err(error) => self.not_started(&error),
            };
            if !again || !self.pause(begun.elapsed()) {
                break;
            }
            self.shared.change(|state| state.restarts += 1);
        }
        drop(ended);
    }

    fn not_started(&self, error: &SpawnError) -> bool {
        tracing::warn!(daemon = self.daemon.name, %error, "did not start");
        self.shared.change(|state| state.trouble = Some(error.to_string()));
        self.daemon.restart != Restart::Never
    }

    /// Watches over one run; whether there is to be another.
    fn keep(&mut self, mut child: Child) -> bool {
        tracing::info!(daemon = self.daemon.name, leader = child.id(), "started");
        let output = child.stdout.take();
        let now = Instant::now();
        let mut attempt =
            Attempt { child, output, line: Vec::new(), started: now, ready: false, next: Deadline::at(now), sick: 0 };
        self.shared.change(|state| {
            let attempts = state.restarts + 1;
            (state.phase, state.leader, state.trouble) = (Phase::Starting { attempts }, Some(attempt.child.id()), None);
        });
        let verdict = self.watch(&mut attempt);
        if verdict != Verdict::Ended {
            attempt.child.handle().stop();
        }
        self.listen_to_the_end(&mut attempt);
        let report = attempt.child.wait();
        tracing::info!(daemon = self.daemon.name, report = ?report.as_ref().map(|report| report.cause), "ended");
        let failed = matches!(verdict, Verdict::NotReady | Verdict::Sick);
        let again = match (&report, verdict) {
            (_, Verdict::Stop) => false,
            // It ended because we ended it, and we did because it had failed.
            _ if failed => self.daemon.restart != Restart::Never,
            (Ok(report), _) => self.daemon.restart.wanted(report),
            (Err(_), _) => self.daemon.restart != Restart::Never,
        };
        self.shared.change(|state| {
            state.leader = None;
            state.trouble = report.as_ref().err().map(ToString::to_string);
            if failed && state.trouble.is_none() {
                state.trouble = Some("it was not ready or not well in time".to_owned());
            }
            state.report = report.ok().or(state.report.take());
        });
        again
    }

    fn watch(&mut self, attempt: &mut Attempt) -> Verdict {
        loop {
            if self.shared.state().stop {
                return Verdict::Stop;
            }
            if attempt.child.try_wait().ok().is_none_or(|report| report.is_some()) {
                return Verdict::Ended;
            }
            if let Some(verdict) = self.ask(attempt) {
                return verdict;
            }
            let timeout = self.due(attempt).timespec();
            let mut watched = vec![
                PollFd::new(&self.shared.wake, PollFlags::IN),
                PollFd::from_borrowed_fd(attempt.child.link().shepherd.as_fd(), PollFlags::IN),
            ];
            watched
                .extend(attempt.output.as_ref().map(|output| PollFd::from_borrowed_fd(output.as_fd(), PollFlags::IN)));
            let _ = rustix::event::poll(&mut watched, timeout.as_ref());
            if watched.get(2).is_some_and(|output| !output.revents().is_empty()) {
                self.read(attempt);
            }
        }
    }

    /// What it writes while it ends is wanted as well. Whoever was left behind on purpose with the pipe is not listened
    /// to.
    fn listen_to_the_end(&mut self, attempt: &mut Attempt) {
        let moment = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        let mut ended = false;
        while let Some(output) = &attempt.output {
            let end = attempt.child.link().shepherd.as_fd();
            let mut watched =
                [PollFd::from_borrowed_fd(output.as_fd(), PollFlags::IN), PollFd::from_borrowed_fd(end, PollFlags::IN)];
            let _ = rustix::event::poll(&mut watched, ended.then_some(&moment));
            let (written, over) = (!watched[0].revents().is_empty(), !watched[1].revents().is_empty());
            if written {
                self.read(attempt);
            } else if ended {
                return;
            }
            ended |= over;
        }
    }

    /// When the next question is due; never, when there is none.
    fn due(&self, attempt: &Attempt) -> Deadline {
        let asks = !attempt.ready || self.daemon.health.is_some();
        if asks { attempt.next } else { Deadline::NEVER }
    }

    /// Asks what is due.
    fn ask(&mut self, attempt: &mut Attempt) -> Option<Verdict> {
        let now = Instant::now();
        if !attempt.next.passed_at(now) {
            return None;
        }
        if !attempt.ready {
            if self.daemon.ready.as_ref().is_none_or(crate::Check::ask) {
                self.is_ready(attempt);
            } else if now - attempt.started > self.daemon.ready_within {
                return Some(Verdict::NotReady);
            }
            attempt.next = if attempt.ready { attempt.next } else { Deadline::from(now, ASK_EVERY) };
            return None;
        }
        let health = self.daemon.health.as_ref()?;
        attempt.next = Deadline::from(now, health.every);
        attempt.sick = if health.check.ask() { 0 } else { attempt.sick + 1 };
        (attempt.sick >= health.failures).then_some(Verdict::Sick)
    }

    fn is_ready(&self, attempt: &mut Attempt) {
        attempt.ready = true;
        attempt.next = self.daemon.health.as_ref().map_or(Deadline::NEVER, |health| Deadline::after(health.every));
        tracing::info!(daemon = self.daemon.name, "ready");
        self.shared.change(|state| state.phase = Phase::Ready);
    }

    /// One read of the output; true at its end.
    fn read(&mut self, attempt: &mut Attempt) -> bool {
        let Some(output) = &mut attempt.output else { return true };
        let mut buf = [0; 8192];
        let len = output.read(&mut buf).unwrap_or(0);
        if len == 0 {
            attempt.output = None;
        }
        attempt.line.extend_from_slice(&buf[..len]);
        while let Some(end) = attempt.line.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = attempt.line.drain(..=end).collect();
            self.line(attempt, &line[..end]);
        }
        if attempt.line.len() >= LONGEST_LINE || (len == 0 && !attempt.line.is_empty()) {
            let line = std::mem::take(&mut attempt.line);
            self.line(attempt, &line);
        }
        len == 0
    }

    fn line(&mut self, attempt: &mut Attempt, bytes: &[u8]) {
        let line = String::from_utf8_lossy(bytes);
        let mut stdout = std::io::stdout();
        let writer: Option<&mut dyn Write> = match &mut self.daemon.sink {
            Sink::Null => None,
            Sink::Inherit => Some(&mut stdout),
            Sink::File(file) => Some(file),
            Sink::Writer(writer) => Some(writer),
            Sink::Lines(take) => {
                take(&line);
                None
            }
        };
        // In one piece, so that a rotation cuts between lines; and as it was written.
        if let Some(Err(error)) = writer.map(|writer| writer.write_all(&[bytes, b"\n"].concat())) {
            tracing::warn!(daemon = self.daemon.name, %error, "a line of its output is lost");
        }
        if !attempt.ready && self.daemon.ready.as_ref().is_some_and(|check| check.answered_by(&line)) {
            self.is_ready(attempt);
        }
    }

    /// The pause before the next start; false when it is to be stopped.
    fn pause(&mut self, run: Duration) -> bool {
        let until = Deadline::after(self.daemon.backoff.after(run));
        self.shared.change(|state| state.phase = Phase::Pausing);
        loop {
            if self.shared.state().stop {
                return false;
            }
            if until.passed() {
                return true;
            }
            let timeout = until.timespec();
            let _ = rustix::event::poll(&mut [PollFd::new(&self.shared.wake, PollFlags::IN)], timeout.as_ref());
        }
    }
}

/// Tells the end of the thread, however it comes.
struct Ended(Arc<Shared>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.change(|state| (state.phase, state.leader) = (Phase::Ended, None));
    }
}
