//! System calls, the entry point and the few symbols a C library would bring. All `unsafe` of the shepherd is here.
//!
//! Invariants the `SAFETY` comments name:
//! * S1 (buffers): every pointer handed to the kernel comes from a live Rust reference and goes with its true length.
//! * S2 (one thread): the shepherd has one thread and no signal handler, so nothing runs beside or inside a function.
//! * S3 (vfork): a `CLONE_VM | CLONE_VFORK` child runs on a stack of its own while the shepherd stands still in the
//!   kernel; it ends by `execve` or `exit`, never by returning.
#![allow(unsafe_code)]

mod message;
mod number;
mod pages;
mod program;
mod vfork;

pub(crate) use message::{next_length, receive, send};
pub(crate) use pages::Pages;
pub(crate) use program::{Args, execute};
pub(crate) use vfork::vfork;

use core::arch::asm;
use number as nr;

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
pub(crate) const EXDEV: Errno = 18;
pub(crate) const EINVAL: Errno = 22;
pub(crate) const ENFILE: Errno = 23;
pub(crate) const EMFILE: Errno = 24;
pub(crate) const EPIPE: Errno = 32;
pub(crate) const ENOSYS: Errno = 38;
pub(crate) const EMSGSIZE: Errno = 90;
pub(crate) const ECONNRESET: Errno = 104;

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
fn call(number: usize, args: [usize; 6]) -> isize {
    let result: isize;
    // SAFETY: the system call convention of x86_64 Linux; what the pointers in `args` mean is the caller's to vouch for
    // (S1).
    unsafe {
        asm!("syscall", inlateout("rax") number as isize => result, in("rdi") args[0], in("rsi") args[1], in("rdx") args[2],
             in("r10") args[3], in("r8") args[4], in("r9") args[5], lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    result
}

#[cfg(target_arch = "aarch64")]
fn call(number: usize, args: [usize; 6]) -> isize {
    let result: isize;
    // SAFETY: the system call convention of aarch64 Linux; what the pointers in `args` mean is the caller's to vouch
    // for (S1).
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

/// Whether it was for want of a descriptor, here or in the whole machine.
pub(crate) fn no_descriptor(errno: Errno) -> bool {
    errno == EMFILE || errno == ENFILE
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

/// Hands out the name and the type (`DT_*`) of every entry of a directory.
pub(crate) fn each_entry(dir: &Fd, mut each: impl FnMut(Path<'_>, u8) -> Result<()>) -> Result<()> {
    // `struct linux_dirent64`: inode and offset of 8 bytes each, the record's length, the type, the name with its NUL.
    const LENGTH: usize = 16;
    const TYPE: usize = 18;
    const NAME: usize = 19;
    let mut entries = [0u8; 4096];
    loop {
        let len = retry(nr::GETDENTS64, [dir.0 as usize, entries.as_mut_ptr() as usize, entries.len(), 0, 0, 0])?;
        let mut rest = &entries[..len];
        if rest.is_empty() {
            return Ok(());
        }
        while rest.len() > NAME {
            let length = usize::from(u16::from_le_bytes([rest[LENGTH], rest[LENGTH + 1]]));
            let Some((entry, behind)) = rest.split_at_checked(length.max(NAME)) else { break };
            if let Ok(name) = core::ffi::CStr::from_bytes_until_nul(&entry[NAME..]) {
                each(name, entry[TYPE])?;
            }
            rest = behind;
        }
    }
}

pub(crate) fn mkdir(path: Path<'_>) -> Result<()> {
    check(call(nr::MKDIRAT, [AT_FDCWD as usize, at(path), 0o755, 0, 0, 0])).map(drop)
}

pub(crate) fn rmdir_at(dir: i32, path: Path<'_>) -> Result<()> {
    const AT_REMOVEDIR: usize = 0x200;
    check(call(nr::UNLINKAT, [dir as usize, at(path), AT_REMOVEDIR, 0, 0, 0])).map(drop)
}

/// `flock`, exclusive; it ends with the last copy of the descriptor.
pub(crate) fn lock(fd: &Fd) -> Result<()> {
    const LOCK_EX_NB: usize = 2 | 4;
    check(call(nr::FLOCK, [fd.0 as usize, LOCK_EX_NB, 0, 0, 0, 0])).map(drop)
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

/// A copy of `fd` at `lowest` or above, closed by `execve`. `EMFILE` also when `lowest` is beyond the limit.
pub(crate) fn duplicate_above(fd: i32, lowest: i32) -> Result<i32> {
    const F_DUPFD_CLOEXEC: usize = 1030;
    match check(call(nr::FCNTL, [fd as usize, F_DUPFD_CLOEXEC, lowest as usize, 0, 0, 0])) {
        Err(EINVAL) => Err(EMFILE),
        result => result.map(|number| number as i32),
    }
}

/// A copy of `fd`, which is open, at `number`, kept by `execve`. `EMFILE` when `number` is beyond the limit.
pub(crate) fn duplicate_to(fd: i32, number: i32) -> Result<()> {
    const EBADF: Errno = 9;
    match check(call(nr::DUP3, [fd as usize, number as usize, 0, 0, 0, 0])) {
        Err(EBADF) => Err(EMFILE),
        result => result.map(drop),
    }
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
        check(call(nr::CLOSE_RANGE, [0, number - 1, 0, 0, 0, 0]))?;
    }
    check(call(nr::CLOSE_RANGE, [number + 1, u32::MAX as usize, 0, 0, 0, 0])).map(drop)
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

pub(crate) fn new_group() -> Result<()> {
    check(call(nr::SETPGID, [0, 0, 0, 0, 0, 0])).map(drop)
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

/// The signal that the kernel sends to this process when its parent (to be exact: the thread that made it) ends.
pub(crate) fn set_parent_death_signal(signal: u32) -> Result<()> {
    const PR_SET_PDEATHSIG: usize = 1;
    prctl(PR_SET_PDEATHSIG, signal as usize)
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

/// As pid 1 of a namespace only: to everybody else in it.
pub(crate) fn signal_namespace(signal: u32) -> Result<()> {
    check(call(nr::KILL, [-1isize as usize, signal as usize, 0, 0, 0, 0])).map(drop)
}

/// Through a pidfd, or a `/proc/<pid>` directory: both stay with their process when its number is used again.
pub(crate) fn signal_process(process: &Fd, signal: u32) -> Result<()> {
    check(call(nr::PIDFD_SEND_SIGNAL, [process.0 as usize, signal as usize, 0, 0, 0, 0])).map(drop)
}

/// To the process group that a process started, through that process's pidfd: right also when the process has ended
/// and its number is somebody else's. A kernel before 6.9 cannot; there it goes by the number of `unreaped`, which
/// nobody else can have.
pub(crate) fn signal_group(starter: &Fd, unreaped: Option<i32>, signal: u32) -> Result<()> {
    const PROCESS_GROUP: usize = 4;
    match check(call(nr::PIDFD_SEND_SIGNAL, [starter.0 as usize, signal as usize, 0, PROCESS_GROUP, 0, 0])) {
        Err(EINVAL) => {
            let number = unreaped.ok_or(ENOSYS)?;
            check(call(nr::KILL, [-(number as isize) as usize, signal as usize, 0, 0, 0, 0])).map(drop)
        }
        result => result.map(drop),
    }
}

/// The process group of a child that is not yet reaped.
pub(crate) fn group_of(child: i32) -> Result<i32> {
    check(call(nr::GETPGID, [child as usize, 0, 0, 0, 0, 0])).map(|group| group as i32)
}

pub(crate) fn open_process(pid: i32) -> Result<Fd> {
    opened(check(call(nr::PIDFD_OPEN, [pid as usize, 0, 0, 0, 0, 0])))
}

fn wait_finds(which: usize, number: usize) -> bool {
    const WNOHANG_WEXITED_WNOWAIT_WALL: usize = 1 | 4 | 0x0100_0000 | 0x4000_0000;
    check(call(nr::WAITID, [which, number, 0, WNOHANG_WEXITED_WNOWAIT_WALL, 0, 0])).is_ok()
}

/// Whether the number is that of a child of ours, which is not yet reaped. The kernel's own word, without /proc.
pub(crate) fn is_child(pid: i32) -> bool {
    const P_PID: usize = 1;
    wait_finds(P_PID, pid as usize)
}

/// The same of the process behind a pidfd.
pub(crate) fn is_child_process(process: &Fd) -> bool {
    const P_PIDFD: usize = 3;
    wait_finds(P_PIDFD, process.0 as usize)
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

fn clock(which: usize) -> u64 {
    let mut time = [0u64; 2];
    call(nr::CLOCK_GETTIME, [which, time.as_mut_ptr() as usize, 0, 0, 0, 0]);
    time[0] * 1_000_000_000 + time[1]
}

/// `CLOCK_MONOTONIC` in nanoseconds.
pub(crate) fn now() -> u64 {
    clock(1)
}

/// `CLOCK_BOOTTIME` in the ticks of `/proc/<pid>/stat`, which are hundredths of a second on every machine we run on.
pub(crate) fn tick() -> u64 {
    clock(7) / 10_000_000
}

#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Watched {
    fd: i32,
    events: i16,
    pub(crate) ready: i16,
}

const READABLE: i16 = 1;
const WRITABLE: i16 = 4;

impl Watched {
    /// `None` is not watched.
    pub(crate) fn new(fd: Option<&Fd>) -> Watched {
        Watched { fd: fd.map_or(-1, |fd| fd.0), events: READABLE, ready: 0 }
    }

    /// For its room instead.
    pub(crate) fn for_room(fd: &Fd) -> Watched {
        Watched { fd: fd.0, events: WRITABLE, ready: 0 }
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

pub(crate) const RLIMIT_NOFILE: u32 = 7;

/// The soft and the hard limit.
pub(crate) fn rlimit(resource: u32) -> Result<(u64, u64)> {
    let mut limit = [0u64; 2];
    check(call(nr::PRLIMIT64, [0, resource as usize, 0, limit.as_mut_ptr() as usize, 0, 0]))?;
    Ok((limit[0], limit[1]))
}

pub(crate) fn set_umask(mask: u32) {
    call(nr::UMASK, [mask as usize, 0, 0, 0, 0, 0]);
}

pub(crate) fn change_directory(path: Path<'_>) -> Result<()> {
    check(call(nr::CHDIR, [at(path), 0, 0, 0, 0, 0])).map(drop)
}
