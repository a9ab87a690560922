//! Socket carriers: seqpacket, Unix stream, TCP. Attempts never block. A wait is `poll`, which sees every deadline and abort;
//! where the socket itself can end the wait (`SO_RCVTIMEO` for its deadline, `shutdown` for its abort), the receiving call
//! sleeps, and a ping-pong costs each side two system calls instead of three.

use crate::carrier::{Carrier, Interest, Ready};
use crate::core::Role;
use crate::credentials::PeerCredentials;
use crate::endpoint::Endpoint;
use crate::error::{ConnectError, SessionError};
use crate::wait::{Abort, Registered, Wait, Wake};
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, SocketFlags, sockopt};
use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

/// What the kernel keeps of `SO_SNDBUF` for itself in a SEQPACKET message.
const SEQPACKET_OVERHEAD: usize = 32;
/// What streams propose: packets mean nothing there, but the field must be above 32.
const STREAM_PACKET_SIZE: u32 = 64 << 10;
/// A full backlog has no event to wait for; the first pause between attempts, and the longest.
const BACKLOG_PAUSE: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(16));

#[derive(Debug)]
pub(crate) struct Socket {
    fd: OwnedFd,
    packets: bool,
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

impl Socket {
    pub(crate) fn new(fd: OwnedFd, packets: bool) -> Self {
        Self { fd, packets, eager: true, guess: Guess::default(), blocking: false, timeout: None, ended_by: None }
    }

    pub(crate) fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// From now on the receiving call may sleep. Attempts say for themselves that they do not.
    pub(crate) fn allow_sleep(&mut self) {
        self.blocking = rustix::io::ioctl_fionbio(&self.fd, false).is_ok();
    }

    /// Receives, asleep in the receiving call if need be; `None` where that would sleep through the end of `wait`.
    fn recv_asleep(&mut self, space: &mut [u8], wait: &Wait<'_>) -> Result<Option<usize>, SessionError> {
        let abort = wait.abort();
        let ends_it = |abort: &Abort| self.ended_by.as_ref().is_some_and(|ended_by| ended_by.is_with(abort));
        if !self.blocking || !abort.is_none_or(ends_it) {
            return Ok(None);
        }
        let timeout = match wait.remaining().map(receive_timeout) {
            Some(None) => return Ok(None),
            timeout => timeout.flatten(),
        };
        if timeout != self.timeout {
            sockopt::set_socket_timeout(&self.fd, sockopt::Timeout::Recv, timeout)
                .map_err(SessionError::io("set the receive timeout"))?;
            self.timeout = timeout;
        }
        match recv_with(&self.fd, space, self.packets, RecvFlags::empty()) {
            Err(SessionError::Closed) if abort.is_some_and(Abort::is_raised) => Err(SessionError::Aborted),
            received => received,
        }
    }
}

/// How long a receive may sleep of the time that is left: at most half of it, since the kernel's coarse timers are late by an
/// eighth, and a power of two of milliseconds, so that calls with equal deadlines do not set it anew. `None` if that is too
/// short to be worth it: poll is exact.
fn receive_timeout(left: Duration) -> Option<Duration> {
    let half = u32::try_from(left.as_millis() / 2).unwrap_or(u32::MAX);
    (half >= 32).then(|| Duration::from_millis(1 << half.ilog2()))
}

impl Carrier for Socket {
    fn try_send(&mut self, head: &[u8], body: &[u8]) -> Result<Option<usize>, SessionError> {
        self.eager = self.guess.after_send();
        send(&self.fd, head, body)
    }

    fn try_recv(&mut self, space: &mut [u8]) -> Result<Option<usize>, SessionError> {
        if !std::mem::replace(&mut self.eager, true) {
            return Ok(None);
        }
        let received = recv(&self.fd, space, self.packets)?;
        self.guess.learn(received.is_some());
        Ok(received)
    }

    fn recv(&mut self, space: &mut [u8], wait: &Wait<'_>) -> Result<usize, SessionError> {
        if let Some(len) = self.recv_asleep(space, wait)? {
            return Ok(len);
        }
        // Not at all, or not for as long as `wait` allows.
        loop {
            if let Some(len) = self.try_recv(space)? {
                return Ok(len);
            }
            self.wait(Interest::Receive, wait)?;
        }
    }

    fn end_with(&mut self, abort: &Abort, role: Role) {
        // Without a descriptor left, waits are as they were.
        let Ok(socket) = self.fd.try_clone() else { return };
        // A server still answers the request that it is at; nobody answers a client that has given up.
        let how = if role == Role::Server { Shutdown::Read } else { Shutdown::Both };
        let shut_down = Arc::new(ShutDown { socket, how });
        self.ended_by = Some(abort.register(Arc::clone(&shut_down) as _));
        if abort.is_raised() {
            shut_down.wake();
        }
    }

    fn wait(&mut self, interest: Interest, wait: &Wait<'_>) -> Result<Ready, SessionError> {
        let events = match interest {
            Interest::Receive => PollFlags::IN,
            Interest::Send => PollFlags::OUT,
            Interest::Both => PollFlags::IN | PollFlags::OUT,
        };
        let ready = wait.poll(self.fd.as_fd(), events)?;
        // A hang-up or an error is told by the next receive or send.
        let gone = ready.intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL);
        let receive = gone || ready.contains(PollFlags::IN);
        self.eager |= receive;
        Ok(Ready { receive, send: gone || ready.contains(PollFlags::OUT) })
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Sends a packet, or as much as a stream takes; `None` if it would block.
pub(crate) fn send(fd: impl AsFd, head: &[u8], body: &[u8]) -> Result<Option<usize>, SessionError> {
    let parts = [IoSlice::new(head), IoSlice::new(body)];
    loop {
        let sent = rustix::net::sendmsg(
            &fd,
            &parts,
            &mut SendAncillaryBuffer::default(),
            SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
        );
        return match sent {
            Ok(len) => Ok(Some(len)),
            Err(Errno::AGAIN) => Ok(None),
            Err(Errno::INTR) => continue,
            Err(errno) => Err(SessionError::io("send")(errno)),
        };
    }
}

/// Receives a packet or, if not `packets`, what a stream has. The length exceeds `space` if a packet was cut. `None` if it
/// would block.
pub(crate) fn recv(fd: impl AsFd, space: &mut [u8], packets: bool) -> Result<Option<usize>, SessionError> {
    recv_with(fd, space, packets, RecvFlags::DONTWAIT)
}

fn recv_with(fd: impl AsFd, space: &mut [u8], packets: bool, flags: RecvFlags) -> Result<Option<usize>, SessionError> {
    // TRUNC tells a packet's real length. On TCP it would throw the bytes away.
    let flags = if packets { flags | RecvFlags::TRUNC } else { flags };
    let mut reset = false;
    loop {
        return match rustix::net::recv(&fd, &mut *space, flags) {
            Ok((_, 0)) => Err(SessionError::Closed),
            Ok((_, len)) => Ok(Some(len)),
            Err(Errno::AGAIN) => Ok(None),
            // One that sleeps goes back to its caller, or signals would carry it past its deadline.
            Err(Errno::INTR) if !flags.contains(RecvFlags::DONTWAIT) => Ok(None),
            Err(Errno::INTR) => continue,
            // A peer that closes with unread bytes resets the connection, which is reported before its last message is.
            Err(Errno::CONNRESET) if !std::mem::replace(&mut reset, true) => continue,
            Err(errno) => Err(SessionError::io("receive")(errno)),
        };
    }
}

pub(crate) fn unbound_socket(endpoint: &Endpoint) -> Result<OwnedFd, Errno> {
    let (family, kind) = endpoint.family();
    rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)
}

/// Connects and hangs up: is there a server?
pub(crate) fn probe(endpoint: &Endpoint) -> Result<(), Errno> {
    let socket = unbound_socket(endpoint)?;
    endpoint.connect(&socket)
}

/// Connects before `wait` is over.
pub(crate) fn connect(endpoint: &Endpoint, wait: &Wait<'_>) -> Result<OwnedFd, ConnectError> {
    let failed = |errno: Errno| ConnectError::not_connected(endpoint, errno);
    let socket = unbound_socket(endpoint).map_err(failed)?;
    let mut pause = BACKLOG_PAUSE.0;
    loop {
        wait.check().map_err(ConnectError::Session)?;
        match endpoint.connect(&socket) {
            Ok(()) | Err(Errno::ISCONN) => break,
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                wait.pause(pause).map_err(ConnectError::Session)?;
                pause = (pause * 2).min(BACKLOG_PAUSE.1);
            }
            Err(Errno::INPROGRESS) => {
                wait.poll(socket.as_fd(), PollFlags::OUT).map_err(ConnectError::Session)?;
                sockopt::socket_error(&socket).and_then(|outcome| outcome).map_err(failed)?;
                break;
            }
            Err(errno) => return Err(failed(errno)),
        }
    }
    connected(&socket, endpoint).map_err(failed)?;
    Ok(socket)
}

/// A connection attempt has succeeded: sets the options, and refuses a connection with oneself. TCP makes such a one when
/// nobody listens on a port that the system has just picked for this very socket.
pub(crate) fn connected(socket: &OwnedFd, endpoint: &Endpoint) -> Result<(), Errno> {
    if endpoint.tcp_address().is_some() && Some(rustix::net::getsockname(socket)?) == rustix::net::getpeername(socket)?
    {
        return Err(Errno::CONNREFUSED);
    }
    prepare(socket, endpoint);
    Ok(())
}

/// Options of a connected socket. Requests and responses are whole messages: Nagle would only delay them. A host that
/// disappears says nothing: keep-alive finds out.
pub(crate) fn prepare(socket: &OwnedFd, endpoint: &Endpoint) {
    if endpoint.tcp_address().is_some() {
        let _ = sockopt::set_tcp_nodelay(socket, true);
        let _ = sockopt::set_socket_keepalive(socket, true);
    }
}

/// The largest packet to propose: what the kernel really takes.
pub(crate) fn packet_size(socket: impl AsFd, endpoint: &Endpoint, configured: Option<u32>) -> u32 {
    if let Some(size) = configured {
        return size;
    }
    if !endpoint.is_seqpacket() {
        return STREAM_PACKET_SIZE;
    }
    let buffer = sockopt::socket_send_buffer_size(socket).unwrap_or(STREAM_PACKET_SIZE as usize);
    u32::try_from(buffer.saturating_sub(SEQPACKET_OVERHEAD)).unwrap_or(u32::MAX)
}

/// Who is at the other end; `None` for TCP.
pub(crate) fn peer_credentials(socket: impl AsFd, endpoint: &Endpoint) -> Option<PeerCredentials> {
    if endpoint.tcp_address().is_some() {
        return None;
    }
    crate::sys::peer_credentials(socket.as_fd()).ok()
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

    #[test]
    fn a_tcp_socket_that_has_connected_to_itself_has_found_no_server() {
        let any = Endpoint::tcp("127.0.0.1:0".parse().unwrap()).unwrap();
        let socket = unbound_socket(&any).unwrap();
        rustix::net::bind(&socket, &any.tcp_address().unwrap()).unwrap();
        let own: std::net::SocketAddr = rustix::net::getsockname(&socket).unwrap().try_into().unwrap();
        let endpoint = Endpoint::tcp(own).unwrap();
        match endpoint.connect(&socket) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(errno) => panic!("{errno}"),
        }
        Wait::at_most(Duration::from_secs(30)).poll(socket.as_fd(), PollFlags::OUT).unwrap();
        assert_eq!(connected(&socket, &endpoint), Err(Errno::CONNREFUSED));
    }
}
