//! Random numbers for names and instances.

use std::hash::{BuildHasher, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};

/// A number that no other call, thread or process of this machine is given, for all practical purposes; never zero.
///
/// It names things (instances, tokens of readers, files). It is no secret: do not use it as a key. A fork that
/// continues without
/// `execve` draws other numbers than its parent, because the process id takes part.
#[must_use]
pub fn random_u64() -> u64 {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    // The standard library seeds the state from the system's randomness. A fork inherits the seed: the process id, the
    // counter and the clock tell its numbers from those of the parent.
    let mut hasher = std::collections::hash_map::RandomState::new().build_hasher();
    hasher.write_u128(std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_nanos()));
    hasher.write_u64(COUNTER.fetch_add(1, Ordering::Relaxed));
    hasher.write_u32(std::process::id());
    hasher.finish().max(1)
}

#[cfg(test)]
mod tests {
    #[test]
    fn no_number_comes_twice() {
        let drawn: std::collections::HashSet<u64> = (0..10_000).map(|_| super::random_u64()).collect();
        assert_eq!(drawn.len(), 10_000);
        assert!(!drawn.contains(&0));
    }
}
