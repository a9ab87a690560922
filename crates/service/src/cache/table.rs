//! Items that are found by their keys.

use super::index::Index;
use std::fmt;
use std::hash::{BuildHasher, Hash, RandomState};

/// An item of a snapshot that has a key.
pub trait Keyed {
    /// What it is found by.
    type Key: ?Sized + Hash + Ord;

    /// Its key.
    fn key(&self) -> &Self::Key;
}

impl<K: Hash + Ord, V> Keyed for (K, V) {
    type Key = K;

    fn key(&self) -> &K {
        &self.0
    }
}

/// The items of one snapshot, found by key in O(1) without allocation. Immutable.
///
/// The hash is seeded anew for each table: a peer that chooses the keys cannot make them collide.
pub struct Table<V> {
    items: Box<[V]>,
    index: Index,
    state: RandomState,
}

impl<V> Default for Table<V> {
    /// Of no items.
    fn default() -> Self {
        Self { items: Box::default(), index: Index::default(), state: RandomState::new() }
    }
}

impl<V: Keyed> Table<V> {
    /// The table of `items`. Of items with one key the first is found.
    ///
    /// # Panics
    /// If there are 4,294,967,295 items or more.
    #[must_use]
    pub fn new(items: impl IntoIterator<Item = V>) -> Self {
        let items: Box<[V]> = items.into_iter().collect();
        let state = RandomState::new();
        let key = |row: u32| items[row as usize].key();
        let index = Index::new(items.len(), |row| hash(&state, key(row)), |one, other| key(one).cmp(key(other)));
        Self { items, index, state }
    }

    /// The item of this key. O(1), allocates nothing.
    #[inline]
    #[must_use]
    pub fn get(&self, key: &V::Key) -> Option<&V> {
        let of = |row: u32| self.items[row as usize].key();
        let row = self.index.find(hash(&self.state, key), |row| of(row) == key, |row| of(row).cmp(key))?;
        Some(&self.items[row as usize])
    }
}

impl<V> Table<V> {
    /// Number of items.
    #[must_use]
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// All items in the order in which they came.
    pub fn iter(&self) -> std::slice::Iter<'_, V> {
        self.items.iter()
    }
}

impl<'a, V> IntoIterator for &'a Table<V> {
    type Item = &'a V;
    type IntoIter = std::slice::Iter<'a, V>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<V: Keyed> FromIterator<V> for Table<V> {
    fn from_iter<I: IntoIterator<Item = V>>(items: I) -> Self {
        Self::new(items)
    }
}

impl<V: fmt::Debug> fmt::Debug for Table<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self).finish()
    }
}

fn hash<K: Hash + ?Sized>(state: &RandomState, key: &K) -> u32 {
    // The index spreads 32 bits over its slots by itself.
    (state.hash_one(key) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Unit(String, u32);

    impl Keyed for Unit {
        type Key = str;

        fn key(&self) -> &str {
            &self.0
        }
    }

    #[test]
    fn an_item_is_found_by_a_borrowed_key() {
        let table: Table<Unit> = (0..500).map(|number| Unit(format!("unit-{number}"), number)).collect();
        for number in 0..500 {
            assert_eq!(table.get(&format!("unit-{number}")).unwrap().1, number);
        }
        assert!(table.get("unit-500").is_none() && Table::<Unit>::default().get("unit-1").is_none());
        assert!(table.iter().map(|unit| unit.1).eq(0..500), "in the order in which they came");
    }

    #[test]
    fn of_items_with_one_key_the_first_is_found() {
        assert_eq!(Table::new([(1, "first"), (1, "second")]).get(&1), Some(&(1, "first")));
    }
}
