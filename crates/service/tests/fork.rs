//! A process made by `fork` has the server's memory and none of its threads.

mod common;

use common::{CODE, Carrier, PATIENCE, echo, ready};
use ginnel_base::Deadline;
use ginnel_service::Server;

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

#[test]
fn a_server_that_is_dropped_in_a_forked_child_does_not_hold_it_up_and_goes_on_in_the_parent() {
    for patience in [None, Some(PATIENCE)] {
        let dir = tempfile::tempdir().unwrap();
        let server =
            Server::start(&Carrier::Seqpacket.endpoint(dir.path(), 0), Carrier::Seqpacket.server(), CODE, echo);
        let server = server.unwrap();
        // SAFETY: the child only drops the server and leaves; no other thread of this process holds a lock that it
        // needs.
        let child = unsafe { libc::fork() };
        assert!(child >= 0, "fork");
        if child == 0 {
            match patience {
                None => drop(server),
                Some(patience) => drop(server.drain(patience)),
            }
            // SAFETY: ends this process without running what the parent registered.
            unsafe { libc::_exit(7) }
        }
        let child = Forked(child);
        let (deadline, mut status) = (Deadline::after(PATIENCE / 4), 0);
        // SAFETY: the process is a child of this one; NOWAIT leaves it to be waited for by the guard.
        let ended = |status: &mut i32| unsafe {
            let mut info = std::mem::zeroed::<libc::siginfo_t>();
            let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
            let found =
                libc::waitid(libc::P_PID, child.0 as libc::id_t, &raw mut info, flags) == 0 && info.si_pid() != 0;
            *status = info.si_status();
            found
        };
        while !ended(&mut status) {
            assert!(!deadline.passed(), "the child waits for a thread that it does not have");
            std::thread::yield_now();
        }
        assert_eq!(status, 7);
        let mut client = ready(server.endpoint(), Carrier::Seqpacket.client());
        assert_eq!(client.call(CODE, b"x").unwrap(), b"x", "the parent's server is the parent's");
    }
}
