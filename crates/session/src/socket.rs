//! Sockets before they carry a session: connecting, options, what the kernel knows of the peer.

use crate::credentials::PeerCredentials;
use crate::endpoint::Endpoint;
use crate::error::ConnectError;
use crate::wait::Wait;
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{SocketFlags, sockopt};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

/// What the kernel keeps of `SO_SNDBUF` for itself in a SEQPACKET message.
const SEQPACKET_OVERHEAD: usize = 32;
/// What streams propose: packets mean nothing there, but the field must be above 32.
const STREAM_PACKET_SIZE: u32 = 64 << 10;
/// A full backlog has no event to wait for; the first pause between attempts, and the longest.
const BACKLOG_PAUSE: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(16));

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

/// A connection attempt has succeeded: sets the options, and refuses a connection with oneself. TCP makes such a one
/// when nobody listens on a port that the system has just picked for this very socket.
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

/// The largest packet to propose: what the kernel really takes, or what is configured if that is less.
pub(crate) fn packet_size(socket: impl AsFd, endpoint: &Endpoint, configured: Option<u32>) -> u32 {
    if !endpoint.is_seqpacket() {
        return configured.unwrap_or(STREAM_PACKET_SIZE);
    }
    let buffer = sockopt::socket_send_buffer_size(socket).unwrap_or(STREAM_PACKET_SIZE as usize);
    let most = u32::try_from(buffer.saturating_sub(SEQPACKET_OVERHEAD)).unwrap_or(u32::MAX);
    configured.map_or(most, |size| size.min(most))
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
