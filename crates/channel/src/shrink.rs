//! Notices that a channel's files are shrunk while nobody touches them.
//!
//! Whoever touches what was cut off learns it from the guard of `ginnel_memory`, and whoever is busy looks at the sizes
//! now and then. A reader that sleeps does neither, and is not to wake for it. So one thread of each process sleeps in
//! inotify for all sleeping readers: a truncation raises an event (a store through a mapping does not). The thread
//! looks at the sizes and hangs up the socket of each reader concerned: that ends its sleep, whatever it sleeps in, and
//! tells the writer.

use ginnel_memory::{Extent, Segment};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::inotify;
use rustix::io::{Errno, Result};
use rustix::net::Shutdown;
use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

/// How often one who waits looks at the sizes itself, where nobody does it for it.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// The files of a channel's two segments.
#[derive(Debug)]
pub(crate) struct Files {
    data: OwnedFd,
    data_extent: Extent,
    // Kept whole, because there are those who only look at it.
    pub(crate) control: Segment,
    control_extent: Extent,
    /// Sealed memory cannot be shrunk.
    shrinkable: bool,
}

impl Files {
    pub(crate) fn new(data: OwnedFd, data_extent: Extent, control: Segment) -> Self {
        let control_extent = control.extent();
        let shrinkable = data_extent.shrinkable(&data) || control_extent.shrinkable(control.fd());
        Self { data, data_extent, control, control_extent, shrinkable }
    }

    /// Those of a reader.
    pub(crate) fn of(data: Segment, control: Segment) -> Self {
        let extent = data.extent();
        Self::new(data.into_file(), extent, control)
    }

    pub(crate) fn control(&self) -> BorrowedFd<'_> {
        self.control.fd()
    }

    pub(crate) fn data(&self) -> BorrowedFd<'_> {
        self.data.as_fd()
    }

    /// Whether one of them is shorter than its mapping. From then on its words say so, too.
    pub(crate) fn shrunk(&self) -> bool {
        // Both are looked at, so that the words of both tell.
        self.shrinkable && (self.data_extent.shrunk(&self.data) | self.control_extent.shrunk(self.control.fd()))
    }

    /// How long somebody may sleep who is not told of a truncation: `None` for as long as it likes.
    pub(crate) fn nap(&self) -> Option<Duration> {
        self.shrinkable.then_some(LOOK_EVERY)
    }
}

/// A sleeping reader's watch over its files.
#[derive(Debug, Default)]
pub(crate) enum Alarm {
    /// Nobody looks yet.
    #[default]
    Unset,
    /// The files cannot be shrunk, or the process's thread looks after them.
    Set { _watched: Option<Watched> },
    /// There is no watching here: whoever sleeps wakes now and then.
    Refused,
}

impl Alarm {
    /// Has `files` watched from now on, so that `socket` hangs up when they are shrunk; says how long to sleep at most.
    pub(crate) fn set(&mut self, files: &Arc<Files>, socket: &Arc<OwnedFd>) -> Option<Duration> {
        if matches!(self, Self::Unset) {
            *self = if !files.shrinkable {
                Self::Set { _watched: None }
            } else {
                match Watch::of_this_process().and_then(|watch| watch.add(files, socket)) {
                    watched @ Some(_) => Self::Set { _watched: watched },
                    None => Self::Refused,
                }
            };
            files.shrunk(); // what was cut off before raised no event
        }
        if matches!(self, Self::Refused) { files.nap() } else { None }
    }
}

/// What ends the watching when it is dropped.
#[derive(Debug)]
pub(crate) struct Watched {
    watch: &'static Watch,
    files: [i32; 2],
    sleeper: Arc<Sleeper>,
}

#[derive(Debug)]
struct Sleeper {
    files: Arc<Files>,
    socket: Arc<OwnedFd>,
}

/// The inotify descriptor of this process, and who sleeps on which of its watches.
#[derive(Debug)]
struct Watch {
    inotify: OwnedFd,
    process: u32,
    sleepers: Mutex<HashMap<i32, Vec<Arc<Sleeper>>>>,
}

impl Watch {
    fn of_this_process() -> Option<&'static Self> {
        static WATCH: OnceLock<Option<&'static Watch>> = OnceLock::new();
        let watch = WATCH.get_or_init(|| match Self::start() {
            Ok(watch) => Some(watch),
            Err(error) => {
                tracing::debug!(%error, "nobody watches the files of sleeping readers: they wake now and then");
                None
            }
        });
        // A process made by `fork` has the descriptor and no thread.
        watch.filter(|watch| watch.process == std::process::id())
    }

    fn start() -> std::io::Result<&'static Self> {
        let inotify = inotify::init(inotify::CreateFlags::CLOEXEC)?;
        // Never dropped: closing an inotify descriptor takes milliseconds, and the thread uses it as long as the
        // process lives.
        let watch: &'static Self =
            Box::leak(Box::new(Self { inotify, process: std::process::id(), sleepers: Mutex::default() }));
        ginnel_base::thread::spawn("ginnel-files", || watch.run())?;
        Ok(watch)
    }

    fn sleepers(&self) -> MutexGuard<'_, HashMap<i32, Vec<Arc<Sleeper>>>> {
        self.sleepers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let mut space = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(&self.inotify, &mut space);
        loop {
            match events.next() {
                Ok(event) if event.events().contains(inotify::ReadFlags::QUEUE_OVERFLOW) => {
                    self.sleepers().values().flatten().for_each(|sleeper| sleeper.look());
                }
                Ok(event) => self.sleepers().get(&event.wd()).into_iter().flatten().for_each(|sleeper| sleeper.look()),
                Err(Errno::INTR) => {}
                Err(error) => {
                    tracing::warn!(%error, "nobody watches the files of sleeping readers any more");
                    return;
                }
            }
        }
    }

    fn add(&'static self, files: &Arc<Files>, socket: &Arc<OwnedFd>) -> Option<Watched> {
        let sleeper = Arc::new(Sleeper { files: Arc::clone(files), socket: Arc::clone(socket) });
        let mut sleepers = self.sleepers();
        let data = self.watch(files.data()).ok()?;
        let Ok(control) = self.watch(files.control.fd()) else {
            self.forget(&mut sleepers, data);
            return None;
        };
        for file in [data, control] {
            sleepers.entry(file).or_default().push(Arc::clone(&sleeper));
        }
        Some(Watched { watch: self, files: [data, control], sleeper })
    }

    /// The number of the watch over a file: the same for everybody who has that file.
    fn watch(&self, file: BorrowedFd<'_>) -> Result<i32> {
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        inotify::add_watch(&self.inotify, path, inotify::WatchFlags::MODIFY)
    }

    /// Ends the watching of a file in which nobody is interested.
    fn forget(&self, sleepers: &mut HashMap<i32, Vec<Arc<Sleeper>>>, file: i32) {
        if sleepers.get(&file).is_none_or(Vec::is_empty) {
            sleepers.remove(&file);
            let _ = inotify::remove_watch(&self.inotify, file);
        }
    }
}

impl Sleeper {
    fn look(&self) {
        if self.files.shrunk() {
            let _ = rustix::net::shutdown(self.socket.as_fd(), Shutdown::Both);
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let mut sleepers = self.watch.sleepers();
        for file in self.files {
            if let Some(of_file) = sleepers.get_mut(&file) {
                of_file.retain(|sleeper| !Arc::ptr_eq(sleeper, &self.sleeper));
            }
            self.watch.forget(&mut sleepers, file);
        }
    }
}
