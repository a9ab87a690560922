//! The snapshot cache: the last good cgroups snapshot, looked up by (hash, name).
//!
//! ```text
//! index    hash -> entry                                          see `ginnel_service::Index`
//! entries  [ {hash, options, enabled, where in the arena} ] ...
//!                                        |
//! arena    [ name path name path ... ]                            every string of the snapshot, one allocation
//! ```
//!
//! A lookup costs one atomic load, one slot, one entry and one comparison of names. A snapshot comes from another
//! process and its hashes are that process's choice: the index stands that.

use crate::error::{DecodeError, Fault};
use crate::snapshot::{Cgroup, Snapshot};
use ginnel_service::{Cache, Index, State};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

#[derive(Debug, Clone, Copy)]
struct Entry {
    hash: u32,
    options: u32,
    enabled: u32,
    /// Where the name starts in the arena; the path follows it.
    at: u32,
    name_len: u32,
    path_len: u32,
}

/// One snapshot, built for lookup. Immutable. The default one is empty.
#[derive(Debug, Default)]
pub struct CgroupTable {
    index: Index,
    entries: Box<[Entry]>,
    arena: Box<[u8]>,
    systemd_enabled: u32,
    generation: u64,
}

impl CgroupTable {
    /// Builds the table of a snapshot. Of two items with one hash and name the first is found.
    ///
    /// # Errors
    /// [`Fault::Amplified`] if items of the message share bytes so that their copies would outgrow it: memory must not
    /// be larger than what a peer really sent.
    pub fn new(snapshot: &Snapshot<'_>) -> Result<Self, DecodeError> {
        let strings: u64 = snapshot.iter().map(|item| (item.name.len() + item.path.len()) as u64).sum();
        let message = snapshot.payload_len() as u64;
        if strings > message {
            return Err(DecodeError::new(0, Fault::Amplified { strings, message }));
        }
        let mut table =
            Self { systemd_enabled: snapshot.systemd_enabled(), generation: snapshot.generation(), ..Self::default() };
        let mut arena = Vec::with_capacity(strings as usize);
        let mut entries = Vec::with_capacity(snapshot.len());
        for item in snapshot.iter() {
            let at = arena.len() as u32;
            arena.extend_from_slice(item.name);
            arena.extend_from_slice(item.path);
            entries.push(Entry {
                hash: item.hash,
                options: item.options,
                enabled: item.enabled,
                at,
                name_len: item.name.len() as u32,
                path_len: item.path.len() as u32,
            });
        }
        table.arena = arena.into_boxed_slice();
        table.entries = entries.into_boxed_slice();
        table.index = Index::new(
            table.entries.len(),
            |row| table.entries[row as usize].hash,
            |one, other| table.name(&table.entries[one as usize]).cmp(table.name(&table.entries[other as usize])),
        );
        Ok(table)
    }

    pub(crate) fn decode(payload: &[u8]) -> Result<Self, DecodeError> {
        Self::new(&Snapshot::decode(payload)?)
    }

    #[inline]
    fn name(&self, entry: &Entry) -> &[u8] {
        &self.arena[entry.at as usize..][..entry.name_len as usize]
    }

    #[inline]
    fn view(&self, entry: &Entry) -> Cgroup<'_> {
        let strings = &self.arena[entry.at as usize..][..(entry.name_len + entry.path_len) as usize];
        let (name, path) = strings.split_at(entry.name_len as usize);
        Cgroup { hash: entry.hash, options: entry.options, enabled: entry.enabled, name, path }
    }

    /// The cgroup of this hash and name. O(1), allocates nothing.
    #[inline]
    #[must_use]
    pub fn get(&self, hash: u32, name: &[u8]) -> Option<Cgroup<'_>> {
        let entry = |row: u32| &self.entries[row as usize];
        let is = |row| same(self.name(entry(row)), name);
        let row = self.index.find(hash, is, |row| self.name(entry(row)).cmp(name))?;
        Some(self.view(entry(row)))
    }

    /// Number of cgroups.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// All cgroups in the provider's order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Cgroup<'_>> {
        self.entries.iter().map(|entry| self.view(entry))
    }

    /// The provider's generation of this data; 0 before the first snapshot.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether the provider's machine runs systemd.
    #[must_use]
    pub fn systemd_enabled(&self) -> u32 {
        self.systemd_enabled
    }
}

/// Equality of names. Most have 8 to 32 bytes: a few overlapping words compare faster than a call to `memcmp`.
#[inline]
fn same(one: &[u8], other: &[u8]) -> bool {
    let len = one.len();
    if len != other.len() {
        return false;
    }
    let (Some(first), Some(last)) = (one.first_chunk::<8>(), one.last_chunk::<8>()) else {
        return one == other;
    };
    let (Some(other_first), Some(other_last)) = (other.first_chunk::<8>(), other.last_chunk::<8>()) else {
        return false;
    };
    let word = |chunk: &[u8; 8]| u64::from_ne_bytes(*chunk);
    let ends = (word(first) ^ word(other_first)) | (word(last) ^ word(other_last));
    ends == 0 && (len <= 16 || one[8..len - 8] == other[8..len - 8])
}

/// What a cache can say about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheStatus {
    /// Whether any snapshot was ever taken over. Stays true: failures keep the last good data.
    pub populated: bool,
    /// Cgroups in the current table.
    pub items: usize,
    /// Whether the provider's machine runs systemd.
    pub systemd_enabled: u32,
    /// The provider's generation of the current table.
    pub generation: u64,
    /// Refreshes that brought a snapshot.
    pub successes: u64,
    /// Refreshes that did not.
    pub failures: u64,
    /// Time since the last success; `None` before the first.
    pub age: Option<Duration>,
    /// How the client stood with the service after the last refresh.
    pub connection: State,
}

/// The cache: hands out readers, takes snapshots. Clones share one table; all methods may be called from any thread.
///
/// ```
/// use ginnel_netipc::{Cgroup, CgroupCache, SnapshotBuilder};
///
/// let mut payload = Vec::new();
/// let mut builder = SnapshotBuilder::new(&mut payload, 4096, 1, 999, 1)?;
/// builder.push(&Cgroup { hash: 7, options: 0, enabled: 1, name: b"web", path: b"/sys/fs/cgroup/web" })?;
/// builder.finish();
///
/// let cache = CgroupCache::new();
/// let mut reader = cache.reader();
/// assert!(reader.get(7, b"web").is_none());
/// cache.apply(&payload)?;
/// assert_eq!(reader.get(7, b"web").unwrap().path, b"/sys/fs/cgroup/web");
/// assert!(cache.apply(b"torn").is_err());
/// assert!(reader.get(7, b"web").is_some(), "the last good data stays");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct CgroupCache {
    cache: Cache<CgroupTable>,
    /// Locked for the length of a copy, and never by a lookup.
    connection: Arc<Mutex<State>>,
}

impl Default for CgroupCache {
    fn default() -> Self {
        Self::new()
    }
}

impl CgroupCache {
    /// An empty cache: finds nothing until its first snapshot.
    #[must_use]
    pub fn new() -> Self {
        let connection = Arc::new(Mutex::new(State::Disconnected));
        Self { cache: Cache::new(CgroupTable::default()), connection }
    }

    /// Takes over a snapshot payload: checks it, builds a table beside the current one, swaps. A payload at fault
    /// counts as a failure and changes nothing.
    ///
    /// # Errors
    /// What is wrong with the payload.
    pub fn apply(&self, payload: &[u8]) -> Result<(), DecodeError> {
        self.refresh(|| CgroupTable::decode(payload))
    }

    /// Takes over what `source` brings, or counts its failure and changes nothing.
    pub(crate) fn refresh<E: std::fmt::Display>(
        &self,
        source: impl FnOnce() -> Result<CgroupTable, E>,
    ) -> Result<(), E> {
        self.cache.refresh(source)
    }

    /// Counts a refresh that brought nothing. The data stays.
    pub fn fail(&self) {
        self.cache.fail();
    }

    pub(crate) fn note_connection(&self, state: State) {
        *self.connection.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }

    /// Whether any snapshot was ever taken over.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.cache.is_ready()
    }

    /// The current table, for as long as the caller keeps it.
    #[must_use]
    pub fn table(&self) -> Arc<CgroupTable> {
        self.cache.load()
    }

    /// A reader for one thread: the cheapest way to many lookups.
    #[must_use]
    pub fn reader(&self) -> CacheReader {
        CacheReader { reader: self.cache.reader() }
    }

    /// Counters and age.
    #[must_use]
    pub fn status(&self) -> CacheStatus {
        let (table, counters) = (self.cache.load(), self.cache.counters());
        CacheStatus {
            populated: counters.successes > 0,
            items: table.len(),
            systemd_enabled: table.systemd_enabled,
            generation: table.generation,
            successes: counters.successes,
            failures: counters.failures,
            age: counters.age,
            connection: *self.connection.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }
}

/// Looks up in the newest table. Keeps a table between calls; the old one is freed once every reader moved on.
#[derive(Debug, Clone)]
pub struct CacheReader {
    reader: ginnel_service::CacheReader<CgroupTable>,
}

impl CacheReader {
    /// The newest table, to be used for several lookups that must agree.
    #[inline]
    pub fn table(&mut self) -> &CgroupTable {
        self.reader.load()
    }

    /// The cgroup of this hash and name in the newest table. Allocates nothing and never waits.
    #[inline]
    pub fn get(&mut self, hash: u32, name: &[u8]) -> Option<Cgroup<'_>> {
        self.table().get(hash, name)
    }
}
