//! Memory for messages, used again and again: a connection takes it when bytes arrive and gives it back when they are
//! read, so that one that is idle holds none.

/// The smallest buffer: below it, sharing would cost more than it saves.
const SMALLEST: usize = 256;
const CLASSES: usize = usize::BITS as usize;

/// Buffers that nobody uses at the moment, by size. One pool serves all connections of a driver.
///
/// A buffer is a plain `Vec<u8>`: whoever holds one may keep it, send it to another thread or drop it. What comes back
/// is lent again; after the first messages nothing is allocated any more.
///
/// ```
/// use ginnel_session::proto::Pool;
///
/// let mut pool = Pool::new(1 << 20);
/// let buffer = pool.take(1000);
/// assert!(buffer.len() >= 1000);
/// let address = buffer.as_ptr();
/// pool.put(buffer);
/// assert_eq!(pool.take(900).as_ptr(), address);
/// ```
#[derive(Debug)]
pub struct Pool {
    // `free[n]` holds buffers with a capacity of at least `1 << n` bytes, and less than twice that.
    free: [Vec<Vec<u8>>; CLASSES],
    kept: usize,
    keep: usize,
    made: u64,
}

impl Pool {
    /// A pool that keeps at most `keep` bytes for later; what comes back beyond that is freed.
    #[must_use]
    pub const fn new(keep: usize) -> Self {
        Self { free: [const { Vec::new() }; CLASSES], kept: 0, keep, made: 0 }
    }

    /// Bytes that are kept at the moment.
    #[must_use]
    pub fn kept(&self) -> usize {
        self.kept
    }

    /// Buffers that it had to allocate so far: a number that stands still once a load is steady.
    #[must_use]
    pub fn made(&self) -> u64 {
        self.made
    }

    /// A buffer of at least `len` bytes, of which all are initialised and none means anything.
    ///
    /// A new one is zeroed memory that the system backs page by page as it is written.
    #[must_use]
    pub fn take(&mut self, len: usize) -> Vec<u8> {
        let class = class_of(len);
        let size = 1 << class;
        match self.free[class].pop() {
            Some(mut buffer) => {
                self.kept -= buffer.capacity();
                if buffer.len() < size {
                    buffer.resize(size, 0);
                }
                buffer
            }
            None => {
                self.made += 1;
                vec![0; size]
            }
        }
    }

    /// The same where `len` is what somebody else says: `None` if the system has no memory for it, which would end the
    /// process. (A small one is taken: whoever has no memory for that has none for anything.)
    pub(super) fn try_take(&mut self, len: usize) -> Option<Vec<u8>> {
        const LARGE: usize = 1 << 20;
        let size = 1 << class_of(len);
        // Asked for and given back, because only what the allocator zeroes by itself costs nothing until it is used.
        let refused = size >= LARGE && !self.has(len) && Vec::<u8>::new().try_reserve_exact(size).is_err();
        (!refused).then(|| self.take(len))
    }

    /// An empty buffer with room for `room` bytes: one that came back, if there is one. It costs nothing to make it as
    /// large as what was written last, and one that starts small is moved each time that it grows.
    #[must_use]
    pub fn take_empty(&mut self, room: usize) -> Vec<u8> {
        let class = class_of(room);
        match self.free[class].pop() {
            Some(mut buffer) => {
                self.kept -= buffer.capacity();
                buffer.clear();
                buffer
            }
            None => {
                self.made += 1;
                Vec::with_capacity(1 << class)
            }
        }
    }

    /// Gives a buffer back, whoever made it.
    pub fn put(&mut self, buffer: Vec<u8>) {
        let capacity = buffer.capacity();
        if capacity < SMALLEST || self.kept.saturating_add(capacity) > self.keep {
            return;
        }
        self.kept += capacity;
        self.free[capacity.ilog2() as usize].push(buffer);
    }

    /// Whether [`Pool::take`] of `len` bytes would allocate nothing.
    pub(super) fn has(&self, len: usize) -> bool {
        !self.free[class_of(len)].is_empty()
    }
}

/// The class whose every buffer has room for `len` bytes.
fn class_of(len: usize) -> usize {
    // No memory is as large as what has no next power of two: the allocation is refused, whatever its size.
    len.max(SMALLEST).checked_next_power_of_two().unwrap_or(1 << (CLASSES - 1)).ilog2() as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_back_is_lent_again_whoever_made_it() {
        let mut pool = Pool::new(1 << 20);
        let mut foreign = Vec::with_capacity(600);
        foreign.extend([1; 10]);
        let address = foreign.as_ptr();
        pool.put(foreign);
        assert_eq!(pool.kept(), 600);
        let again = pool.take(512);
        assert_eq!((again.as_ptr(), again.len(), pool.kept()), (address, 512, 0));
        assert_eq!(pool.take(512).len(), 512);
    }

    #[test]
    fn a_buffer_to_write_to_is_empty_and_has_the_room_that_was_asked_for() {
        let mut pool = Pool::new(1 << 20);
        let mut buffer = pool.take_empty(5000);
        assert!(buffer.is_empty() && buffer.capacity() >= 5000);
        buffer.extend([7; 5000]);
        let address = buffer.as_ptr();
        pool.put(buffer);
        let again = pool.take_empty(4097);
        assert_eq!((again.as_ptr(), again.len(), pool.made()), (address, 0, 1));
    }

    #[test]
    fn it_keeps_no_more_than_it_was_told_and_nothing_tiny() {
        let mut pool = Pool::new(1000);
        let buffers = [pool.take(1), pool.take(512), pool.take(600)];
        assert_eq!(buffers.each_ref().map(Vec::len), [256, 512, 1024]);
        buffers.into_iter().for_each(|buffer| pool.put(buffer));
        assert_eq!(pool.kept(), 768);
        pool.put(Vec::new());
        pool.put(vec![0; 100]);
        assert_eq!(pool.kept(), 768);
        assert!(pool.has(300) && pool.has(0) && !pool.has(513));
    }
}
