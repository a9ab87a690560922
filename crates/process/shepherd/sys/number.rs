//! The kernel's numbers for its calls (`asm/unistd.h` of each architecture).

pub(in crate::sys) use arch::*;

// The same on every architecture.
pub(in crate::sys) const PIDFD_SEND_SIGNAL: usize = 424;
pub(in crate::sys) const PIDFD_OPEN: usize = 434;
pub(in crate::sys) const CLONE3: usize = 435;
pub(in crate::sys) const CLOSE_RANGE: usize = 436;

#[cfg(target_arch = "x86_64")]
mod arch {
    pub(in crate::sys) const READ: usize = 0;
    pub(in crate::sys) const WRITE: usize = 1;
    pub(in crate::sys) const CLOSE: usize = 3;
    pub(in crate::sys) const MMAP: usize = 9;
    pub(in crate::sys) const MUNMAP: usize = 11;
    pub(in crate::sys) const RT_SIGACTION: usize = 13;
    pub(in crate::sys) const RT_SIGPROCMASK: usize = 14;
    pub(in crate::sys) const IOCTL: usize = 16;
    pub(in crate::sys) const MREMAP: usize = 25;
    pub(in crate::sys) const MADVISE: usize = 28;
    pub(in crate::sys) const GETPID: usize = 39;
    pub(in crate::sys) const SENDMSG: usize = 46;
    pub(in crate::sys) const RECVMSG: usize = 47;
    pub(in crate::sys) const CLONE: usize = 56;
    pub(in crate::sys) const EXECVE: usize = 59;
    pub(in crate::sys) const WAIT4: usize = 61;
    pub(in crate::sys) const KILL: usize = 62;
    pub(in crate::sys) const FCNTL: usize = 72;
    pub(in crate::sys) const FLOCK: usize = 73;
    pub(in crate::sys) const CHDIR: usize = 80;
    pub(in crate::sys) const UMASK: usize = 95;
    pub(in crate::sys) const SETPGID: usize = 109;
    pub(in crate::sys) const GETPPID: usize = 110;
    pub(in crate::sys) const SETSID: usize = 112;
    pub(in crate::sys) const GETPGID: usize = 121;
    pub(in crate::sys) const SETGROUPS: usize = 116;
    pub(in crate::sys) const SETRESUID: usize = 117;
    pub(in crate::sys) const SETRESGID: usize = 119;
    pub(in crate::sys) const SETPRIORITY: usize = 141;
    pub(in crate::sys) const PRCTL: usize = 157;
    pub(in crate::sys) const SCHED_SETAFFINITY: usize = 203;
    pub(in crate::sys) const GETDENTS64: usize = 217;
    pub(in crate::sys) const CLOCK_GETTIME: usize = 228;
    pub(in crate::sys) const EXIT_GROUP: usize = 231;
    pub(in crate::sys) const WAITID: usize = 247;
    pub(in crate::sys) const OPENAT: usize = 257;
    pub(in crate::sys) const MKDIRAT: usize = 258;
    pub(in crate::sys) const UNLINKAT: usize = 263;
    pub(in crate::sys) const PPOLL: usize = 271;
    pub(in crate::sys) const SIGNALFD4: usize = 289;
    pub(in crate::sys) const DUP3: usize = 292;
    pub(in crate::sys) const PIPE2: usize = 293;
    pub(in crate::sys) const PRLIMIT64: usize = 302;
}

#[cfg(target_arch = "aarch64")]
mod arch {
    pub(in crate::sys) const DUP3: usize = 24;
    pub(in crate::sys) const FCNTL: usize = 25;
    pub(in crate::sys) const IOCTL: usize = 29;
    pub(in crate::sys) const FLOCK: usize = 32;
    pub(in crate::sys) const MKDIRAT: usize = 34;
    pub(in crate::sys) const UNLINKAT: usize = 35;
    pub(in crate::sys) const CHDIR: usize = 49;
    pub(in crate::sys) const OPENAT: usize = 56;
    pub(in crate::sys) const CLOSE: usize = 57;
    pub(in crate::sys) const PIPE2: usize = 59;
    pub(in crate::sys) const GETDENTS64: usize = 61;
    pub(in crate::sys) const READ: usize = 63;
    pub(in crate::sys) const WRITE: usize = 64;
    pub(in crate::sys) const PPOLL: usize = 73;
    pub(in crate::sys) const SIGNALFD4: usize = 74;
    pub(in crate::sys) const EXIT_GROUP: usize = 94;
    pub(in crate::sys) const WAITID: usize = 95;
    pub(in crate::sys) const CLOCK_GETTIME: usize = 113;
    pub(in crate::sys) const SCHED_SETAFFINITY: usize = 122;
    pub(in crate::sys) const KILL: usize = 129;
    pub(in crate::sys) const RT_SIGACTION: usize = 134;
    pub(in crate::sys) const RT_SIGPROCMASK: usize = 135;
    pub(in crate::sys) const SETPRIORITY: usize = 140;
    pub(in crate::sys) const SETRESUID: usize = 147;
    pub(in crate::sys) const SETRESGID: usize = 149;
    pub(in crate::sys) const SETPGID: usize = 154;
    pub(in crate::sys) const GETPGID: usize = 155;
    pub(in crate::sys) const SETSID: usize = 157;
    pub(in crate::sys) const SETGROUPS: usize = 159;
    pub(in crate::sys) const UMASK: usize = 166;
    pub(in crate::sys) const PRCTL: usize = 167;
    pub(in crate::sys) const GETPID: usize = 172;
    pub(in crate::sys) const GETPPID: usize = 173;
    pub(in crate::sys) const SENDMSG: usize = 211;
    pub(in crate::sys) const RECVMSG: usize = 212;
    pub(in crate::sys) const MUNMAP: usize = 215;
    pub(in crate::sys) const MREMAP: usize = 216;
    pub(in crate::sys) const CLONE: usize = 220;
    pub(in crate::sys) const EXECVE: usize = 221;
    pub(in crate::sys) const MMAP: usize = 222;
    pub(in crate::sys) const MADVISE: usize = 233;
    pub(in crate::sys) const WAIT4: usize = 260;
    pub(in crate::sys) const PRLIMIT64: usize = 261;
}
