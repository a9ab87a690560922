//! System calls of the tests.

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fd::AsFd;
use std::time::Instant;

/// This process ends with the thread that started it.
pub(crate) fn die_with_parent() {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL)).expect("prctl");
}

/// This process ends after some minutes, whatever happens.
pub(crate) fn die_in_time() {
    // SAFETY: takes a number.
    unsafe { libc::alarm(if crate::actor::soak() { 3600 } else { 300 }) };
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

/// Traces a thread until its [`LAST_MARK`]; returns the system calls of each marked section. Calls `begun` when the
/// thread can do nothing unseen any more.
pub(crate) fn trace(thread: i32, begun: impl FnOnce()) -> Vec<(u64, Vec<i64>)> {
    let ptrace = |request: libc::c_uint, address: usize, data: usize| {
        // SAFETY: a ptrace request on a thread that this one traces; pointers passed below live across the call.
        let result = unsafe { libc::ptrace(request, thread, address, data) };
        assert!(result >= 0, "ptrace {request}: {}", std::io::Error::last_os_error());
    };
    ptrace(libc::PTRACE_SEIZE, 0, libc::PTRACE_O_TRACESYSGOOD as usize);
    ptrace(libc::PTRACE_INTERRUPT, 0, 0);
    begun();
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

/// Gives this thread a mount namespace of its own, and in it a file system of `bytes` at `path`.
pub(crate) fn mount_tmpfs(path: &std::path::Path, bytes: u64) {
    let text = |text: &str| std::ffi::CString::new(text).expect("no NUL");
    let target = text(path.to_str().expect("a path of ours"));
    let options = text(&format!("size={bytes}"));
    // SAFETY: strings that live across the calls; null where the call takes none.
    unsafe {
        assert_eq!(libc::unshare(libc::CLONE_NEWNS), 0, "unshare: {}", std::io::Error::last_os_error());
        let private = libc::MS_REC | libc::MS_PRIVATE;
        let root = text("/");
        let done = libc::mount(std::ptr::null(), root.as_ptr(), std::ptr::null(), private, std::ptr::null());
        assert_eq!(done, 0, "private mounts: {}", std::io::Error::last_os_error());
        let kind = text("tmpfs");
        let done = libc::mount(kind.as_ptr(), target.as_ptr(), kind.as_ptr(), 0, options.as_ptr().cast());
        assert_eq!(done, 0, "mount: {}", std::io::Error::last_os_error());
    }
}

/// From now on no descriptor is to be had; returns the former limit.
pub(crate) fn forbid_descriptors() -> rustix::process::Rlimit {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    allow_descriptors(rustix::process::Rlimit { current: Some(3), maximum: limit.maximum });
    limit
}

pub(crate) fn allow_descriptors(limit: rustix::process::Rlimit) {
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).expect("setrlimit");
}

/// Becomes another user, for good.
pub(crate) fn become_user(uid: u32) {
    // SAFETY: take numbers, and a null list of length 0. The C library changes all threads.
    unsafe {
        assert_eq!(libc::setgroups(0, std::ptr::null()), 0);
        assert_eq!(libc::setgid(uid), 0);
        assert_eq!(libc::setuid(uid), 0);
    }
    die_with_parent(); // a change of user clears that
    // And without it /proc/self belongs to root, which would make the attacks fail for nothing.
    // SAFETY: takes numbers.
    unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 1, 0, 0, 0) };
}

/// Tries to make memory writable; says whether that worked.
pub(crate) fn make_writable(start: usize, len: usize) -> bool {
    // SAFETY: the caller expects a refusal, and ends the test if there is none.
    unsafe { libc::mprotect(start as *mut libc::c_void, len, libc::PROT_READ | libc::PROT_WRITE) == 0 }
}

pub(crate) fn set_umask(umask: u32) {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(umask));
}

pub(crate) fn make_fifo(path: &std::path::Path) {
    rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).expect("mkfifo");
}

/// The open descriptors that an exec would hand on.
pub(crate) fn inherited_descriptors() -> Vec<i32> {
    let mut inherited: Vec<i32> = std::fs::read_dir("/proc/self/fd")
        .expect("descriptors")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        // SAFETY: asks for flags; a number that is not open any more gives an error.
        .filter(|&fd| matches!(unsafe { libc::fcntl(fd, libc::F_GETFD) }, 0))
        .collect();
    inherited.sort_unstable();
    inherited
}

/// Sets a variable of this process: for roles, which have one thread that looks.
pub(crate) fn set_env(name: &str, value: &str) -> bool {
    // SAFETY: the harness's main thread waits for this one and reads no environment meanwhile.
    unsafe { std::env::set_var(name, value) };
    true
}

/// Does to the socket that an epoll set watches what a hostile owner can: fills it, and makes it block.
pub(crate) fn clog(epoll: std::os::fd::BorrowedFd<'_>) {
    use std::os::fd::AsRawFd;
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", epoll.as_raw_fd())).expect("fdinfo");
    let watched = info.lines().filter_map(|line| line.strip_prefix("tfd:")?.split_ascii_whitespace().next());
    let mut clogged = 0;
    for fd in watched {
        let fd: i32 = fd.parse().expect("a number");
        // SAFETY: sends to, and sets flags of, descriptors of this process; a refusal does no harm.
        unsafe {
            while libc::send(fd, [0_u8; 64].as_ptr().cast(), 64, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) > 0 {
                clogged += 1;
            }
            libc::fcntl(fd, libc::F_SETFL, 0);
        }
    }
    assert!(clogged > 10, "the wake-up is there to be clogged");
}

/// Takes every descriptor that is left, of `limit`.
pub(crate) fn take_all_descriptors(limit: u64) -> Vec<std::fs::File> {
    let before = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    allow_descriptors(rustix::process::Rlimit { current: Some(limit), maximum: before.maximum });
    std::iter::from_fn(|| std::fs::File::open("/dev/null").ok()).collect()
}

#[cfg(feature = "tokio")]
/// From now on the kernel refuses membarrier to this process.
pub(crate) fn forbid_membarrier() {
    const LOAD_NUMBER: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const SKIP_UNLESS: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let mut filter = [
        libc::sock_filter { code: LOAD_NUMBER, jt: 0, jf: 0, k: 0 },
        libc::sock_filter { code: SKIP_UNLESS, jt: 0, jf: 1, k: libc::SYS_membarrier as u32 },
        libc::sock_filter { code: RETURN, jt: 0, jf: 0, k: libc::SECCOMP_RET_ERRNO | libc::EPERM as u32 },
        libc::sock_filter { code: RETURN, jt: 0, jf: 0, k: libc::SECCOMP_RET_ALLOW },
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the program and its filter live across the calls, which copy them.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        let flags = libc::SECCOMP_FILTER_FLAG_TSYNC;
        let set = libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program);
        assert_eq!(set, 0, "seccomp: {}", std::io::Error::last_os_error());
    }
}

#[cfg(feature = "tokio")]
/// Processor time that this process has used.
pub(crate) fn cpu_time() -> std::time::Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    std::time::Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// Takes the inherited descriptor `number` as this program's own.
pub(crate) fn own_descriptor(number: std::os::fd::RawFd) -> std::os::fd::OwnedFd {
    // SAFETY: a role that was handed the number owns it; that nobody else closes it is what the test is about.
    unsafe { std::os::fd::FromRawFd::from_raw_fd(number) }
}
