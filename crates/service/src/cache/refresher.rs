//! Keeps a cache fresh from a thread of its own.

use super::Cache;
use crate::sync::lock;
use ginnel_base::Deadline;
use std::fmt;
use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

#[derive(Default)]
struct Wish {
    stop: Mutex<bool>,
    changed: Condvar,
}

/// Refreshes a [`Cache`] at intervals, on a thread of its own. Made by [`Cache::keep_fresh`].
///
/// Dropping it ends the refreshing and waits for nobody: a refresh that is under way ends by itself.
/// [`stop`](Self::stop) waits for it.
#[must_use = "refreshing ends when it is dropped"]
pub struct Refresher {
    wish: Arc<Wish>,
    thread: Option<JoinHandle<()>>,
}

impl<T: Send + Sync + 'static> Cache<T> {
    /// Refreshes now, and again `interval` after each refresh has ended, by what `source` brings, as
    /// [`refresh`](Self::refresh) does. A panic of `source` is logged and ends it.
    ///
    /// # Errors
    /// The system has no thread left.
    pub fn keep_fresh<E: fmt::Display>(
        &self,
        interval: Duration,
        mut source: impl FnMut() -> Result<T, E> + Send + 'static,
    ) -> io::Result<Refresher> {
        let (cache, wish) = (self.clone(), Arc::new(Wish::default()));
        let of_thread = Arc::clone(&wish);
        let thread = ginnel_base::thread::spawn("ginnel-cache", move || {
            while !of_thread.pause(Duration::ZERO) {
                // The cache has counted and logged it.
                let _ = cache.refresh(&mut source);
                if of_thread.pause(interval) {
                    break;
                }
            }
        })?;
        Ok(Refresher { wish, thread: Some(thread) })
    }
}

impl Wish {
    /// Waits for `time`, or until it is to stop; whether it is.
    fn pause(&self, time: Duration) -> bool {
        let deadline = Deadline::after(time);
        let mut stop = lock(&self.stop);
        while !*stop && !deadline.passed() {
            stop = match deadline.remaining() {
                Some(left) => self.changed.wait_timeout(stop, left).unwrap_or_else(PoisonError::into_inner).0,
                None => self.changed.wait(stop).unwrap_or_else(PoisonError::into_inner),
            };
        }
        *stop
    }

    fn stop(&self) {
        *lock(&self.stop) = true;
        self.changed.notify_all();
    }
}

impl Refresher {
    /// Ends the refreshing, and waits for a refresh that is under way.
    pub fn stop(mut self) {
        self.wish.stop();
        if let Some(thread) = self.thread.take() {
            // A panic of the source has been logged.
            let _ = thread.join();
        }
    }
}

impl Drop for Refresher {
    fn drop(&mut self) {
        self.wish.stop();
    }
}

impl fmt::Debug for Refresher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Refresher").finish_non_exhaustive()
    }
}
