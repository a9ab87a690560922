//! The entry point, the command's arguments, and the few symbols a C library would bring.

use super::{Errno, Path, at, call, exit, nr};
use core::arch::global_asm;

#[cfg(target_arch = "x86_64")]
global_asm!(".globl _start", "_start:", "xor ebp, ebp", "mov rdi, rsp", "and rsp, -16", "call {}", "ud2", sym enter);
#[cfg(target_arch = "aarch64")]
global_asm!(".globl _start", "_start:", "mov x29, #0", "mov x30, #0", "mov x0, sp", "bl {}", "brk #1", sym enter);

/// `stack` is what the kernel left: argc, argv and NULL, envp and NULL.
extern "C" fn enter(stack: *const usize) -> ! {
    // SAFETY: the kernel's contract for a new program: argc, then argc pointers, a null, the environment's pointers, a
    // null.
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

    /// Makes the word for `ps` say that the control group it promises could not be used: `-group`.
    pub(crate) fn mark_lowered(&self) {
        if self.get(OWN_ARGS - 1).is_some_and(|word| word.starts_with(b"cgroup")) {
            // SAFETY: the string has a first byte, on our own stack, and nothing borrows it: `get` hands out slices
            // that its callers do not keep, and this word is read by nobody else.
            unsafe { (*self.argv.add(OWN_ARGS - 1)).cast_mut().write(b'-') };
        }
    }

    /// Gives the pages of the environment back: they are the command's business, and it has its own copy after
    /// `execve`.
    pub(crate) fn forget_environment(&self) {
        // SAFETY: the environment's strings lie one after the other in the kernel's order, its pointer list ends with
        // null; whole pages strictly inside hold nothing else, and nobody reads the environment of the shepherd any
        // more.
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

/// Becomes the command. Returns only with an error.
pub(crate) fn execute(path: Path<'_>, args: &Args) -> Errno {
    // SAFETY: `start` has seen at least `OWN_ARGS - 1` arguments; the list ends with null wherever it is entered at or
    // before `count`.
    let argv = unsafe { args.argv.add(OWN_ARGS.min(args.count)) };
    (-call(nr::EXECVE, [at(path), argv as usize, args.envp as usize, 0, 0, 0])) as Errno
}

// What the compiler calls by name. Plain loops would be compiled into calls of themselves; the string instructions are
// not.

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
