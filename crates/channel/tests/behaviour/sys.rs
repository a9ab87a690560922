//! System calls of the tests.

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fd::AsFd;
use std::time::Instant;

/// This process ends with the thread that started it, and in any case after five minutes.
pub(crate) fn die_with_parent() {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL)).expect("prctl");
    // SAFETY: takes a number.
    unsafe { libc::alarm(300) };
}

/// Waits until `fd` is readable; false if the deadline comes first.
pub(crate) fn readable(fd: impl AsFd, deadline: Instant) -> bool {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
        match rustix::event::poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout)) {
            Err(rustix::io::Errno::INTR) => {}
            ready => return ready.expect("poll") > 0,
        }
    }
}

/// The mark that ends a trace.
pub(crate) const LAST_MARK: u64 = u64::MAX;
/// First argument of the system call that marks a place for the tracer: no process has this id.
const MARK: u64 = 0x7fff_0077;

/// Tells the tracer that `section` begins here; 0 is what is not counted.
pub(crate) fn mark(section: u64) {
    // SAFETY: `getsid` takes one number and ignores the second.
    unsafe { libc::syscall(libc::SYS_getsid, MARK, section) };
}

/// The thread of a process that plays its role: the test harness runs it on a thread of its own.
pub(crate) fn busiest_thread(pid: u32) -> i32 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("tasks");
    let name = |task: &std::fs::DirEntry| std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
    // The harness names the thread after the test.
    let role = tasks.map(|task| task.expect("a task")).find(|task| name(task).starts_with("a_child_process"));
    role.expect("the role's thread").file_name().to_string_lossy().parse().expect("a thread id")
}

/// Traces a thread until its [`LAST_MARK`]; returns the system calls of each marked section.
pub(crate) fn trace(thread: i32) -> Vec<(u64, Vec<i64>)> {
    let ptrace = |request: libc::c_uint, address: usize, data: usize| {
        // SAFETY: a ptrace request on a thread that this one traces; pointers passed below live across the call.
        let result = unsafe { libc::ptrace(request, thread, address, data) };
        assert!(result >= 0, "ptrace {request}: {}", std::io::Error::last_os_error());
    };
    ptrace(libc::PTRACE_SEIZE, 0, libc::PTRACE_O_TRACESYSGOOD as usize);
    ptrace(libc::PTRACE_INTERRUPT, 0, 0);
    let mut sections: Vec<(u64, Vec<i64>)> = Vec::new();
    loop {
        let mut status = 0;
        // SAFETY: waits for the traced thread into a local.
        let waited = unsafe { libc::waitpid(thread, &raw mut status, libc::__WALL) };
        assert_eq!(waited, thread, "waitpid: {}", std::io::Error::last_os_error());
        assert!(libc::WIFSTOPPED(status), "the traced thread ended early: {status:#x}");
        let mut forward = 0;
        match libc::WSTOPSIG(status) {
            signal if signal == libc::SIGTRAP | 0x80 => {
                // SAFETY: all zeros is a valid value of this plain struct.
                let mut info: libc::ptrace_syscall_info = unsafe { std::mem::zeroed() };
                ptrace(libc::PTRACE_GET_SYSCALL_INFO, size_of_val(&info), &raw mut info as usize);
                if info.op == libc::PTRACE_SYSCALL_INFO_ENTRY {
                    // SAFETY: `op` says that this is the variant in place.
                    let entry = unsafe { info.u.entry };
                    if entry.nr == libc::SYS_getsid as u64 && entry.args[0] == MARK {
                        if entry.args[1] == LAST_MARK {
                            ptrace(libc::PTRACE_DETACH, 0, 0);
                            return sections;
                        }
                        sections.push((entry.args[1], Vec::new()));
                    } else if let Some((_, calls)) = sections.last_mut() {
                        calls.push(entry.nr as i64);
                    }
                }
            }
            // The stop that PTRACE_INTERRUPT asked for carries an event; a signal of the thread's own is passed on.
            signal if status >> 16 == 0 => forward = signal as usize,
            _ => {}
        }
        ptrace(libc::PTRACE_SYSCALL, 0, forward);
    }
}
