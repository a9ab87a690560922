//! The publishing half: one state channel for each endpoint.

use super::record::{Figures, Record, Side, TYPE_NAME, nanos};
use super::{BUCKETS, Introspect, PREFIX};
use ginnel_channel::{CreateError, Mode, Writer, clean_prefix};
use ginnel_memory::RunDirError;
use ginnel_session::Endpoint;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// The least time between two records.
pub(crate) const EVERY: Duration = Duration::from_millis(100);
/// Readers of such a channel that take part in it. Those that only look do not count.
const READERS: usize = 8;
/// How long to wait before the runtime directory's lock is tried again: the first time, and how often that doubles.
const AGAIN: (Duration, u32) = (Duration::from_millis(20), 10);
/// Descriptors that one channel takes.
const DESCRIPTORS: usize = 8;

/// Channels of this process.
static OPEN: AtomicUsize = AtomicUsize::new(0);

/// Publishes what one endpoint tells about itself: at most ten times a second, and only what has changed. Belongs to
/// the thread that does the endpoint's input and output, and never makes it wait.
#[derive(Debug)]
pub(crate) struct Publisher {
    run_dir: Option<PathBuf>,
    channel: Channel,
    /// What was published last.
    record: Box<Record>,
    /// Something may have changed since.
    touched: bool,
    /// Not before this.
    next: Instant,
}

#[derive(Debug)]
enum Channel {
    /// Not made yet; how often that was tried.
    Absent(u32),
    Open(Box<(Writer<Record>, Place)>),
    /// It cannot be had.
    Off,
}

/// One of the channels that this process may have.
#[derive(Debug)]
struct Place;

impl Place {
    /// Introspection takes no more than a quarter of the descriptors that the process may have.
    fn take() -> Option<Self> {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let most = limit.map_or(usize::MAX, |limit| limit as usize) / 4 / DESCRIPTORS;
        OPEN.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |open| (open < most).then_some(open + 1)).ok()?;
        Some(Self)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        OPEN.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Publisher {
    /// `None` if it is switched off. Does no I/O: the channel is made by the first [`publish`](Self::publish).
    pub(crate) fn new(introspect: &Introspect, side: Side, endpoint: &Endpoint) -> Option<Self> {
        let run_dir = match introspect {
            Introspect::Off => return None,
            Introspect::On => None,
            Introspect::In(dir) => Some(dir.clone()),
        };
        let place = endpoint.to_string();
        let service = endpoint.service().map_or(place.as_str(), |(_, service)| service);
        let record = Box::new(Record::new(side, service, &place));
        Some(Self { run_dir, channel: Channel::Absent(0), record, touched: true, next: Instant::now() })
    }

    /// Something has happened.
    #[inline]
    pub(crate) fn touch(&mut self) {
        self.touched = true;
    }

    /// When [`publish`](Self::publish) has something to do; `None` while nothing happens.
    #[inline]
    pub(crate) fn due(&self) -> Option<Instant> {
        (self.touched && !matches!(self.channel, Channel::Off)).then_some(self.next)
    }

    /// Publishes what `fill` tells, if that is anything new. To be called when it is [`due`](Self::due).
    pub(crate) fn publish(
        &mut self,
        now: Instant,
        draining: bool,
        fill: impl FnOnce(&mut Figures, &mut [u64; BUCKETS]),
    ) {
        if let Channel::Absent(tries) = self.channel {
            self.channel = match open(self.run_dir.clone()) {
                Ok(Some(opened)) => Channel::Open(Box::new(opened)),
                Err(CreateError::RunDir(RunDirError::Locked { .. })) if tries < AGAIN.1 => {
                    self.next = now + AGAIN.0 * (1 << tries);
                    self.channel = Channel::Absent(tries + 1);
                    return;
                }
                Ok(None) => self.without(&"this process has as many introspection channels as its descriptors allow"),
                Err(error) => self.without(&error),
            };
        }
        let Channel::Open(opened) = &mut self.channel else { return };
        let before = *self.record;
        self.record.set_draining(draining);
        fill(&mut self.record.figures, &mut self.record.latency);
        self.touched = false;
        self.next = now + EVERY;
        if *self.record == before && before.published != 0 {
            return;
        }
        self.record.published = monotonic();
        if let Err(error) = opened.0.publish(&self.record) {
            self.channel = self.without(&error);
        }
    }

    /// Said once: an endpoint serves as well without it.
    fn without(&self, why: &dyn std::fmt::Display) -> Channel {
        let endpoint = self.record.read().map(|record| record.endpoint).unwrap_or_default();
        tracing::info!(endpoint, %why, "no introspection of this endpoint");
        Channel::Off
    }
}

/// Makes the channel, under a name of its own; `None` if the process has too many.
fn open(run_dir: Option<PathBuf>) -> Result<Option<(Writer<Record>, Place)>, CreateError> {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let Some(place) = Place::take() else { return Ok(None) };
    // Nobody takes the names of dead processes over, because each process has its own: so everyone who comes tidies up.
    let _ = clean_prefix(run_dir.as_deref(), PREFIX);
    let pid = std::process::id();
    for last in [false, false, false, false, true] {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let mut builder = Writer::<Record>::builder().mode(Mode::Latest).type_name(TYPE_NAME).max_readers(READERS);
        if let Some(dir) = &run_dir {
            builder = builder.run_dir(dir);
        }
        match builder.lock_patience(Duration::ZERO).create(&format!("{PREFIX}{pid}.{number}")) {
            // A process of another pid namespace has the same id. Or another user's file has the name, in a directory
            // that we share.
            Err(CreateError::InUse { .. } | CreateError::Foreign { .. }) if !last => {}
            made => return made.map(|writer| Some((writer, place))),
        }
    }
    Ok(None)
}

fn monotonic() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    nanos(Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec as u32))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    /// Counts events.
    struct Events(Arc<AtomicUsize>);

    impl tracing::Subscriber for Events {
        fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
            true
        }

        fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
            tracing::span::Id::from_u64(1)
        }

        fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

        fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

        fn event(&self, event: &tracing::Event<'_>) {
            self.0.fetch_add(usize::from(*event.metadata().level() <= tracing::Level::INFO), Ordering::Relaxed);
        }

        fn enter(&self, _: &tracing::span::Id) {}

        fn exit(&self, _: &tracing::span::Id) {}
    }

    #[test]
    fn a_directory_that_cannot_be_used_is_told_once_and_asked_no_more() {
        let dir = tempfile::tempdir().unwrap();
        let endpoint = Endpoint::seqpacket(dir.path(), "svc").unwrap();
        let bad = Introspect::In(dir.path().join("no/parent"));
        let mut publisher = Publisher::new(&bad, Side::Server, &endpoint).unwrap();
        let events = Arc::new(AtomicUsize::new(0));
        tracing::subscriber::with_default(Events(Arc::clone(&events)), || {
            for _ in 0..3 {
                publisher.touch();
                publisher.publish(Instant::now(), false, |figures, _| figures.requests += 1);
            }
        });
        assert_eq!((events.load(Ordering::Relaxed), publisher.due()), (1, None));
    }
}
