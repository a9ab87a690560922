//! kill -9 of real servers at random moments, over every carrier: the survivor knows at once, nothing is left behind,
//! and the service goes on.

mod common;

use common::{CODE, Carrier, Moments, Process, assert_quick, await_state, files, play, ready, size, soon};
use ginnel_service::{BaselineError, State};
use ginnel_session::{Session, SessionError, Wait};
use std::time::Instant;

#[test]
fn child() {
    play();
}

fn a_killed_server_is_noticed_replaced_and_swept_up(carrier: Carrier) {
    let dir = tempfile::tempdir().unwrap();
    let mut moments = Moments::new();
    let mut noticed = Vec::new();
    let mut server = Process::start("server", carrier, dir.path(), 0, &[]);
    let port = server.line("port ").parse().unwrap();
    let endpoint = carrier.endpoint(dir.path(), port);
    let mut client = ready(&endpoint, carrier.client());
    for round in 0..size(10, 200) {
        let wait_in_handler = round % 3 == 0;
        // Sleeps in a wait that nothing would end, and says when it was ended.
        let mut sleeper = Session::connect(&endpoint, &carrier.client().session, &Wait::until(soon())).unwrap();
        let noticed_after = std::thread::scope(|scope| {
            let sleeping =
                scope.spawn(|| (sleeper.recv(&Wait::until(soon())).map(|_| ()).unwrap_err(), Instant::now()));
            let calls = scope.spawn(|| {
                if wait_in_handler {
                    return client.call_until(CODE, b"!hang", soon()).unwrap_err();
                }
                loop {
                    if let Err(error) = client.call_until(CODE, &[3; 700], soon()) {
                        return error;
                    }
                }
            });
            moments.pause();
            server.kill_only();
            let killed = Instant::now();
            // The call was tried again, for the 100 ms that a restart is given, and nobody was there.
            let lost = calls.join().unwrap();
            assert!(matches!(lost, BaselineError::Connect(_) | BaselineError::Session(_)), "{lost:?}");
            let (ended, when) = sleeping.join().unwrap();
            assert!(matches!(ended, SessionError::Closed), "{ended:?}");
            when.saturating_duration_since(killed)
        });
        noticed.push(noticed_after);
        drop(sleeper);
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
