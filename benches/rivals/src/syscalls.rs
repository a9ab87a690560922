//! Counts system calls: the measurement runs once more, shortly and under ptrace, and what each side calls between the
//! two marks around its work is divided by the messages of that run. No tool is needed, and set-up does not count.

use crate::{Measure, Outcome};
use serde::Serialize;
use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// What the measured code tells its tracer.
#[derive(Clone, Copy)]
pub enum Mark {
    Begin = 1,
    End = 2,
}

/// No priority class has this number: the kernel answers EINVAL and does nothing.
const MARKER: libc::c_int = 0x6769;

/// A system call that means nothing to the kernel and everything to the tracer.
pub fn mark(mark: Mark) {
    // SAFETY: getpriority takes two integers and touches no memory of ours.
    unsafe { libc::syscall(libc::SYS_getpriority, MARKER, mark as libc::c_int) };
}

/// System calls of one process between its marks.
#[derive(Serialize, Default)]
pub struct Count {
    pub calls: u64,
    pub per_message: f64,
    /// By number, so that a surprise can be named.
    pub by_number: BTreeMap<u64, u64>,
    #[serde(skip)]
    counting: bool,
}

/// The parent's count, then the readers'.
pub fn count(task: &Measure) -> Outcome<Vec<Count>> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["measure", &task.row, &task.contender, "--name", &task.name]);
    command.arg("--directory").arg(&task.directory);
    command.arg(format!("--cores={},{}", task.cores[0], task.cores[1]));
    command.arg(format!("--messages={}", task.messages)).arg("--millis=15000");
    command.stdout(std::process::Stdio::null());
    // SAFETY: between fork and exec the closure makes one system call and allocates nothing.
    unsafe {
        command.pre_exec(|| match libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) {
            -1 => Err(std::io::Error::last_os_error()),
            _ => Ok(()),
        });
    }
    let tracee = command.spawn()?;
    let counts = follow(tracee.id() as libc::pid_t)?;
    // The budget of time is generous, so that this many messages are what ends the run.
    let messages = task.messages as f64;
    Ok(counts.into_iter().map(|count| Count { per_message: count.calls as f64 / messages, ..count }).collect())
}

fn follow(first: libc::pid_t) -> Outcome<Vec<Count>> {
    let mut order = Vec::new();
    let mut counts: BTreeMap<libc::pid_t, Count> = BTreeMap::new();
    let mut live = 0i64;
    loop {
        let mut status = 0;
        // SAFETY: `status` outlives the call.
        let pid = unsafe { libc::waitpid(-1, &mut status, libc::__WALL) };
        if pid < 0 {
            // No tracee is left.
            break;
        }
        if libc::WIFEXITED(status) || libc::WIFSIGNALED(status) {
            if pid == first && !(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0) {
                return Err("the traced run failed".into());
            }
            continue;
        }
        let signal = libc::WSTOPSIG(status);
        let mut deliver = 0;
        if signal == libc::SIGTRAP | 0x80 {
            if let Some((number, arguments)) = entered(pid) {
                take(pid, number, arguments, &mut counts, &mut order);
            }
        } else if signal == libc::SIGTRAP || signal == libc::SIGSTOP {
            // The stop of an exec, a fork or a new tracee: say (again) what we want to be told.
            live += 1;
            options(pid);
        } else {
            deliver = signal;
        }
        // SAFETY: resumes a tracee that the wait above reported stopped.
        unsafe { libc::ptrace(libc::PTRACE_SYSCALL, pid, 0, deliver) };
    }
    if live == 0 {
        return Err("the traced run did not stop at exec".into());
    }
    Ok(order.into_iter().filter_map(|pid| counts.remove(&pid)).collect())
}

fn options(pid: libc::pid_t) {
    let wanted = libc::PTRACE_O_TRACESYSGOOD
        | libc::PTRACE_O_TRACEFORK
        | libc::PTRACE_O_TRACEVFORK
        | libc::PTRACE_O_TRACECLONE
        | libc::PTRACE_O_EXITKILL;
    // SAFETY: PTRACE_SETOPTIONS takes its flags by value.
    unsafe { libc::ptrace(libc::PTRACE_SETOPTIONS, pid, 0, wanted) };
}

/// Number and first two arguments, if the tracee stopped at the entry of a call.
fn entered(pid: libc::pid_t) -> Option<(u64, [u64; 2])> {
    // SAFETY: zero is a valid value of this plain structure, and the kernel writes at most the length that we say.
    unsafe {
        let mut info: libc::ptrace_syscall_info = std::mem::zeroed();
        let len = std::mem::size_of_val(&info);
        let got = libc::ptrace(libc::PTRACE_GET_SYSCALL_INFO, pid, len, &mut info);
        (got > 0 && info.op == libc::PTRACE_SYSCALL_INFO_ENTRY)
            .then(|| (info.u.entry.nr, [info.u.entry.args[0], info.u.entry.args[1]]))
    }
}

fn take(
    pid: libc::pid_t,
    number: u64,
    arguments: [u64; 2],
    counts: &mut BTreeMap<libc::pid_t, Count>,
    order: &mut Vec<libc::pid_t>,
) {
    if number == libc::SYS_getpriority as u64 && arguments[0] as libc::c_int == MARKER {
        let begins = arguments[1] == Mark::Begin as u64;
        if begins {
            order.push(pid);
        }
        counts.entry(pid).or_default().counting = begins;
    } else if let Some(count) = counts.get_mut(&pid).filter(|count| count.counting) {
        count.calls += 1;
        *count.by_number.entry(number).or_default() += 1;
    }
}
