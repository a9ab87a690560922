//! Locks whose state is whole after any panic.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks `mutex`. No code of a user runs under these locks.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
