//! A process with little memory: a message that it has no room for ends its session with a reason, and nothing else.

mod common;

use common::{Carrier, patience};
use ginnel_session::{Endpoint, Listener, Session, SessionError};
use ginnel_wire::{Envelope, Status};
use rustix::process::{Resource, Rlimit};
use std::path::Path;
use std::process::{Child, Command, Stdio};

const PART: &str = "GINNEL_TEST_SCARCE_PART";
/// What both sides agree on, and more than the server can have.
const LIMIT: u32 = 512 << 20;
const MESSAGE: usize = 300 << 20;
const KINDS: [(&str, Carrier); 4] =
    [("seqpacket", Carrier::Seqpacket), ("stream", Carrier::Stream), ("tcp", Carrier::Tcp), ("shm", Carrier::Shm)];

struct Part(Child);

impl Drop for Part {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The server, whose address space has 64 MiB left.
#[test]
fn the_other_process() {
    let Ok(part) = std::env::var(PART) else { return };
    let (name, dir) = part.split_once(' ').unwrap();
    let (_, kind) = KINDS.into_iter().find(|(known, _)| *known == name).unwrap();
    let listener = Listener::bind(&kind.endpoint(Path::new(dir)), kind.server(LIMIT)).unwrap();
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    let used = pages.split(' ').next().unwrap().parse::<u64>().unwrap() * rustix::param::page_size() as u64;
    let most = Some(used + (64 << 20));
    rustix::process::setrlimit(Resource::As, Rlimit { current: most, maximum: most }).unwrap();
    let at = listener
        .endpoint()
        .path()
        .map_or_else(|| listener.endpoint().tcp_address().unwrap().to_string(), |path| path.display().to_string());
    println!("at {at}");

    let mut session = listener.accept(&patience()).unwrap().handshake(&patience()).unwrap();
    let outcome = session.recv(&patience()).map(|request| request.payload.len());
    let Err(SessionError::NoMemory { bytes }) = outcome else { panic!("{outcome:?}") };
    assert!(bytes > 16 << 20 && bytes <= MESSAGE + 64, "{bytes}");
    drop(session);
    // Only that session is over.
    let mut session = listener.accept(&patience()).unwrap().handshake(&patience()).unwrap();
    let request = session.recv(&patience()).unwrap();
    let (answer, echo) = (Envelope::response_to(&request.envelope, Status::OK, 0), request.payload.to_vec());
    session.send(&answer, &echo, &patience()).unwrap();
    // Until the client has read it.
    assert!(session.recv(&patience()).is_err());
}

#[test]
fn a_message_without_memory_ends_its_session_and_no_other() {
    for (name, kind) in KINDS {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "the_other_process", "--nocapture"]);
        command.env(PART, format!("{name} {}", dir.path().display())).stdout(Stdio::piped());
        let mut server = Part(command.spawn().unwrap());
        let mut lines = std::io::BufRead::lines(std::io::BufReader::new(server.0.stdout.take().unwrap()));
        let at = lines.find_map(|line| line.unwrap().split_once("at ").map(|(_, at)| at.to_owned())).unwrap();
        let endpoint = match kind {
            Carrier::Tcp => Endpoint::tcp(at.parse().unwrap()).unwrap(),
            _ => kind.endpoint(dir.path()),
        };
        // What the system backs page by page as it is read: all of it is one page of zeros.
        let message = vec![0; MESSAGE];
        let mut client = Session::connect(&endpoint, &kind.client(LIMIT, 1), &patience()).unwrap();
        let sent = client.send(&Envelope::request(1, 1, 0), &message, &patience());
        let outcome = sent.and_then(|()| client.recv(&patience()).map(drop));
        assert!(matches!(outcome, Err(SessionError::Closed)), "{name}: {outcome:?}");
        let mut client = Session::connect(&endpoint, &kind.client(LIMIT, 1), &patience()).unwrap();
        client.send(&Envelope::request(1, 1, 0), b"small", &patience()).unwrap();
        assert_eq!(client.recv(&patience()).unwrap().payload, b"small", "{name}");
        drop(client);
        std::thread::spawn(move || lines.for_each(drop));
        assert!(server.0.wait().unwrap().success(), "{name}");
    }
}
