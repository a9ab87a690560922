//! No signal is lost while its handler is put in place: it is sent at exactly that moment, which a tracer finds.
#![allow(unsafe_code)]

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::ptr::null_mut;
use std::time::{Duration, Instant};

const LONG: Duration = Duration::from_secs(20);

/// A `ginnel` that does not outlive its test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The thread that starts a traced process is its tracer.
struct Traced(libc::pid_t);

impl Traced {
    fn start(args: &[&str]) -> (Running, Traced) {
        ginnel_testing::default_signals();
        let mut command = Command::new(env!("CARGO_BIN_EXE_ginnel"));
        command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // SAFETY: a system call between `fork` and `exec`, which points nowhere.
        unsafe {
            command.pre_exec(|| match libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            });
        }
        let child = Running(command.spawn().unwrap());
        let traced = Traced(child.0.id() as libc::pid_t);
        // It stops at its `exec`.
        traced.wait();
        traced.request(libc::PTRACE_SETOPTIONS, libc::PTRACE_O_TRACESYSGOOD as usize);
        (child, traced)
    }

    fn request(&self, request: libc::c_uint, data: usize) {
        // SAFETY: these requests take numbers only.
        let result = unsafe { libc::ptrace(request, self.0, null_mut::<libc::c_void>(), data) };
        assert_eq!(result, 0, "{}", io::Error::last_os_error());
    }

    fn wait(&self) {
        let mut status = 0;
        // SAFETY: a status in a live variable.
        assert_eq!(unsafe { libc::waitpid(self.0, &raw mut status, 0) }, self.0);
        assert!(libc::WIFSTOPPED(status), "it ended before it had a handler: {status:#x}");
    }

    /// Lets it run into its next system call, or out of it.
    fn to_next_stop(&self) -> libc::ptrace_syscall_info {
        self.request(libc::PTRACE_SYSCALL, 0);
        self.wait();
        // SAFETY: the kernel fills as much of this plain memory as it is told there is.
        unsafe {
            let mut info: libc::ptrace_syscall_info = std::mem::zeroed();
            let len = size_of_val(&info);
            assert!(libc::ptrace(libc::PTRACE_GET_SYSCALL_INFO, self.0, len, &raw mut info) > 0);
            info
        }
    }

    /// Goes on until it has changed what this signal does, for the first time.
    fn until_handler(&self, signal: libc::c_int) {
        loop {
            let info = self.to_next_stop();
            if info.op != libc::PTRACE_SYSCALL_INFO_ENTRY {
                continue;
            }
            // SAFETY: at an entry, the kernel has filled this part.
            let entry = unsafe { info.u.entry };
            let changes = entry.nr == libc::SYS_rt_sigaction as u64 && entry.args[1] != 0;
            if changes && entry.args[0] == signal as u64 {
                self.to_next_stop();
                return;
            }
        }
    }
}

#[track_caller]
fn ends_with(args: &[&str], signal: libc::c_int, code: i32) {
    let (mut child, traced) = Traced::start(args);
    traced.until_handler(signal);
    // SAFETY: plain system call; the process is there, for it is stopped.
    assert_eq!(unsafe { libc::kill(traced.0, signal) }, 0);
    traced.request(libc::PTRACE_DETACH, 0);
    let deadline = Instant::now() + LONG;
    let status = loop {
        match child.0.try_wait().unwrap() {
            Some(status) => break status,
            None => assert!(Instant::now() < deadline, "the signal is lost"),
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    assert_eq!(status.code(), Some(code));
}

#[test]
fn run_hears_of_a_signal_that_comes_with_its_handler() {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT] {
        ends_with(&["run", "--grace", "50ms", "--", "sleep", "1000"], signal, 128 + signal);
    }
}

#[test]
fn other_commands_hear_of_it_too() {
    for signal in [libc::SIGINT, libc::SIGTERM] {
        ends_with(&["demo", "--seconds", "1000"], signal, 0);
    }
}
