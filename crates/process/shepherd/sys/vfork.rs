//! Making the command's process.

use super::{Fd, Result, SIGCHLD, check, nr};
use core::arch::asm;

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
    // SAFETY: S3. The child comes back from the call on its own, 16-byte aligned stack, calls `entry`, and never passes
    // the label.
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
    // SAFETY: S3. The child comes back from the call on its own, 16-byte aligned stack, calls `entry`, and never passes
    // the label.
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
        if let Ok(pid) = check(clone_onto(nr::CLONE3, args, entry::<C>, &raw const job as usize)) {
            return Ok((pid as i32, Fd(pidfd)));
        }
        // Refused by an old kernel or a container's filter, or the group is not ours to enter: the child's own attempt
        // tells which.
    }
    let job = Job { context: &raw mut *context, body, inside: false };
    let flags = CLONE_VM_VFORK_PIDFD | SIGCHLD as usize;
    let args = [flags, STACK.0.get() as usize + CHILD_STACK, &raw mut pidfd as usize];
    let pid = check(clone_onto(nr::CLONE, args, entry::<C>, &raw const job as usize))?;
    Ok((pid as i32, Fd(pidfd)))
}
