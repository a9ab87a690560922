//! The sessions of a reactor, by number. A number is used again, with another generation: a letter that comes late for
//! a session that is gone reaches nobody.

use crate::responder::SessionKey;

/// The bits of a generation. Two more say in a poll's token what the key is of.
pub(super) const GENERATIONS: u32 = u32::MAX >> 2;

#[derive(Debug)]
struct Place<T> {
    generation: u32,
    content: Option<T>,
}

/// A table whose places are used again.
#[derive(Debug)]
pub(super) struct Table<T> {
    places: Vec<Place<T>>,
    free: Vec<u32>,
}

impl<T> Table<T> {
    pub(super) const fn new() -> Self {
        Self { places: Vec::new(), free: Vec::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    /// Enters what `make` makes for the key that it gets.
    pub(super) fn insert_with(&mut self, make: impl FnOnce(SessionKey) -> T) -> SessionKey {
        let index = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place { generation: 0, content: None });
            self.places.len() as u32 - 1
        });
        let place = &mut self.places[index as usize];
        place.generation = place.generation.wrapping_add(1) & GENERATIONS;
        let key = SessionKey { index, generation: place.generation };
        place.content = Some(make(key));
        key
    }

    pub(super) fn get_mut(&mut self, key: SessionKey) -> Option<&mut T> {
        let place = self.places.get_mut(key.index as usize)?;
        place.content.as_mut().filter(|_| place.generation == key.generation)
    }

    pub(super) fn remove(&mut self, key: SessionKey) -> Option<T> {
        let place = self.places.get_mut(key.index as usize)?;
        if place.generation != key.generation {
            return None;
        }
        let content = place.content.take()?;
        self.free.push(key.index);
        Some(content)
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &T> {
        self.places.iter().filter_map(|place| place.content.as_ref())
    }

    pub(super) fn keys(&self) -> Vec<SessionKey> {
        let key = |(index, place): (usize, &Place<T>)| {
            place.content.as_ref().map(|_| SessionKey { index: index as u32, generation: place.generation })
        };
        self.places.iter().enumerate().filter_map(key).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_used_again_and_its_former_key_finds_nobody() {
        let mut table = Table::new();
        let first = table.insert_with(|_| "first");
        let other = table.insert_with(|_| "other");
        assert_eq!(table.remove(first), Some("first"));
        assert_eq!(table.remove(first), None);
        let second = table.insert_with(|_| "second");
        assert_eq!((second.index, table.len()), (first.index, 2));
        assert_eq!(table.get_mut(first), None);
        assert_eq!(table.get_mut(second).copied(), Some("second"));
        assert_eq!(table.keys(), [second, other]);
    }
}
