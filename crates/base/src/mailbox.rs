//! The only way back into a loop that sleeps: letters from other threads, and one wake for as many as come while it
//! sleeps.
//!
//! The rule against lost wakes: the reactor arms under the lock, and only while nothing is there; whoever posts looks
//! under the same lock whether it is armed. So a letter is either seen by the arming reactor, or its sender sees that
//! the reactor sleeps and wakes it. The sender that takes the alarm away is the only one that pays a system call;
//! posting to a reactor that is awake costs none.

#[cfg(loom)]
use loom::sync::atomic::{AtomicBool, Ordering};
#[cfg(loom)]
use loom::sync::{Mutex, MutexGuard};
use std::sync::PoisonError;
#[cfg(not(loom))]
use std::sync::atomic::{AtomicBool, Ordering};
#[cfg(not(loom))]
use std::sync::{Mutex, MutexGuard};

/// Wakes a reactor that sleeps. Called once for each time that it armed, at most.
pub trait Wake: Send + Sync {
    /// Makes the next (or present) sleep of the reactor end.
    fn wake(&self);
}

/// A box of letters with many senders and one reader.
#[derive(Debug)]
pub struct Mailbox<T, W> {
    inner: Mutex<Inner<T>>,
    /// There may be letters: a spinning reactor looks here, and takes no lock in vain.
    some: AtomicBool,
    waker: W,
}

#[derive(Debug)]
struct Inner<T> {
    letters: Vec<T>,
    armed: bool,
    closed: bool,
}

impl<T, W: Wake> Mailbox<T, W> {
    /// An empty box, whose reader `waker` wakes.
    #[must_use]
    pub fn new(waker: W) -> Self {
        let inner = Inner { letters: Vec::new(), armed: false, closed: false };
        Self { inner: Mutex::new(inner), some: AtomicBool::new(false), waker }
    }

    /// What wakes the reader.
    #[must_use]
    pub fn waker(&self) -> &W {
        &self.waker
    }

    fn lock(&self) -> MutexGuard<'_, Inner<T>> {
        // No code of a user runs under this lock: the box is whole after any panic.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a letter. Never blocks for longer than another thread takes to do the same.
    ///
    /// # Errors
    /// The letter comes back if its reader has ended.
    pub fn post(&self, letter: T) -> Result<(), T> {
        let mut inner = self.lock();
        if inner.closed {
            return Err(letter);
        }
        inner.letters.push(letter);
        let wake = std::mem::take(&mut inner.armed);
        // SYNC mail.some: pairs with the Acquire load in `peek`. It is only a hint; the lock carries the letters.
        self.some.store(true, Ordering::Release);
        drop(inner);
        if wake {
            self.waker.wake();
        }
        Ok(())
    }

    /// Whether there may be letters. Without a lock; for a reactor that does not sleep.
    #[must_use]
    pub fn peek(&self) -> bool {
        self.some.load(Ordering::Acquire)
    }

    /// Takes all letters, in the order in which they came. `into` must be empty: its memory becomes the box's next.
    pub fn take(&self, into: &mut Vec<T>) {
        let mut inner = self.lock();
        inner.armed = false;
        self.some.store(false, Ordering::Relaxed);
        std::mem::swap(&mut inner.letters, into);
    }

    /// To be called right before sleeping. False if letters are there: then do not sleep.
    #[must_use]
    pub fn arm(&self) -> bool {
        let mut inner = self.lock();
        inner.armed = inner.letters.is_empty();
        inner.armed
    }

    /// The reactor ends: nothing more is taken in. What was there is returned.
    #[must_use]
    pub fn close(&self) -> Vec<T> {
        let mut inner = self.lock();
        inner.closed = true;
        inner.armed = false;
        std::mem::take(&mut inner.letters)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn wakes<T>(mailbox: &Mailbox<T, Count>) -> usize {
        mailbox.waker().0.load(Ordering::Relaxed)
    }

    #[test]
    fn only_the_first_letter_to_a_sleeper_wakes_it() {
        let mailbox = Mailbox::new(Count::default());
        mailbox.post(1).unwrap();
        assert_eq!(wakes(&mailbox), 0, "nobody sleeps");
        assert!(!mailbox.arm(), "a letter is there");
        let mut letters = Vec::new();
        mailbox.take(&mut letters);
        assert_eq!((letters.as_slice(), mailbox.peek()), (&[1][..], false));
        assert!(mailbox.arm());
        mailbox.post(2).unwrap();
        mailbox.post(3).unwrap();
        assert_eq!((wakes(&mailbox), mailbox.peek()), (1, true));
    }

    #[test]
    fn a_letter_to_a_reactor_that_has_ended_comes_back() {
        let mailbox = Mailbox::new(Count::default());
        mailbox.post(1).unwrap();
        assert_eq!(mailbox.close(), [1]);
        assert_eq!(mailbox.post(2), Err(2));
    }
}

#[cfg(loom)]
mod models {
    //! Fails if `post` does not look at `armed` under the lock, or if `arm` does not look at the letters.

    use super::*;
    use loom::sync::Arc;
    use loom::sync::Notify;
    use loom::thread;

    struct Doorbell(Notify);

    impl Wake for Doorbell {
        fn wake(&self) {
            self.0.notify();
        }
    }

    fn post_from_threads_and_sleep(senders: usize) {
        loom::model(move || {
            let mailbox = Arc::new(Mailbox::new(Doorbell(Notify::new())));
            let threads: Vec<_> = (0..senders)
                .map(|number| {
                    let mailbox = Arc::clone(&mailbox);
                    thread::spawn(move || mailbox.post(number).unwrap())
                })
                .collect();
            let (mut taken, mut letters) = (0, Vec::new());
            while taken < senders {
                if mailbox.arm() {
                    // A lost wake is a deadlock here, which loom reports.
                    mailbox.waker().0.wait();
                }
                mailbox.take(&mut letters);
                taken += letters.len();
                letters.clear();
            }
            for thread in threads {
                thread.join().unwrap();
            }
        });
    }

    #[test]
    fn loom_no_wake_of_one_sender_is_lost() {
        post_from_threads_and_sleep(1);
    }

    #[test]
    fn loom_no_wake_of_two_senders_is_lost() {
        post_from_threads_and_sleep(2);
    }

    /// What a reactor is told: the answer of the one call that is open, and that it drains.
    enum Word {
        Answer,
        Drain,
    }

    #[test]
    fn loom_a_drain_ends_with_the_last_answer_whichever_comes_first() {
        loom::model(|| {
            let mailbox = Arc::new(Mailbox::new(Doorbell(Notify::new())));
            let senders = [Word::Answer, Word::Drain].map(|word| {
                let mailbox = Arc::clone(&mailbox);
                // A letter that comes back would be an answer that is lost, or a drain that nobody began.
                thread::spawn(move || mailbox.post(word).is_ok())
            });
            let (mut open, mut draining, mut letters) = (1, false, Vec::new());
            while open > 0 || !draining {
                if mailbox.arm() {
                    mailbox.waker().0.wait();
                }
                mailbox.take(&mut letters);
                for word in letters.drain(..) {
                    match word {
                        Word::Answer => open -= 1,
                        Word::Drain => draining = true,
                    }
                }
            }
            assert!(mailbox.close().is_empty());
            for sender in senders {
                assert!(sender.join().unwrap());
            }
        });
    }

    #[test]
    fn loom_a_letter_at_the_end_is_either_taken_or_comes_back() {
        loom::model(|| {
            let mailbox = Arc::new(Mailbox::new(Doorbell(Notify::new())));
            let sender = {
                let mailbox = Arc::clone(&mailbox);
                thread::spawn(move || mailbox.post(1).is_err())
            };
            let left = mailbox.close().len();
            let came_back = sender.join().unwrap();
            assert_eq!(left, usize::from(!came_back));
        });
    }
}
