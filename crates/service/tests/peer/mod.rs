//! The other process of the tests of the pipelined client: a server whose methods do what such a client must cope with.
#![allow(dead_code, unreachable_pub)]

use ginnel_service::{
    ApplicationError, CallOptions, Client, ClientOptions, Execution, Failure, Interface, OwnedRequest, Request,
    Responder, Router, Server, ServerOptions, Sink,
};
use ginnel_session::{Endpoint, ServerConfig};
use ginnel_wire::Profiles;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The most any wait of a test may take: far above what is needed, so that only a hang reaches it.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub const ECHO: u16 = 1;
/// Answered when RELEASE comes, the last first.
pub const HOLD: u16 = 2;
pub const RELEASE: u16 = 3;
/// As many items as the u32 says.
pub const ITEMS: u16 = 4;
pub const FAIL: u16 = 5;
/// Never answered. That it is not wanted any more is counted.
pub const NEVER: u16 = 6;
/// How often something happened: see [`Counts`].
pub const COUNTS: u16 = 7;
pub const NOTE: u16 = 8;
/// Takes as many milliseconds as the u32 says.
pub const SLOW: u16 = 9;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Seqpacket,
    Stream,
    Tcp,
    Ring,
    /// A server of layout 1.
    Plain,
}

pub const LAYOUT_2: [Kind; 4] = [Kind::Ring, Kind::Seqpacket, Kind::Stream, Kind::Tcp];
pub const KINDS: [Kind; 5] = [Kind::Ring, Kind::Seqpacket, Kind::Stream, Kind::Tcp, Kind::Plain];

impl Kind {
    pub fn endpoint(self, dir: &Path, port: u16) -> Endpoint {
        match self {
            Self::Seqpacket | Self::Ring | Self::Plain => Endpoint::seqpacket(dir, "svc").unwrap(),
            Self::Stream => Endpoint::stream(dir, "svc").unwrap(),
            Self::Tcp => Endpoint::tcp(([127, 0, 0, 1], port).into()).unwrap(),
        }
    }

    fn profiles(self) -> Profiles {
        if self == Self::Ring { Profiles::BASELINE | Profiles::RING } else { Profiles::BASELINE }
    }

    pub fn server(self) -> ServerOptions {
        let mut session = ServerConfig {
            supported: self.profiles(),
            token: 7,
            max_request_payload: 1 << 20,
            max_response_payload: 1 << 20,
            ..ServerOptions::default().session
        };
        if self == Self::Plain {
            session.layout_2 = None;
        }
        ServerOptions { session, ..Default::default() }
    }

    pub fn options(self) -> ClientOptions {
        let mut options = ClientOptions::default();
        options.session.token = 7;
        options.session.supported = self.profiles();
        options
    }
}

#[derive(Debug, Default)]
struct Counts {
    echoes: AtomicU64,
    notes: AtomicU64,
    unwanted: AtomicU64,
    begun: AtomicU64,
}

/// Requests that wait for RELEASE.
type Held = Mutex<Vec<(Vec<u8>, Responder)>>;

pub fn router() -> Router {
    let counts = Arc::new(Counts::default());
    let held: Arc<Held> = Arc::default();
    let number = |payload: &[u8]| u32::from_ne_bytes(payload.try_into().unwrap());
    let (echoes, holding, releasing) = (Arc::clone(&counts), Arc::clone(&held), Arc::clone(&held));
    let (never, notes, told) = (Arc::clone(&counts), Arc::clone(&counts), Arc::clone(&counts));
    Router::new(Interface::named("peer"))
        .handler(ECHO, "echo", move |request: &Request<'_>, response: &mut Vec<u8>| -> Result<(), Failure> {
            echoes.echoes.fetch_add(1, Ordering::Relaxed);
            response.extend_from_slice(request.payload);
            Ok(())
        })
        .responder(HOLD, "hold", move |request: OwnedRequest, responder: Responder| {
            holding.lock().unwrap().push((request.payload().to_vec(), responder));
        })
        .handler(RELEASE, "release", move |_: &Request<'_>, response: &mut Vec<u8>| -> Result<(), Failure> {
            let held = std::mem::take(&mut *releasing.lock().unwrap());
            response.extend((held.len() as u32).to_ne_bytes());
            for (payload, responder) in held.into_iter().rev() {
                responder.respond(payload);
            }
            Ok(())
        })
        .stream(ITEMS, "items", move |request: OwnedRequest, mut sink: Sink| {
            for item in 0..number(request.payload()) {
                if sink.item(item.to_ne_bytes().to_vec()).is_err() {
                    return;
                }
            }
            sink.finish();
        })
        .handler(FAIL, "fail", |request: &Request<'_>, _: &mut Vec<u8>| -> Result<(), Failure> {
            let error = ApplicationError::new(42, "as you wish").retryable().with_details(request.payload.to_vec());
            Err(error.into())
        })
        .responder(NEVER, "never", move |request: OwnedRequest, responder: Responder| {
            never.begun.fetch_add(1, Ordering::Relaxed);
            let counts = Arc::clone(&never);
            // The hook owns the responder: it answers when nobody wants it.
            let responder = Mutex::new(Some(responder));
            request.context().on_unwanted(move || {
                counts.unwanted.fetch_add(1, Ordering::Relaxed);
                drop(responder.lock().unwrap().take());
            });
        })
        .one_way(NOTE, "note", move |_: &Request<'_>| {
            notes.notes.fetch_add(1, Ordering::Relaxed);
            Ok(())
        })
        .handler(COUNTS, "counts", move |_: &Request<'_>, response: &mut Vec<u8>| -> Result<(), Failure> {
            for count in [&told.echoes, &told.notes, &told.unwanted, &told.begun] {
                response.extend(count.load(Ordering::Relaxed).to_ne_bytes());
            }
            Ok(())
        })
        .handler(SLOW, "slow", move |request: &Request<'_>, response: &mut Vec<u8>| -> Result<(), Failure> {
            std::thread::sleep(Duration::from_millis(number(request.payload).into()));
            response.extend_from_slice(request.payload);
            Ok(())
        })
        // A pool that is full refuses what is more, and nobody is told of a one-way call.
        .execution(NOTE, Execution::Inline)
        .hash(ECHO, 11)
}

/// What the server has counted: echoes, notes, calls to NEVER that nobody wanted any more, and those that were begun.
pub fn counts(client: &Client) -> [u64; 4] {
    let told = client.call(COUNTS, b"").unwrap();
    std::array::from_fn(|at| u64::from_ne_bytes(told[at * 8..at * 8 + 8].try_into().unwrap()))
}

pub fn idempotent() -> CallOptions {
    CallOptions::default().idempotent()
}

pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < PATIENCE, "never: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The full size of a long proof, or its short one.
pub fn size(short: usize, full: usize) -> usize {
    if std::env::var_os("GINNEL_SOAK").is_some_and(|value| value == "1") { full } else { short }
}

/// A server in a process of its own, killed on drop.
pub struct Peer {
    child: Child,
    _output: BufReader<ChildStdout>,
    pub endpoint: Endpoint,
    kind: Kind,
}

impl Peer {
    pub fn start(kind: Kind, dir: &Path) -> Self {
        println!("against {kind:?}");
        Self::start_at(kind, dir, 0)
    }

    pub fn start_at(kind: Kind, dir: &Path, port: u16) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--nocapture"])
            .env("GINNEL_TEST_PEER", format!("{kind:?}"))
            .env("GINNEL_TEST_DIR", dir)
            .env("GINNEL_TEST_PORT", port.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let port = loop {
            let mut line = String::new();
            assert_ne!(output.read_line(&mut line).unwrap(), 0, "the server ended before it served");
            if let Some((_, port)) = line.split_once("port ") {
                break port.trim().parse().unwrap();
            }
        };
        Self { child, _output: output, endpoint: kind.endpoint(dir, port), kind }
    }

    pub fn client(&self) -> Client {
        self.client_with(|_| {})
    }

    pub fn client_with(&self, change: impl FnOnce(&mut ClientOptions)) -> Client {
        let mut options = self.kind.options();
        change(&mut options);
        Client::new(&self.endpoint, options).unwrap()
    }

    pub fn pid(&self) -> rustix::process::Pid {
        rustix::process::Pid::from_child(&self.child)
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(self.pid(), signal).unwrap();
    }

    /// SIGKILL, and waits for its end.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Asks it to drain and end, and does not wait.
    pub fn begin_end(&mut self) {
        drop(self.child.stdin.take());
    }

    /// Waits for its end.
    pub fn wait(mut self) {
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the child does: returns at once if this process is none.
pub fn play() {
    let Ok(name) = std::env::var("GINNEL_TEST_PEER") else { return };
    let kind = KINDS.into_iter().find(|kind| format!("{kind:?}") == name).unwrap();
    let dir = PathBuf::from(std::env::var_os("GINNEL_TEST_DIR").unwrap());
    let port = std::env::var("GINNEL_TEST_PORT").unwrap().parse().unwrap();
    let server = Server::serve(&kind.endpoint(&dir, port), kind.server(), router()).unwrap();
    println!("port {}", server.endpoint().tcp_address().map_or(0, |address| address.port()));
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
    let _ = server.drain(PATIENCE);
}
