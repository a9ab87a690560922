//! What travels: words that say who they are, so that a lost, doubled, torn or stale message cannot pass for a good
//! one.

/// Set in the first word of the last message of a run; the rest of that word is its number.
pub const END: u64 = 1 << 63;

/// Every so often a large payload is filled and checked in full; otherwise only its first and last words are.
/// (Small payloads always are.) The time stamp of such a message is thrown away.
pub const FULL_EVERY: u64 = 64;

const SMALL: usize = 8;

/// Whether message `number` of `W` words is filled and checked in full.
#[inline(always)]
pub fn is_full<const W: usize>(number: u64) -> bool {
    W <= SMALL || number.is_multiple_of(FULL_EVERY)
}

/// A payload buffer on the heap (payloads go up to 4 MiB), its pages touched.
pub fn buffer<const W: usize>() -> Box<[u64; W]> {
    vec![1u64; W].into_boxed_slice().try_into().expect("the vector has W words")
}

/// Makes `message` the message with this number.
#[inline(always)]
pub fn stamp<const W: usize>(message: &mut [u64; W], number: u64) {
    if is_full::<W>(number) {
        for (index, word) in message.iter_mut().enumerate() {
            *word = number.wrapping_add(index as u64);
        }
    } else {
        message[W - 1] = number.wrapping_add(W as u64 - 1);
    }
    message[0] = number;
}

/// Whether `message` is, as far as it was stamped, the message that its first word says it is.
#[inline(always)]
pub fn is_intact<const W: usize>(message: &[u64; W]) -> bool {
    let number = message[0];
    if is_full::<W>(number) {
        let mut difference = 0;
        for (index, word) in message.iter().enumerate() {
            difference |= word ^ number.wrapping_add(index as u64);
        }
        difference == 0
    } else {
        message[W - 1] == number.wrapping_add(W as u64 - 1)
    }
}

/// What a reader saw of a numbered stream.
#[derive(Clone, Copy, Default, Debug, serde::Serialize)]
pub struct Tally {
    pub received: u64,
    pub skipped: u64,
    pub doubled: u64,
    pub corrupt: u64,
}

impl Tally {
    /// Checks the next message against the number it should have, and returns the number to expect after it.
    #[inline(always)]
    pub fn take<const W: usize>(&mut self, message: &[u64; W], expected: u64) -> u64 {
        self.received += 1;
        // One comparison for the common case: streams are judged at nanoseconds a message.
        if message[0] == expected && is_intact(message) { expected + 1 } else { self.take_odd(message, expected) }
    }

    #[cold]
    fn take_odd<const W: usize>(&mut self, message: &[u64; W], expected: u64) -> u64 {
        self.corrupt += u64::from(!is_intact(message));
        let number = message[0] & !END;
        match number.checked_sub(expected) {
            Some(gap) => self.skipped += gap,
            None => self.doubled += 1,
        }
        number + 1
    }
}

/// Makes the messages of a stream one after another in private memory.
pub struct Source<const W: usize> {
    message: Box<[u64; W]>,
    next: u64,
}

impl<const W: usize> Source<W> {
    pub fn new() -> Self {
        Self { message: buffer(), next: 0 }
    }

    /// The number of the message that comes next.
    pub fn position(&self) -> u64 {
        self.next
    }

    /// Shows the next message to `send`, which copies it from there. A small one is made on the spot, as a program
    /// makes the record that it publishes; a large one lies in private memory.
    #[inline(always)]
    pub fn next<R>(&mut self, send: impl FnOnce(&[u64; W]) -> R) -> R {
        let number = self.next;
        self.next += 1;
        if W <= SMALL {
            let mut message = [0; W];
            stamp(&mut message, number);
            send(&message)
        } else {
            stamp(&mut self.message, number);
            send(&self.message)
        }
    }

    /// Makes the next message the last.
    pub fn finish(&mut self) {
        self.next |= END;
    }
}
