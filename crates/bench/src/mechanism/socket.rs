//! Sockets: a pair, the three kinds of Unix sockets by name, TCP.

use super::{Facts, Link, Mechanism, Role, Transport};
use crate::plan::Plan;
use crate::port::{For, Port, read_whole, write_whole};
use rustix::fd::{AsFd, OwnedFd};
use rustix::net::sockopt::{
    set_socket_recv_buffer_size, set_socket_send_buffer_size, set_tcp_nodelay, socket_send_buffer_size,
};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect, listen,
    recv, send, socket_with, socketpair,
};
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};

/// A connected socket of one kind.
#[derive(Clone, Copy)]
pub(super) enum Socket {
    Pair,
    Stream,
    Seqpacket,
    Datagram,
    Tcp { no_delay: bool },
}

/// One end of it.
pub(super) struct End {
    port: Port,
    packets: bool,
    buffer: Option<u64>,
}

impl Mechanism for Socket {
    type End = End;

    fn facts(&self) -> Facts {
        let facts = match self {
            Self::Pair => Facts::new("socketpair", "an unnamed pair of Unix stream sockets"),
            Self::Stream => Facts::new("uds-stream", "Unix stream socket"),
            Self::Seqpacket => Facts::new("uds-seqpacket", "Unix socket that keeps packets"),
            Self::Datagram => Facts::new("uds-dgram", "two Unix datagram sockets"),
            Self::Tcp { no_delay: true } => Facts::new("tcp", "TCP with TCP_NODELAY"),
            Self::Tcp { no_delay: false } => Facts::new("tcp-delay", "TCP as the kernel sets it up, with Nagle's rule"),
        };
        Facts { has_buffer: true, local: !matches!(self, Self::Tcp { .. }), ..facts }
    }

    fn refuses(&self, plan: &Plan) -> Option<String> {
        if !matches!(self, Self::Seqpacket | Self::Datagram) {
            return None;
        }
        // A packet is one buffer in the kernel, which must fit the socket's send buffer with its own bookkeeping.
        let wanted = plan.buffer.map_or_else(default_buffer, |bytes| (2 * bytes).min(2 * most_buffer()));
        let limit = wanted.saturating_sub(PACKET_OVERHEAD);
        (plan.size > limit).then(|| {
            format!("a packet of this socket has at most {limit} bytes (its send buffer less {PACKET_OVERHEAD}); --buffer-size raises it")
        })
    }

    async fn open(&self, role: Role, link: &mut Link<'_>) -> io::Result<End> {
        let (fd, buffer) = match self {
            Self::Pair => pair(role, link)?,
            Self::Stream => by_name(SocketType::STREAM, role, link)?,
            Self::Seqpacket => by_name(SocketType::SEQPACKET, role, link)?,
            Self::Datagram => datagrams(role, link)?,
            Self::Tcp { no_delay } => tcp(*no_delay, role, link)?,
        };
        let packets = matches!(self, Self::Seqpacket | Self::Datagram);
        Ok(End { port: link.port(fd)?, packets, buffer })
    }
}

/// What the kernel takes off the send buffer for one packet.
const PACKET_OVERHEAD: usize = 32;

fn number(path: &str) -> Option<usize> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn default_buffer() -> usize {
    number("/proc/sys/net/core/wmem_default").unwrap_or(212_992)
}

fn most_buffer() -> usize {
    number("/proc/sys/net/core/wmem_max").unwrap_or(212_992)
}

/// Sets the buffers if they are asked for, and reads one back (the kernel doubles it for its bookkeeping).
fn apply(socket: impl AsFd, plan: &Plan) -> io::Result<Option<u64>> {
    let Some(bytes) = plan.buffer else { return Ok(None) };
    set_socket_send_buffer_size(&socket, bytes)?;
    set_socket_recv_buffer_size(&socket, bytes)?;
    Ok(Some(socket_send_buffer_size(&socket)? as u64))
}

type Opened = io::Result<(OwnedFd, Option<u64>)>;

fn pair(role: Role, link: &mut Link<'_>) -> Opened {
    let own = match role {
        Role::Server => {
            let (own, other) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
            link.give(&(), &[other.as_fd()])?;
            own
        }
        Role::Client => {
            let [own] = link.take_fds()?;
            own
        }
    };
    let buffer = apply(&own, link.plan())?;
    Ok((own, buffer))
}

fn unix(kind: SocketType) -> io::Result<OwnedFd> {
    Ok(socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?)
}

fn by_name(kind: SocketType, role: Role, link: &mut Link<'_>) -> Opened {
    let path = link.path("s")?;
    let address = SocketAddrUnix::new(&path)?;
    let own = unix(kind)?;
    if role == Role::Client {
        link.take::<()>()?;
        let buffer = apply(&own, link.plan())?;
        connect(&own, &address)?;
        return Ok((own, buffer));
    }
    bind(&own, &address)?;
    let accepted = listen(&own, 1).map_err(io::Error::from).and_then(|()| {
        link.give(&(), &[])?;
        rustix::io::retry_on_intr(|| accept_with(&own, SocketFlags::CLOEXEC)).map_err(io::Error::from)
    });
    let _ = std::fs::remove_file(&path); // nobody else needs the name
    let accepted = accepted?;
    let buffer = apply(&accepted, link.plan())?;
    Ok((accepted, buffer))
}

/// Each side binds a name and connects to the other's.
fn datagrams(role: Role, link: &mut Link<'_>) -> Opened {
    let (name, other) = match role {
        Role::Server => ("s", "c"),
        Role::Client => ("c", "s"),
    };
    let (path, other) = (link.path(name)?, link.path(other)?);
    let own = unix(SocketType::DGRAM)?;
    bind(&own, &SocketAddrUnix::new(&path)?)?;
    let connected = (|| {
        let buffer = apply(&own, link.plan())?;
        // Both have bound, then both have connected: only then may the names go.
        for step in 0..2 {
            link.give(&(), &[])?;
            link.take::<()>()?;
            if step == 0 {
                connect(&own, &SocketAddrUnix::new(&other)?)?;
            }
        }
        Ok(buffer)
    })();
    let _ = std::fs::remove_file(&path); // nobody else needs the name
    connected.map(|buffer| (own, buffer))
}

fn tcp(no_delay: bool, role: Role, link: &mut Link<'_>) -> Opened {
    let stream = match role {
        Role::Server => {
            let listener = TcpListener::bind(link.plan().host)?;
            link.give(&listener.local_addr()?.port(), &[])?;
            listener.accept()?.0
        }
        Role::Client => {
            let (port, _) = link.take::<u16>()?;
            TcpStream::connect(SocketAddr::new(link.plan().host.ip(), port))?
        }
    };
    set_tcp_nodelay(&stream, no_delay)?;
    let buffer = apply(&stream, link.plan())?;
    Ok((stream.into(), buffer))
}

impl Transport for End {
    #[inline]
    async fn send(&mut self, message: &[u8]) -> io::Result<()> {
        if !self.packets {
            return write_whole(&self.port, message).await;
        }
        self.port.attempt(For::Writing, |fd| send(fd, message, SendFlags::NOSIGNAL)).await.map(|_| ())
    }

    #[inline]
    async fn recv(&mut self, message: &mut Vec<u8>) -> io::Result<usize> {
        if !self.packets {
            return read_whole(&self.port, message).await;
        }
        let len = self.port.attempt(For::Reading, |fd| recv(fd, &mut message[..], RecvFlags::TRUNC)).await?.1;
        if len == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(len) }
    }

    fn buffer(&self) -> Option<u64> {
        self.buffer
    }
}
