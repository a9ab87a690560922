//! The asymmetric fence between a publisher and those who may sleep.
//!
//! "Publish, then look whether anybody sleeps" against "announce the sleep, then look whether anything was published"
//! needs a store-load fence on both sides, or both may miss the other and a wake is lost. A full fence in every publish
//! costs the publisher its store buffer: it would wait for the reader's cache line each time. So the publisher's side
//! is [`light`], usually nothing but an order to the compiler, and the sleeper's side is [`heavy`], which makes the
//! kernel run a full fence on every processor that runs a registered process (`membarrier(2)`,
//! `MEMBARRIER_CMD_GLOBAL_EXPEDITED`; the scheme of liburcu and of folly's asymmetric fences). Sleeping costs
//! microseconds anyway.
//!
//! A publisher registers its process before it first uses the cheap side ([`prepare`]); until that is done, and where
//! the system call is missing, `light` is a full fence. The order of events makes the switch safe at any moment: a
//! sleeper whose
//! `heavy` ran before the registration took effect had announced itself before, so a publisher that saw the
//! registration sees the announcement as well.
//!
//! A sleeper whose own system call is refused (a seccomp filter) learns that from [`heavy`]'s result and must bound its
//! sleep instead, because the publisher cannot know.
//!
//! Under loom both sides are plain sequentially consistent fences, which is what the pair promises.

use crate::sync::{Ordering, fence};

/// What a sleeper may rely on after [`heavy`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Heavy {
    /// Every publisher has passed a full fence: sleep as long as you like.
    Done,
    /// The kernel refused: a publisher may have missed the announcement. Look again within [`UNSURE_NAP_MS`].
    Unsure,
}

/// How long a sleeper may sleep at most after [`Heavy::Unsure`], in milliseconds: long against a store buffer
/// (nanoseconds).
pub const UNSURE_NAP_MS: u64 = 1;

/// The publisher's side: orders its publication before its look for sleepers.
#[inline(always)]
pub fn light() {
    #[cfg(not(loom))]
    if registration::ready() {
        std::sync::atomic::compiler_fence(Ordering::SeqCst);
        return;
    }
    fence(Ordering::SeqCst);
}

/// The sleeper's side: orders its announcement before its last look, against every publisher's [`light`].
///
/// Costs about half a microsecond, and some microseconds when the publisher runs on another processor just then.
pub fn heavy() -> Heavy {
    fence(Ordering::SeqCst);
    #[cfg(not(loom))]
    if !registration::barrier() {
        return Heavy::Unsure;
    }
    Heavy::Done
}

/// Makes [`light`] cheap in this process. Call it where publishers are made; repeated calls cost a load.
///
/// The registration is inherited by `fork` and dropped by `exec`. In a process of several threads the kernel waits for
/// a grace period of milliseconds, so a short-lived thread does it then and `light` stays a full fence meanwhile.
pub fn prepare() {
    #[cfg(not(loom))]
    registration::start();
}

#[cfg(not(loom))]
mod registration {
    use crate::sys;
    use std::sync::atomic::{AtomicU8, Ordering};

    const NONE: u8 = 0;
    const STARTED: u8 = 1;
    const READY: u8 = 2;
    static STATE: AtomicU8 = AtomicU8::new(NONE);

    #[inline(always)]
    pub(super) fn ready() -> bool {
        // Acquire pairs with the Release in `register`: whoever sees READY also comes after the kernel's registration.
        STATE.load(Ordering::Acquire) == READY
    }

    pub(super) fn start() {
        if STATE.compare_exchange(NONE, STARTED, Ordering::Relaxed, Ordering::Relaxed).is_err() {
            return;
        }
        if sys::single_threaded() {
            register();
        } else {
            // A refused thread leaves the full fence in place: slower, still right.
            let _ = ginnel_base::thread::spawn("ginnel-fence", register);
        }
    }

    fn register() {
        if sys::membarrier_register() {
            STATE.store(READY, Ordering::Release);
        } else {
            tracing::debug!("membarrier is not available: every publish pays a full fence");
        }
    }

    pub(super) fn barrier() -> bool {
        sys::membarrier_global()
    }
}
