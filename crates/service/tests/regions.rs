//! Clients in shared memory that take the memory away: hang-up, truncation, stop and deadline reach whoever sleeps on
//! it.

mod common;

use common::{CODE, Carrier, await_state, echo, eventually, files, ready, soon};
use ginnel_service::{BaselineClient, BaselineError, Server, State};
use ginnel_session::Endpoint;
use ginnel_wire::{Hello, HelloAck, Profiles};
use rustix::fd::OwnedFd;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType};
use std::path::{Path, PathBuf};

/// A client in shared memory that plays by its own rules.
struct Hostile {
    socket: OwnedFd,
    region: PathBuf,
}

fn socket() -> OwnedFd {
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    use rustix::net::sockopt::{Timeout, set_socket_timeout};
    set_socket_timeout(&socket, Timeout::Recv, Some(common::PATIENCE)).unwrap();
    socket
}

fn region(dir: &Path, id: u64) -> PathBuf {
    dir.join(format!("svc-{id:016x}.ipcshm"))
}

impl Hostile {
    fn connect(endpoint: &Endpoint) -> Self {
        let socket = socket();
        let (dir, _) = endpoint.service().unwrap();
        rustix::net::connect(&socket, &SocketAddrUnix::new(endpoint.path().unwrap()).unwrap()).unwrap();
        let hello = Hello {
            supported: Profiles(3),
            preferred: Profiles(2),
            max_request_payload: 1024,
            max_request_items: 4,
            max_response_payload: 1024,
            max_response_items: 4,
            auth_token: 7,
            packet_size: 1024,
        };
        rustix::net::send(&socket, &hello.packet(), SendFlags::NOSIGNAL).unwrap();
        let mut answer = [0; 128];
        let (_, len) = rustix::net::recv(&socket, &mut answer[..], RecvFlags::empty()).unwrap();
        let ack = HelloAck::decode(&answer[32..len]).unwrap();
        assert!(ack.selected.is_shared_memory());
        let region = region(dir, ack.session_id);
        assert!(region.exists());
        Self { socket, region }
    }

    fn cut(&self) {
        std::fs::File::options().write(true).open(&self.region).unwrap().set_len(0).unwrap();
    }
}

fn server(dir: &tempfile::TempDir, sessions: usize) -> Server {
    let mut options = Carrier::Shm.server();
    options.max_sessions = sessions;
    Server::start(&Carrier::Shm.endpoint(dir.path(), 0), options, CODE, echo).unwrap()
}

#[test]
fn clients_that_cut_their_regions_and_leave_give_their_sessions_back() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir, 3);
    for round in 0..common::size(5, 100) {
        let hostile: Vec<_> = (0..3).map(|_| Hostile::connect(server.endpoint())).collect();
        eventually("three sessions", || server.counters().active == 3);
        for client in hostile {
            client.cut();
            if round % 2 == 0 {
                drop(client.socket);
            }
        }
        eventually("their places are free", || server.counters().active == 0);
    }
    let mut client = ready(server.endpoint(), Carrier::Shm.client());
    assert_eq!(client.call(CODE, b"x").unwrap(), b"x");
    drop(client);
    server.stop();
    assert_eq!(files(dir.path()), [""; 0]);
}

#[test]
fn a_region_cut_short_under_a_sleeping_session_ends_it_although_its_client_stays() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir, 3);
    let client = Hostile::connect(server.endpoint());
    eventually("a session", || server.counters().active == 1);
    client.cut();
    eventually("the session is over", || server.counters().active == 0);
    // Told by its hang-up.
    let (_, len) = rustix::net::recv(&client.socket, &mut [0; 8][..], RecvFlags::empty()).unwrap();
    assert_eq!((len, client.region.exists()), (0, false));
}

#[test]
fn a_server_whose_clients_have_cut_their_regions_stops_at_once_and_leaves_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir, 3);
    let hostile: Vec<_> = (0..3).map(|_| Hostile::connect(server.endpoint())).collect();
    eventually("three sessions", || server.counters().active == 3);
    hostile.iter().for_each(Hostile::cut);
    server.stop();
    assert_eq!(files(dir.path()), [""; 0]);
}

/// The mirror case: a server takes the memory away from under our client's call.
#[test]
fn a_server_that_cuts_the_region_under_a_call_does_not_hold_the_caller() {
    for leaves in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let server = server(&dir, 3);
        let mut client = BaselineClient::new(server.endpoint(), Carrier::Shm.client()).unwrap();
        await_state(&mut client, State::Ready);
        let id = client.agreement().unwrap().session_id;
        let abort = client.abort_handle();
        std::thread::scope(|scope| {
            let calling = scope.spawn(move || {
                // The handler never answers.
                client.call_until(CODE, b"!hang", soon()).map(drop)
            });
            eventually("the request is with its handler", || server.counters().requests >= 1);
            let file = std::fs::File::options().write(true).open(region(dir.path(), id)).unwrap();
            file.set_len(0).unwrap();
            if leaves {
                // The session that takes its place is called again, and that hangs as well.
                eventually("it tries again", || server.counters().requests == 2);
            }
            abort.raise();
            let said = calling.join().unwrap();
            assert!(matches!(said, Err(BaselineError::Aborted | BaselineError::Session(_))), "{said:?}");
        });
    }
}
