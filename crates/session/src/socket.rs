//! Socket carriers: seqpacket, Unix stream, TCP. All non-blocking; waiting is `poll`, so that every wait has a deadline
//! and can be aborted.

use crate::carrier::{Carrier, Interest, Ready};
use crate::credentials::PeerCredentials;
use crate::endpoint::Endpoint;
use crate::error::{ConnectError, SessionError};
use crate::wait::Wait;
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, SocketFlags, sockopt};
use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
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
        Self { fd, packets, eager: true, guess: Guess::default() }
    }
}

impl Socket {
    pub(crate) fn into_fd(self) -> OwnedFd {
        self.fd
    }
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
    // TRUNC tells a packet's real length. On TCP it would throw the bytes away.
    let flags = if packets { RecvFlags::TRUNC | RecvFlags::DONTWAIT } else { RecvFlags::DONTWAIT };
    let mut reset = false;
    loop {
        return match rustix::net::recv(&fd, &mut *space, flags) {
            Ok((_, 0)) => Err(SessionError::Closed),
            Ok((_, len)) => Ok(Some(len)),
            Err(Errno::AGAIN) => Ok(None),
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
    let not_found = |errno: Errno| ConnectError::NotFound { endpoint: endpoint.to_string(), source: errno.into() };
    let socket = unbound_socket(endpoint).map_err(not_found)?;
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
                sockopt::socket_error(&socket).and_then(|outcome| outcome).map_err(not_found)?;
                break;
            }
            Err(errno) => return Err(not_found(errno)),
        }
    }
    connected(&socket, endpoint).map_err(not_found)?;
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
