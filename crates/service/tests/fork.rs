//! A process made by `fork` has the memory of servers and clients, and none of their threads.

mod common;

use common::{CODE, Carrier, PATIENCE, echo, eventually, ready};
use ginnel_base::Deadline;
use ginnel_service::introspect::Introspection;
use ginnel_service::{Client, ClientOptions, Introspect, Server, ServerOptions};

/// Kills what it was given, also after a panic.
struct Forked(libc::pid_t);

impl Drop for Forked {
    fn drop(&mut self) {
        // SAFETY: the process is a child of this one, and not waited for yet.
        unsafe {
            libc::kill(self.0, libc::SIGKILL);
            libc::waitpid(self.0, std::ptr::null_mut(), 0);
        }
    }
}

/// Does `work` with `what` in a forked child, which must end by itself. Here `what` is given back.
fn in_a_forked_child<T>(what: T, work: impl FnOnce(T)) -> T {
    // SAFETY: the child only does its work and leaves; no other thread of this process holds a lock that it needs.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "fork");
    if child == 0 {
        work(what);
        // SAFETY: ends this process without running what the parent registered.
        unsafe { libc::_exit(7) }
    }
    let child = Forked(child);
    let (deadline, mut status) = (Deadline::after(PATIENCE / 4), 0);
    // SAFETY: the process is a child of this one; NOWAIT leaves it to be waited for by the guard.
    let ended = |status: &mut i32| unsafe {
        let mut info = std::mem::zeroed::<libc::siginfo_t>();
        let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
        let found = libc::waitid(libc::P_PID, child.0 as libc::id_t, &raw mut info, flags) == 0 && info.si_pid() != 0;
        *status = info.si_status();
        found
    };
    while !ended(&mut status) {
        assert!(!deadline.passed(), "the child waits for a thread that it does not have");
        std::thread::yield_now();
    }
    assert_eq!(status, 7);
    what
}

#[test]
fn a_server_that_is_dropped_in_a_forked_child_does_not_hold_it_up_and_goes_on_in_the_parent() {
    for patience in [None, Some(PATIENCE)] {
        let dir = tempfile::tempdir().unwrap();
        let server =
            Server::start(&Carrier::Seqpacket.endpoint(dir.path(), 0), Carrier::Seqpacket.server(), CODE, echo);
        let server = in_a_forked_child(server.unwrap(), |server| match patience {
            None => drop(server),
            Some(patience) => drop(server.drain(patience)),
        });
        let mut client = ready(server.endpoint(), Carrier::Seqpacket.client());
        assert_eq!(client.call(CODE, b"x").unwrap(), b"x", "the parent's server is the parent's");
    }
}

#[test]
fn a_client_that_is_dropped_in_a_forked_child_goes_on_telling_in_the_parent() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let endpoint = Carrier::Seqpacket.endpoint(dir.path(), 0);
    let options = ServerOptions { introspect: Introspect::Off, ..Carrier::Seqpacket.server() };
    let server = Server::start(&endpoint, options, CODE, echo).unwrap();
    let mut options = ClientOptions { introspect: Introspect::In(run.clone()), ..ClientOptions::default() };
    options.session.token = 7;
    let client = Client::new(&endpoint, options).unwrap();
    let told = |requests| {
        let listed = Introspection::list(Some(&run)).unwrap();
        listed.iter().any(|listed| listed.told.as_ref().is_ok_and(|told| told.figures.requests == requests))
    };
    client.call(CODE, b"before").unwrap();
    eventually("it has told", || told(1));
    let client = in_a_forked_child(client, |client| {
        assert!(client.call(CODE, b"of the child").is_err());
        drop(client);
    });
    client.call(CODE, b"after").unwrap();
    eventually("it tells on", || told(2));
    server.stop();
}
