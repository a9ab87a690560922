//! The reading end.

use crate::builder::ReaderBuilder;
use crate::clock;
use crate::discovery::Seat;
use crate::error::{CloseCause, OpenError, RecvError};
use crate::loan::Borrowed;
use crate::shrink::{Alarm, Files};
use crate::tether::Tether;
use ginnel_base::Deadline;
use ginnel_codec::{Codec, Plain, Source};
use ginnel_memory::fence::{self, Heavy};
use ginnel_memory::ring::{Consumer, Fault, Mode};
use ginnel_memory::{Spin, Trust};
use rustix::event::Timespec;
use rustix::fd::{AsFd, BorrowedFd};
use rustix::io::Errno;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// How often in a row a value may be replaced while it is copied before a call returns empty-handed: calls that wait
/// then look at their deadline and at the writer's life.
const REPLACED: usize = 100;

/// Records in a row that make a stream, and the pauses by which a reader then stands back from the writer. What they
/// gain is not settled: see `stream/64` in docs/benchmarks/channel.md.
const LONG_RUN: u64 = 8;
const STAND_BACK: u32 = 10;

/// One reader of a channel.
///
/// Reading copies the record out of shared memory and then checks that the writer did not overwrite it meanwhile: a
/// record is whole or it is not delivered. Dropping the reader leaves the channel.
#[derive(Debug)]
pub struct Reader<T: ?Sized, C: Codec<T> = Plain> {
    consumer: Consumer,
    tether: Tether,
    scratch: Vec<u8>,
    spin: Spin,
    received: u64,
    /// What `received` was at the last empty look.
    run: u64,
    sleeps: u64,
    files: Arc<Files>,
    alarm: Alarm,
    // Given back after the consumer has left its slot.
    _seat: Seat,
    _types: PhantomData<fn() -> (C, *const T)>,
}

/// What a reader has done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReaderCounters {
    /// Records received.
    pub received: u64,
    /// Records missed (see [`RecvError::Lagged`]). In [`Mode::Latest`], of which no call tells: the values that were
    /// replaced by newer ones before this reader took them.
    pub missed: u64,
    /// How often the reader slept.
    pub sleeps: u64,
}

/// What [`Reader::watch`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Watch {
    /// There is something to receive: do not wait.
    Ready,
    /// Nothing there. The reader's descriptor becomes readable when that changes.
    Armed,
}

/// It is announced that a reader sleeps.
struct Armed {
    /// How long it may sleep without looking again.
    nap: Option<Duration>,
}

impl<T: ?Sized, C: Codec<T>> Reader<T, C> {
    /// Settings for a reader.
    pub fn builder() -> ReaderBuilder<T, C> {
        ReaderBuilder::default()
    }

    /// Opens the channel `name` with default settings.
    pub fn open(name: &str) -> Result<Self, OpenError> {
        Self::builder().open(name)
    }

    /// Opens the channel that a parent exported in the environment variable `variable`.
    pub fn from_env(variable: &str) -> Result<Self, OpenError> {
        Self::builder().from_env(variable)
    }

    pub(crate) fn new(consumer: Consumer, tether: Tether, files: Files, locked: Option<usize>, spin: Spin) -> Self {
        let files = Arc::new(files);
        Self {
            alarm: Alarm::Unset,
            consumer,
            tether,
            scratch: Vec::new(),
            spin,
            received: 0,
            run: 0,
            sleeps: 0,
            _seat: Seat::new(Arc::clone(&files), locked),
            files,
            _types: PhantomData,
        }
    }

    /// Receives the next record if it is there. Never blocks.
    ///
    /// In [`Mode::Latest`] that is the newest value, if it is newer than the last one received.
    #[inline]
    pub fn try_recv(&mut self) -> Result<Option<C::Owned>, RecvError> {
        let mut record = None;
        if self.next(&mut record)? {
            return Ok(record);
        }
        self.nothing()
    }

    /// Receives the next record, waiting as long as the writer lives. Spins first, then sleeps.
    #[inline]
    pub fn recv(&mut self) -> Result<C::Owned, RecvError> {
        let mut record = None;
        loop {
            if self.next(&mut record)?
                && let Some(record) = record.take()
            {
                return Ok(record);
            }
            self.wait(Deadline::NEVER)?;
        }
    }

    /// Receives the next record, waiting up to `limit`; `None` if none came.
    pub fn recv_timeout(&mut self, limit: Duration) -> Result<Option<C::Owned>, RecvError> {
        let deadline = Deadline::after(limit);
        let mut record = None;
        loop {
            if self.next(&mut record)? {
                return Ok(record);
            }
            if deadline.passed() {
                return self.nothing();
            }
            self.wait(deadline)?;
        }
    }

    /// Iterates over the records until the channel is closed, waiting for each. Lags and undecodable records are items;
    /// the end of the channel is the end of the iteration, unless the writer died or the channel is corrupt: that is
    /// the last item.
    pub fn iter(&mut self) -> impl Iterator<Item = Result<C::Owned, RecvError>> + '_ {
        let mut ended = false;
        std::iter::from_fn(move || {
            if ended {
                return None;
            }
            match self.recv() {
                Err(RecvError::Closed { cause: CloseCause::Closed }) => None,
                other => {
                    ended = other.as_ref().is_err_and(|error| !error.is_transient());
                    Some(other)
                }
            }
        })
    }

    /// Puts the next record into `record`; says whether there was one.
    #[inline(always)]
    fn next(&mut self, record: &mut Option<C::Owned>) -> Result<bool, RecvError> {
        let scratch = &mut self.scratch;
        match Self::take(&mut self.consumer, &mut self.tether, |consumer, len| {
            C::decode_from(Announced { consumer, len }, scratch, record)
        })? {
            None => Ok(false),
            Some(decoded) => {
                self.count(1);
                decoded?;
                Ok(true)
            }
        }
    }

    /// Lets `copy` take the next record out of the ring, if there is one.
    #[inline(always)]
    fn take<R>(
        consumer: &mut Consumer,
        tether: &mut Tether,
        mut copy: impl FnMut(&mut Consumer, usize) -> Result<R, Fault>,
    ) -> Result<Option<R>, RecvError> {
        for _ in 0..REPLACED {
            let taken = match consumer.peek() {
                Ok(None) => return Ok(None),
                Ok(Some(len)) => copy(consumer, len),
                Err(fault) => Err(fault),
            };
            match taken {
                Ok(record) => return Ok(Some(record)),
                // A newer value replaced this one while it was copied: that is what `Latest` is for.
                Err(Fault::Lagged { .. }) if consumer.geometry().mode == Mode::Latest => {}
                Err(fault) => return Err(failed(consumer, tether, fault)),
            }
        }
        Ok(None)
    }

    #[inline(always)]
    fn count(&mut self, records: usize) {
        self.received += records as u64;
        if self.consumer.should_flush() {
            self.flush();
        }
    }

    #[inline(always)]
    fn next_into(&mut self, copy: impl FnMut(&mut Consumer, usize) -> Result<(), Fault>) -> Result<bool, RecvError> {
        match Self::take(&mut self.consumer, &mut self.tether, copy)? {
            None => Ok(false),
            Some(()) => {
                self.count(1);
                Ok(true)
            }
        }
    }

    fn flush(&mut self) {
        if self.consumer.flush() {
            self.tether.tell_room();
        }
    }

    /// What an empty poll means: nothing yet, or the end.
    fn nothing<R>(&mut self) -> Result<Option<R>, RecvError> {
        self.flush();
        if self.tether.check().map_err(sleeping)? {
            let _ = self.files.shrunk();
        }
        match self.end() {
            None => Ok(None),
            Some(error) => Err(error),
        }
    }

    /// The error that ends this reader, once everything published is read.
    fn end(&mut self) -> Option<RecvError> {
        // The memory of a channel that is cut off says neither that it was closed nor that there is more; and the
        // hang-up may be the alarm, or the writer's answer to the same.
        if self.consumer.truncated() || self.tether.hung_up() && self.files.shrunk() {
            return Some(failed(&self.consumer, &mut self.tether, Fault::Truncated));
        }
        if self.tether.refused() {
            return (!self.pending()).then_some(RecvError::Refused);
        }
        let cause = if self.consumer.closed() {
            CloseCause::Closed
        } else if self.tether.hung_up() {
            CloseCause::Died
        } else {
            return None;
        };
        // Read again after the end was seen: what was published before it must not be lost.
        (!self.pending()).then_some(RecvError::Closed { cause })
    }

    /// Whether the next record is there: one load.
    #[inline]
    pub(crate) fn ready(&self) -> bool {
        self.consumer.ready()
    }

    /// Whether a call would find something other than an empty ring.
    fn pending(&self) -> bool {
        self.consumer.ready() || self.consumer.lagged()
    }

    /// Waits until there may be something to receive.
    #[inline]
    fn wait(&mut self, deadline: Deadline) -> Result<(), RecvError> {
        self.flush();
        if self.received - self.run >= LONG_RUN {
            // It has caught up with a stream: a look at the line that is being written now slows the writer down, and
            // soon there will be several records to take at once. Records that come alone are looked for without delay.
            for _ in 0..STAND_BACK {
                std::hint::spin_loop();
            }
        }
        self.run = self.received;
        let consumer = &self.consumer;
        if self.spin.until(|| consumer.ready().then_some(())).is_some() {
            return Ok(());
        }
        self.wait_longer(deadline)
    }

    #[cold]
    fn wait_longer(&mut self, deadline: Deadline) -> Result<(), RecvError> {
        if !self.spin.sleeps() {
            return self.nothing::<()>().map(drop);
        }
        let Some(Armed { nap }) = self.arm() else {
            self.consumer.disarm();
            return match self.end() {
                Some(error) => Err(error),
                None => Ok(()),
            };
        };
        self.sleeps += 1;
        self.tether.wait(clock::remaining(deadline, nap).as_ref()).map_err(sleeping)?;
        self.consumer.disarm();
        if nap.is_some() {
            let _ = self.files.shrunk();
        }
        match self.end() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// Announces that this reader is about to sleep, then looks once more. `None` if there is something to see.
    fn arm(&mut self) -> Option<Armed> {
        let mut nap = self.alarm.set(&self.files, self.tether.socket());
        if self.consumer.arm() == Heavy::Unsure {
            // Without membarrier a wake could be missed.
            nap = Some(Duration::from_millis(fence::UNSURE_NAP_MS));
        }
        let news = self.pending() || self.consumer.closed() || self.tether.hung_up() || self.consumer.truncated();
        let news = news || self.tether.refused();
        (!news).then_some(Armed { nap })
    }

    /// Prepares for waiting on the descriptor ([`AsFd`]) with `poll`, `epoll` or an async runtime.
    ///
    /// Call it when [`try_recv`](Self::try_recv) returned `None`. On [`Watch::Armed`], wait until the descriptor is
    /// readable (it may be so for nothing), then call [`try_recv`](Self::try_recv) until it returns `None`, and this
    /// again. Each arming costs about a microsecond.
    pub fn watch(&mut self) -> Result<Watch, RecvError> {
        self.flush();
        self.tether.wait(Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).map_err(sleeping)?;
        let Some(Armed { nap }) = self.arm() else {
            self.consumer.disarm();
            return Ok(Watch::Ready);
        };
        if let Some(nap) = nap {
            // Nobody but the descriptor itself bounds the caller's sleep.
            let _ = self.files.shrunk();
            self.tether.wake_after(nap).map_err(sleeping)?;
        }
        Ok(Watch::Armed)
    }

    /// Borrows the next record's bytes in shared memory instead of copying them; `None` if there is none yet.
    ///
    /// For lossless channels, where an honest writer leaves the record alone until the borrow is dropped;
    /// [`RecvError::NotLossless`] in the other modes, whose writers wait for nobody.
    pub fn borrow(&mut self, trust: Trust) -> Result<Option<Borrowed<'_, T, C>>, RecvError> {
        if self.mode() != Mode::Lossless {
            return Err(RecvError::NotLossless);
        }
        match self.consumer.peek().map_err(|fault| failed(&self.consumer, &mut self.tether, fault))? {
            Some(len) => Ok(Some(Borrowed { reader: self, trust, len, released: false })),
            None => self.nothing(),
        }
    }

    pub(crate) fn borrowed_bytes(&self, trust: Trust, len: usize) -> &[u8] {
        self.consumer.borrow(trust, len)
    }

    pub(crate) fn release_borrowed(&mut self, len: usize) -> Result<(), RecvError> {
        self.consumer.release(len).map_err(|fault| failed(&self.consumer, &mut self.tether, fault))?;
        self.count(1);
        Ok(())
    }

    /// Number of the next record: how many were published before it.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.consumer.sequence()
    }

    /// What happens when this reader is too slow.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.consumer.geometry().mode
    }

    /// What was done so far.
    #[must_use]
    pub fn counters(&self) -> ReaderCounters {
        ReaderCounters { received: self.received, missed: self.consumer.missed(), sleeps: self.sleeps }
    }
}

impl Reader<[u8]> {
    /// Receives the next record into `record`, whose memory is used again; `false` if there is none yet. Never blocks.
    pub fn try_recv_into(&mut self, record: &mut Vec<u8>) -> Result<bool, RecvError> {
        if self.next_into(|consumer, len| consumer.take_vec(len, record))? {
            return Ok(true);
        }
        self.nothing::<()>().map(|_| false)
    }

    /// Receives the next record into `record`, whose memory is used again. Waits as long as the writer lives.
    pub fn recv_into(&mut self, record: &mut Vec<u8>) -> Result<(), RecvError> {
        while !self.next_into(|consumer, len| consumer.take_vec(len, record))? {
            self.wait(Deadline::NEVER)?;
        }
        Ok(())
    }
}

impl<T: FromBytes + IntoBytes + Immutable> Reader<T> {
    /// Receives the next record into `record`; `false` if there is none yet, and then or on an error `record` may hold
    /// anything. Never blocks. Saves the moves of a large `T` that is returned by value.
    #[inline]
    pub fn try_recv_into(&mut self, record: &mut T) -> Result<bool, RecvError> {
        if self.next_into(|consumer, _| consumer.take(record.as_mut_bytes()))? {
            return Ok(true);
        }
        self.nothing::<()>().map(|_| false)
    }

    /// Receives the next record into `record`, which on an error may hold anything. Waits as long as the writer lives.
    #[inline]
    pub fn recv_into(&mut self, record: &mut T) -> Result<(), RecvError> {
        while !self.next_into(|consumer, _| consumer.take(record.as_mut_bytes()))? {
            self.wait(Deadline::NEVER)?;
        }
        Ok(())
    }

    /// Receives a run of records into the first places of `records` and says how many: those that are there, at most a
    /// sixteenth of the ring. Waits for the first one as long as the writer lives. What lies behind them, and
    /// everything after an error, may hold anything.
    ///
    /// One copy and one check for overwriting serve the whole run: far faster than as many single calls. Gives 0 for
    /// empty `records` only.
    ///
    /// ```
    /// # use ginnel_channel::{Reader, Writer};
    /// # let temporary = tempfile::tempdir()?;
    /// # let mut writer: Writer<u64> = Writer::builder().run_dir(temporary.path()).create("numbers")?;
    /// # let mut reader: Reader<u64> = Reader::builder().run_dir(temporary.path()).open("numbers")?;
    /// writer.publish_all(&[1, 2, 3])?;
    /// let mut records = [0; 64];
    /// let received = reader.recv_many(&mut records)?;
    /// assert_eq!(records[..received], [1, 2, 3]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn recv_many(&mut self, records: &mut [T]) -> Result<usize, RecvError> {
        loop {
            match self.next_many(records)? {
                0 if !records.is_empty() => self.wait(Deadline::NEVER)?,
                received => return Ok(received),
            }
        }
    }

    /// Like [`recv_many`](Self::recv_many), but gives 0 if there is no record yet. Never blocks.
    #[inline]
    pub fn try_recv_many(&mut self, records: &mut [T]) -> Result<usize, RecvError> {
        match self.next_many(records)? {
            0 if !records.is_empty() => self.nothing::<()>().map(|_| 0),
            received => Ok(received),
        }
    }

    /// Like [`recv_many`](Self::recv_many), but waits up to `limit` for the first record and gives 0 if none came.
    pub fn recv_many_timeout(&mut self, records: &mut [T], limit: Duration) -> Result<usize, RecvError> {
        let deadline = Deadline::after(limit);
        loop {
            match self.next_many(records)? {
                0 if records.is_empty() => return Ok(0),
                0 if deadline.passed() => return self.nothing::<()>().map(|_| 0),
                0 => self.wait(deadline)?,
                received => return Ok(received),
            }
        }
    }

    #[inline(always)]
    fn next_many(&mut self, records: &mut [T]) -> Result<usize, RecvError> {
        if records.is_empty() {
            return Ok(0);
        }
        let most = records.len();
        let copy = |consumer: &mut Consumer, _| consumer.take_many(records.as_mut_bytes(), most);
        let taken = Self::take(&mut self.consumer, &mut self.tether, copy)?;
        let received = taken.unwrap_or(0);
        if received > 0 {
            self.count(received);
        }
        Ok(received)
    }
}

/// The descriptor of [`Reader::watch`]. Only wait for it to be readable; never read from it.
/// The record that a look into the ring has announced.
struct Announced<'a> {
    consumer: &'a mut Consumer,
    len: usize,
}

impl Source for Announced<'_> {
    type Fault = Fault;

    #[inline(always)]
    fn take_exact(self, out: &mut [u8]) -> Result<(), Fault> {
        self.consumer.take(out)
    }

    #[inline(always)]
    fn take(self, out: &mut Vec<u8>) -> Result<(), Fault> {
        self.consumer.take_vec(self.len, out)
    }
}

impl<T: ?Sized, C: Codec<T>> AsFd for Reader<T, C> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.tether.as_fd()
    }
}

/// What a fault means to the caller. A reader to which the channel is of no more use leaves it: a lossless writer must
/// not wait for it.
#[cold]
fn failed(consumer: &Consumer, tether: &mut Tether, fault: Fault) -> RecvError {
    if matches!(fault, Fault::NoMemory { .. }) {
        return fault.into();
    }
    if !matches!(fault, Fault::Lagged { .. }) {
        tether.leave();
        consumer.alert();
    } else if consumer.geometry().mode == Mode::Lossless {
        // A lossless writer that could not even be told of this reader has gone on without it.
        let heard = tether.wait(Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
        if heard.is_ok() && tether.refused() {
            return RecvError::Refused;
        }
    }
    fault.into()
}

fn sleeping(source: Errno) -> RecvError {
    RecvError::System { what: "wait for the writer", source }
}
