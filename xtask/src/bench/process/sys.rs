//! The rivals and the floors that Rust has no safe name for.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_char};
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Instant;
use std::{fs, mem, ptr};

unsafe extern "C" {
    static environ: *const *mut c_char;
}

/// `posix_spawn` and `waitpid`, as bare as they come.
pub(crate) fn posix_spawn(program: &CStr) -> io::Result<()> {
    let args = [program.as_ptr().cast_mut(), ptr::null_mut()];
    let mut pid = 0;
    // SAFETY: NUL-terminated strings in lists that end with null; nobody changes the environment while this measures.
    let error =
        unsafe { libc::posix_spawn(&raw mut pid, program.as_ptr(), ptr::null(), ptr::null(), args.as_ptr(), environ) };
    if error != 0 {
        return Err(io::Error::from_raw_os_error(error));
    }
    wait(pid)
}

/// Waits for our own child.
fn wait(pid: i32) -> io::Result<()> {
    let mut status = 0;
    // SAFETY: takes a number and a place for the status.
    if unsafe { libc::waitpid(pid, &raw mut status, 0) } != pid {
        return Err(io::Error::last_os_error());
    }
    if status == 0 { Ok(()) } else { Err(io::Error::other(format!("wait status {status:#x}"))) }
}

/// What a bare child does before it ends.
#[derive(Clone, Copy)]
pub(crate) struct Body<'a> {
    /// Mounts a /proc that shows its pid namespace.
    pub(crate) proc: bool,
    /// Executes this file.
    pub(crate) execute: Option<&'a File>,
}

/// Where a bare child is born.
#[derive(Clone, Copy)]
pub(crate) enum Birth<'a> {
    Here,
    /// In this control group.
    Group(&'a File),
    /// As pid 1 of a new pid namespace.
    PidNamespace,
    /// The same, with mounts of its own.
    PidAndMounts,
}

/// `struct clone_args`, the fields up to `cgroup` (Linux 5.7).
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// The least that a child can cost: it shares our memory until it executes or ends (`CLONE_VM`, `CLONE_VFORK`), and is
/// waited for.
pub(crate) fn bare(birth: Birth<'_>, body: Body<'_>) -> io::Result<()> {
    const STACK: usize = 16 * 1024;
    let mut stack = Vec::<u128>::with_capacity(STACK / size_of::<u128>());
    let mut args = CloneArgs {
        flags: (libc::CLONE_VM | libc::CLONE_VFORK) as u64,
        exit_signal: libc::SIGCHLD as u64,
        stack: stack.as_mut_ptr() as u64,
        stack_size: STACK as u64,
        ..CloneArgs::default()
    };
    match birth {
        Birth::Here => {}
        Birth::Group(group) => {
            // The constant of `libc` is too narrow.
            const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
            args.flags |= CLONE_INTO_CGROUP;
            args.cgroup = group.as_raw_fd() as u64;
        }
        Birth::PidNamespace => args.flags |= libc::CLONE_NEWPID as u64,
        Birth::PidAndMounts => args.flags |= (libc::CLONE_NEWPID | libc::CLONE_NEWNS) as u64,
    }
    // SAFETY: the child runs on its own stack in our memory while this thread stands still in the kernel; `stack` and
    // `body` outlive that, and `child` makes system calls only.
    let pid = unsafe { clone3(&args, child, (&raw const body) as usize) };
    if pid < 0 {
        return Err(io::Error::from_raw_os_error(-pid as i32));
    }
    wait(pid as i32)
}

extern "C" fn child(body: usize) -> ! {
    // SAFETY: `body` is that of `bare`, which stands still; NUL-terminated strings, lists that end with null.
    unsafe {
        let body = *(body as *const Body<'_>);
        let nothing = ptr::null();
        if body.proc
            && (libc::mount(c"none".as_ptr(), c"/".as_ptr(), ptr::null(), libc::MS_REC | libc::MS_PRIVATE, nothing)
                != 0
                || libc::mount(c"proc".as_ptr(), c"/proc".as_ptr(), c"proc".as_ptr(), 0, nothing) != 0)
        {
            libc::_exit(127);
        }
        if let Some(file) = body.execute {
            let (number, args) = (file.as_raw_fd(), [c"program".as_ptr(), ptr::null()]);
            libc::syscall(libc::SYS_execveat, number, c"".as_ptr(), args.as_ptr(), environ, libc::AT_EMPTY_PATH);
            libc::_exit(127);
        }
        libc::_exit(0)
    }
}

/// # Safety
/// With `CLONE_VM`, `args.stack` and all that `entry` uses live until the child has executed or ended.
#[cfg(target_arch = "x86_64")]
unsafe fn clone3(args: &CloneArgs, entry: extern "C" fn(usize) -> !, data: usize) -> isize {
    let result: isize;
    // SAFETY: the child comes back from the call on its own, 16-byte aligned stack, calls `entry`, and never passes the
    // label.
    unsafe {
        std::arch::asm!("syscall", "test rax, rax", "jnz 2f", "xor ebp, ebp", "mov rdi, r12", "call r13", "ud2", "2:",
            inlateout("rax") libc::SYS_clone3 as isize => result, in("rdi") ptr::from_ref(args),
            in("rsi") size_of::<CloneArgs>(), in("r12") data, in("r13") entry, lateout("rcx") _, lateout("r11") _);
    }
    result
}

/// # Safety
/// With `CLONE_VM`, `args.stack` and all that `entry` uses live until the child has executed or ended.
#[cfg(target_arch = "aarch64")]
unsafe fn clone3(args: &CloneArgs, entry: extern "C" fn(usize) -> !, data: usize) -> isize {
    let result: isize;
    // SAFETY: the child comes back from the call on its own, 16-byte aligned stack, calls `entry`, and never passes the
    // label.
    unsafe {
        std::arch::asm!("svc #0", "cbnz x0, 2f", "mov x29, #0", "mov x0, x20", "blr x21", "brk #1", "2:",
            in("x8") libc::SYS_clone3, inlateout("x0") ptr::from_ref(args) as isize => result,
            in("x1") size_of::<CloneArgs>(), in("x20") data, in("x21") entry, lateout("x30") _);
    }
    result
}

/// Pins every thread of this process, and what they start, to one core until it is dropped.
pub(crate) struct Pinned(libc::cpu_set_t);

impl Pinned {
    pub(crate) fn to(core: usize) -> io::Result<Pinned> {
        // SAFETY: the sets are plain bits, and live across the calls.
        unsafe {
            let (mut before, mut only): (libc::cpu_set_t, libc::cpu_set_t) = (mem::zeroed(), mem::zeroed());
            if libc::sched_getaffinity(0, size_of_val(&before), &raw mut before) != 0 {
                return Err(io::Error::last_os_error());
            }
            libc::CPU_SET(core, &mut only);
            set_affinity(&only)?;
            Ok(Pinned(before))
        }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let _ = set_affinity(&self.0);
    }
}

/// The watch over shepherds has a thread of its own.
fn set_affinity(cpus: &libc::cpu_set_t) -> io::Result<()> {
    for entry in fs::read_dir("/proc/self/task")? {
        let thread = entry?.file_name().to_string_lossy().parse().map_err(io::Error::other)?;
        // SAFETY: the set is plain bits, and lives across the call.
        if unsafe { libc::sched_setaffinity(thread, size_of_val(cpus), ptr::from_ref(cpus)) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// The least that ending a tree can cost: seconds from one signal to its process group until all of it was waited for.
pub(crate) fn kill_group(script: &str) -> io::Result<f64> {
    // SAFETY: takes numbers. Orphans of the group come to us, and nobody else's are there.
    if unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let mut child = Command::new("sh").args(["-c", script]).process_group(0).stdout(Stdio::piped()).spawn()?;
    BufReader::new(child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?).read_line(&mut String::new())?;
    let group = i32::try_from(child.id()).map_err(io::Error::other)?;
    let begun = Instant::now();
    // SAFETY: takes numbers.
    if unsafe { libc::kill(-group, libc::SIGKILL) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the status is not asked for.
    while unsafe { libc::waitpid(-group, ptr::null_mut(), 0) } > 0 {}
    let took = begun.elapsed().as_secs_f64();
    // SAFETY: as above.
    unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0) };
    Ok(took)
}
