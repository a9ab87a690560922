//! How a blocking driver waits. A wait is `poll`, which sees every deadline and abort; where the socket itself can end
//! the wait (`SO_RCVTIMEO` for its deadline, `shutdown` for its abort), the receiving call sleeps, and a ping-pong
//! costs each side two system calls instead of three. In shared memory a wait spins first, and then sleeps on the
//! slot's doorbell.

use crate::carrier::{Carrier, Source, recv_with};
use crate::error::SessionError;
use crate::proto::Role;
use crate::wait::{Abort, Registered, Wait, Wake};
use ginnel_memory::Spin;
use rustix::event::PollFlags;
use rustix::net::{RecvFlags, Shutdown, sockopt};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

/// What a wait is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Interest {
    Receive,
    Send,
    Both,
}

#[derive(Debug)]
pub(super) struct Nap {
    // Try to receive before waiting. Otherwise wait first, which saves the system call that would say "not yet" in a
    // ping-pong.
    eager: bool,
    guess: Guess,
    // The receiving call may sleep.
    blocking: bool,
    // What the socket's own receive timeout is; `None` is forever, as sockets are made.
    timeout: Option<Duration>,
    // The abort that shuts this socket down.
    ended_by: Option<Registered>,
    spin: Spin,
}

/// Shuts a socket down when its abort is raised: that ends a receive that sleeps.
#[derive(Debug)]
struct ShutDown {
    // A duplicate: the abort may be raised while the session is dropped.
    socket: OwnedFd,
    how: Shutdown,
}

impl Wake for ShutDown {
    fn wake(&self) {
        // Fails only if the peer has gone, which ends the receive as well.
        let _ = rustix::net::shutdown(&self.socket, self.how);
    }
}

/// Whether a message will be there right after a send: so it is while requests are pipelined, and never in a ping-pong.
/// Learned from the last time that it was tried; tried now and then all the same.
#[derive(Debug, Default)]
struct Guess {
    prompt: bool,
    sends: u8,
    pending: bool,
}

impl Guess {
    const PROBE: u8 = 16;

    /// A message was sent: receive at once?
    fn after_send(&mut self) -> bool {
        self.sends = self.sends.wrapping_add(1);
        self.pending = self.prompt || self.sends.is_multiple_of(Self::PROBE);
        self.pending
    }

    /// What came of the next attempt.
    fn learn(&mut self, found: bool) {
        if std::mem::take(&mut self.pending) {
            self.prompt = found;
        }
    }
}

impl Nap {
    pub(super) fn new() -> Self {
        Self {
            eager: true,
            guess: Guess::default(),
            blocking: false,
            timeout: None,
            ended_by: None,
            spin: Spin::default(),
        }
    }

    /// From now on the receiving call may sleep. Attempts say for themselves that they do not.
    pub(super) fn allow_sleep(&mut self, carrier: &impl Carrier) {
        if let Source::Socket { fd, .. } = carrier.source() {
            self.blocking = rustix::io::ioctl_fionbio(fd, false).is_ok();
        }
    }

    /// Raising `abort` ends the session, too, where that makes waiting cheaper.
    pub(super) fn end_with(&mut self, carrier: &impl Carrier, abort: &Abort, role: Role) {
        let Source::Socket { fd, .. } = carrier.source() else { return };
        // Without a descriptor left, waits are as they were.
        let Ok(socket) = fd.try_clone_to_owned() else { return };
        // A server still answers the request that it is at; nobody answers a client that has given up.
        let how = if role == Role::Server { Shutdown::Read } else { Shutdown::Both };
        let shut_down = Arc::new(ShutDown { socket, how });
        self.ended_by = Some(abort.register(Arc::clone(&shut_down) as _));
        if abort.is_raised() {
            shut_down.wake();
        }
    }

    /// Something is about to be sent.
    pub(super) fn sending(&mut self) {
        self.eager = self.guess.after_send();
    }

    /// Receives, if an attempt is worth making.
    pub(super) fn try_recv(
        &mut self,
        carrier: &mut impl Carrier,
        space: &mut [u8],
    ) -> Result<Option<usize>, SessionError> {
        if !std::mem::replace(&mut self.eager, true) && matches!(carrier.source(), Source::Socket { .. }) {
            return Ok(None);
        }
        let received = carrier.try_recv(space)?;
        self.guess.learn(received.is_some());
        Ok(received)
    }

    /// Receives, asleep in the receiving call if need be; `None` where that would sleep through the end of `wait`.
    pub(super) fn recv_asleep(
        &mut self,
        carrier: &impl Carrier,
        space: &mut [u8],
        wait: &Wait<'_>,
    ) -> Result<Option<usize>, SessionError> {
        let abort = wait.abort();
        let ends_it = |abort: &Abort| self.ended_by.as_ref().is_some_and(|ended_by| ended_by.is_with(abort));
        let Source::Socket { fd, packets } = carrier.source() else { return Ok(None) };
        if !self.blocking || !abort.is_none_or(ends_it) {
            return Ok(None);
        }
        let timeout = match wait.remaining().map(receive_timeout) {
            Some(None) => return Ok(None),
            timeout => timeout.flatten(),
        };
        if timeout != self.timeout {
            sockopt::set_socket_timeout(fd, sockopt::Timeout::Recv, timeout)
                .map_err(SessionError::io("set the receive timeout"))?;
            self.timeout = timeout;
        }
        match recv_with(fd, space, packets, RecvFlags::empty()) {
            Err(SessionError::Closed) if abort.is_some_and(Abort::is_raised) => Err(SessionError::Aborted),
            received => received,
        }
    }

    /// Sleeps until an attempt is worth making. Whether one to receive is: it may be wrong, the attempt tells.
    pub(super) fn wait(
        &mut self,
        carrier: &mut impl Carrier,
        interest: Interest,
        wait: &Wait<'_>,
    ) -> Result<bool, SessionError> {
        if let Source::Socket { fd, .. } = carrier.source() {
            let events = match interest {
                Interest::Receive => PollFlags::IN,
                Interest::Send => PollFlags::OUT,
                Interest::Both => PollFlags::IN | PollFlags::OUT,
            };
            // A hang-up or an error is told by the next receive or send.
            let gone = PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL;
            let receive = wait.poll(fd, events)?.intersects(gone | PollFlags::IN);
            self.eager |= receive;
            return Ok(receive);
        }
        // What keeps a slot from sending is a response that has not come.
        if self.spin.until(|| (!carrier.arm()).then_some(())).is_some() {
            return Ok(true);
        }
        let mut registered = None;
        while carrier.arm() {
            let Source::Doorbell(bell) = carrier.source() else { break };
            if let Some(abort) = wait.abort()
                && registered.is_none()
            {
                registered = Some(abort.register(bell.wake()));
            }
            // After the registration: an abort that it has missed is seen here.
            wait.check()?;
            bell.sleep(wait.remaining())?;
        }
        Ok(true)
    }
}

/// How long a receive may sleep of the time that is left: at most half of it, since the kernel's coarse timers are late
/// by an eighth, and a power of two of milliseconds, so that calls with equal deadlines do not set it anew. `None` if
/// that is too short to be worth it: poll is exact.
fn receive_timeout(left: Duration) -> Option<Duration> {
    let half = u32::try_from(left.as_millis() / 2).unwrap_or(u32::MAX);
    (half >= 32).then(|| Duration::from_millis(1 << half.ilog2()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipeline_receives_without_waiting_and_a_ping_pong_waits_without_trying() {
        let attempts = |found: bool| {
            let mut guess = Guess::default();
            let mut attempts = 0;
            for _ in 0..160 {
                if guess.after_send() {
                    attempts += 1;
                    guess.learn(found);
                }
            }
            attempts
        };
        assert_eq!(attempts(false), 10, "one wasted attempt in sixteen");
        assert_eq!(attempts(true), 145, "from the first that succeeds");
    }

    #[test]
    fn a_receive_sleeps_for_at_most_half_of_what_is_left_in_steps_that_seldom_change() {
        let of = |millis| receive_timeout(Duration::from_millis(millis)).map(|timeout| timeout.as_millis());
        assert_eq!([of(0), of(63), of(64), of(127), of(128)], [None, None, Some(32), Some(32), Some(64)]);
        assert_eq!([of(29_999), of(30_000)], [Some(8192); 2], "calls with equal deadlines agree");
        assert_eq!(receive_timeout(Duration::MAX), Some(Duration::from_millis(1 << 31)));
    }
}
