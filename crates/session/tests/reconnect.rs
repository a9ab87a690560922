//! Connecting over and over. Alone in its binary: it counts descriptors and threads of its process.

mod common;

use common::{CARRIERS, connect_to, eventually, patience, size};
use ginnel_session::Listener;
use ginnel_wire::Envelope;

fn count(path: &str) -> usize {
    std::fs::read_dir(path).unwrap().count()
}

#[test]
fn reconnecting_over_and_over_leaves_nothing_behind() {
    for carrier in CARRIERS {
        let dir = tempfile::tempdir().unwrap();
        let listener = Listener::bind(&carrier.endpoint(dir.path()), carrier.server(4096)).unwrap();
        let once = || {
            let (mut client, mut server) = connect_to(&listener, &carrier.client(4096, 1));
            client.send(&Envelope::request(1, 1, 0), b"x", &patience()).unwrap();
            assert_eq!(server.recv(&patience()).unwrap().payload, b"x");
        };
        once();
        // The scoped thread of the last connection may not be quite gone: its count settles.
        let (fds, files) = (count("/proc/self/fd"), count(dir.path().to_str().unwrap()));
        for _ in 0..size(300, 10_000) {
            once();
        }
        assert_eq!(count("/proc/self/fd"), fds, "{carrier:?} leaks file descriptors");
        assert_eq!(count(dir.path().to_str().unwrap()), files, "{carrier:?} leaks files");
        // The test's thread, main, and at most one watch thread.
        eventually("only the threads that belong here are left", || count("/proc/self/task") <= 3);
    }
}
