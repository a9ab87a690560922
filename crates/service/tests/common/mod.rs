//! What the tests of this crate share: every carrier, and real processes that serve and call.
#![allow(dead_code, unreachable_pub)]

use ginnel_service::{
    BaselineClient, BaselineOptions, Failure, Interface, Request, Router, Server, ServerOptions, State,
};
use ginnel_session::{Endpoint, Limits, ServerConfig};
use ginnel_wire::Profiles;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub const CODE: u16 = 9;
/// The most any wait of a test may take: far above what is needed, so that only a hang reaches it.
pub const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carrier {
    Seqpacket,
    Stream,
    Tcp,
    Shm,
}

pub const CARRIERS: [Carrier; 4] = [Carrier::Seqpacket, Carrier::Stream, Carrier::Tcp, Carrier::Shm];

impl Carrier {
    /// `port` is for TCP; 0 lets the system choose.
    pub fn endpoint(self, dir: &Path, port: u16) -> Endpoint {
        match self {
            Self::Seqpacket | Self::Shm => Endpoint::seqpacket(dir, "svc").unwrap(),
            Self::Stream => Endpoint::stream(dir, "svc").unwrap(),
            Self::Tcp => Endpoint::tcp(([127, 0, 0, 1], port).into()).unwrap(),
        }
    }

    pub fn profiles(self) -> Profiles {
        if self == Self::Shm { Profiles::BASELINE | Profiles::SHM_HYBRID } else { Profiles::BASELINE }
    }

    pub fn server(self) -> ServerOptions {
        let session = ServerConfig {
            supported: self.profiles(),
            token: 7,
            max_request_payload: 0,
            max_response_payload: 0,
            ..Default::default()
        };
        ServerOptions { session, ..Default::default() }
    }

    pub fn client(self) -> BaselineOptions {
        let mut options = BaselineOptions::default();
        options.session.supported = self.profiles();
        options.session.token = 7;
        options.session.request = Limits { max_payload: 1024, max_items: 65536 };
        options
    }

    fn name(self) -> String {
        format!("{self:?}")
    }

    fn from_name(name: &str) -> Self {
        *CARRIERS.iter().find(|carrier| carrier.name() == name).expect("a carrier's name")
    }
}

/// Echoes, and does as it is told by what begins with an exclamation mark.
pub fn echo(request: &Request<'_>, response: &mut Vec<u8>) -> Result<(), Failure> {
    match request.payload {
        b"!panic" => panic!("told to"),
        b"!fail" => Err(Failure::Internal),
        b"!malformed" => Err(Failure::Malformed),
        b"!hang" => loop {
            std::thread::park();
        },
        payload if payload.starts_with(b"!size ") => {
            let size: usize = std::str::from_utf8(&payload[6..]).unwrap().parse().unwrap();
            response.resize(size, 5);
            Ok(())
        }
        payload => {
            response.extend_from_slice(payload);
            Ok(())
        }
    }
}

pub fn ready(endpoint: &Endpoint, options: BaselineOptions) -> BaselineClient {
    let mut client = BaselineClient::new(endpoint, options).unwrap();
    await_state(&mut client, State::Ready);
    client
}

pub fn await_state(client: &mut BaselineClient, state: State) {
    eventually(&format!("the client is {state}"), || client.refresh() == state);
}

pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) -> Duration {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < PATIENCE, "never: {what}");
        let_pass(Duration::from_millis(1));
    }
    begin.elapsed()
}

/// Sleeps. Only for time that is itself what a test is about, and never in the hope that something has happened
/// meanwhile: that is what [`eventually`] is for.
pub fn let_pass(time: Duration) {
    std::thread::sleep(time);
}

pub fn soon() -> Instant {
    Instant::now() + PATIENCE
}

pub fn files(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The full size of a long proof, or its short one.
pub fn size(short: usize, full: usize) -> usize {
    if std::env::var_os("GINNEL_SOAK").is_some_and(|value| value == "1") { full } else { short }
}

/// A generator of random moments that says how to repeat them.
pub struct Moments(u64);

impl Moments {
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        let seed = std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64 | 1;
        println!("moments {seed}");
        Self(seed)
    }

    /// Waits for the next of them, at most 3 ms away.
    pub fn pause(&mut self) {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        let_pass(Duration::from_micros(self.0 % 3000));
    }
}

/// Within 100 ms, but for the odd time when this machine runs something else: a tenth may be late, none by seconds.
pub fn assert_quick(mut noticed: Vec<Duration>, who: &str) {
    noticed.sort();
    let most = noticed[noticed.len() * 9 / 10 - usize::from(noticed.len() >= 10)];
    println!("{who}: median {:?}, nine tenths {most:?}, worst {:?}", noticed[noticed.len() / 2], noticed.last());
    assert!(most < Duration::from_millis(100), "{who} noticed after {noticed:?}");
    assert!(*noticed.last().unwrap() < Duration::from_secs(5), "{who} noticed after {noticed:?}");
}

/// A process of this test binary that plays `role`; killed on drop.
pub struct Process {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
}

impl Process {
    /// Starts this test binary again, to run only its test `child`, which calls [`play`].
    pub fn start(role: &str, carrier: Carrier, dir: &Path, port: u16, env: &[(&str, String)]) -> Self {
        Self::start_by(Command::new(std::env::current_exe().unwrap()), role, carrier, dir, port, env)
    }

    /// The same in a pid namespace of its own, where this process and it cannot see each other. Root only.
    pub fn start_in_namespace(role: &str, carrier: Carrier, dir: &Path) -> Self {
        let mut command = Command::new("unshare");
        command.args(["--pid", "--fork", "--kill-child"]).arg(std::env::current_exe().unwrap());
        Self::start_by(command, role, carrier, dir, 0, &[])
    }

    /// The same by a command that runs what follows it.
    pub fn start_by(
        mut command: Command,
        role: &str,
        carrier: Carrier,
        dir: &Path,
        port: u16,
        env: &[(&str, String)],
    ) -> Self {
        let mut child = command
            .args(["--exact", "child", "--nocapture"])
            .env("GINNEL_TEST_ROLE", role)
            .env("GINNEL_TEST_CARRIER", carrier.name())
            .env("GINNEL_TEST_DIR", dir)
            .env("GINNEL_TEST_PORT", port.to_string())
            .envs(env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, output }
    }

    /// The rest of the next line that begins with `word`.
    pub fn line(&mut self, word: &str) -> String {
        let mut line = String::new();
        loop {
            line.clear();
            assert_ne!(self.output.read_line(&mut line).unwrap(), 0, "the child ended before it said {word:?}");
            // The test harness may have begun the line.
            if let Some((_, rest)) = line.split_once(word) {
                return rest.trim().to_owned();
            }
        }
    }

    /// Gives it a line to read.
    pub fn tell(&mut self) {
        self.child.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    }

    /// SIGKILL; returns once the process is gone.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends SIGKILL and does not wait.
    pub fn kill_only(&mut self) {
        self.child.kill().unwrap();
    }

    /// Asks it to end by closing its input, and waits until it has.
    pub fn end(mut self) {
        drop(self.child.stdin.take());
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn env(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn number(name: &str) -> Option<u64> {
    env(name).map(|value| value.parse().unwrap())
}

/// What a child does: returns at once if this process is none.
pub fn play() {
    let Some(role) = env("GINNEL_TEST_ROLE") else { return };
    let carrier = Carrier::from_name(&env("GINNEL_TEST_CARRIER").unwrap());
    let dir = std::path::PathBuf::from(env("GINNEL_TEST_DIR").unwrap());
    let endpoint = carrier.endpoint(&dir, number("GINNEL_TEST_PORT").unwrap() as u16);
    match role.as_str() {
        "server" => {
            let mut options = carrier.server();
            options.session.token = number("GINNEL_TEST_TOKEN").unwrap_or(7);
            options.session.max_request_payload = number("GINNEL_TEST_REQUEST").unwrap_or(0) as u32;
            options.session.max_response_payload = number("GINNEL_TEST_RESPONSE").unwrap_or(0) as u32;
            if let Some(files) = number("GINNEL_TEST_FILES") {
                options.max_sessions = 10_000;
                let limit = rustix::process::Rlimit { current: Some(files), maximum: Some(files) };
                rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
            }
            let server = Server::start(&endpoint, options, CODE, echo).unwrap();
            println!("port {}", server.endpoint().tcp_address().map_or(0, |address| address.port()));
            std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
            println!("exhausted {}", server.counters().exhausted);
            server.stop();
        }
        // Serves both layouts.
        "router" => {
            let mut options = ServerOptions::default();
            options.session.supported = carrier.profiles() | Profiles::RING;
            options.session.token = 7;
            options.session.max_request_payload = 1 << 20;
            options.session.max_response_payload = 1 << 20;
            let router = Router::new(Interface::named("echo")).handler(CODE, "echo", echo);
            let server = Server::serve(&endpoint, options, router).unwrap();
            println!("serving ");
            std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
            server.stop();
        }
        // Takes the endpoint if it can, and says whether it could.
        "racer" => {
            println!("waiting ");
            let mut input = std::io::stdin().lock();
            input.read_line(&mut String::new()).unwrap();
            let server = Server::start(&endpoint, carrier.server(), CODE, echo);
            println!("took {}", server.is_ok());
            input.read_to_end(&mut Vec::new()).unwrap();
            // Abandoned, as a crash would.
            std::process::exit(0);
        }
        // Calls as fast as it can, until it is killed.
        "client" => {
            let mut client = ready(&endpoint, carrier.client());
            println!("calling ");
            loop {
                client.call(CODE, &[7; 100]).unwrap();
            }
        }
        other => panic!("no role {other:?}"),
    }
}
