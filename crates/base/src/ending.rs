//! Something that ends once, and what is to be done then.
//!
//! The rule against a forgotten hook: who registers one looks, under the lock, whether it has ended; who ends it takes
//! the hooks under the same lock. So a hook is either taken by the end, or its owner sees the end and calls it.

#[cfg(loom)]
use loom::sync::atomic::{AtomicU8, Ordering};
#[cfg(loom)]
use loom::sync::{Mutex, MutexGuard};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::PoisonError;
#[cfg(not(loom))]
use std::sync::atomic::{AtomicU8, Ordering};
#[cfg(not(loom))]
use std::sync::{Mutex, MutexGuard};

type Hook = Box<dyn FnOnce() + Send>;

/// It goes on.
const OPEN: u8 = 0;

/// Something that ends once, in one of several ways, and hooks that are called then.
pub struct Ending {
    how: AtomicU8,
    hooks: Mutex<Vec<Hook>>,
}

impl Ending {
    /// It has not ended.
    #[must_use]
    pub fn new() -> Self {
        Self { how: AtomicU8::new(OPEN), hooks: Mutex::new(Vec::new()) }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Hook>> {
        // No hook runs under this lock: the list is whole after any panic.
        self.hooks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How it has ended; 0 while it has not. One load.
    #[must_use]
    pub fn how(&self) -> u8 {
        // It carries nothing beside itself: what belongs to an end is told by the lock, or by the hook.
        self.how.load(Ordering::Relaxed)
    }

    /// Calls `hook` once when it ends: on the thread that ends it, or on this one if it has ended already. It is dropped
    /// uncalled if the end never comes.
    pub fn then(&self, hook: impl FnOnce() + Send + 'static) {
        let mut hooks = self.lock();
        if self.how() == OPEN {
            hooks.push(Box::new(hook));
        } else {
            drop(hooks);
            hook();
        }
    }

    /// Ends it in this way, unless it has ended before: then nothing happens, and the answer is false. The hooks run here,
    /// in the order in which they came. One that panics is logged, and the others run.
    ///
    /// # Panics
    /// If `how` is 0.
    pub fn end(&self, how: u8) -> bool {
        assert_ne!(how, OPEN, "0 is no end");
        let hooks = {
            let mut hooks = self.lock();
            if self.how() != OPEN {
                return false;
            }
            self.how.store(how, Ordering::Relaxed);
            std::mem::take(&mut *hooks)
        };
        for hook in hooks {
            // Unwind safe: nothing of ours is in its reach.
            if catch_unwind(AssertUnwindSafe(hook)).is_err() {
                tracing::error!("what was to be done at an end panicked");
            }
        }
        true
    }

    /// Makes it one that has not ended; hooks that were not called are dropped.
    pub fn renew(&mut self) {
        self.how.store(OPEN, Ordering::Relaxed);
        self.lock().clear();
    }
}

impl Default for Ending {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ending").field("how", &self.how()).finish_non_exhaustive()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;

    #[test]
    fn it_ends_once_and_hooks_that_panic_do_not_keep_the_others_from_it() {
        let (mut ending, calls) = (Ending::new(), Arc::new(AtomicUsize::new(0)));
        let count = |calls: &Arc<AtomicUsize>| {
            let calls = Arc::clone(calls);
            move || _ = calls.fetch_add(1, Ordering::Relaxed)
        };
        ending.then(|| panic!("told to"));
        ending.then(count(&calls));
        assert!(ending.end(2) && !ending.end(3));
        ending.then(count(&calls));
        assert_eq!((ending.how(), calls.load(Ordering::Relaxed)), (2, 2));
        ending.renew();
        ending.then(count(&calls));
        ending.renew();
        assert!(ending.end(3));
        assert_eq!((ending.how(), calls.load(Ordering::Relaxed)), (3, 2));
    }
}

#[cfg(loom)]
mod models {
    //! Fails if `then` does not look under the lock, or if `end` does not take the hooks under it.

    use super::*;
    use loom::sync::Arc;
    use loom::sync::atomic::AtomicUsize;
    use loom::thread;

    #[test]
    fn loom_a_hook_that_crosses_the_end_is_called_once() {
        loom::model(|| {
            let (ending, calls) = (Arc::new(Ending::new()), Arc::new(AtomicUsize::new(0)));
            let handler = {
                let (ending, calls) = (Arc::clone(&ending), Arc::clone(&calls));
                thread::spawn(move || ending.then(move || _ = calls.fetch_add(1, Ordering::Relaxed)))
            };
            // Cancelled, and out of time.
            let late = {
                let ending = Arc::clone(&ending);
                thread::spawn(move || ending.end(2))
            };
            let first = ending.end(1);
            let second = late.join().unwrap();
            handler.join().unwrap();
            assert_ne!(first, second, "it ends once");
            assert_eq!((ending.how(), calls.load(Ordering::Relaxed)), (if first { 1 } else { 2 }, 1));
        });
    }
}
