//! What the tests of this crate share: run directories, every carrier, raw sockets whose bytes the tests write.
#![allow(dead_code, unreachable_pub)]

use ginnel_session::{ClientConfig, Endpoint, Limits, Listener, ServerConfig, Session, Wait};
use ginnel_wire::Profiles;
use rustix::fd::OwnedFd;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType};
use rustix::thread::Pid;
use std::path::Path;
use std::time::{Duration, Instant};

/// The most any wait of a test may take: far above what is needed, so that only a hang reaches it.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub fn patience() -> Wait<'static> {
    Wait::at_most(PATIENCE)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carrier {
    Seqpacket,
    Stream,
    Tcp,
    Shm,
}

pub const CARRIERS: [Carrier; 4] = [Carrier::Seqpacket, Carrier::Stream, Carrier::Tcp, Carrier::Shm];
pub const SOCKETS: [Carrier; 3] = [Carrier::Seqpacket, Carrier::Stream, Carrier::Tcp];

impl Carrier {
    pub fn endpoint(self, dir: &Path) -> Endpoint {
        match self {
            Self::Seqpacket | Self::Shm => Endpoint::seqpacket(dir, "svc").unwrap(),
            Self::Stream => Endpoint::stream(dir, "svc").unwrap(),
            Self::Tcp => Endpoint::tcp("127.0.0.1:0".parse().unwrap()).unwrap(),
        }
    }

    pub fn profiles(self) -> Profiles {
        if self == Self::Shm { Profiles::BASELINE | Profiles::SHM_HYBRID } else { Profiles::BASELINE }
    }

    pub fn server(self, limit: u32) -> ServerConfig {
        ServerConfig {
            supported: self.profiles(),
            max_request_payload: limit,
            max_response_payload: limit,
            token: 7,
            backlog: 128,
            ..Default::default()
        }
    }

    pub fn client(self, limit: u32, items: u32) -> ClientConfig {
        let limits = Limits { max_payload: limit, max_items: items };
        ClientConfig { supported: self.profiles(), request: limits, response: limits, token: 7, ..Default::default() }
    }

    /// Both ends of a session.
    pub fn pair(self, dir: &Path, limit: u32, items: u32) -> (Session, Session) {
        let listener = Listener::bind(&self.endpoint(dir), self.server(limit)).unwrap();
        let (client, server) = connect_to(&listener, &self.client(limit, items));
        assert_eq!(client.agreement().profile.is_shared_memory(), self == Self::Shm);
        (client, server)
    }
}

/// One more session with `listener`.
pub fn connect_to(listener: &Listener, config: &ClientConfig) -> (Session, Session) {
    std::thread::scope(|scope| {
        let server = scope.spawn(|| listener.accept(&patience()).unwrap().handshake(&patience()).unwrap());
        let client = Session::connect(listener.endpoint(), config, &patience()).unwrap();
        (client, server.join().unwrap())
    })
}

/// The calling thread, for [`asleep_in`] and [`until_asleep`].
pub fn this_thread() -> Pid {
    rustix::thread::gettid()
}

/// The system call in which a thread of this process sleeps; `None` while it runs.
pub fn asleep_in(thread: Pid) -> Option<i64> {
    ginnel_testing::asleep_in(thread.as_raw_nonzero().get().cast_unsigned())
}

/// The system call by which a session sleeps on its region and on what its own process does. Where there is none (under
/// qemu) it sleeps on the region, for a slice at a time.
pub fn two_words() -> i64 {
    if ginnel_testing::is_emulated() { libc::SYS_futex } else { libc::SYS_futex_waitv }
}

/// Waits until `thread` sleeps where it waits for its peer, and says in which system call.
pub fn until_asleep(thread: Pid) -> i64 {
    const WAITS: [i64; 4] = [libc::SYS_ppoll, libc::SYS_recvfrom, libc::SYS_futex, libc::SYS_futex_waitv];
    let mut call = None;
    eventually("the thread sleeps", || {
        call = asleep_in(thread);
        call.is_some_and(|call| WAITS.contains(&call))
    });
    call.unwrap()
}

/// How often `thread` has gone to sleep so far.
pub fn sleeps(thread: Pid) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/self/task/{}/status", thread.as_raw_nonzero())).unwrap();
    let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).unwrap();
    count.trim().parse().unwrap()
}

/// Looks again and again until `condition` holds.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < PATIENCE, "never: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A payload of which no byte is where another's should be.
pub fn pattern(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|at| (at.wrapping_mul(31) ^ (at >> 8) ^ seed) as u8).collect()
}

/// A raw seqpacket peer: what it says is written byte by byte in the tests.
pub struct Raw(pub OwnedFd);

impl Raw {
    pub fn connect(path: &Path) -> Self {
        let socket = raw_socket();
        rustix::net::connect(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
        Self(socket)
    }

    pub fn send(&self, bytes: &[u8]) {
        assert_eq!(rustix::net::send(&self.0, bytes, SendFlags::NOSIGNAL).unwrap(), bytes.len());
    }

    /// The next packet; empty when the peer has closed.
    pub fn recv(&self) -> Vec<u8> {
        let mut buffer = vec![0; 1 << 20];
        let (_, len) = rustix::net::recv(&self.0, &mut buffer[..], RecvFlags::empty()).unwrap();
        buffer.truncate(len);
        buffer
    }

    /// Accepts one connection on a listening raw socket.
    pub fn accept(&self) -> Self {
        let socket = rustix::net::accept_with(&self.0, SocketFlags::CLOEXEC).unwrap();
        set_timeout(&socket);
        Self(socket)
    }

    pub fn listen(path: &Path) -> Self {
        let socket = raw_socket();
        rustix::net::bind(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
        rustix::net::listen(&socket, 16).unwrap();
        Self(socket)
    }
}

fn raw_socket() -> OwnedFd {
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    set_timeout(&socket);
    socket
}

fn set_timeout(socket: &OwnedFd) {
    use rustix::net::sockopt::{Timeout, set_socket_timeout};
    set_socket_timeout(socket, Timeout::Recv, Some(PATIENCE)).unwrap();
    set_socket_timeout(socket, Timeout::Send, Some(PATIENCE)).unwrap();
}

/// The full size of a long proof, or its short one.
pub fn size(short: usize, full: usize) -> usize {
    if std::env::var_os("GINNEL_SOAK").is_some_and(|value| value == "1") { full } else { short }
}
