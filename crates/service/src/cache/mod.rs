//! The last good snapshot of something, for readers that never wait.
//!
//! What is published is never changed: a refresh builds the next one beside it and swaps a pointer. Readers hold the
//! one that they started with. A [`CacheReader`] keeps it between its looks, so that a look costs one atomic load.

mod index;
mod refresher;
mod table;

pub use index::Index;
pub use refresher::Refresher;
pub use table::{Keyed, Table};

use arc_swap::ArcSwap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What a cache can say about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheCounters {
    /// Refreshes that brought a snapshot.
    pub successes: u64,
    /// Refreshes that did not.
    pub failures: u64,
    /// Time since the last success; `None` before the first.
    pub age: Option<Duration>,
}

struct Shared<T> {
    value: ArcSwap<T>,
    successes: AtomicU64,
    failures: AtomicU64,
    /// Whether the last refresh failed: only changes are worth an event.
    failing: AtomicBool,
    /// Nanoseconds from `born` to the last success, plus one; 0 before the first.
    refreshed: AtomicU64,
    born: Instant,
}

/// Holds the last good `T`, a snapshot that some method of a service brings, for example. Clones share it; all methods
/// may be called from any thread.
///
/// ```
/// use ginnel_service::{Cache, Keyed, Table};
///
/// struct Process {
///     pid: u32,
///     command: String,
/// }
///
/// impl Keyed for Process {
///     type Key = u32;
///
///     fn key(&self) -> &u32 {
///         &self.pid
///     }
/// }
///
/// // What asks the service, as in `client.call(&SNAPSHOT, &())`.
/// let ask = || Ok::<_, std::io::Error>(vec![Process { pid: 1, command: "init".into() }]);
///
/// let cache = Cache::new(Table::default());
/// let mut reader = cache.reader();
/// assert!(reader.get(&1).is_none(), "nothing has come yet");
/// cache.refresh(|| ask().map(Table::new))?;
/// assert_eq!(reader.get(&1).unwrap().command, "init");
///
/// let failed = cache.refresh(|| Err(std::io::Error::other("the service is away")));
/// assert!(failed.is_err());
/// assert!(reader.get(&1).is_some(), "the last good data stays");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Cache<T> {
    shared: Arc<Shared<T>>,
}

impl<T> Clone for Cache<T> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<T> Cache<T> {
    /// A cache that holds `empty` until its first refresh.
    #[must_use]
    pub fn new(empty: T) -> Self {
        let zero = || AtomicU64::new(0);
        let shared = Shared {
            value: ArcSwap::from_pointee(empty),
            successes: zero(),
            failures: zero(),
            failing: AtomicBool::new(false),
            refreshed: zero(),
            born: Instant::now(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Takes over what `source` brings, or keeps what it has if `source` fails, and counts either. It blocks as long as
    /// `source` does, and no reader waits for it. When failures begin and when they end, an event is logged.
    ///
    /// Two refreshes at a time are allowed: the one that ends last stays.
    ///
    /// # Errors
    /// What `source` says.
    pub fn refresh<E: fmt::Display>(&self, source: impl FnOnce() -> Result<T, E>) -> Result<(), E> {
        match source() {
            Ok(value) => {
                self.replace(value);
                if self.shared.failing.swap(false, Ordering::Relaxed) {
                    tracing::info!("snapshots come again");
                }
                Ok(())
            }
            Err(error) => {
                self.fail();
                if !self.shared.failing.swap(true, Ordering::Relaxed) {
                    tracing::warn!(%error, "no new snapshot; the cache keeps what it has");
                }
                Err(error)
            }
        }
    }

    /// Takes over `value`: a refresh that succeeded.
    pub fn replace(&self, value: T) {
        self.shared.value.store(Arc::new(value));
        let since = u64::try_from(self.shared.born.elapsed().as_nanos()).unwrap_or(u64::MAX - 1);
        self.shared.refreshed.store(since.saturating_add(1), Ordering::Relaxed);
        self.shared.successes.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a refresh that brought nothing. The data stays.
    pub fn fail(&self) {
        self.shared.failures.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether any refresh ever succeeded. Stays true: failures keep the last good data.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.shared.successes.load(Ordering::Relaxed) > 0
    }

    /// The newest snapshot, for as long as the caller keeps it.
    #[must_use]
    pub fn load(&self) -> Arc<T> {
        self.shared.value.load_full()
    }

    /// A reader for one thread: the cheapest way to many looks.
    #[must_use]
    pub fn reader(&self) -> CacheReader<T> {
        CacheReader { cached: arc_swap::Cache::new(Source(Arc::clone(&self.shared))) }
    }

    /// Counters and age.
    #[must_use]
    pub fn counters(&self) -> CacheCounters {
        let refreshed = self.shared.refreshed.load(Ordering::Relaxed);
        CacheCounters {
            successes: self.shared.successes.load(Ordering::Relaxed),
            failures: self.shared.failures.load(Ordering::Relaxed),
            age: refreshed
                .checked_sub(1)
                .map(|since| self.shared.born.elapsed().saturating_sub(Duration::from_nanos(since))),
        }
    }
}

impl<T> fmt::Debug for Cache<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache").field("counters", &self.counters()).finish_non_exhaustive()
    }
}

struct Source<T>(Arc<Shared<T>>);

impl<T> Clone for Source<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> std::ops::Deref for Source<T> {
    type Target = ArcSwap<T>;

    fn deref(&self) -> &ArcSwap<T> {
        &self.0.value
    }
}

/// Looks at the newest snapshot. Keeps one between calls; an old one is freed once every reader has moved on.
pub struct CacheReader<T> {
    cached: arc_swap::Cache<Source<T>, Arc<T>>,
}

impl<T> Clone for CacheReader<T> {
    fn clone(&self) -> Self {
        Self { cached: self.cached.clone() }
    }
}

impl<T> CacheReader<T> {
    /// The newest snapshot, to be used for several looks that must agree. Allocates nothing and never waits.
    #[inline]
    pub fn load(&mut self) -> &T {
        self.cached.load()
    }
}

impl<V: Keyed> CacheReader<Table<V>> {
    /// The item of this key in the newest snapshot. Allocates nothing and never waits.
    #[inline]
    pub fn get(&mut self, key: &V::Key) -> Option<&V> {
        self.load().get(key)
    }
}

impl<T> fmt::Debug for CacheReader<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheReader").finish_non_exhaustive()
    }
}
