//! One stream of records spread over several channels by key.

use crate::builder::WriterBuilder;
use crate::error::{CreateError, PublishError};
use crate::writer::Writer;
use ginnel_codec::{Codec, Plain};
use std::hash::{Hash, Hasher};

/// Writers of several channels, one of which each key belongs to: consumers share the work, and the records of a key
/// stay in order because they meet the same consumer.
///
/// The channels are called `NAME.0`, `NAME.1` and so on; open them with an ordinary [`Reader`](crate::Reader).
#[derive(Debug)]
pub struct Sharded<T: ?Sized, C: Codec<T> = Plain> {
    writers: Vec<Writer<T, C>>,
}

impl<T: ?Sized, C: Codec<T>> Sharded<T, C> {
    /// Creates `shards` channels called after `name`, each made from the settings that `settings` returns.
    ///
    /// # Panics
    ///
    /// If `shards` is 0.
    pub fn create(name: &str, shards: usize, settings: impl Fn() -> WriterBuilder<T, C>) -> Result<Self, CreateError> {
        assert!(shards > 0, "a stream needs at least one shard");
        let writers = (0..shards).map(|shard| settings().create(&shard_name(name, shard))).collect::<Result<_, _>>()?;
        Ok(Self { writers })
    }

    /// Publishes `record` in the channel that `key` belongs to.
    pub fn publish(&mut self, key: &(impl Hash + ?Sized), record: &T) -> Result<(), PublishError> {
        let shard = shard_of(key, self.writers.len());
        self.writers[shard].publish(record)
    }

    /// The writers, by shard.
    pub fn writers_mut(&mut self) -> &mut [Writer<T, C>] {
        &mut self.writers
    }
}

/// The channel of one shard.
#[must_use]
pub fn shard_name(name: &str, shard: usize) -> String {
    format!("{name}.{shard}")
}

/// The shard, below `shards`, of a key. The same in every process: the hash is FNV-1a with a final mix, not a seeded
/// one.
#[must_use]
pub fn shard_of(key: &(impl Hash + ?Sized), shards: usize) -> usize {
    let mut hasher = Fnv(0xcbf2_9ce4_8422_2325);
    key.hash(&mut hasher);
    // The high half of a product maps a hash onto 0..shards evenly (Lemire, "Fast random integer generation in an
    // interval").
    ((u128::from(hasher.finish()) * shards as u128) >> 64) as usize
}

struct Fnv(u64);

impl Hasher for Fnv {
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    fn finish(&self) -> u64 {
        // FNV leaves the high bits weak for short keys: the finaliser of MurmurHash3 spreads them.
        let mut hash = self.0;
        hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        hash ^ (hash >> 33)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_spread_evenly_and_always_to_the_same_shard() {
        let mut counts = [0; 8];
        for key in 0..80_000_u32 {
            let shard = shard_of(&key, 8);
            assert_eq!(shard, shard_of(&key, 8));
            counts[shard] += 1;
        }
        for count in counts {
            assert!((9_000..11_000).contains(&count), "{counts:?}");
        }
    }
}
