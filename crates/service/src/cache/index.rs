//! From a hash to the row that has it.
//!
//! ```text
//! slots    [ {hash, row+1} ][ {0, 0} ][ {hash, row+1} ] ...   2n rounded up to a power of two, probed linearly
//! crowded  [ row ][ row ] ...                                 rows without a slot near their home, ordered by key
//! ```
//!
//! Where hashes come from another process they are that process's choice. Keys whose hashes all collide would turn
//! linear probing into a linear scan; a row that finds no slot near its home goes to an ordered list instead, which no
//! choice of hashes can slow down.

use std::cmp::Ordering;

/// Slots that a lookup visits before it turns to the ordered list. Slots at most half full rarely need three.
const PROBES: usize = 16;
const LEAST_SLOTS: usize = 16;

#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    hash: u32,
    /// The row plus one; 0 is a free slot.
    row: u32,
}

/// Finds rows of a table that is held elsewhere, by their hashes. Immutable, because the table is.
/// [`Table`](super::Table) is the ready-made one; this part is for tables whose rows lie in memory in a way of their
/// own.
///
/// ```
/// use ginnel_service::Index;
///
/// let names = ["web", "db", "mail"];
/// let hash = |name: &str| name.len() as u32; // Any: it must only be the same for the same key.
/// let name = |row: u32| names[row as usize];
/// let index = Index::new(3, |row| hash(name(row)), |one, other| name(one).cmp(name(other)));
/// let find = |key: &str| index.find(hash(key), |row| name(row) == key, |row| name(row).cmp(key));
/// assert_eq!(find("db"), Some(1));
/// assert_eq!(find("ftp"), None);
/// ```
#[derive(Debug)]
pub struct Index {
    slots: Box<[Slot]>,
    shift: u32,
    /// Rows without a slot, by hash and key.
    crowded: Box<[Crowded]>,
}

#[derive(Debug, Clone, Copy)]
struct Crowded {
    hash: u32,
    row: u32,
}

impl Default for Index {
    /// Of no rows.
    fn default() -> Self {
        Self {
            slots: vec![Slot::default(); LEAST_SLOTS].into_boxed_slice(),
            shift: u64::BITS - LEAST_SLOTS.trailing_zeros(),
            crowded: Box::default(),
        }
    }
}

impl Index {
    /// The index of rows 0 to `rows`, less than 4,294,967,295 of them. `hash` is that of a row's key; `order` compares
    /// the keys of two rows. Of rows with one key the first is found.
    ///
    /// # Panics
    /// If there are too many rows.
    #[must_use]
    pub fn new(rows: usize, hash: impl Fn(u32) -> u32, order: impl Fn(u32, u32) -> Ordering) -> Self {
        let count = u32::try_from(rows).ok().filter(|rows| *rows < u32::MAX).expect("rows are numbered by 32 bits");
        let slots = rows.saturating_mul(2).next_power_of_two().max(LEAST_SLOTS);
        let mut index = Self {
            slots: vec![Slot::default(); slots].into_boxed_slice(),
            shift: u64::BITS - slots.trailing_zeros(),
            crowded: Box::default(),
        };
        let crowded = (0..count).map(|row| Crowded { hash: hash(row), row });
        let mut crowded: Vec<Crowded> = crowded.filter(|of| !index.place(*of)).collect();
        // Stable: of equal keys the first stays in front, and is the one found.
        crowded.sort_by(|one, other| one.hash.cmp(&other.hash).then_with(|| order(one.row, other.row)));
        index.crowded = crowded.into_boxed_slice();
        index
    }

    /// Fibonacci hashing: the high bits of the product spread any 32-bit hash, good or bad, over the slots.
    #[inline]
    fn home(&self, hash: u32) -> usize {
        (u64::from(hash).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> self.shift) as usize
    }

    /// Files a row in the nearest free slot; false if none is near.
    fn place(&mut self, Crowded { hash, row }: Crowded) -> bool {
        let mask = self.slots.len() - 1;
        let home = self.home(hash);
        for probe in 0..PROBES {
            let slot = &mut self.slots[(home + probe) & mask];
            if slot.row == 0 {
                *slot = Slot { hash, row: row + 1 };
                return true;
            }
        }
        false
    }

    /// The row of a key. `hash` is the key's; `is` says whether a row has that very key; `order` compares a row's key
    /// with it. O(1), or logarithmic where a hostile choice of hashes crowds them; allocates nothing.
    #[inline]
    #[must_use]
    pub fn find(&self, hash: u32, is: impl Fn(u32) -> bool, order: impl Fn(u32) -> Ordering) -> Option<u32> {
        let mask = self.slots.len() - 1;
        let home = self.home(hash);
        for probe in 0..PROBES {
            let slot = self.slots[(home + probe) & mask];
            if slot.row == 0 {
                return None;
            }
            if slot.hash == hash && is(slot.row - 1) {
                return Some(slot.row - 1);
            }
        }
        self.find_crowded(hash, is, order)
    }

    /// The rare case, out of line.
    #[cold]
    fn find_crowded(&self, hash: u32, is: impl Fn(u32) -> bool, order: impl Fn(u32) -> Ordering) -> Option<u32> {
        let before = |of: &Crowded| of.hash.cmp(&hash).then_with(|| order(of.row)) == Ordering::Less;
        let found = *self.crowded.get(self.crowded.partition_point(before))?;
        (found.hash == hash && is(found.row)).then_some(found.row)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_found_whatever_the_hashes_are() {
        let keys: Vec<u32> = (0..2_000).map(|row| row * 7).collect();
        for bits in [0, 1, 8, 32] {
            let hash = |key: u32| if bits == 32 { key } else { key & ((1 << bits) - 1) };
            let index = Index::new(
                keys.len(),
                |row| hash(keys[row as usize]),
                |one, other| keys[one as usize].cmp(&keys[other as usize]),
            );
            let find =
                |key: u32| index.find(hash(key), |row| keys[row as usize] == key, |row| keys[row as usize].cmp(&key));
            for (row, key) in keys.iter().enumerate() {
                assert_eq!(find(*key), Some(row as u32), "{bits} bits");
                assert_eq!(find(key + 1), None, "{bits} bits");
            }
        }
    }

    #[test]
    fn of_equal_keys_the_first_is_found() {
        let index = Index::new(100, |_| 3, |_, _| Ordering::Equal);
        assert_eq!(index.find(3, |_| true, |_| Ordering::Equal), Some(0));
        assert_eq!(index.find(3, |row| row >= 16, |_| Ordering::Equal), Some(16), "the first without a slot");
        assert_eq!(Index::default().find(3, |_| true, |_| Ordering::Equal), None);
    }
}
