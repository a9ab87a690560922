//! Of models: the words that are borrowed by a reader or lent by a writer, so that loom tells when anybody writes them
//! meanwhile, or later without having been told that they are free.

use crate::sync::{AtomicU64, Ordering};
use crate::words::WordsMut;
use loom::cell::{ConstPtr, MutPtr, UnsafeCell};

/// One place for each word of an area that may be lent.
pub(crate) struct Places(Vec<Place>);

/// Nothing but loom's knowledge of who has it.
struct Place(UnsafeCell<()>);

// SAFETY: there is nothing in it that could be raced for; loom panics instead.
unsafe impl Send for Place {}
// SAFETY: as above.
unsafe impl Sync for Place {}

impl Places {
    pub(crate) fn new(len: usize) -> Self {
        Self((0..len).map(|_| Place(UnsafeCell::new(()))).collect())
    }

    fn places(&self, index: usize, len: usize) -> impl Iterator<Item = &UnsafeCell<()>> {
        (index..index + len.div_ceil(8)).map(|word| &self.0[word % self.0.len()].0)
    }

    /// Somebody writes these bytes.
    pub(crate) fn touch(&self, index: usize, len: usize) {
        self.places(index, len).for_each(|place| drop(place.get_mut()));
    }
}

/// What a `&[u8]` of shared memory is in a model.
pub(crate) struct Borrow {
    words: WordsMut,
    index: usize,
    len: usize,
    _held: Vec<ConstPtr<()>>,
}

impl Borrow {
    pub(crate) fn new(words: WordsMut, places: &Places, index: usize, len: usize) -> Self {
        let _held = places.places(index, len).map(UnsafeCell::get).collect();
        Self { words, index, len, _held }
    }

    pub(crate) fn to_vec(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.words.copy_to_vec(self.index, self.len, &mut bytes);
        bytes
    }
}

/// What a `&mut [u8]` of shared memory is in a model.
pub(crate) struct Loan<'a> {
    cells: &'a [AtomicU64],
    index: usize,
    len: usize,
    _held: Vec<MutPtr<()>>,
}

impl<'a> Loan<'a> {
    pub(crate) fn new(cells: &'a [AtomicU64], places: &Places, index: usize, len: usize) -> Self {
        let _held = places.places(index, len).map(UnsafeCell::get_mut).collect();
        Self { cells, index, len, _held }
    }

    /// Fills it, word by word.
    pub(crate) fn copy_from_slice(&mut self, bytes: &[u8]) {
        assert_eq!((bytes.len(), bytes.len() % 8), (self.len, 0));
        for (at, word) in bytes.chunks(8).enumerate() {
            let word = u64::from_ne_bytes(word.try_into().unwrap());
            self.cells[(self.index + at) % self.cells.len()].store(word, Ordering::Relaxed);
        }
    }
}
