//! kill -9 of real clients at random moments, over every carrier. Alone in its binary: it counts the descriptors of its
//! process.

mod common;

use common::{CARRIERS, CODE, Moments, Process, assert_quick, echo, eventually, files, play, ready, size};
use ginnel_service::{Introspect, Server, ServerOptions};

#[test]
fn child() {
    play();
}

fn fds() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn a_killed_client_is_noticed_and_everything_of_its_session_is_freed() {
    for carrier in CARRIERS {
        let dir = tempfile::tempdir().unwrap();
        let mut moments = Moments::new();
        // Its introspection opens a channel when it can: that would be counted.
        let options = ServerOptions { introspect: Introspect::Off, ..carrier.server() };
        let server = Server::start(&carrier.endpoint(dir.path(), 0), options, CODE, echo).unwrap();
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
            moments.pause();
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
