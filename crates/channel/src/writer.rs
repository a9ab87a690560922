//! The writing end.

use crate::builder::WriterBuilder;
use crate::clock;
use crate::discovery::Claimed;
use crate::env::{Inherit, Parts, Role};
use crate::error::{Corruption, CreateError, OpenError, PublishError};
use crate::hub::Hub;
use crate::loan::Loan;
use crate::tether::{self, Join};
use ginnel_base::Deadline;
use ginnel_codec::{Codec, Plain};
use ginnel_memory::fence::{self, Heavy};
use ginnel_memory::identity::Identity;
use ginnel_memory::ring::{Admission, Blocked, Grant, Mode, Producer, Start};
use ginnel_memory::{Spec, Spin};
use rustix::fd::{BorrowedFd, OwnedFd};
use rustix::io::Errno;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// What [`Writer::publish`] does when a lossless channel is full. Other channels are never full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum OnFull {
    /// Wait for the slowest live reader, however long it takes ([`Writer::publish_timeout`] sets a limit for one
    /// record).
    #[default]
    Wait,
    /// Fail at once with [`PublishError::Full`].
    Fail,
    /// Wait this long, then stop waiting for the slowest reader for good: it gets
    /// [`RecvError::Lagged`](crate::RecvError::Lagged) and goes on like the reader of a lossy channel.
    Evict(Duration),
}

/// The one writer of a channel.
///
/// Dropping it closes the channel: readers get what was published, then
/// [`RecvError::Closed`](crate::RecvError::Closed).
#[derive(Debug)]
pub struct Writer<T: ?Sized, C: Codec<T> = Plain> {
    producer: Producer,
    hub: Hub,
    scratch: Vec<u8>,
    on_full: OnFull,
    spin: Spin,
    waits: u64,
    evicted: u64,
    // Dropped after the producer has closed: then the name is free.
    claimed: Option<Claimed>,
    explicit_dir: bool,
    abandoned: bool,
    /// Set by an aggregator that is to end although this channel is full.
    stop: Option<Arc<AtomicBool>>,
    _types: PhantomData<fn(&T) -> C>,
}

/// What a writer has done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct WriterCounters {
    /// Records published.
    pub records: u64,
    /// Bytes of the ring that they took, headers and padding included.
    pub bytes: u64,
    /// Readers that have joined.
    pub joined: u64,
    /// Wake-ups that were sent, each one system call.
    pub wakes: u64,
    /// How often the writer had to wait for space.
    pub waits: u64,
    /// Readers that were evicted.
    pub evicted: u64,
}

/// How a publication treats a full channel.
#[derive(Clone, Copy)]
enum Patience {
    None,
    Policy,
    Until(Deadline, Duration),
}

/// What a look for room found, for one that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    Room,
    /// A reader has not released the space: waiting helps.
    Full,
    /// A reader has joined, or is mad: waiting for room would be waiting for ever.
    Other,
}

fn look(producer: &mut Producer, len: usize) -> Look {
    match producer.reserve(len) {
        Ok(()) => Look::Room,
        Err(Blocked::Reader { .. }) => Look::Full,
        Err(Blocked::Joining | Blocked::Mad { .. } | Blocked::Scribbled { .. }) => Look::Other,
    }
}

impl<T: ?Sized, C: Codec<T>> Writer<T, C> {
    /// Settings for a new channel.
    pub fn builder() -> WriterBuilder<T, C> {
        WriterBuilder::default()
    }

    /// Creates the lossy channel `name` with default settings.
    pub fn create(name: &str) -> Result<Self, CreateError> {
        Self::builder().create(name)
    }

    /// Takes over the writer's part that a parent exported, with default settings; see [`WriterBuilder::from_env`].
    pub fn from_env(variable: &str) -> Result<Self, CreateError> {
        Self::builder().from_env(variable)
    }

    #[allow(clippy::too_many_arguments, reason = "called from one place, with the parts it has just made")]
    pub(crate) fn new(
        producer: Producer,
        hub: Hub,
        claimed: Option<Claimed>,
        explicit_dir: bool,
        on_full: OnFull,
        spin: Spin,
    ) -> Self {
        Self {
            producer,
            hub,
            scratch: Vec::new(),
            on_full,
            spin,
            waits: 0,
            evicted: 0,
            claimed,
            explicit_dir,
            abandoned: false,
            stop: None,
            _types: PhantomData,
        }
    }

    /// Publishes one record. Wakes sleeping readers; makes no system call if none sleeps.
    ///
    /// Up to two readers are woken by this call, at one system call each. Where there are more, a thread of this
    /// process (`ginnel-crier`) wakes those that sleep, and this call at most wakes that thread. Where no thread can be
    /// started, this call wakes them all itself.
    ///
    /// Blocks only on a full lossless channel, as [`WriterBuilder::on_full`] says.
    #[inline]
    pub fn publish(&mut self, record: &T) -> Result<(), PublishError> {
        self.put(record, Patience::Policy)
    }

    /// Publishes one record, or fails with [`PublishError::Full`]: never blocks, never evicts.
    #[inline]
    pub fn try_publish(&mut self, record: &T) -> Result<(), PublishError> {
        self.put(record, Patience::None)
    }

    /// Publishes one record, waiting for space up to `limit`.
    pub fn publish_timeout(&mut self, record: &T, limit: Duration) -> Result<(), PublishError> {
        self.put(record, Patience::Until(Deadline::after(limit), limit))
    }

    #[inline(always)]
    fn put(&mut self, record: &T, patience: Patience) -> Result<(), PublishError> {
        self.append(record, patience)?;
        self.announce()
    }

    #[inline(always)]
    fn append(&mut self, record: &T, patience: Patience) -> Result<(), PublishError> {
        let len = {
            let bytes = C::encoded(record, &mut self.scratch)?;
            if bytes.len() <= self.producer.geometry().max_record && self.producer.reserve(bytes.len()).is_ok() {
                self.producer.push(bytes);
                return Ok(());
            }
            bytes.len()
        };
        self.append_in_time(record, len, patience)
    }

    #[cold]
    fn append_in_time(&mut self, record: &T, len: usize, patience: Patience) -> Result<(), PublishError> {
        self.reserve(len, patience)?;
        self.producer.push(C::encoded(record, &mut self.scratch)?);
        Ok(())
    }

    fn reserve(&mut self, len: usize, patience: Patience) -> Result<(), PublishError> {
        let max = self.producer.geometry().max_record;
        if len > max {
            return Err(PublishError::TooLarge { len, max });
        }
        match self.producer.reserve(len) {
            Ok(()) => Ok(()),
            Err(blocked) => self.make_room(len, blocked, patience),
        }
    }

    /// Tells those who sleep. Called after every publication.
    #[inline(always)]
    pub(crate) fn announce(&mut self) -> Result<(), PublishError> {
        announce(&mut self.producer, &mut self.hub)
    }

    #[cold]
    fn make_room(&mut self, len: usize, mut blocked: Blocked, patience: Patience) -> Result<(), PublishError> {
        let started = Instant::now();
        loop {
            match blocked {
                Blocked::Joining => {
                    if let Err(source) = self.hub.attend(&mut self.producer) {
                        return Err(PublishError::System { what: "welcome a reader", source });
                    }
                }
                Blocked::Scribbled { len } => return Err(PublishError::Corrupt(Corruption::Length { len })),
                Blocked::Mad { slot, token } => {
                    // A slot that changed hands looks so too: its former reader left, and nobody evicted it.
                    if self.producer.control().holds(slot, token) {
                        tracing::warn!(slot, "a reader claims an impossible position: dropping it");
                        self.evicted += 1;
                    }
                    self.hub.evict(&mut self.producer, slot, token);
                }
                Blocked::Reader { slot, token } => {
                    self.wait_for(slot, token, len, started, patience)?;
                }
            }
            if self.producer.truncated() {
                return Err(PublishError::Truncated);
            }
            match self.producer.reserve(len) {
                Ok(()) => return Ok(()),
                Err(again) => blocked = again,
            }
        }
    }

    /// Waits until there may be room, or something else to do than to wait: the caller looks again, and does what it is
    /// told.
    fn wait_for(
        &mut self,
        slot: usize,
        token: u64,
        len: usize,
        started: Instant,
        patience: Patience,
    ) -> Result<(), PublishError> {
        if self.stop.as_ref().is_some_and(|stop| stop.load(Ordering::Acquire)) {
            return Err(PublishError::Stopped);
        }
        let backlog = self.producer.backlog().unwrap_or(0);
        let deadline = match (patience, self.on_full) {
            (Patience::None, _) | (Patience::Policy, OnFull::Fail) => {
                self.hub.reap(&mut self.producer).map_err(waiting)?;
                return match self.look(len) {
                    Look::Full => Err(PublishError::Full { backlog }),
                    Look::Room | Look::Other => Ok(()),
                };
            }
            (Patience::Until(deadline, waited), _) => {
                if deadline.passed() {
                    return Err(PublishError::Timeout { waited, backlog });
                }
                deadline
            }
            (Patience::Policy, OnFull::Wait) => Deadline::NEVER,
            (Patience::Policy, OnFull::Evict(after)) => {
                let deadline = Deadline::from(started, after);
                if deadline.passed() {
                    tracing::warn!(slot, backlog, "evicting a reader that did not make room");
                    self.evicted += 1;
                    self.hub.evict(&mut self.producer, slot, token);
                    return Ok(());
                }
                deadline
            }
        };
        let producer = &mut self.producer;
        let (began, mut looks) = (clock::coarse_ms(), 0_u32);
        // A look here is dearer than a reader's, so a round of one who spins for ever may take long: the dead that we
        // wait for are only noticed behind it.
        let room = self.spin.until(|| {
            looks += 1;
            let late = looks.is_multiple_of(256) && clock::coarse_ms() - began >= tether::LIVENESS_MS;
            if late {
                return Some(Look::Full);
            }
            match look(producer, len) {
                Look::Full => None,
                news => Some(news),
            }
        });
        if let Some(Look::Room | Look::Other) = room {
            return Ok(());
        }
        self.waits += 1;
        self.announce()?;
        let nap = self.start_waiting();
        let slept = match self.look(len) {
            Look::Room | Look::Other => Ok(()),
            Look::Full => self.sleep(deadline, nap),
        };
        self.producer.stop_waiting();
        slept
    }

    /// Sleeps until readers have something to say, `deadline` comes, or `nap` has passed.
    fn sleep(&mut self, deadline: Deadline, nap: Option<Duration>) -> Result<(), PublishError> {
        let nap = nap.into_iter().chain(self.hub.files.nap()).min();
        let timeout = clock::remaining(deadline, nap);
        self.hub.wait(&mut self.producer, timeout.as_ref(), true).map_err(waiting)?;
        if self.hub.files.shrunk() { Err(PublishError::Truncated) } else { Ok(()) }
    }

    fn look(&mut self, len: usize) -> Look {
        look(&mut self.producer, len)
    }

    /// Asks readers to tell when they make room, and says how long to sleep at most before looking again.
    fn start_waiting(&self) -> Option<Duration> {
        match self.producer.start_waiting() {
            Heavy::Done => None,
            Heavy::Unsure => Some(Duration::from_millis(fence::UNSURE_NAP_MS)),
        }
    }

    /// Starts a batch: records added to it become visible together, with one store and at most one wake-up.
    ///
    /// ```
    /// # use ginnel_channel::Writer;
    /// # let mut writer: Writer<u64> = Writer::builder().anonymous()?;
    /// let mut batch = writer.batch();
    /// for n in 0..64 {
    ///     batch.push(&n)?;
    /// }
    /// batch.publish()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn batch(&mut self) -> Batch<'_, T, C> {
        self.producer.open_batch();
        Batch { writer: self }
    }

    /// Waits until at least `readers` readers have joined and are still there; says whether they have.
    pub fn wait_for_readers(&mut self, readers: usize, limit: Duration) -> Result<bool, PublishError> {
        let deadline = Deadline::after(limit);
        loop {
            self.announce()?;
            if self.hub.len() >= readers {
                return Ok(true);
            }
            if deadline.passed() {
                return Ok(false);
            }
            self.sleep(deadline, None)?;
        }
    }

    /// How many readers are there now. Notices those who came and went.
    pub fn readers(&mut self) -> Result<usize, PublishError> {
        self.hub.reap(&mut self.producer).map_err(waiting)?;
        self.announce()?;
        Ok(self.hub.len())
    }

    /// Waits until every reader of a lossless channel has read everything, or has left; says whether that happened in
    /// time.
    pub fn drain(&mut self, limit: Duration) -> Result<bool, PublishError> {
        let deadline = Deadline::after(limit);
        loop {
            self.announce()?;
            let nap = self.start_waiting();
            let done = self.producer.backlog().is_none_or(|backlog| backlog == 0);
            let waited = if done || deadline.passed() { Ok(()) } else { self.sleep(deadline, nap) };
            self.producer.stop_waiting();
            waited?;
            if done || deadline.passed() {
                return Ok(done);
            }
        }
    }

    /// Gives the next children of `command` the means to read this channel, in the environment variable `variable`: for
    /// a named channel its name, else inherited descriptors (sealed, so that they can only be read). The child calls
    /// [`Reader::from_env`](crate::Reader::from_env).
    ///
    /// Of an unnamed channel the child's place is taken now: a lossless writer waits for a child that does not read.
    /// Export once per child; the second child of one export would share the first one's place.
    pub fn export(&mut self, command: &mut impl Inherit, variable: &str) -> Result<(), OpenError> {
        if let Some(claimed) = &self.claimed {
            let name = claimed.name().as_str();
            if self.explicit_dir {
                let dir = std::path::absolute(claimed.dir().path()).unwrap_or_else(|_| claimed.dir().path().to_owned());
                command.set_env(variable, dir.join(name).as_os_str());
            } else {
                command.set_env(variable, name.as_ref());
            }
            return Ok(());
        }
        self.export_inherited(command, variable)
    }

    fn export_inherited(&mut self, command: &mut impl Inherit, variable: &str) -> Result<(), OpenError> {
        let system = |source| OpenError::System { what: "export the channel", source };
        let geometry = *self.producer.geometry();
        let token = Spec::random_instance();
        let Some(slot) = self.producer.control().claim(token, Identity::own()) else {
            return Err(OpenError::Full { name: variable.to_owned(), max: geometry.max_readers });
        };
        if let Err(fault) = self.producer.place(slot, token, Start::Oldest) {
            return Err(OpenError::Join { name: variable.to_owned(), what: fault.into() });
        }
        if geometry.mode == Mode::Lossless && self.producer.admit(slot, token) == Admission::Refused {
            return Err(OpenError::Full { name: variable.to_owned(), max: geometry.max_readers });
        }
        let made = (|| {
            let (near, far) = tether::pair()?;
            let duplicate = |fd: rustix::fd::BorrowedFd<'_>| rustix::io::fcntl_dupfd_cloexec(fd, 3);
            let parts = Parts {
                data: duplicate(self.hub.files.data())?,
                control: duplicate(self.hub.files.control.fd())?,
                socket: far,
                slot,
                token,
            };
            self.hub.tie(&mut self.producer, near, true, Join { slot, token })?;
            Ok(parts)
        })();
        match made {
            Ok(parts) => {
                parts.export(command, variable, Role::Reader);
                Ok(())
            }
            Err(source) => {
                self.producer.dismiss(slot, token);
                Err(system(source))
            }
        }
    }

    pub(crate) fn tie(&mut self, socket: OwnedFd, slot: usize, token: u64) -> Result<(), Errno> {
        if self.producer.geometry().mode == Mode::Lossless {
            let _ = self.producer.admit(slot, token);
        }
        self.hub.tie(&mut self.producer, socket, false, Join { slot, token })
    }

    /// Lets `stop` end a wait for space; `interrupt` becomes readable when it is set.
    pub(crate) fn stop_by(&mut self, stop: Arc<AtomicBool>, interrupt: BorrowedFd<'_>) -> std::io::Result<()> {
        self.hub.interrupt_by(interrupt)?;
        self.stop = Some(stop);
        Ok(())
    }

    /// The channel's name, `None` if it is inherited only.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.claimed.as_ref().map(|claimed| claimed.name().as_str())
    }

    /// The longest record that can be published, bytes.
    #[must_use]
    pub fn max_record(&self) -> usize {
        self.producer.geometry().max_record
    }

    /// What was done so far.
    #[must_use]
    pub fn counters(&self) -> WriterCounters {
        WriterCounters {
            records: self.producer.sequence(),
            bytes: self.producer.position(),
            joined: self.hub.joined,
            wakes: self.hub.wakes(),
            waits: self.waits,
            evicted: self.evicted,
        }
    }

    /// Closes the channel: readers get what was published, then the end. The same as dropping it.
    pub fn close(self) {}

    /// Lets a test drop the writer as `kill -9` would: the kernel closes what was open, nobody tidies up.
    #[doc(hidden)]
    pub fn abandon(mut self) {
        self.abandoned = true;
        if let Some(claimed) = &mut self.claimed {
            claimed.abandon();
        }
    }

    fn grant(&mut self, len: usize) -> Result<(Grant<'_>, &mut Hub), PublishError> {
        self.reserve(len, Patience::Policy)?;
        let grant = self.producer.lend(len).expect("the room that was just made");
        Ok((grant, &mut self.hub))
    }
}

/// Tells those who sleep.
#[inline(always)]
pub(crate) fn announce(producer: &mut Producer, hub: &mut Hub) -> Result<(), PublishError> {
    if producer.wanted() || producer.truncated() { attend(producer, hub) } else { Ok(()) }
}

#[cold]
fn attend(producer: &mut Producer, hub: &mut Hub) -> Result<(), PublishError> {
    if producer.truncated() {
        return Err(PublishError::Truncated);
    }
    match hub.attend(producer) {
        // A reader that left may have done so because of what it saw.
        Ok(true) if hub.files.shrunk() => Err(PublishError::Truncated),
        Ok(_) => Ok(()),
        // The record is out; a reader that cannot be welcomed for want of descriptors is tried again next time, and
        // until then protected by the JOINED bit.
        Err(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS) => {
            tracing::warn!("a reader waits to be welcomed, but this process is out of file descriptors");
            Ok(())
        }
        Err(source) => Err(PublishError::System { what: "welcome a reader", source }),
    }
}

fn waiting(source: Errno) -> PublishError {
    PublishError::System { what: "wait for readers", source }
}

impl Writer<[u8]> {
    /// Lends the next record, `len` bytes in the shared memory itself, to be filled in place: no copy, whatever its
    /// size.
    ///
    /// The bytes hold what an older record left there. Dropping the loan publishes nothing.
    ///
    /// ```
    /// # use ginnel_channel::Writer;
    /// # let mut writer: Writer<[u8]> = Writer::builder().anonymous()?;
    /// let mut frame = writer.loan(4096)?;
    /// frame.fill(0);
    /// frame[0] = 1;
    /// frame.publish()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn loan(&mut self, len: usize) -> Result<Loan<'_, [u8]>, PublishError> {
        let (grant, hub) = self.grant(len)?;
        Ok(Loan::new(grant, hub))
    }
}

impl<T> Writer<T>
where
    T: zerocopy::FromBytes + zerocopy::IntoBytes + zerocopy::Immutable,
{
    /// Publishes records that lie in a row: one look for room, one copy, one publication and at most one wake-up for as
    /// many as an eighth of the ring holds. More than that, or more than there is room for, become visible in parts, in
    /// order.
    ///
    /// Blocks only on a full lossless channel, as [`WriterBuilder::on_full`] says. On an error the first ones may be
    /// published: [`WriterCounters::records`] tells.
    ///
    /// ```
    /// # use ginnel_channel::Writer;
    /// # let mut writer: Writer<u64> = Writer::builder().anonymous()?;
    /// writer.publish_all(&[1, 2, 3])?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn publish_all(&mut self, records: &[T]) -> Result<(), PublishError> {
        let (_, outcome) = self.put_all(records, Patience::Policy);
        outcome
    }

    /// Publishes as many of `records` as there is room for and says how many; [`PublishError::Full`] if there is room
    /// for none. Never blocks, never evicts.
    #[inline]
    pub fn try_publish_all(&mut self, records: &[T]) -> Result<usize, PublishError> {
        some(self.put_all(records, Patience::None))
    }

    /// Publishes as many of `records` as there is room for within `limit` and says how many; [`PublishError::Timeout`]
    /// if there was room for none.
    pub fn publish_all_timeout(&mut self, records: &[T], limit: Duration) -> Result<usize, PublishError> {
        some(self.put_all(records, Patience::Until(Deadline::after(limit), limit)))
    }

    /// Publishes `records` and says how many it got done, and what stopped it.
    #[inline(always)]
    fn put_all(&mut self, records: &[T], patience: Patience) -> (usize, Result<(), PublishError>) {
        let mut done = 0;
        while done < records.len() {
            let outcome = match self.producer.reserve_many(records.len() - done) {
                Ok(room) => {
                    self.producer.push_many(zerocopy::IntoBytes::as_bytes(&records[done..done + room]), room);
                    done += room;
                    self.announce()
                }
                Err(blocked) => self.make_room(size_of::<T>(), blocked, patience),
            };
            if outcome.is_err() {
                return (done, outcome);
            }
        }
        (done, Ok(()))
    }
}

/// What a caller learns who asked for as many as possible: the number, unless there was none or what stopped them is no
/// want of room.
fn some((done, outcome): (usize, Result<(), PublishError>)) -> Result<usize, PublishError> {
    match outcome {
        Err(PublishError::Full { .. } | PublishError::Timeout { .. }) if done > 0 => Ok(done),
        other => other.map(|()| done),
    }
}

impl<T> Writer<T>
where
    T: zerocopy::FromBytes + zerocopy::IntoBytes + zerocopy::Immutable + zerocopy::KnownLayout,
{
    /// Lends the next record in the shared memory itself, to be filled in place: no copy, whatever its size.
    ///
    /// It holds what an older record left there. Dropping the loan publishes nothing.
    pub fn loan(&mut self) -> Result<Loan<'_, T>, PublishError> {
        const { assert!(align_of::<T>() <= 16, "payloads start at multiples of 16 bytes") };
        let (grant, hub) = self.grant(size_of::<T>())?;
        Ok(Loan::new(grant, hub))
    }
}

impl<T: ?Sized, C: Codec<T>> Drop for Writer<T, C> {
    fn drop(&mut self) {
        if self.abandoned {
            return;
        }
        // The tethers hang up next, so nobody sleeps on, whether or not it was tied yet.
        self.producer.close();
        if let Some(claimed) = &self.claimed {
            tracing::debug!(name = claimed.name().as_str(), counters = ?self.counters(), "channel closed");
        }
    }
}

/// Records that become visible together. Made by [`Writer::batch`]; dropping it publishes it.
///
/// A batch that outgrows an eighth of the ring, or that has to wait for space, is published in parts.
#[derive(Debug)]
pub struct Batch<'a, T: ?Sized, C: Codec<T>> {
    writer: &'a mut Writer<T, C>,
}

impl<T: ?Sized, C: Codec<T>> Batch<'_, T, C> {
    /// Adds a record.
    #[inline]
    pub fn push(&mut self, record: &T) -> Result<(), PublishError> {
        self.writer.append(record, Patience::Policy)?;
        if self.writer.producer.batch_is_large() {
            self.writer.producer.publish_batch();
            self.writer.announce()?;
            self.writer.producer.open_batch();
        }
        Ok(())
    }

    /// Makes all of them visible.
    pub fn publish(self) -> Result<(), PublishError> {
        self.writer.producer.publish_batch();
        self.writer.announce()
    }
}

impl<T: ?Sized, C: Codec<T>> Drop for Batch<'_, T, C> {
    fn drop(&mut self) {
        self.writer.producer.publish_batch();
        let _ = self.writer.announce();
    }
}
