//! Starting the shepherd at constant cost: a child that shares our memory until it executes (as `posix_spawn` does), so
//! that the size of this process does not matter.
//!
//! Invariant C1: between `clone` and `execveat` the child runs on its own stack in our memory, while the calling thread
//! stands still in the kernel (`CLONE_VFORK`) with every signal blocked. It makes system calls only: no allocation, no
//! lock, no Rust destructor.

use super::{SignalsBlocked, last_errno};
use crate::error::Stage;
use crate::strings::Strings;
use rustix::io::Errno;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

/// What the child needs, all prepared beforehand.
pub(crate) struct Launch<'a> {
    pub(crate) image: BorrowedFd<'a>,
    pub(crate) socket: BorrowedFd<'a>,
    pub(crate) args: &'a Strings,
    pub(crate) env: &'a Strings,
    pub(crate) namespace: Option<&'a Namespace>,
}

/// A pid namespace for the shepherd to be pid 1 of.
pub(crate) struct Namespace {
    /// `uid_map` and `gid_map` of a new user namespace, which an unprivileged caller needs.
    pub(crate) maps: Option<(CString, CString)>,
}

struct Job {
    image: c_int,
    socket: c_int,
    argv: *const *const c_char,
    envp: *const *const c_char,
    namespace: *const Namespace,
    /// Written by the child.
    failed: Option<(Stage, Errno)>,
}

/// Many times what the child uses, and small enough for an allocator to keep it at hand.
const STACK: usize = 32 * 1024;

/// Starts the shepherd; gives its pid and pidfd once it runs.
pub(crate) fn clone_shepherd(launch: &Launch<'_>) -> Result<(c_int, OwnedFd), (Stage, Errno)> {
    let (argv, envp) = (launch.args.pointers(), launch.env.pointers());
    let mut job = Job {
        image: launch.image.as_raw_fd(),
        socket: launch.socket.as_raw_fd(),
        argv: argv.as_ptr(),
        envp: envp.as_ptr(),
        namespace: launch.namespace.map_or(ptr::null(), ptr::from_ref),
        failed: None,
    };
    let mut flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD;
    if let Some(namespace) = launch.namespace {
        flags |= libc::CLONE_NEWPID | libc::CLONE_NEWNS;
        if namespace.maps.is_some() {
            flags |= libc::CLONE_NEWUSER;
        }
    }
    let mut stack = Vec::<u128>::with_capacity(STACK / size_of::<u128>());
    let mut pidfd: c_int = -1;
    let blocked = SignalsBlocked::new();
    // SAFETY: C1. `top` is the 16-byte aligned end of a live allocation; `job` and all it points to outlive the call,
    // which returns only after the child has executed or ended.
    let pid = unsafe {
        let top = stack.as_mut_ptr().add(stack.capacity());
        libc::clone(child, top.cast(), flags, (&raw mut job).cast(), &raw mut pidfd)
    };
    let errno = last_errno();
    drop(blocked);
    if pid < 0 {
        return Err((if launch.namespace.is_some() { Stage::Namespace } else { Stage::Shepherd }, errno));
    }
    // SAFETY: `CLONE_PIDFD` put a new descriptor there, which is ours.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    // SAFETY: the child has written it before it ended, which was before `clone` returned; the read must not be assumed
    // away.
    match unsafe { (&raw const job.failed).read_volatile() } {
        None => Ok((pid, pidfd)),
        Some(failed) => {
            let _ = rustix::process::waitid(
                rustix::process::WaitId::PidFd(std::os::fd::AsFd::as_fd(&pidfd)),
                rustix::process::WaitIdOptions::EXITED,
            );
            Err(failed)
        }
    }
}

extern "C" fn child(job: *mut c_void) -> c_int {
    // SAFETY: C1: `job` is the `Job` of the caller, who stands still.
    unsafe {
        let job = job.cast::<Job>();
        if !(*job).namespace.is_null()
            && let Err(errno) = enter(&*(*job).namespace)
        {
            (*job).failed = Some((Stage::Namespace, errno));
            libc::_exit(127);
        }
        // Our own table of descriptors: the caller's keeps its close-on-exec.
        libc::fcntl((*job).socket, libc::F_SETFD, 0);
        libc::syscall(libc::SYS_execveat, (*job).image, c"".as_ptr(), (*job).argv, (*job).envp, libc::AT_EMPTY_PATH);
        // The command's arguments and environment travel with the shepherd.
        let errno = last_errno();
        let stage = if errno == Errno::TOOBIG { Stage::Exec } else { Stage::Shepherd };
        (*job).failed = Some((stage, errno));
        libc::_exit(127);
    }
}

/// Before the shepherd executes, for it has no capability in its user namespace afterwards: map the ids, then mounts of
/// our own with a /proc that shows the new pid namespace.
fn enter(namespace: &Namespace) -> Result<(), Errno> {
    if let Some((uid_map, gid_map)) = &namespace.maps {
        write(c"/proc/self/setgroups", c"deny")?;
        write(c"/proc/self/uid_map", uid_map)?;
        write(c"/proc/self/gid_map", gid_map)?;
    }
    let nothing = ptr::null::<c_void>();
    let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    // SAFETY: NUL-terminated strings; these mounts have no data.
    let mounted = unsafe {
        libc::mount(c"none".as_ptr(), c"/".as_ptr(), ptr::null(), libc::MS_REC | libc::MS_PRIVATE, nothing) == 0
            && libc::mount(c"proc".as_ptr(), c"/proc".as_ptr(), c"proc".as_ptr(), flags, nothing) == 0
    };
    if mounted { Ok(()) } else { Err(last_errno()) }
}

fn write(path: &CStr, text: &CStr) -> Result<(), Errno> {
    // SAFETY: a NUL-terminated path; a buffer with its length; the descriptor is opened and closed here.
    unsafe {
        let fd = libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        if fd < 0 {
            return Err(last_errno());
        }
        let written = libc::write(fd, text.as_ptr().cast(), text.count_bytes());
        let errno = last_errno();
        libc::close(fd);
        if written < 0 { Err(errno) } else { Ok(()) }
    }
}
