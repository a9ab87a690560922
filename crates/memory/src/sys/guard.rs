//! The SIGBUS guard: a file that somebody shrinks while it is mapped must cost one segment, not the process.
//!
//! Touching a page beyond the end of its file raises SIGBUS in whoever touches it. A named segment is a file that its
//! owner can shrink at any time, so every mapping of a file is registered here. The handler looks the faulting address
//! up; if it lies in a registered mapping, it puts zero pages over that whole mapping, marks it as tripped and returns:
//! the access is repeated and reads zeros, which no protocol of ours takes for data, and the mark turns into an error.
//! Any other SIGBUS goes to whoever handled it before. (Wayland's compositors protect themselves from clients' buffers
//! the same way.)
//!
//! The handler only reads atomics and calls `mmap`, both allowed in a signal handler. The table grows in chunks that
//! are never freed, so the handler needs no lock.

use rustix::io;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};

const CHUNK: usize = 256;
const FREE: usize = 0;
const CLAIMED: usize = 1;

struct Entry {
    /// `FREE`, `CLAIMED` or the first address. Written last on registration and first on release.
    start: AtomicUsize,
    len: AtomicUsize,
    tripped: AtomicBool,
}

struct Chunk {
    entries: [Entry; CHUNK],
    next: AtomicPtr<Chunk>,
}

impl Entry {
    const fn new() -> Self {
        Self { start: AtomicUsize::new(FREE), len: AtomicUsize::new(0), tripped: AtomicBool::new(false) }
    }
}

impl Chunk {
    const fn new() -> Self {
        Self { entries: [const { Entry::new() }; CHUNK], next: AtomicPtr::new(std::ptr::null_mut()) }
    }
}

static FIRST: Chunk = Chunk::new();

/// A registered mapping; dropped before it is unmapped.
#[derive(Debug)]
pub(super) struct Guard(&'static Entry);

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Entry").field("tripped", &self.tripped).finish_non_exhaustive()
    }
}

impl Guard {
    /// Raised once the handler has put zeros over the mapping.
    pub(super) fn tripped(&self) -> &'static AtomicBool {
        &self.0.tripped
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.start.store(FREE, Ordering::Release);
    }
}

/// Protects `len` bytes of mapping at `start`.
pub(super) fn register(start: usize, len: usize) -> io::Result<Guard> {
    static INSTALL: Once = Once::new();
    INSTALL.call_once(install);
    let mut chunk = &FIRST;
    loop {
        for entry in &chunk.entries {
            if entry.start.compare_exchange(FREE, CLAIMED, Ordering::Acquire, Ordering::Relaxed).is_ok() {
                entry.tripped.store(false, Ordering::Relaxed);
                entry.len.store(len, Ordering::Relaxed);
                entry.start.store(start, Ordering::Release);
                return Ok(Guard(entry));
            }
        }
        chunk = next(chunk);
    }
}

fn next(chunk: &'static Chunk) -> &'static Chunk {
    let existing = chunk.next.load(Ordering::Acquire);
    let next = if existing.is_null() {
        let fresh = Box::into_raw(Box::new(Chunk::new()));
        match chunk.next.compare_exchange(std::ptr::null_mut(), fresh, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => fresh,
            Err(theirs) => {
                // SAFETY: `fresh` came from `Box::into_raw` above and nobody else has seen it.
                drop(unsafe { Box::from_raw(fresh) });
                theirs
            }
        }
    } else {
        existing
    };
    // SAFETY: chunks are leaked on purpose and never freed.
    unsafe { &*next }
}

/// The entry that covers `address`, with the range that it covered when it was found.
///
/// Other threads may reuse any entry but the one sought (who faults keeps its mapping alive): a range counts only if
/// its start is the same after its length was read, else a fault in one mapping could be taken for one in another.
fn find(address: usize) -> Option<(&'static Entry, usize, usize)> {
    let mut chunk = &FIRST;
    loop {
        for entry in &chunk.entries {
            let start = entry.start.load(Ordering::Acquire);
            // Acquire: the second look at the start comes after this.
            let len = entry.len.load(Ordering::Acquire);
            if start > CLAIMED && address.wrapping_sub(start) < len && entry.start.load(Ordering::Relaxed) == start {
                return Some((entry, start, len));
            }
        }
        let next = chunk.next.load(Ordering::Acquire);
        if next.is_null() {
            return None;
        }
        // SAFETY: chunks are never freed.
        chunk = unsafe { &*next };
    }
}

/// The handler that was there before ours. Written once, before ours can run.
static mut PREVIOUS: std::mem::MaybeUninit<libc::sigaction> = std::mem::MaybeUninit::zeroed();

fn install() {
    // SAFETY: called once; `PREVIOUS` is written before the handler that reads it is installed. The handler keeps to
    // what a signal handler may do.
    unsafe {
        let previous = (&raw mut PREVIOUS).cast::<libc::sigaction>();
        libc::sigaction(libc::SIGBUS, std::ptr::null(), previous);
        let mut action: libc::sigaction = std::mem::zeroed();
        let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = on_sigbus;
        action.sa_sigaction = handler as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
        libc::sigemptyset(&raw mut action.sa_mask);
        libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut());
    }
}

extern "C" fn on_sigbus(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid siginfo with SA_SIGINFO.
    let (address, code) = unsafe { ((*info).si_addr() as usize, (*info).si_code) };
    // Only a fault of the kernel's carries an address; a `kill` from somebody does not.
    if code > 0
        && let Some((entry, start, len)) = find(address)
    {
        // A bare system call (rustix): nothing of the C library's, `errno` included, and nothing that a sanitizer
        // intercepts.
        // SAFETY: replaces our own registered mapping, which stays mapped while it is registered (M4).
        let replaced = unsafe {
            mmap_anonymous(
                start as *mut libc::c_void,
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE,
            )
        };
        if replaced.is_ok() {
            entry.tripped.store(true, Ordering::Release);
            return;
        }
    }
    // SAFETY: `PREVIOUS` was written before this handler was installed; a previous handler is called as it was
    // declared.
    unsafe {
        let previous = (&raw const PREVIOUS).cast::<libc::sigaction>();
        match (*previous).sa_sigaction {
            // Sent by somebody, and to be ignored: nothing is repeated, and this handler must stay.
            libc::SIG_IGN if code <= 0 => {}
            libc::SIG_DFL | libc::SIG_IGN => {
                // A fault cannot be ignored: with the default action back, the repeated access ends the process as it
                // would have without us.
                let mut default: libc::sigaction = std::mem::zeroed();
                default.sa_sigaction = libc::SIG_DFL;
                libc::sigaction(signal, &raw const default, std::ptr::null_mut());
                if code <= 0 {
                    libc::raise(signal); // sent by somebody: no access will repeat it
                }
            }
            handler if (*previous).sa_flags & libc::SA_SIGINFO != 0 => {
                let call: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) =
                    std::mem::transmute(handler);
                call(signal, info, context);
            }
            handler => {
                let call: extern "C" fn(libc::c_int) = std::mem::transmute(handler);
                call(signal);
            }
        }
    }
}
