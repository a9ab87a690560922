//! The parent's side of one shepherd: requests and their acknowledgements, and the one ending.

use crate::error::{SignalError, WaitError};
use crate::frame::{self, Exit, HEADER, Put, kind};
use crate::launch::receive;
use crate::report::{ExitReport, StreamCount};
use crate::second_line::{Aftermath, Identity};
use crate::signal::Signal;
use crate::streams::Which;
use crate::watch;
use ginnel_base::Deadline;
use rustix::event::{EventfdFlags, PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::{SendFlags, Shutdown};
use rustix::process::{WaitId, WaitIdOptions};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A shepherd answers in microseconds; one that is stopped by a debugger does not.
const ANSWER_DEADLINE: Duration = Duration::from_secs(5);
/// After the grace a shepherd kills for five seconds at most and then reports; as much again is for a machine that is
/// very busy.
pub(crate) const KILLING: Duration = Duration::from_secs(10);
/// A shepherd that was killed is gone in microseconds, unless the kernel holds it, or someone whose pid 1 it is.
const DYING: Duration = Duration::from_secs(5);

/// How it ended.
#[derive(Clone, Debug)]
pub(crate) enum Ending {
    Reported(Box<Exit>),
    Lost(Aftermath),
}

/// The shepherd's word on a request: an errno or 0, and how many processes were reached.
type Answer = (u32, u32);

/// A thread that waits for the answer to its request. Whichever thread reads the answer rings.
#[derive(Debug)]
struct Asking {
    id: u32,
    bell: Option<Arc<OwnedFd>>,
    answer: Option<Answer>,
}

#[derive(Debug, Default)]
struct State {
    next_id: u32,
    asking: Vec<Asking>,
    /// The strongest stop that was asked for: 1 by the ladder, 2 at once. A second one would change nothing but fill
    /// the socket.
    stopping: u8,
    /// As told by `kind::LEADER_ENDED`.
    leader_ended: Option<u64>,
    /// When the shepherd was found killed, or killed by us.
    lost: Option<Instant>,
    ending: Option<Ending>,
    exit: Option<Box<Exit>>,
    /// The shepherd was seen to its end.
    reaped: bool,
}

/// What the parent holds of one command. Closed when the last handle is gone and the shepherd has ended.
#[derive(Debug)]
pub(crate) struct Link {
    /// No other link of this process has it, ever: an address would come again.
    pub(crate) number: u64,
    socket: OwnedFd,
    pub(crate) shepherd: OwnedFd,
    pub(crate) shepherd_pid: i32,
    pub(crate) identity: Identity,
    pub(crate) traffic: Traffic,
    /// The longest the kill ladder takes until it kills.
    pub(crate) grace: Duration,
    /// By when the shepherd must have ended the tree: after a stop, or where there is a timeout. One that has not is
    /// stuck, or is held by somebody (a debugger, a stop that comes again and again), and is killed.
    end_by: Mutex<Option<Instant>>,
    /// A forked copy of the parent does not own the command.
    owner: u32,
    state: Mutex<State>,
    /// Held while the ending is found out, which may take seconds. `state` is never held for so long.
    settling: Mutex<()>,
}

pub(crate) struct LinkParts {
    pub(crate) socket: OwnedFd,
    pub(crate) shepherd: OwnedFd,
    pub(crate) shepherd_pid: i32,
    pub(crate) identity: Identity,
    pub(crate) max_output: Option<u64>,
    pub(crate) grace: Duration,
    pub(crate) timeout: Option<Duration>,
}

impl Asking {
    fn ring(&self) {
        if let Some(bell) = &self.bell {
            let _ = rustix::io::write(bell, &1u64.to_ne_bytes());
        }
    }
}

impl Link {
    pub(crate) fn new(parts: LinkParts) -> Link {
        let LinkParts { socket, shepherd, shepherd_pid, identity, max_output, grace, timeout } = parts;
        let end_by = Mutex::new(timeout.and_then(|timeout| latest(timeout.saturating_add(grace))));
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let traffic = Traffic { max_output, ..Traffic::default() };
        let (owner, state, settling) = (std::process::id(), Mutex::default(), Mutex::default());
        Link { number, socket, shepherd, shepherd_pid, identity, traffic, grace, end_by, owner, state, settling }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_ours(&self) -> bool {
        self.owner == std::process::id()
    }

    /// Asks the shepherd to signal; the number of processes reached.
    pub(crate) fn signal(&self, target: u8, signal: Signal) -> Result<u32, SignalError> {
        self.request(kind::SIGNAL, |put| {
            put.u8(target);
            put.u32(signal.number() as u32);
        })
    }

    /// Asks the shepherd to end the tree. Does not wait; a shepherd that is gone needs no asking.
    pub(crate) fn stop(self: &Arc<Self>, cause: u8, first: Option<Signal>, at_once: bool) {
        let mut state = self.state();
        let strength = 1 + u8::from(at_once);
        if state.stopping >= strength || state.ending.is_some() {
            return;
        }
        let sent = self.send(&mut state, kind::STOP, |put| {
            put.u8(cause);
            put.u32(first.map_or(0, |signal| signal.number() as u32));
            put.u8(u8::from(at_once));
        });
        if sent.is_ok() {
            state.stopping = strength;
        }
        drop(state);
        // One that somebody has stopped could not obey.
        let _ = rustix::process::pidfd_send_signal(&self.shepherd, rustix::process::Signal::CONT);
        let grace = if at_once { Duration::ZERO } else { self.grace };
        if let Some(moment) = latest(grace) {
            watch::end_by(self, moment);
        }
    }

    pub(crate) fn end_by(&self) -> MutexGuard<'_, Option<Instant>> {
        self.end_by.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its time is over: what it has not ended, the second line will.
    pub(crate) fn give_up_shepherd(&self) {
        *self.end_by() = None;
        tracing::warn!(shepherd = self.shepherd_pid, "the shepherd did not end its tree in time and is killed");
        let _ = rustix::process::pidfd_send_signal(&self.shepherd, rustix::process::Signal::KILL);
        self.state().lost.get_or_insert_with(Instant::now);
        // Whoever waits without a limit is woken, also when the kernel does not let the shepherd go.
        let _ = rustix::net::shutdown(&self.socket, Shutdown::Both);
    }

    /// Whether the shepherd is still there, after its ending was settled: the kernel does not let it go.
    pub(crate) fn lingers(&self) -> bool {
        !self.state().reaped
    }

    fn send(&self, state: &mut State, kind: u16, payload: impl FnOnce(&mut Put<'_>)) -> Result<u32, Errno> {
        // 0 is for frames that nobody asked for.
        state.next_id = state.next_id.wrapping_add(1).max(1);
        let mut buf = [0u8; HEADER + 64];
        let mut put = Put::new(&mut buf, kind, state.next_id);
        payload(&mut put);
        let len = put.finish().ok_or(Errno::MSGSIZE)?;
        rustix::net::send(&self.socket, &buf[..len], SendFlags::NOSIGNAL | SendFlags::DONTWAIT)?;
        Ok(state.next_id)
    }

    /// Sends a request and waits for its acknowledgement. The state is not locked meanwhile: a shepherd that does not
    /// answer holds up only the thread that asked it.
    fn request(&self, kind: u16, payload: impl FnOnce(&mut Put<'_>)) -> Result<u32, SignalError> {
        let bell = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map(Arc::new).ok();
        let id = {
            let mut state = self.state();
            if state.ending.is_some() || state.exit.is_some() {
                return Err(SignalError::Ended);
            }
            let id = self.send(&mut state, kind, payload).map_err(|errno| match errno {
                Errno::PIPE | Errno::CONNRESET => SignalError::Ended,
                errno => SignalError::Refused(errno),
            })?;
            state.asking.push(Asking { id, bell: bell.clone(), answer: None });
            id
        };
        let answer = self.await_answer(id, bell.as_deref());
        self.state().asking.retain(|asking| asking.id != id);
        let (errno, count) = answer?;
        match (errno != 0).then(|| Errno::from_raw_os_error(errno as i32)) {
            None => Ok(count),
            Some(Errno::SRCH) => Err(SignalError::Ended),
            Some(errno) => Err(SignalError::Refused(errno)),
        }
    }

    fn await_answer(&self, id: u32, bell: Option<&OwnedFd>) -> Result<Answer, SignalError> {
        // Without a descriptor for a bell, another thread may have read the answer unheard: look again.
        const LOOK_AGAIN: Duration = Duration::from_millis(10);
        let deadline = Deadline::after(ANSWER_DEADLINE);
        let mut ended = false;
        loop {
            let mut state = self.state();
            let open = self.drain(&mut state);
            let answer = state.asking.iter().find(|asking| asking.id == id).and_then(|asking| asking.answer);
            drop(state);
            if let Some(answer) = answer {
                return Ok(answer);
            }
            // A killed shepherd's socket may be held open by the child it was just making: watch the shepherd as well.
            if !open || ended {
                return Err(SignalError::Ended);
            }
            if deadline.passed() {
                return Err(SignalError::TimedOut(ANSWER_DEADLINE));
            }
            let mut watched =
                vec![PollFd::new(&self.socket, PollFlags::IN), PollFd::new(&self.shepherd, PollFlags::IN)];
            watched.extend(bell.map(|bell| PollFd::new(bell, PollFlags::IN)));
            let until = if bell.is_some() { deadline } else { deadline.min(Deadline::after(LOOK_AGAIN)) };
            let _ = rustix::event::poll(&mut watched, until.timespec().as_ref());
            ended = !watched[1].revents().is_empty();
        }
    }

    /// Reads what has come: answers for the threads that wait for them, and the report. False when no more will come.
    fn drain(&self, state: &mut State) -> bool {
        while state.exit.is_none() {
            match self.next(state) {
                Some(true) => {}
                Some(false) => break,
                None => return true,
            }
        }
        // A shepherd that goes on after its report has no more to say. Whoever waits for it in poll is woken.
        if state.exit.as_ref().is_some_and(|exit| exit.survivors > 0 || exit.lingers != 0) {
            let _ = rustix::net::shutdown(&self.socket, Shutdown::Both);
        }
        for asking in &state.asking {
            asking.ring();
        }
        false
    }

    /// One frame, if it is there: whether more may come.
    fn next(&self, state: &mut State) -> Option<bool> {
        match receive(&self.socket) {
            Ok(Some((bytes, _))) => match frame::open(&bytes) {
                Some((kind::ACK, id, mut payload)) => {
                    let answer = (payload.u32()?, payload.u32()?);
                    // Nobody waits for that to a stop.
                    if let Some(asking) = state.asking.iter_mut().find(|asking| asking.id == id) {
                        asking.answer = Some(answer);
                        asking.ring();
                    }
                    Some(true)
                }
                Some((kind::EXIT, _, mut payload)) => {
                    state.exit = Exit::take(&mut payload).map(Box::new);
                    Some(false)
                }
                Some((kind::LEADER_ENDED, _, mut payload)) => {
                    state.leader_ended = payload.u64();
                    Some(true)
                }
                _ => Some(false),
            },
            Err(Errno::AGAIN | Errno::INTR) => None,
            Ok(None) | Err(_) => Some(false),
        }
    }

    /// Whether the report is there already.
    pub(crate) fn has_reported(&self) -> bool {
        let mut state = self.state();
        self.drain(&mut state);
        state.exit.is_some()
    }

    /// Whether somebody has read the report, or settled the ending without one.
    pub(crate) fn is_over(&self) -> bool {
        let state = self.state();
        state.exit.is_some() || state.ending.is_some()
    }

    /// To be called when the shepherd has ended: takes its report, or ends the tree in its place; reaps it. Does so
    /// once.
    pub(crate) fn settle(&self) -> Ending {
        let _settling = self.settling.lock().unwrap_or_else(PoisonError::into_inner);
        let (exit, leader_ended, lost) = {
            let mut state = self.state();
            if let Some(ending) = state.ending.clone() {
                state.reaped = state.reaped || reap(&self.shepherd);
                return ending;
            }
            self.drain(&mut state);
            (state.exit.clone(), state.leader_ended, state.lost.is_some())
        };
        // The pid 1 of a namespace cannot go before those that the kernel does not let die; it has reported them.
        // Another one waits for the reader of its report.
        let held = lost || exit.as_ref().is_some_and(|exit| exit.survivors > 0 || exit.lingers != 0);
        await_end(&self.shepherd, if held { Duration::ZERO } else { DYING });
        let (ending, reaped) = match exit {
            Some(exit) => (Ending::Reported(exit), reap(&self.shepherd)),
            None => {
                let mut aftermath = self.identity.end_tree(&self.shepherd, leader_ended);
                let reaped = reap(&self.shepherd);
                aftermath.survivors = aftermath.survivors.max(u32::from(!reaped));
                tracing::warn!(shepherd = self.shepherd_pid, leader = self.identity.leader_pid, %aftermath, "the shepherd was killed");
                (Ending::Lost(aftermath), reaped)
            }
        };
        let mut state = self.state();
        state.reaped = reaped;
        state.ending = Some(ending.clone());
        ending
    }

    pub(crate) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Whether the shepherd was killed and only its end is to come; its socket has nothing more to say.
    pub(crate) fn is_lost(&self) -> bool {
        self.state().lost.is_some()
    }

    /// When to call `wait` again though neither shepherd nor socket has anything to say.
    pub(crate) fn next_look(&self) -> Option<Instant> {
        let lost = self.state().lost.and_then(|lost| Deadline::from(lost, DYING).instant());
        [lost, *self.end_by()].into_iter().flatten().min()
    }

    /// Waits for the shepherd to report or to end; false when the deadline came first. After it, `settle` blocks only
    /// for the shepherd's last steps, which pass while the caller is being woken.
    pub(crate) fn wait(&self, deadline: Option<Instant>) -> bool {
        while !self.is_over() {
            let now = Instant::now();
            if self.end_by().is_some_and(|moment| moment <= now) {
                self.give_up_shepherd();
            }
            let lost = self.state().lost;
            if lost.is_some_and(|lost| Deadline::from(lost, DYING).passed_at(now)) {
                return true;
            }
            let until = [deadline, self.next_look()].into_iter().flatten().min();
            let left = until.map(|until| until.saturating_duration_since(now));
            let timeout = left.and_then(|left| rustix::event::Timespec::try_from(left).ok());
            let mut watched = [PollFd::new(&self.shepherd, PollFlags::IN), PollFd::new(&self.socket, PollFlags::IN)];
            // One that has hung up has no more to say.
            let open = if lost.is_some() { 1 } else { 2 };
            match rustix::event::poll(&mut watched[..open], timeout.as_ref()) {
                Ok(0) if deadline.is_some_and(|deadline| deadline <= Instant::now()) => return false,
                Ok(0) | Err(_) => continue,
                Ok(_) => {}
            }
            let ended = !watched[0].revents().is_empty();
            if ended {
                return true;
            }
            // The socket has hung up without a report: the shepherd was killed, which its pidfd shows in a moment.
            if !self.has_reported() && watched[1].revents().contains(PollFlags::HUP) {
                self.state().lost.get_or_insert(now);
            }
        }
        true
    }

    /// The report, once the shepherd has ended.
    pub(crate) fn report(&self) -> Result<ExitReport, WaitError> {
        match self.settle() {
            Ending::Reported(exit) => Ok(ExitReport::new(&exit, self.traffic.counts())),
            Ending::Lost(aftermath) => Err(WaitError::ShepherdLost { aftermath }),
        }
    }
}

/// So long after now, what a shepherd may take is over; `None` where a clock cannot tell.
fn latest(after: Duration) -> Option<Instant> {
    Deadline::after(after.saturating_add(KILLING)).instant()
}

/// Waits so long for a shepherd to end; whether it has.
pub(crate) fn await_end(shepherd: &OwnedFd, patience: Duration) -> bool {
    let deadline = Deadline::after(patience);
    loop {
        match rustix::event::poll(&mut [PollFd::new(shepherd, PollFlags::IN)], deadline.timespec().as_ref()) {
            Err(Errno::INTR) => {}
            result => return result.is_ok_and(|count| count > 0),
        }
    }
}

/// Reaps a shepherd; whether it has ended. Somebody else may have done so (a `wait` for any child, an ignored
/// `SIGCHLD`).
pub(crate) fn reap(shepherd: &OwnedFd) -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    !matches!(rustix::process::waitid(WaitId::PidFd(shepherd.as_fd()), options), Ok(None))
}

/// What has gone through the parent's ends. One addition a read.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    bytes: [AtomicU64; 3],
    calls: [AtomicU64; 3],
    discarded: [AtomicU64; 3],
    max_output: Option<u64>,
    /// Bytes of output read, where there is a limit.
    output: AtomicU64,
    exceeded: AtomicBool,
}

impl Traffic {
    pub(crate) fn count(&self, which: Which, len: usize) {
        self.bytes[which as usize].fetch_add(len as u64, Ordering::Relaxed);
        self.calls[which as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts output; how much of it is within the limit. Two threads that read two streams may together have read
    /// more.
    pub(crate) fn count_output(&self, which: Which, len: usize) -> usize {
        self.count(which, len);
        let Some(most) = self.max_output else { return len };
        let before = self.output.fetch_add(len as u64, Ordering::Relaxed);
        len.min(usize::try_from(most.saturating_sub(before)).unwrap_or(usize::MAX))
    }

    pub(crate) fn discard(&self, which: Which, len: usize) {
        self.discarded[which as usize].fetch_add(len as u64, Ordering::Relaxed);
    }

    /// How many of `wanted` bytes may still be read.
    pub(crate) fn allowance(&self, wanted: usize) -> usize {
        let Some(most) = self.max_output else { return wanted };
        let seen = self.output.load(Ordering::Relaxed);
        wanted.min(usize::try_from(most.saturating_sub(seen)).unwrap_or(usize::MAX))
    }

    pub(crate) fn exceed(&self) {
        self.exceeded.store(true, Ordering::Relaxed);
    }

    pub(crate) fn exceeded(&self) -> bool {
        self.exceeded.load(Ordering::Relaxed)
    }

    fn counts(&self) -> [StreamCount; 3] {
        let load = |counters: &[AtomicU64; 3], index: usize| counters[index].load(Ordering::Relaxed);
        [0, 1, 2].map(|index| StreamCount {
            bytes: load(&self.bytes, index),
            calls: load(&self.calls, index),
            discarded: load(&self.discarded, index),
        })
    }
}
