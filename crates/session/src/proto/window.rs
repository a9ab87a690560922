//! Which requests are in flight, and whether there is room for one more. Ids belong to one connection and die with it.

use super::Role;
use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hasher};

/// Hashes message ids. What is in the set was chosen by this side, so nobody can make it collide; a peer only looks up.
#[derive(Debug, Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, id: u64) {
        // The golden ratio spreads counting ids over the high bits, which pick the bucket's tag, and the low ones
        // alike.
        self.0 = (self.0 ^ id).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32);
    }
}

/// The requests of one connection that have no response yet.
#[derive(Debug)]
pub(super) struct Window {
    limit: usize,
    open: Open,
}

#[derive(Debug)]
enum Open {
    /// A client's requests: a response must belong to one of them.
    Sent(HashSet<u64, BuildHasherDefault<IdHasher>>),
    /// A server's requests. Layout 1 lets a client use an id twice, so they are only counted.
    Taken(usize),
}

/// Above this, a set that is empty is not worth its memory.
const SMALL_SET: usize = 64;

impl Window {
    /// A window without a limit: layout 1 agrees on none.
    pub(super) fn new(role: Role) -> Self {
        let open = match role {
            Role::Client => Open::Sent(HashSet::default()),
            Role::Server => Open::Taken(0),
        };
        Self { limit: usize::MAX, open }
    }

    pub(super) fn set_limit(&mut self, limit: usize) {
        self.limit = limit.max(1);
    }

    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    pub(super) fn len(&self) -> usize {
        match &self.open {
            Open::Sent(ids) => ids.len(),
            Open::Taken(count) => *count,
        }
    }

    pub(super) fn has_room(&self) -> bool {
        self.len() < self.limit
    }

    pub(super) fn contains(&self, id: u64) -> bool {
        match &self.open {
            Open::Sent(ids) => ids.contains(&id),
            Open::Taken(_) => false,
        }
    }

    /// A request enters: sent by a client, taken by a server.
    pub(super) fn enter(&mut self, id: u64) {
        match &mut self.open {
            Open::Sent(ids) => {
                ids.insert(id);
            }
            Open::Taken(count) => *count += 1,
        }
    }

    /// Its response has come or gone, or it was withdrawn. False if a client never sent it, or it was answered already.
    pub(super) fn leave(&mut self, id: u64) -> bool {
        match &mut self.open {
            Open::Sent(ids) => ids.remove(&id),
            Open::Taken(count) => {
                *count = count.saturating_sub(1);
                true
            }
        }
    }

    /// Gives back memory that an idle connection need not hold.
    pub(super) fn relax(&mut self) {
        if let Open::Sent(ids) = &mut self.open
            && ids.is_empty()
            && ids.capacity() > SMALL_SET
        {
            *ids = HashSet::default();
        }
    }
}
