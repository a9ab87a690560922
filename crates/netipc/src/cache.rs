//! The snapshot cache: the last good cgroups snapshot, looked up by (hash, name).
//!
//! ```text
//! slots    [ {hash, entry+1} ][ {0, 0} ][ {hash, entry+1} ] ...   2n rounded up to a power of two, probed linearly
//!                  |
//! entries  [ {hash, options, enabled, where in the arena} ] ...
//!                                        |
//! arena    [ name path name path ... ]                            every string of the snapshot, one allocation
//! ```
//!
//! One table is never changed once it is published: a refresh builds the next one beside it and swaps a pointer.
//! Readers hold the table they started with and never wait. A [`CacheReader`] keeps it between lookups, so that a
//! lookup costs one atomic load, one slot, one entry and one comparison of names.
//!
//! A snapshot comes from another process and its hashes are that process's choice. Names whose hashes all collide would
//! turn linear probing into a linear scan; an entry that finds no slot near its home goes to an ordered index instead,
//! which no choice of hashes can slow down.

use crate::error::{DecodeError, Fault};
use crate::snapshot::{Cgroup, Snapshot};
use arc_swap::ArcSwap;
use ginnel_service::State;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Slots that a lookup visits before it turns to the index. A table at most half full rarely needs three.
const PROBES: usize = 16;

#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    hash: u32,
    /// Index into the entries plus one; 0 is a free slot.
    entry: u32,
}

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

/// One snapshot, built for lookup. Immutable.
#[derive(Debug)]
pub struct CgroupTable {
    slots: Box<[Slot]>,
    shift: u32,
    entries: Box<[Entry]>,
    arena: Box<[u8]>,
    /// Entries without a slot, ordered by (hash, name).
    crowded: Box<[u32]>,
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
        let slots = (snapshot.len() * 2).next_power_of_two().max(16);
        let mut table = Self {
            slots: vec![Slot::default(); slots].into_boxed_slice(),
            shift: u64::BITS - slots.trailing_zeros(),
            entries: Box::default(),
            arena: Box::default(),
            crowded: Box::default(),
            systemd_enabled: snapshot.systemd_enabled(),
            generation: snapshot.generation(),
        };
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
        let mut crowded: Vec<u32> = (0..table.entries.len() as u32).filter(|index| !table.place(*index)).collect();
        // Stable: of equal keys the first stays in front, and is the one found.
        crowded.sort_by(|one, other| table.key(*one).cmp(&table.key(*other)));
        table.crowded = crowded.into_boxed_slice();
        Ok(table)
    }

    fn empty() -> Self {
        Self {
            slots: vec![Slot::default(); 16].into_boxed_slice(),
            shift: u64::BITS - 4,
            entries: Box::default(),
            arena: Box::default(),
            crowded: Box::default(),
            systemd_enabled: 0,
            generation: 0,
        }
    }

    /// Fibonacci hashing: the high bits of the product spread any 32-bit hash, good or bad, over the slots.
    #[inline]
    fn home(&self, hash: u32) -> usize {
        (u64::from(hash).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> self.shift) as usize
    }

    /// Files entry `index` in the nearest free slot; false if none is near.
    fn place(&mut self, index: u32) -> bool {
        let mask = self.slots.len() - 1;
        let hash = self.entries[index as usize].hash;
        let home = self.home(hash);
        for probe in 0..PROBES {
            let slot = &mut self.slots[(home + probe) & mask];
            if slot.entry == 0 {
                *slot = Slot { hash, entry: index + 1 };
                return true;
            }
        }
        false
    }

    fn key(&self, index: u32) -> (u32, &[u8]) {
        let entry = &self.entries[index as usize];
        (entry.hash, self.name(entry))
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
        let mask = self.slots.len() - 1;
        let home = self.home(hash);
        for probe in 0..PROBES {
            let slot = self.slots[(home + probe) & mask];
            if slot.entry == 0 {
                return None;
            }
            if slot.hash == hash {
                let found = self.view(&self.entries[slot.entry as usize - 1]);
                if same(found.name, name) {
                    return Some(found);
                }
            }
        }
        self.crowded_get(hash, name)
    }

    /// The rare case, out of line.
    #[cold]
    fn crowded_get(&self, hash: u32, name: &[u8]) -> Option<Cgroup<'_>> {
        let first = self.crowded.partition_point(|index| self.key(*index) < (hash, name));
        let index = *self.crowded.get(first)?;
        (self.key(index) == (hash, name)).then(|| self.view(&self.entries[index as usize]))
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

#[derive(Debug)]
struct Shared {
    table: ArcSwap<CgroupTable>,
    successes: AtomicU64,
    failures: AtomicU64,
    /// Nanoseconds from `born` to the last success, plus one; 0 before the first.
    refreshed: AtomicU64,
    born: Instant,
    /// Locked for the length of a copy, and never by a lookup.
    connection: Mutex<State>,
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
    shared: Arc<Shared>,
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
        let table = ArcSwap::from_pointee(CgroupTable::empty());
        let zero = || AtomicU64::new(0);
        let shared = Shared {
            table,
            successes: zero(),
            failures: zero(),
            refreshed: zero(),
            born: Instant::now(),
            connection: Mutex::new(State::Disconnected),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Takes over a snapshot payload: checks it, builds a table beside the current one, swaps. A payload at fault
    /// counts as a failure and changes nothing.
    ///
    /// # Errors
    /// What is wrong with the payload.
    pub fn apply(&self, payload: &[u8]) -> Result<(), DecodeError> {
        match Snapshot::decode(payload).and_then(|snapshot| CgroupTable::new(&snapshot)) {
            Ok(table) => {
                self.shared.table.store(Arc::new(table));
                let since = u64::try_from(self.shared.born.elapsed().as_nanos()).unwrap_or(u64::MAX - 1);
                self.shared.refreshed.store(since + 1, Ordering::Relaxed);
                self.shared.successes.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            Err(error) => {
                self.fail();
                Err(error)
            }
        }
    }

    /// Counts a refresh that brought nothing. The data stays.
    pub fn fail(&self) {
        self.shared.failures.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn note_connection(&self, state: State) {
        *self.shared.connection.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }

    /// Whether any snapshot was ever taken over.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.shared.successes.load(Ordering::Relaxed) > 0
    }

    /// The current table, for as long as the caller keeps it.
    #[must_use]
    pub fn table(&self) -> Arc<CgroupTable> {
        self.shared.table.load_full()
    }

    /// A reader for one thread: the cheapest way to many lookups.
    #[must_use]
    pub fn reader(&self) -> CacheReader {
        CacheReader { cached: arc_swap::Cache::new(SharedTable(Arc::clone(&self.shared))) }
    }

    /// Counters and age.
    #[must_use]
    pub fn status(&self) -> CacheStatus {
        let table = self.shared.table.load();
        let refreshed = self.shared.refreshed.load(Ordering::Relaxed);
        let successes = self.shared.successes.load(Ordering::Relaxed);
        CacheStatus {
            populated: successes > 0,
            items: table.len(),
            systemd_enabled: table.systemd_enabled,
            generation: table.generation,
            successes,
            failures: self.shared.failures.load(Ordering::Relaxed),
            age: refreshed
                .checked_sub(1)
                .map(|since| self.shared.born.elapsed().saturating_sub(Duration::from_nanos(since))),
            connection: *self.shared.connection.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }
}

#[derive(Debug, Clone)]
struct SharedTable(Arc<Shared>);

impl std::ops::Deref for SharedTable {
    type Target = ArcSwap<CgroupTable>;

    fn deref(&self) -> &Self::Target {
        &self.0.table
    }
}

/// Looks up in the newest table. Keeps a table between calls; the old one is freed once every reader moved on.
#[derive(Debug, Clone)]
pub struct CacheReader {
    cached: arc_swap::Cache<SharedTable, Arc<CgroupTable>>,
}

impl CacheReader {
    /// The newest table, to be used for several lookups that must agree.
    #[inline]
    pub fn table(&mut self) -> &CgroupTable {
        self.cached.load()
    }

    /// The cgroup of this hash and name in the newest table. Allocates nothing and never waits.
    #[inline]
    pub fn get(&mut self, hash: u32, name: &[u8]) -> Option<Cgroup<'_>> {
        self.table().get(hash, name)
    }
}
