//! System calls, the entry point and the few symbols a C library would bring. All `unsafe` of the shepherd is here.
//!
//! Invariants the `SAFETY` comments name:
//! * S1 (buffers): every pointer handed to the kernel comes from a live Rust reference and goes with its true length.
//! * S2 (one thread): the shepherd has one thread and no signal handler, so nothing runs beside or inside a function.
//! * S3 (vfork): a `CLONE_VM | CLONE_VFORK` child runs on a stack of its own while the shepherd stands still in the kernel; it ends
//!   by `execve` or `exit`, never by returning.
#![allow(unsafe_code)]

use crate::frame::MAX_FDS;
use core::arch::{asm, global_asm};

pub(crate) type Errno = u32;
pub(crate) type Result<T> = core::result::Result<T, Errno>;

pub(crate) const EPERM: Errno = 1;
pub(crate) const ENOENT: Errno = 2;
pub(crate) const ESRCH: Errno = 3;
pub(crate) const EINTR: Errno = 4;
pub(crate) const ECHILD: Errno = 10;
pub(crate) const EAGAIN: Errno = 11;
pub(crate) const EACCES: Errno = 13;
pub(crate) const ENOTDIR: Errno = 20;
pub(crate) const EINVAL: Errno = 22;
pub(crate) const ENOSYS: Errno = 38;

pub(crate) const SIGHUP: u32 = 1;
pub(crate) const SIGINT: u32 = 2;
pub(crate) const SIGQUIT: u32 = 3;
pub(crate) const SIGKILL: u32 = 9;
pub(crate) const SIGPIPE: u32 = 13;
pub(crate) const SIGTERM: u32 = 15;
pub(crate) const SIGCHLD: u32 = 17;
pub(crate) const SIGCONT: u32 = 18;
pub(crate) const SIGSTOP: u32 = 19;

#[cfg(target_arch = "x86_64")]
mod nr {
    pub(super) const READ: usize = 0;
    pub(super) const WRITE: usize = 1;
    pub(super) const CLOSE: usize = 3;
    pub(super) const MMAP: usize = 9;
    pub(super) const MUNMAP: usize = 11;
    pub(super) const RT_SIGACTION: usize = 13;
    pub(super) const RT_SIGPROCMASK: usize = 14;
    pub(super) const IOCTL: usize = 16;
    pub(super) const MREMAP: usize = 25;
    pub(super) const MADVISE: usize = 28;
    pub(super) const GETPID: usize = 39;
    pub(super) const SENDMSG: usize = 46;
    pub(super) const RECVMSG: usize = 47;
    pub(super) const CLONE: usize = 56;
    pub(super) const EXECVE: usize = 59;
    pub(super) const WAIT4: usize = 61;
    pub(super) const KILL: usize = 62;
    pub(super) const FCNTL: usize = 72;
    pub(super) const CHDIR: usize = 80;
    pub(super) const UMASK: usize = 95;
    pub(super) const GETPPID: usize = 110;
    pub(super) const SETSID: usize = 112;
    pub(super) const SETGROUPS: usize = 116;
    pub(super) const SETRESUID: usize = 117;
    pub(super) const SETRESGID: usize = 119;
    pub(super) const SETPRIORITY: usize = 141;
    pub(super) const PRCTL: usize = 157;
    pub(super) const SCHED_SETAFFINITY: usize = 203;
    pub(super) const GETDENTS64: usize = 217;
    pub(super) const CLOCK_GETTIME: usize = 228;
    pub(super) const EXIT_GROUP: usize = 231;
    pub(super) const OPENAT: usize = 257;
    pub(super) const MKDIRAT: usize = 258;
    pub(super) const UNLINKAT: usize = 263;
    pub(super) const PPOLL: usize = 271;
    pub(super) const SIGNALFD4: usize = 289;
    pub(super) const DUP3: usize = 292;
    pub(super) const PIPE2: usize = 293;
    pub(super) const PRLIMIT64: usize = 302;
}

#[cfg(target_arch = "aarch64")]
mod nr {
    pub(super) const DUP3: usize = 24;
    pub(super) const FCNTL: usize = 25;
    pub(super) const IOCTL: usize = 29;
    pub(super) const MKDIRAT: usize = 34;
    pub(super) const UNLINKAT: usize = 35;
    pub(super) const CHDIR: usize = 49;
    pub(super) const OPENAT: usize = 56;
    pub(super) const CLOSE: usize = 57;
    pub(super) const PIPE2: usize = 59;
    pub(super) const GETDENTS64: usize = 61;
    pub(super) const READ: usize = 63;
    pub(super) const WRITE: usize = 64;
    pub(super) const PPOLL: usize = 73;
    pub(super) const SIGNALFD4: usize = 74;
    pub(super) const EXIT_GROUP: usize = 94;
    pub(super) const CLOCK_GETTIME: usize = 113;
    pub(super) const SCHED_SETAFFINITY: usize = 122;
    pub(super) const KILL: usize = 129;
    pub(super) const RT_SIGACTION: usize = 134;
    pub(super) const RT_SIGPROCMASK: usize = 135;
    pub(super) const SETPRIORITY: usize = 140;
    pub(super) const SETRESUID: usize = 147;
    pub(super) const SETRESGID: usize = 149;
    pub(super) const SETSID: usize = 157;
    pub(super) const SETGROUPS: usize = 159;
    pub(super) const UMASK: usize = 166;
    pub(super) const PRCTL: usize = 167;
    pub(super) const GETPID: usize = 172;
    pub(super) const GETPPID: usize = 173;
    pub(super) const SENDMSG: usize = 211;
    pub(super) const RECVMSG: usize = 212;
    pub(super) const MUNMAP: usize = 215;
    pub(super) const MREMAP: usize = 216;
    pub(super) const CLONE: usize = 220;
    pub(super) const EXECVE: usize = 221;
    pub(super) const MMAP: usize = 222;
    pub(super) const MADVISE: usize = 233;
    pub(super) const WAIT4: usize = 260;
    pub(super) const PRLIMIT64: usize = 261;
}

// The same on every architecture.
const PIDFD_SEND_SIGNAL: usize = 424;
const CLONE3: usize = 435;
const CLOSE_RANGE: usize = 436;

#[cfg(target_arch = "x86_64")]
global_asm!(".globl _start", "_start:", "xor ebp, ebp", "mov rdi, rsp", "and rsp, -16", "call {}", "ud2", sym enter);
#[cfg(target_arch = "aarch64")]
global_asm!(".globl _start", "_start:", "mov x29, #0", "mov x30, #0", "mov x0, sp", "bl {}", "brk #1", sym enter);

/// `stack` is what the kernel left: argc, argv and NULL, envp and NULL.
extern "C" fn enter(stack: *const usize) -> ! {
    // SAFETY: the kernel's contract for a new program: argc, then argc pointers, a null, the environment's pointers, a null.
    let args = unsafe {
        let count = *stack;
        Args { count, argv: stack.add(1).cast(), envp: stack.add(count + 2).cast() }
    };
    crate::start(args)
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    exit(101)
}

/// Named by the precompiled `core`; nothing unwinds here.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

/// The command's arguments and environment, as the kernel put them on the shepherd's own stack.
#[derive(Clone, Copy)]
pub(crate) struct Args {
    count: usize,
    argv: *const *const u8,
    envp: *const *const u8,
}

/// Arguments in front of the command's own: name, socket, a word for `ps`.
const OWN_ARGS: usize = 3;

impl Args {
    pub(crate) fn get(&self, index: usize) -> Option<&'static [u8]> {
        // SAFETY: `index < count`, so the kernel put a NUL-terminated string there, which lives as long as the process.
        (index < self.count).then(|| unsafe { core::ffi::CStr::from_ptr((*self.argv.add(index)).cast()).to_bytes() })
    }

    /// Gives the pages of the environment back: they are the command's business, and it has its own copy after `execve`.
    pub(crate) fn forget_environment(&self) {
        // SAFETY: the environment's strings lie one after the other in the kernel's order, its pointer list ends with null; whole pages
        // strictly inside hold nothing else, and nobody reads the environment of the shepherd any more.
        unsafe {
            let mut last = self.envp;
            if (*last).is_null() {
                return;
            }
            while !(*last.add(1)).is_null() {
                last = last.add(1);
            }
            let end = *last as usize + strlen(*last);
            let (from, to) = ((*self.envp as usize).next_multiple_of(4096), end & !4095);
            if from < to {
                const MADV_DONTNEED: usize = 4;
                call(nr::MADVISE, [from, to - from, MADV_DONTNEED, 0, 0, 0]);
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn call(number: usize, args: [usize; 6]) -> isize {
    let result: isize;
    // SAFETY: the system call convention of x86_64 Linux; what the pointers in `args` mean is the caller's to vouch for (S1).
    unsafe {
        asm!("syscall", inlateout("rax") number as isize => result, in("rdi") args[0], in("rsi") args[1], in("rdx") args[2],
             in("r10") args[3], in("r8") args[4], in("r9") args[5], lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    result
}

#[cfg(target_arch = "aarch64")]
fn call(number: usize, args: [usize; 6]) -> isize {
    let result: isize;
    // SAFETY: the system call convention of aarch64 Linux; what the pointers in `args` mean is the caller's to vouch for (S1).
    unsafe {
        asm!("svc #0", in("x8") number, inlateout("x0") args[0] as isize => result, in("x1") args[1], in("x2") args[2],
             in("x3") args[3], in("x4") args[4], in("x5") args[5], options(nostack));
    }
    result
}

fn check(result: isize) -> Result<usize> {
    if result < 0 { Err((-result) as Errno) } else { Ok(result as usize) }
}

fn retry(number: usize, args: [usize; 6]) -> Result<usize> {
    loop {
        match check(call(number, args)) {
            Err(EINTR) => {}
            result => return result,
        }
    }
}

/// A path with its final NUL.
pub(crate) type Path<'a> = &'a core::ffi::CStr;

fn at(path: Path<'_>) -> usize {
    path.as_ptr() as usize
}

/// An open descriptor; closed when dropped.
#[derive(Debug)]
pub(crate) struct Fd(i32);

impl Drop for Fd {
    fn drop(&mut self) {
        call(nr::CLOSE, [self.0 as usize, 0, 0, 0, 0, 0]);
    }
}

pub(crate) const AT_FDCWD: i32 = -100;
pub(crate) const O_RDONLY: i32 = 0;
pub(crate) const O_WRONLY: i32 = 1;
pub(crate) const O_RDWR: i32 = 2;
pub(crate) const O_NOCTTY: i32 = 0o400;
#[cfg(target_arch = "x86_64")]
pub(crate) const O_DIRECTORY: i32 = 0o200_000;
#[cfg(target_arch = "aarch64")]
pub(crate) const O_DIRECTORY: i32 = 0o40_000;
const O_CLOEXEC: i32 = 0o2_000_000;

impl Fd {
    pub(crate) fn new(number: i32) -> Fd {
        Fd(number)
    }

    pub(crate) fn number(&self) -> i32 {
        self.0
    }
}

fn opened(result: Result<usize>) -> Result<Fd> {
    result.map(|number| Fd(number as i32))
}

pub(crate) fn open_at(dir: i32, path: Path<'_>, flags: i32) -> Result<Fd> {
    opened(retry(nr::OPENAT, [dir as usize, at(path), (flags | O_CLOEXEC) as usize, 0, 0, 0]))
}

pub(crate) fn read(fd: &Fd, into: &mut [u8]) -> Result<usize> {
    retry(nr::READ, [fd.0 as usize, into.as_mut_ptr() as usize, into.len(), 0, 0, 0])
}

pub(crate) fn write(fd: &Fd, bytes: &[u8]) -> Result<usize> {
    retry(nr::WRITE, [fd.0 as usize, bytes.as_ptr() as usize, bytes.len(), 0, 0, 0])
}

pub(crate) fn directory_entries(fd: &Fd, into: &mut [u8]) -> Result<usize> {
    retry(nr::GETDENTS64, [fd.0 as usize, into.as_mut_ptr() as usize, into.len(), 0, 0, 0])
}

pub(crate) fn mkdir(path: Path<'_>) -> Result<()> {
    check(call(nr::MKDIRAT, [AT_FDCWD as usize, at(path), 0o755, 0, 0, 0])).map(drop)
}

pub(crate) fn rmdir(path: Path<'_>) -> Result<()> {
    const AT_REMOVEDIR: usize = 0x200;
    check(call(nr::UNLINKAT, [AT_FDCWD as usize, at(path), AT_REMOVEDIR, 0, 0, 0])).map(drop)
}

pub(crate) fn pipe() -> Result<(Fd, Fd)> {
    let mut ends = [0i32; 2];
    check(call(nr::PIPE2, [ends.as_mut_ptr() as usize, O_CLOEXEC as usize, 0, 0, 0, 0]))?;
    Ok((Fd(ends[0]), Fd(ends[1])))
}

/// An ioctl whose argument is a number.
pub(crate) fn ioctl(fd: &Fd, request: usize, argument: usize) -> Result<usize> {
    check(call(nr::IOCTL, [fd.0 as usize, request, argument, 0, 0, 0]))
}

/// An ioctl whose argument is memory; `bytes` must be as long as the kernel takes the argument to be.
pub(crate) fn ioctl_bytes(fd: &Fd, request: usize, bytes: &mut [u8]) -> Result<usize> {
    ioctl(fd, request, bytes.as_mut_ptr() as usize)
}

/// A copy of `fd` at `lowest` or above, closed by `execve`.
pub(crate) fn duplicate_above(fd: i32, lowest: i32) -> Result<i32> {
    const F_DUPFD_CLOEXEC: usize = 1030;
    check(call(nr::FCNTL, [fd as usize, F_DUPFD_CLOEXEC, lowest as usize, 0, 0, 0])).map(|number| number as i32)
}

/// A copy of `fd` at `number`, kept by `execve`.
pub(crate) fn duplicate_to(fd: i32, number: i32) -> Result<()> {
    check(call(nr::DUP3, [fd as usize, number as usize, 0, 0, 0, 0])).map(drop)
}

/// From now on `execve` closes it.
pub(crate) fn close_on_execute(fd: &Fd) -> Result<()> {
    const F_SETFD: usize = 2;
    check(call(nr::FCNTL, [fd.0 as usize, F_SETFD, 1, 0, 0, 0])).map(drop)
}

/// Closes everything except one descriptor; a kernel without `close_range` (before 5.9) says so.
pub(crate) fn close_all_but(fd: &Fd) -> Result<()> {
    let number = fd.0 as usize;
    if number > 0 {
        check(call(CLOSE_RANGE, [0, number - 1, 0, 0, 0, 0]))?;
    }
    check(call(CLOSE_RANGE, [number + 1, u32::MAX as usize, 0, 0, 0, 0])).map(drop)
}

pub(crate) fn exit(code: i32) -> ! {
    loop {
        call(nr::EXIT_GROUP, [code as usize, 0, 0, 0, 0, 0]);
    }
}

pub(crate) fn pid() -> i32 {
    call(nr::GETPID, [0; 6]) as i32
}

pub(crate) fn parent_pid() -> i32 {
    call(nr::GETPPID, [0; 6]) as i32
}

pub(crate) fn new_session() -> Result<()> {
    check(call(nr::SETSID, [0; 6])).map(drop)
}

fn prctl(option: usize, value: usize) -> Result<()> {
    check(call(nr::PRCTL, [option, value, 0, 0, 0, 0])).map(drop)
}

pub(crate) fn become_subreaper() -> Result<()> {
    const PR_SET_CHILD_SUBREAPER: usize = 36;
    prctl(PR_SET_CHILD_SUBREAPER, 1)
}

pub(crate) fn set_name(name: Path<'_>) -> Result<()> {
    const PR_SET_NAME: usize = 15;
    prctl(PR_SET_NAME, at(name))
}

pub(crate) fn die_with_parent() -> Result<()> {
    const PR_SET_PDEATHSIG: usize = 1;
    prctl(PR_SET_PDEATHSIG, SIGKILL as usize)
}

/// `struct sigaction` of the kernel.
#[repr(C)]
struct Action {
    handler: usize,
    flags: usize,
    restorer: usize,
    mask: u64,
}

pub(crate) fn set_ignored(signal: u32, ignored: bool) {
    let action = Action { handler: usize::from(ignored), flags: 0, restorer: 0, mask: 0 };
    call(nr::RT_SIGACTION, [signal as usize, &raw const action as usize, 0, 8, 0, 0]);
}

pub(crate) fn set_signal_mask(mask: u64) {
    const SIG_SETMASK: usize = 2;
    call(nr::RT_SIGPROCMASK, [SIG_SETMASK, &raw const mask as usize, 0, 8, 0, 0]);
}

pub(crate) fn signal_fd(mask: u64) -> Result<Fd> {
    const SFD_CLOEXEC_NONBLOCK: usize = 0o2_004_000;
    opened(check(call(nr::SIGNALFD4, [-1isize as usize, &raw const mask as usize, 8, SFD_CLOEXEC_NONBLOCK, 0, 0])))
}

/// To one child that is not yet reaped, its group, or (as pid 1 of a namespace only) everybody in it.
pub(crate) fn kill(pid: i32, signal: u32) -> Result<()> {
    check(call(nr::KILL, [pid as isize as usize, signal as usize, 0, 0, 0, 0])).map(drop)
}

/// Through a pidfd, or a `/proc/<pid>` directory: both stay with their process when its number is used again.
pub(crate) fn signal_process(process: &Fd, signal: u32) -> Result<()> {
    check(call(PIDFD_SEND_SIGNAL, [process.0 as usize, signal as usize, 0, 0, 0, 0])).map(drop)
}

/// `struct rusage` of the kernel (64 bit).
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(crate) struct Usage(pub(crate) [i64; 18]);

/// Reaps one child if one has ended: its pid (0: none yet), wait status and usage.
pub(crate) fn reap() -> Result<(i32, u32, Usage)> {
    const WNOHANG_WALL: usize = 1 | 0x4000_0000;
    let (mut status, mut usage) = (0u32, Usage::default());
    let any = -1isize as usize;
    let pid = retry(nr::WAIT4, [any, &raw mut status as usize, WNOHANG_WALL, &raw mut usage as usize, 0, 0])?;
    Ok((pid as i32, status, usage))
}

/// Waits for this child.
pub(crate) fn reap_this(pid: i32) {
    let _ = retry(nr::WAIT4, [pid as usize, 0, 0x4000_0000, 0, 0, 0]);
}

/// `CLOCK_MONOTONIC` in nanoseconds.
pub(crate) fn now() -> u64 {
    let mut time = [0u64; 2];
    call(nr::CLOCK_GETTIME, [1, time.as_mut_ptr() as usize, 0, 0, 0, 0]);
    time[0] * 1_000_000_000 + time[1]
}

#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Watched {
    fd: i32,
    events: i16,
    pub(crate) ready: i16,
}

const READABLE: i16 = 1;

impl Watched {
    /// `None` is not watched.
    pub(crate) fn new(fd: Option<&Fd>) -> Watched {
        Watched { fd: fd.map_or(-1, |fd| fd.0), events: READABLE, ready: 0 }
    }
}

/// Sleeps until something is ready or `timeout` nanoseconds have passed.
pub(crate) fn poll(watched: &mut [Watched], timeout: Option<u64>) {
    let time = timeout.map(|ns| [ns / 1_000_000_000, ns % 1_000_000_000]);
    let time = time.as_ref().map_or(0, |time| time.as_ptr() as usize);
    call(nr::PPOLL, [watched.as_mut_ptr() as usize, watched.len(), time, 0, 0, 0]);
}

pub(crate) fn set_groups(groups: &[u8]) -> Result<()> {
    check(call(nr::SETGROUPS, [groups.len() / 4, groups.as_ptr() as usize, 0, 0, 0, 0])).map(drop)
}

pub(crate) fn set_uid(uid: u32) -> Result<()> {
    let uid = uid as usize;
    check(call(nr::SETRESUID, [uid, uid, uid, 0, 0, 0])).map(drop)
}

pub(crate) fn set_gid(gid: u32) -> Result<()> {
    let gid = gid as usize;
    check(call(nr::SETRESGID, [gid, gid, gid, 0, 0, 0])).map(drop)
}

pub(crate) fn set_nice(nice: i32) -> Result<()> {
    check(call(nr::SETPRIORITY, [0, 0, nice as isize as usize, 0, 0, 0])).map(drop)
}

pub(crate) fn set_affinity(mask: &[u8]) -> Result<()> {
    check(call(nr::SCHED_SETAFFINITY, [0, mask.len(), mask.as_ptr() as usize, 0, 0, 0])).map(drop)
}

pub(crate) fn set_rlimit(resource: u32, soft: u64, hard: u64) -> Result<()> {
    let limit = [soft, hard];
    check(call(nr::PRLIMIT64, [0, resource as usize, limit.as_ptr() as usize, 0, 0, 0])).map(drop)
}

pub(crate) fn set_umask(mask: u32) {
    call(nr::UMASK, [mask as usize, 0, 0, 0, 0, 0]);
}

pub(crate) fn change_directory(path: Path<'_>) -> Result<()> {
    check(call(nr::CHDIR, [at(path), 0, 0, 0, 0, 0])).map(drop)
}

/// Becomes the command. Returns only with an error.
pub(crate) fn execute(path: Path<'_>, args: &Args) -> Errno {
    // SAFETY: `start` has seen at least `OWN_ARGS - 1` arguments; the list ends with null wherever it is entered at or before `count`.
    let argv = unsafe { args.argv.add(OWN_ARGS.min(args.count)) };
    (-call(nr::EXECVE, [at(path), argv as usize, args.envp as usize, 0, 0, 0])) as Errno
}

const CHILD_STACK: usize = 32 * 1024;

#[repr(align(16))]
struct Stack(core::cell::UnsafeCell<[u8; CHILD_STACK]>);
// SAFETY: S2 and S3: only one vfork child at a time ever runs on it.
unsafe impl Sync for Stack {}
static STACK: Stack = Stack(core::cell::UnsafeCell::new([0; CHILD_STACK]));

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

#[cfg(target_arch = "x86_64")]
fn clone_onto(number: usize, args: [usize; 3], entry: extern "C" fn(usize) -> !, data: usize) -> isize {
    let result: isize;
    // SAFETY: S3. The child comes back from the call on its own, 16-byte aligned stack, calls `entry`, and never passes the label.
    unsafe {
        asm!("syscall", "test rax, rax", "jnz 2f", "xor ebp, ebp", "mov rdi, r12", "call r13", "ud2", "2:",
             inlateout("rax") number as isize => result, in("rdi") args[0], in("rsi") args[1], in("rdx") args[2],
             in("r10") 0usize, in("r8") 0usize, in("r12") data, in("r13") entry, lateout("rcx") _, lateout("r11") _);
    }
    result
}

#[cfg(target_arch = "aarch64")]
fn clone_onto(number: usize, args: [usize; 3], entry: extern "C" fn(usize) -> !, data: usize) -> isize {
    let result: isize;
    // SAFETY: S3. The child comes back from the call on its own, 16-byte aligned stack, calls `entry`, and never passes the label.
    unsafe {
        asm!("svc #0", "cbnz x0, 2f", "mov x29, #0", "mov x0, x20", "blr x21", "brk #1", "2:",
             in("x8") number, inlateout("x0") args[0] as isize => result, in("x1") args[1], in("x2") args[2],
             in("x3") 0usize, in("x4") 0usize, in("x20") data, in("x21") entry, lateout("x30") _);
    }
    result
}

/// A child that shares the shepherd's memory until it executes: constant cost, and its errors are left in `context`.
/// The child runs `body` with the context and whether it was born inside `cgroup`. Gives pid and pidfd.
pub(crate) fn vfork<C>(context: &mut C, body: fn(&mut C, bool) -> !, cgroup: Option<&Fd>) -> Result<(i32, Fd)> {
    const CLONE_VM_VFORK_PIDFD: usize = 0x100 | 0x4000 | 0x1000;
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    struct Job<C> {
        context: *mut C,
        body: fn(&mut C, bool) -> !,
        inside: bool,
    }
    extern "C" fn entry<C>(job: usize) -> ! {
        // SAFETY: S3: `job` and what it points to live on the stack of the shepherd, which stands still.
        unsafe {
            let job = &*(job as *const Job<C>);
            (job.body)(&mut *job.context, job.inside)
        }
    }
    let mut pidfd = -1i32;
    if let Some(cgroup) = cgroup {
        let job = Job { context: &raw mut *context, body, inside: true };
        let clone = CloneArgs {
            flags: CLONE_VM_VFORK_PIDFD as u64 | CLONE_INTO_CGROUP,
            pidfd: &raw mut pidfd as u64,
            exit_signal: u64::from(SIGCHLD),
            stack: STACK.0.get() as u64,
            stack_size: CHILD_STACK as u64,
            cgroup: cgroup.0 as u64,
            ..CloneArgs::default()
        };
        let args = [&raw const clone as usize, size_of::<CloneArgs>(), 0];
        if let Ok(pid) = check(clone_onto(CLONE3, args, entry::<C>, &raw const job as usize)) {
            return Ok((pid as i32, Fd(pidfd)));
        }
        // Refused by an old kernel or a container's filter, or the group is not ours to enter: the child's own attempt tells which.
    }
    let job = Job { context: &raw mut *context, body, inside: false };
    let flags = CLONE_VM_VFORK_PIDFD | SIGCHLD as usize;
    let args = [flags, STACK.0.get() as usize + CHILD_STACK, &raw mut pidfd as usize];
    let pid = check(clone_onto(nr::CLONE, args, entry::<C>, &raw const job as usize))?;
    Ok((pid as i32, Fd(pidfd)))
}

/// Anonymous memory that grows; only touched pages count.
pub(crate) struct Pages {
    start: *mut u8,
    len: usize,
}

impl Pages {
    pub(crate) fn new(len: usize) -> Result<Pages> {
        const PRIVATE_ANONYMOUS: usize = 0x22;
        let start = check(call(nr::MMAP, [0, len, 3, PRIVATE_ANONYMOUS, -1isize as usize, 0]))?;
        Ok(Pages { start: start as *mut u8, len })
    }

    pub(crate) fn grow(&mut self, len: usize) -> Result<()> {
        const MAY_MOVE: usize = 1;
        let start = check(call(nr::MREMAP, [self.start as usize, self.len, len, MAY_MOVE, 0, 0]))?;
        (self.start, self.len) = (start as *mut u8, len);
        Ok(())
    }

    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: `start` maps `len` readable and writable, zeroed bytes, ours alone until drop; the borrow holds `self`.
        unsafe { core::slice::from_raw_parts_mut(self.start, self.len) }
    }

    /// The same bytes as records; `T` is plain words.
    pub(crate) fn records<T: Plain>(&mut self) -> &mut [T] {
        // SAFETY: as in `bytes`; a page is aligned for any `Plain`, and every bit pattern is one.
        unsafe { core::slice::from_raw_parts_mut(self.start.cast(), self.len / size_of::<T>()) }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        call(nr::MUNMAP, [self.start as usize, self.len, 0, 0, 0, 0]);
    }
}

/// Types for which every bit pattern is a value.
///
/// # Safety
/// `repr(C)`, integers only, no padding, alignment at most a page.
pub(crate) unsafe trait Plain: Copy {}
// SAFETY: integers only, see its definition.
unsafe impl Plain for crate::tree::Member {}

#[repr(C)]
struct Vector {
    base: usize,
    len: usize,
}

/// `struct msghdr`.
#[repr(C)]
struct Message {
    name: usize,
    name_len: u32,
    pad: u32,
    vectors: *const Vector,
    vector_count: usize,
    control: usize,
    control_len: usize,
    flags: u32,
    pad_end: u32,
}

#[repr(C, align(8))]
struct Control {
    len: usize,
    level: i32,
    kind: i32,
    fds: [i32; MAX_FDS + 1],
}

const CONTROL_HEADER: usize = 16;
const SOL_SOCKET: i32 = 1;
const SCM_RIGHTS: i32 = 1;

pub(crate) fn send(socket: &Fd, bytes: &[u8], fds: &[i32]) -> Result<usize> {
    const DONTWAIT_NOSIGNAL: usize = 0x40 | 0x4000;
    let mut control = Control {
        len: CONTROL_HEADER + fds.len() * 4,
        level: SOL_SOCKET,
        kind: SCM_RIGHTS,
        fds: [0; MAX_FDS + 1],
    };
    control.fds.get_mut(..fds.len()).ok_or(EINVAL)?.copy_from_slice(fds);
    let vector = Vector { base: bytes.as_ptr() as usize, len: bytes.len() };
    let len = if fds.is_empty() { 0 } else { control.len };
    let message = message(&vector, &raw mut control as usize, len);
    retry(nr::SENDMSG, [socket.0 as usize, &raw const message as usize, DONTWAIT_NOSIGNAL, 0, 0, 0])
}

fn message(vector: &Vector, control: usize, control_len: usize) -> Message {
    let (name, name_len, pad, flags, pad_end) = (0, 0, 0, 0, 0);
    Message { name, name_len, pad, vectors: vector, vector_count: 1, control, control_len, flags, pad_end }
}

/// The length of the next message, which stays where it is.
pub(crate) fn next_length(socket: &Fd) -> Result<usize> {
    const PEEK_TRUNC: usize = 2 | 0x20;
    let vector = Vector { base: 0, len: 0 };
    let message = message(&vector, 0, 0);
    retry(nr::RECVMSG, [socket.0 as usize, &raw const message as usize, PEEK_TRUNC, 0, 0, 0])
}

/// One message and its descriptors, without waiting: their numbers are written to `fds`, their count is returned. A length of 0 is the end.
pub(crate) fn receive(socket: &Fd, into: &mut [u8], fds: &mut [i32; MAX_FDS]) -> Result<(usize, usize)> {
    const CLOEXEC_DONTWAIT: usize = 0x4000_0000 | 0x40;
    const TRUNCATED: u32 = 0x20 | 0x8;
    let mut control = Control { len: 0, level: 0, kind: 0, fds: [0; MAX_FDS + 1] };
    let vector = Vector { base: into.as_mut_ptr() as usize, len: into.len() };
    let message = message(&vector, &raw mut control as usize, size_of::<Control>());
    let len = retry(nr::RECVMSG, [socket.0 as usize, &raw const message as usize, CLOEXEC_DONTWAIT, 0, 0, 0])?;
    // SAFETY: the kernel has written both behind the compiler's back; they are read once, after the call.
    let (flags, control) = unsafe { ((&raw const message.flags).read_volatile(), (&raw const control).read_volatile()) };
    let rights = control.len > CONTROL_HEADER && control.level == SOL_SOCKET && control.kind == SCM_RIGHTS;
    let count = if rights { ((control.len - CONTROL_HEADER) / 4).min(MAX_FDS) } else { 0 };
    fds[..count].copy_from_slice(&control.fds[..count]);
    if flags & TRUNCATED != 0 { Err(EINVAL) } else { Ok((len, count)) }
}

// What the compiler calls by name. Plain loops would be compiled into calls of themselves; the string instructions are not.

/// # Safety
/// As `memcpy` of C.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
    let mut at = 0;
    while at < len {
        // SAFETY: `at < len`, and the caller vouches for both ranges. Volatile keeps the loop a loop.
        unsafe { to.add(at).write_volatile(from.add(at).read_volatile()) };
        at += 1;
    }
    to
}

/// # Safety
/// As `memmove` of C.
#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
    let backwards = (to as usize).wrapping_sub(from as usize) < len;
    let mut at = 0;
    while at < len {
        let place = if backwards { len - 1 - at } else { at };
        // SAFETY: `place < len`, and the caller vouches for both ranges; the direction never reads what it has written.
        unsafe { to.add(place).write_volatile(from.add(place).read_volatile()) };
        at += 1;
    }
    to
}

/// # Safety
/// As `memset` of C.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, byte: i32, len: usize) -> *mut u8 {
    let mut at = 0;
    while at < len {
        // SAFETY: `at < len`, and the caller vouches for the range.
        unsafe { to.add(at).write_volatile(byte as u8) };
        at += 1;
    }
    to
}

/// # Safety
/// As `memcmp` of C.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, len: usize) -> i32 {
    let mut at = 0;
    while at < len {
        // SAFETY: `at < len`, and the caller vouches for both ranges.
        let (x, y) = unsafe { (a.add(at).read_volatile(), b.add(at).read_volatile()) };
        if x != y {
            return i32::from(x) - i32::from(y);
        }
        at += 1;
    }
    0
}

/// # Safety
/// As `bcmp` of C.
#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(a: *const u8, b: *const u8, len: usize) -> i32 {
    // SAFETY: the caller's.
    unsafe { memcmp(a, b, len) }
}

/// # Safety
/// As `strlen` of C.
#[unsafe(no_mangle)]
unsafe extern "C" fn strlen(text: *const u8) -> usize {
    let mut len = 0;
    // SAFETY: the caller vouches for a NUL; nothing behind it is read.
    while unsafe { text.add(len).read_volatile() } != 0 {
        len += 1;
    }
    len
}
