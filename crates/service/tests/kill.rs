//! kill -9 of real processes at random moments, over every carrier: the survivor knows at once, nothing is left behind, and
//! the service goes on.

mod common;

use common::{CARRIERS, CODE, Carrier, Process, await_state, echo, eventually, files, play, ready, size, soon};
use ginnel_service::{CallError, Server, State};
use std::time::{Duration, Instant};

#[test]
fn child() {
    play();
}

/// A generator of random moments that says how to repeat them.
struct Moments(u64);

impl Moments {
    fn new() -> Self {
        let seed = std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64 | 1;
        println!("moments {seed}");
        Self(seed)
    }

    fn next(&mut self) -> Duration {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        Duration::from_micros(self.0 % 3000)
    }
}

/// Within 100 ms, but for the odd time when this machine runs something else: a tenth may be late, none by seconds.
fn assert_quick(mut noticed: Vec<Duration>, who: &str) {
    noticed.sort();
    let most = noticed[noticed.len() * 9 / 10 - usize::from(noticed.len() >= 10)];
    println!("{who}: median {:?}, nine tenths {most:?}, worst {:?}", noticed[noticed.len() / 2], noticed.last());
    assert!(most < Duration::from_millis(100), "{who} noticed after {noticed:?}");
    assert!(*noticed.last().unwrap() < Duration::from_secs(5), "{who} noticed after {noticed:?}");
}

fn a_killed_server_is_noticed_replaced_and_swept_up(carrier: Carrier) {
    let dir = tempfile::tempdir().unwrap();
    let mut moments = Moments::new();
    let mut noticed = Vec::new();
    let mut server = Process::start("server", carrier, dir.path(), 0, &[]);
    let port = server.line("port ").parse().unwrap();
    let mut client = ready(&carrier.endpoint(dir.path(), port), carrier.client());
    for round in 0..size(10, 200) {
        let pause = moments.next();
        let wait_in_handler = round % 3 == 0;
        let (lost, killed) = std::thread::scope(|scope| {
            let calls = scope.spawn(|| {
                if wait_in_handler {
                    // In the middle of a wait that would last.
                    return (client.call_until(CODE, b"!hang", soon()).unwrap_err(), Instant::now());
                }
                loop {
                    if let Err(error) = client.call_until(CODE, &[3; 700], soon()) {
                        return (error, Instant::now());
                    }
                }
            });
            std::thread::sleep(pause);
            server.kill_only();
            let killed = Instant::now();
            (calls.join().unwrap(), killed)
        });
        // The call was tried again, for the 100 ms that a restart is given, and nobody was there.
        assert!(matches!(lost.0, CallError::Connect(_) | CallError::Session(_)), "{:?}", lost.0);
        let retrying = Duration::from_millis(19 * 5);
        noticed.push(lost.1.duration_since(killed).saturating_sub(retrying));
        assert_ne!(client.state(), State::Ready);
        drop(server);

        server = Process::start("server", carrier, dir.path(), port, &[]);
        server.line("port ");
        await_state(&mut client, State::Ready);
        assert_eq!(client.call(CODE, b"on it goes").unwrap(), b"on it goes");
        // The socket, and the region of the one session there is.
        let expected = match carrier {
            Carrier::Tcp => 0,
            Carrier::Shm => 2,
            _ => 1,
        };
        assert_eq!(files(dir.path()).len(), expected, "{:?}", files(dir.path()));
    }
    server.end();
    assert_eq!(files(dir.path()), [""; 0]);
    assert_quick(noticed, "the client");
}

#[test]
fn a_killed_server_is_noticed_replaced_and_swept_up_on_seqpacket() {
    a_killed_server_is_noticed_replaced_and_swept_up(Carrier::Seqpacket);
}

#[test]
fn a_killed_server_is_noticed_replaced_and_swept_up_on_a_stream() {
    a_killed_server_is_noticed_replaced_and_swept_up(Carrier::Stream);
}

#[test]
fn a_killed_server_is_noticed_replaced_and_swept_up_on_tcp() {
    a_killed_server_is_noticed_replaced_and_swept_up(Carrier::Tcp);
}

#[test]
fn a_killed_server_is_noticed_replaced_and_swept_up_in_shared_memory() {
    a_killed_server_is_noticed_replaced_and_swept_up(Carrier::Shm);
}

fn fds() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn a_killed_client_is_noticed_and_everything_of_its_session_is_freed() {
    for carrier in CARRIERS {
        let dir = tempfile::tempdir().unwrap();
        let mut moments = Moments::new();
        let server = Server::start(&carrier.endpoint(dir.path(), 0), carrier.server(), CODE, echo).unwrap();
        let port = server.endpoint().tcp_address().map_or(0, |address| address.port());
        // A session of the same carrier that stays: it must not notice anything. (It also starts the watch thread.)
        let mut bystander = ready(server.endpoint(), carrier.client());
        // Once it is answered, its session is fully set up on both sides.
        bystander.call(CODE, b"first").unwrap();
        let (baseline, left) = (fds(), files(dir.path()));
        let mut noticed = Vec::new();
        for _ in 0..size(10, 200) {
            let mut client = Process::start("client", carrier, dir.path(), port, &[]);
            client.line("calling ");
            std::thread::sleep(moments.next());
            assert_eq!(server.counters().active, 2);
            client.kill_only();
            noticed.push(eventually("the session is gone", || server.counters().active == 1));
            drop(client);
            assert_eq!(bystander.call(CODE, b"still here").unwrap(), b"still here");
            assert_eq!(files(dir.path()), left, "{carrier:?}");
            // The session's thread gives its place back before its last descriptor is closed: both go at once.
            eventually("the descriptors are closed", || fds() == baseline);
        }
        assert_quick(noticed, "the server");
        server.stop();
        drop(bystander);
        assert_eq!(files(dir.path()), [""; 0]);
    }
}
