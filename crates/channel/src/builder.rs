//! How channels are made and opened.

use crate::discovery::{
    CONTROL_LAYOUT, Claimed, DATA, KIND_CONTROL, KIND_DATA, Permissions, Seat, address, control_file, making_file,
    socket_file, tie_to_name,
};
use crate::env::{self, Inherit, Parts, Role, Source};
use crate::error::{CreateError, EnvError, OpenError};
use crate::glimpse::Glimpse;
use crate::hub::Hub;
use crate::reader::Reader;
use crate::shrink::Files;
use crate::tether::{self, Join, Tether};
use crate::writer::{OnFull, Writer};
use ginnel_base::Deadline;
use ginnel_codec::{Codec, Plain};
use ginnel_memory::identity::Identity;
use ginnel_memory::ring::{Consumer, Control, Geometry, Mode, Producer, Start};
use ginnel_memory::{Access, Expect, Name, RunDir, RunDirError, Segment, SegmentError, Spec, Spin, fence};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::time::Duration;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Skips the check of who created a channel; set by a parent that trusts what its children meet.
const NO_CHECK: &str = "GINNEL_DISABLE_IPC_PERMISSIONS";
/// How often a reader that waits for a channel looks for it.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// How much memory a state takes, as long as that is more than eight values.
const STATE_BYTES: usize = 8 << 10;

/// Settings of a new channel. Made by [`Writer::builder`].
#[derive(Debug)]
#[must_use]
pub struct WriterBuilder<T: ?Sized, C: Codec<T> = Plain> {
    mode: Mode,
    capacity: Option<usize>,
    max_record: Option<usize>,
    max_readers: usize,
    permissions: Permissions,
    on_full: OnFull,
    spin: Spin,
    run_dir: Option<PathBuf>,
    /// Whether the directory was named by an exporter, so that it must exist.
    from_env: bool,
    type_name: String,
    label: String,
    lock_patience: Duration,
    _types: PhantomData<fn(&T) -> C>,
}

impl<T: ?Sized, C: Codec<T>> Default for WriterBuilder<T, C> {
    fn default() -> Self {
        Self {
            mode: Mode::Lossy,
            capacity: None,
            max_record: None,
            max_readers: 64,
            permissions: Permissions::OwnerOnly,
            on_full: OnFull::Wait,
            spin: Spin::default(),
            run_dir: None,
            from_env: false,
            type_name: C::type_name().to_owned(),
            label: "ginnel-channel".to_owned(),
            lock_patience: RunDir::LOCK_DEADLINE,
            _types: PhantomData,
        }
    }
}

impl<T: ?Sized, C: Codec<T>> WriterBuilder<T, C> {
    /// Default size of a ring, bytes; more where four of the largest records need it.
    pub const DEFAULT_CAPACITY: usize = 256 << 10;

    /// What happens when a reader is too slow. Default: [`Mode::Lossy`].
    pub fn mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    /// Bytes of the ring, rounded up to what the ring needs. Readers that fall behind by more than 15/16 of it have
    /// lagged.
    pub fn capacity(mut self, bytes: usize) -> Self {
        self.capacity = Some(bytes);
        self
    }

    /// The largest record that can be published, bytes (for records of varying size). Default: a quarter of the
    /// capacity, less 64 bytes. The ring grows so that it holds four.
    pub fn max_record(mut self, bytes: usize) -> Self {
        self.max_record = Some(bytes);
        self
    }

    /// The most readers at a time, 1 to 1024. Default: 64.
    pub fn max_readers(mut self, readers: usize) -> Self {
        self.max_readers = readers;
        self
    }

    /// Who may read a named channel. Default: only the writer's user.
    pub fn permissions(mut self, permissions: Permissions) -> Self {
        self.permissions = permissions;
        self
    }

    /// What [`Writer::publish`] does when a lossless channel is full. Default: [`OnFull::Wait`].
    pub fn on_full(mut self, on_full: OnFull) -> Self {
        self.on_full = on_full;
        self
    }

    /// How long the writer of a full lossless channel spins before it sleeps.
    pub fn spin(mut self, spin: Spin) -> Self {
        self.spin = spin;
        self
    }

    /// The runtime directory, instead of the user's.
    pub fn run_dir(mut self, dir: impl AsRef<Path>) -> Self {
        self.run_dir = Some(dir.as_ref().to_owned());
        self
    }

    /// What identifies the record type to both sides, instead of its Rust path. Give both the same where writer and
    /// reader declare the type in different crates. Size and alignment of plain types are compared in any case.
    pub fn type_name(mut self, name: impl Into<String>) -> Self {
        self.type_name = name.into();
        self
    }

    /// What the memory of an unnamed channel is called in `/proc/PID/maps`.
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }

    /// How long [`create`](Self::create) may wait for the directory's lock, which others hold while they create there:
    /// well under a millisecond, unless one of them is stuck. Default: five seconds. Zero does not wait at all.
    pub fn lock_patience(mut self, patience: Duration) -> Self {
        self.lock_patience = patience;
        self
    }

    /// Creates the channel `name` in the runtime directory. Refused while another writer has it; taken over from a dead
    /// one.
    pub fn create(self, name: &str) -> Result<Writer<T, C>, CreateError> {
        let name: Name = name.parse()?;
        let dir = match &self.run_dir {
            // Of whoever exported it: were it made here, that one would never find us.
            Some(dir) if self.from_env => RunDir::of(dir, &[0, rustix::process::geteuid().as_raw()])?,
            Some(dir) => RunDir::at(dir)?,
            None => RunDir::open()?,
        };
        let (geometry, mut spec) = self.shape()?;
        let (mode, shared_mode) = self.permissions.modes();
        let group = self.permissions.group();
        let explicit = self.run_dir.is_some();

        tie_to_name(&mut spec.params, &name);
        let claimed = Claimed::take(dir, name, spec.instance, self.lock_patience)?;
        let control_spec = control_spec(&geometry, spec.instance);
        let about = |error: SegmentError| error.about(claimed.name().as_str());
        // The file that readers look for comes first, under the name that marks an unfinished one, and gets its own
        // name when all is ready for them.
        let file = making_file(spec.instance);
        let data = Segment::file(claimed.dir(), &file, &spec, mode, group).map_err(about)?;
        let file = control_file(spec.instance);
        let control = Segment::file(claimed.dir(), &file, &control_spec, shared_mode, group).map_err(about)?;
        let listener = claimed.listen(shared_mode, group)?;
        tracing::debug!(name = claimed.name().as_str(), ?geometry, "channel created");
        self.finish(geometry, data, control, Some(listener), Some(claimed), explicit)
    }

    /// Creates a channel without a name: only children that inherit it ([`Writer::export`]) can read it.
    pub fn anonymous(self) -> Result<Writer<T, C>, CreateError> {
        let (geometry, spec) = self.shape()?;
        let data = Segment::memfd(&self.label, &spec, true)?;
        let control = Segment::memfd("ginnel-control", &control_spec(&geometry, spec.instance), false)?;
        control.seal_as_it_is()?;
        self.finish(geometry, data, control, None, None, false)
    }

    /// Takes over the writer's part of a channel whose reader is the parent ([`ReaderBuilder::export_writer`]), or
    /// creates the named channel that the variable asks for.
    pub fn from_env(mut self, variable: &str) -> Result<Writer<T, C>, CreateError> {
        match env::read(variable, Role::Writer)? {
            Source::Named { dir, name } => {
                self.from_env = dir.is_some();
                self.run_dir = dir.or(self.run_dir);
                self.create(&name)
            }
            Source::Inherited(parts) => {
                let socket = parts.spare_socket();
                self.adopt(parts).inspect_err(|_| socket.hang_up())
            }
        }
    }

    fn adopt(self, parts: Parts) -> Result<Writer<T, C>, CreateError> {
        let expect = |kind, layout| Expect { kind, layout: Some(layout), instance: None, owner: None };
        let layout = C::layout(&self.type_name);
        let data = Segment::inherit("inherited channel", parts.data, Access::ReadWrite, &expect(KIND_DATA, layout))?;
        let control = expect(KIND_CONTROL, CONTROL_LAYOUT);
        let control = Segment::inherit("inherited control", parts.control, Access::ReadWrite, &control)?;
        data.seal_for_readers()?;
        data.sign(Identity::own());
        let geometry = Geometry::from_params(&data.header().params, data.header().data)?;
        let system = |source| CreateError::System { what: "take over the inherited channel", source };
        let socket = tether::renew(&parts.socket).map_err(system)?;
        let mut writer = self.finish(geometry, data, control, None, None, false)?;
        writer.tie(socket, parts.slot, parts.token).map_err(system)?;
        Ok(writer)
    }

    fn shape(&self) -> Result<(Geometry, Spec), CreateError> {
        shape::<T, C>(self.mode, self.capacity, self.max_record, self.max_readers, &self.type_name)
    }

    fn finish(
        self,
        geometry: Geometry,
        data: Segment,
        control: Segment,
        listener: Option<OwnedFd>,
        mut claimed: Option<Claimed>,
        explicit_dir: bool,
    ) -> Result<Writer<T, C>, CreateError> {
        data.populate();
        fence::prepare();
        let system = |source| CreateError::System { what: "watch for readers", source };
        let small = SegmentError::Mismatch { name: "control".into(), field: "size", found: 0, expected: 1 };
        let slots = Control::new(control.data_mut(), geometry.max_readers).ok_or(small)?;
        let (found, expected) = (data.header().data as u64, geometry.capacity);
        let extent = data.extent();
        let (words, data) = data.into_words()?;
        let hub = Hub::new(listener, Files::new(data, extent, control), slots.clone()).map_err(system)?;
        // An inherited header may describe a ring that its segment, mapped once instead of twice, cannot hold.
        let small = || SegmentError::Mismatch { name: "channel".into(), field: "data size", found, expected };
        let producer = Producer::new(geometry, words, slots).ok_or_else(small)?;
        if let Some(claimed) = &mut claimed {
            claimed.complete()?;
        }
        Ok(Writer::new(producer, hub, claimed, explicit_dir, self.on_full, self.spin))
    }
}

fn shape<T: ?Sized, C: Codec<T>>(
    mode: Mode,
    capacity: Option<usize>,
    max_record: Option<usize>,
    max_readers: usize,
    type_name: &str,
) -> Result<(Geometry, Spec), CreateError> {
    let default = WriterBuilder::<T, C>::DEFAULT_CAPACITY;
    let geometry = match C::LEN {
        Some(len) => {
            // A state needs a few slots, so that a reader can finish its copy while the next values are written. Of
            // small values there are more, so that the mark and the cursors, which move every sixteenth, do not move
            // every time.
            let records = match (mode, capacity) {
                (Mode::Latest, None) => (STATE_BYTES / (len + 16)).max(8),
                (_, capacity) => capacity.unwrap_or(default) / (len + 16),
            };
            Geometry::fixed(mode, len, records, max_readers)?
        }
        None => {
            let capacity =
                capacity.unwrap_or(default).max(max_record.map_or(0, |max| max.saturating_add(80).saturating_mul(4)));
            let max_record =
                max_record.unwrap_or(capacity.max(64 << 10).checked_next_power_of_two().unwrap_or(capacity) / 4 - 64);
            Geometry::variable(mode, max_record, capacity, max_readers)?
        }
    };
    let spec = Spec {
        kind: KIND_DATA,
        layout: C::layout(type_name),
        instance: Spec::random_instance(),
        params: geometry.params(),
        data: geometry.data_bytes(),
        mirror: geometry.mirror(),
    };
    Ok((geometry, spec))
}

fn control_spec(geometry: &Geometry, instance: u64) -> Spec {
    Spec {
        kind: KIND_CONTROL,
        layout: CONTROL_LAYOUT,
        instance,
        params: [0; ginnel_memory::PARAMS],
        data: Control::bytes(geometry.max_readers),
        mirror: false,
    }
}

/// Settings of a reader. Made by [`Reader::builder`].
#[derive(Debug)]
#[must_use]
pub struct ReaderBuilder<T: ?Sized, C: Codec<T> = Plain> {
    start: Start,
    wait: Option<Duration>,
    creator: Option<u32>,
    spin: Spin,
    run_dir: Option<PathBuf>,
    type_name: String,
    label: String,
    mode: Mode,
    capacity: Option<usize>,
    max_record: Option<usize>,
    _types: PhantomData<fn() -> (C, *const T)>,
}

impl<T: ?Sized, C: Codec<T>> Default for ReaderBuilder<T, C> {
    fn default() -> Self {
        Self {
            start: Start::Oldest,
            wait: None,
            creator: None,
            spin: Spin::default(),
            run_dir: None,
            type_name: C::type_name().to_owned(),
            label: "ginnel-channel".to_owned(),
            mode: Mode::Lossy,
            capacity: None,
            max_record: None,
            _types: PhantomData,
        }
    }
}

impl<T: ?Sized, C: Codec<T>> ReaderBuilder<T, C> {
    /// Where to begin. Default: at the oldest record that is still there.
    pub fn start(mut self, start: Start) -> Self {
        self.start = start;
        self
    }

    /// Wait up to `limit` until the channel exists and has a live writer. Default: [`open`](Self::open) fails at once.
    pub fn wait(mut self, limit: Duration) -> Self {
        self.wait = Some(limit);
        self
    }

    /// Accept a channel that this user created, instead of only one's own and root's.
    pub fn creator(mut self, uid: u32) -> Self {
        self.creator = Some(uid);
        self
    }

    /// How long to spin for a record before sleeping. Default: adaptive, up to some 50 microseconds.
    pub fn spin(mut self, spin: Spin) -> Self {
        self.spin = spin;
        self
    }

    /// The runtime directory, instead of the user's.
    pub fn run_dir(mut self, dir: impl AsRef<Path>) -> Self {
        self.run_dir = Some(dir.as_ref().to_owned());
        self
    }

    /// What identifies the record type to both sides, instead of its Rust path (see [`WriterBuilder::type_name`]).
    pub fn type_name(mut self, name: impl Into<String>) -> Self {
        self.type_name = name.into();
        self
    }

    /// What the memory of an exported channel is called in `/proc/PID/maps`.
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }

    /// For [`export_writer`](Self::export_writer): the channel's mode.
    pub fn mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    /// For [`export_writer`](Self::export_writer): bytes of the ring.
    pub fn capacity(mut self, bytes: usize) -> Self {
        self.capacity = Some(bytes);
        self
    }

    /// For [`export_writer`](Self::export_writer): the largest record, bytes.
    pub fn max_record(mut self, bytes: usize) -> Self {
        self.max_record = Some(bytes);
        self
    }

    /// Opens the channel `name`.
    pub fn open(self, name: &str) -> Result<Reader<T, C>, OpenError> {
        let name: Name = name.parse()?;
        let deadline = self.wait.map(Deadline::after);
        loop {
            // A writer may end at any moment until the reader is announced to it.
            let opened = self.try_open(&name).and_then(|parts| self.finish(name.as_str(), parts));
            match (opened, deadline) {
                (Err(OpenError::Absent { .. } | OpenError::Dead { .. }), Some(deadline)) if !deadline.passed() => {
                    std::thread::sleep(deadline.remaining().map_or(LOOK_EVERY, |left| LOOK_EVERY.min(left)));
                }
                (opened, _) => return opened,
            }
        }
    }

    /// The directory and the data segment of the channel `name`, and its owner, after all checks.
    fn open_data(&self, name: &Name) -> Result<(RunDir, Segment, u32), OpenError> {
        let uid = rustix::process::geteuid().as_raw();
        let unchecked = std::env::var_os(NO_CHECK).is_some_and(|value| value == "1");
        let trusted: Vec<u32> = [uid, 0].into_iter().chain(self.creator).collect();
        let path = self.run_dir.clone().unwrap_or_else(RunDir::user_path);
        let dir = if unchecked { RunDir::of_anybody(&path) } else { RunDir::of(&path, &trusted) };
        let dir = dir.map_err(|error| match error {
            RunDirError::Open { source: Errno::NOENT, path } => {
                OpenError::Absent { name: name.as_str().to_owned(), dir: path }
            }
            RunDirError::Open { source: Errno::ACCESS | Errno::PERM, path } => {
                OpenError::DirDenied { name: name.as_str().to_owned(), dir: path, uid }
            }
            other => other.into(),
        })?;
        let layout = C::layout(&self.type_name);
        let expect = Expect { kind: KIND_DATA, layout: Some(layout), instance: None, owner: None };
        let data = Segment::open(&dir, &format!("{name}{DATA}"), Access::Read, &expect)
            .map_err(|error| self.explain(name, uid, &dir, error))?;
        let owner = data.uid()?.as_raw();
        if unchecked {
            tracing::warn!(name = name.as_str(), owner, "{NO_CHECK}=1: the channel's creator is not checked");
        } else if !trusted.contains(&owner) {
            let expected = self.creator.unwrap_or(uid);
            return Err(SegmentError::Owner { name: name.as_str().to_owned(), found: owner, expected }.into());
        }
        Ok((dir, data, owner))
    }

    fn try_open(&self, name: &Name) -> Result<Opened, OpenError> {
        let uid = rustix::process::geteuid().as_raw();
        let (dir, data, owner) = self.open_data(name)?;
        let at = |segment: SegmentError| self.explain(name, uid, &dir, segment);
        let instance = data.header().instance;
        let expect =
            Expect { kind: KIND_CONTROL, layout: Some(CONTROL_LAYOUT), instance: Some(instance), owner: Some(owner) };
        let control = Segment::open(&dir, &control_file(instance), Access::ReadWrite, &expect).map_err(at)?;
        let socket = connect(&dir, instance).map_err(|source| match source {
            Errno::CONNREFUSED | Errno::NOENT => OpenError::Dead { name: name.as_str().to_owned() },
            Errno::ACCESS | Errno::PERM => OpenError::Denied { name: name.as_str().to_owned(), uid },
            Errno::AGAIN => OpenError::Crowded { name: name.as_str().to_owned() },
            source => OpenError::System { what: "connect to the channel's writer", source },
        })?;
        Ok(Opened { data, control, socket })
    }

    /// Looks at the state channel `name` ([`Mode::Latest`]) from outside, without becoming one of its readers.
    ///
    /// # Errors
    /// As [`open`](Self::open), except that a dead writer is none; [`OpenError::Mode`] if it is no state channel.
    pub fn glimpse(self, name: &str) -> Result<Glimpse<T, C>, OpenError>
    where
        T: Sized + FromBytes + IntoBytes + Immutable,
        C: Codec<T, Owned = T>,
    {
        let name: Name = name.parse()?;
        let (_, data, _) = self.open_data(&name)?;
        let geometry = geometry_of::<T, C>(name.as_str(), &data)?;
        if geometry.mode != Mode::Latest {
            return Err(OpenError::Mode { name: name.as_str().to_owned(), found: geometry.mode });
        }
        Ok(Glimpse::new(geometry, data))
    }

    fn explain(&self, name: &Name, uid: u32, dir: &RunDir, error: SegmentError) -> OpenError {
        let name = name.as_str().to_owned();
        match error {
            SegmentError::Absent { .. } => OpenError::Absent { name, dir: dir.path().to_owned() },
            SegmentError::System { source: Errno::ACCESS | Errno::PERM, .. } => OpenError::Denied { name, uid },
            SegmentError::Mismatch { field: "layout hash", found, expected, .. } => {
                OpenError::WrongType { name, found, expected, type_name: self.type_name.clone() }
            }
            other => other.about(&name).into(),
        }
    }

    fn finish(&self, name: &str, opened: Opened) -> Result<Reader<T, C>, OpenError> {
        let Opened { data, control, socket } = opened;
        let (geometry, slots) = self.geometry(name, &data, &control)?;
        let token = Spec::random_instance();
        let seat = Seat::take(&control, &slots, token)
            .map_err(|source| OpenError::System { what: "take a place among the channel's readers", source })?;
        let Some((locked, slot)) = seat else {
            return Err(OpenError::Full { name: name.to_owned(), max: geometry.max_readers });
        };
        let mut consumer = self.consumer(name, geometry, &data, slots, slot, token)?;
        data.populate();
        let joined = consumer.join(self.start, || tether::Tether::join(socket.as_fd(), Join { slot, token }));
        match joined {
            Ok(Ok(())) => {}
            Ok(Err(fault)) => return Err(OpenError::Join { name: name.to_owned(), what: fault.into() }),
            Err(Errno::PIPE | Errno::CONNRESET) if tether::was_refused(socket.as_fd()) => {
                return Err(OpenError::Refused { name: name.to_owned() });
            }
            Err(Errno::PIPE | Errno::CONNRESET) => return Err(OpenError::Dead { name: name.to_owned() }),
            Err(source) => return Err(OpenError::System { what: "announce the reader", source }),
        }
        if consumer.closed() && !consumer.welcomed() {
            // A moment ago, and without having known of this reader: nothing will come of it any more.
            return Err(OpenError::Dead { name: name.to_owned() });
        }
        let mut tether =
            Tether::new(socket, false).map_err(|source| OpenError::System { what: "watch the writer", source })?;
        if consumer.writer_waits() {
            tether.tell_room();
        }
        Ok(Reader::new(consumer, tether, Files::of(data, control), locked, self.spin.clone()))
    }

    fn geometry(&self, name: &str, data: &Segment, control: &Segment) -> Result<(Geometry, Control), OpenError> {
        let geometry = geometry_of::<T, C>(name, data)?;
        let found = control.header().data as u64;
        let expected = Control::bytes(geometry.max_readers) as u64;
        let slots = Control::new(control.data_mut(), geometry.max_readers);
        let slots =
            slots.ok_or(SegmentError::Mismatch { name: name.to_owned(), field: "control size", found, expected })?;
        Ok((geometry, slots))
    }

    fn consumer(
        &self,
        name: &str,
        geometry: Geometry,
        data: &Segment,
        slots: Control,
        slot: usize,
        token: u64,
    ) -> Result<Consumer, OpenError> {
        if geometry.mode == Mode::Lossless {
            fence::prepare(); // for `Consumer::flush`
        }
        let found = data.header().data as u64;
        Consumer::new(geometry, data.header_words(), data.data(), slots, slot, token).ok_or_else(|| {
            SegmentError::Mismatch { name: name.to_owned(), field: "data size", found, expected: geometry.capacity }
                .into()
        })
    }

    /// Opens the channel that a parent exported in the environment variable `variable`: an inherited one, or a name.
    pub fn from_env(mut self, variable: &str) -> Result<Reader<T, C>, OpenError> {
        match env::read(variable, Role::Reader)? {
            Source::Named { dir, name } => {
                self.run_dir = dir.or(self.run_dir);
                self.open(&name)
            }
            Source::Inherited(parts) => {
                let socket = parts.spare_socket();
                self.adopt(variable, parts).inspect_err(|_| socket.hang_up())
            }
        }
    }

    fn adopt(self, variable: &str, parts: Parts) -> Result<Reader<T, C>, OpenError> {
        let layout = C::layout(&self.type_name);
        let expect = Expect { kind: KIND_DATA, layout: Some(layout), instance: None, owner: None };
        let data = Segment::inherit(variable, parts.data, Access::Read, &expect).map_err(|error| match error {
            SegmentError::Mismatch { field: "layout hash", found, expected, .. } => {
                OpenError::WrongType { name: variable.to_owned(), found, expected, type_name: self.type_name.clone() }
            }
            other => other.into(),
        })?;
        let instance = Some(data.header().instance);
        let expect = Expect { kind: KIND_CONTROL, layout: Some(CONTROL_LAYOUT), instance, owner: None };
        let control = Segment::inherit(variable, parts.control, Access::ReadWrite, &expect)?;
        let (geometry, slots) = self.geometry(variable, &data, &control)?;
        if !slots.holds(parts.slot, parts.token) {
            return Err(
                EnvError::Malformed { variable: variable.to_owned(), value: "a slot that was freed".into() }.into()
            );
        }
        let mut consumer = self.consumer(variable, geometry, &data, slots, parts.slot, parts.token)?;
        consumer.resume();
        consumer.sign();
        data.populate();
        let system = |source| OpenError::System { what: "take over the inherited channel", source };
        let socket = match tether::renew(&parts.socket) {
            Ok(socket) => socket,
            // A parent that died before we looked: what it published is still to be read.
            Err(Errno::PIPE | Errno::CONNRESET) => parts.socket,
            Err(source) => return Err(system(source)),
        };
        let tether = Tether::new(socket, false).map_err(system)?;
        Ok(Reader::new(consumer, tether, Files::of(data, control), None, self.spin))
    }

    /// Creates a channel whose **writer** will be a child: gives the writer's part to the next child of `command`, in
    /// the environment variable `variable` ([`Writer::from_env`]), and returns the reader.
    ///
    /// Export anew for each child: a second child with the same variable would be a second writer.
    pub fn export_writer(self, command: &mut impl Inherit, variable: &str) -> Result<Reader<T, C>, OpenError> {
        let name = variable;
        let (geometry, spec) = shape::<T, C>(self.mode, self.capacity, self.max_record, 1, &self.type_name).map_err(
            |error| match error {
                CreateError::Geometry(source) => OpenError::Geometry { name: name.to_owned(), source },
                other => unreachable!("a shape is only refused for its geometry: {other}"),
            },
        )?;
        let data = Segment::memfd(&self.label, &spec, false)?;
        let control = Segment::memfd("ginnel-control", &control_spec(&geometry, spec.instance), false)?;
        control.seal_as_it_is()?;
        // The child signs when it takes over; until then nobody writes.
        data.sign(Identity { pid: 0, start: 0 });
        let (_, slots) = self.geometry(name, &data, &control)?;
        let token = Spec::random_instance();
        let slot = slots.claim(token, Identity::own()).expect("a fresh control segment has a free slot");
        // Readers see an empty ring before the child has started.
        let (words, data) = data.into_words()?;
        drop(Producer::new(geometry, words, slots.clone()));
        let system = |source| OpenError::System { what: "make the inherited channel", source };
        let (near, far) = tether::pair().map_err(system)?;
        let duplicate = |fd: rustix::fd::BorrowedFd<'_>| rustix::io::fcntl_dupfd_cloexec(fd, 3).map_err(system);
        let parts =
            Parts { data: duplicate(data.as_fd())?, control: duplicate(control.fd())?, socket: far, slot, token };
        // This end only reads: a mapping that cannot write, even though this process made the memory.
        let expect = Expect { kind: KIND_DATA, layout: None, instance: Some(spec.instance), owner: None };
        let data = Segment::inherit(name, data, Access::Read, &expect)?;
        let mut consumer = self.consumer(name, geometry, &data, slots, slot, token)?;
        consumer.resume();
        let tether = Tether::new(near, true).map_err(system)?;
        parts.export(command, variable, Role::Writer);
        Ok(Reader::new(consumer, tether, Files::of(data, control), None, self.spin))
    }
}

/// The shape that a channel's data segment claims, if it is one for these records.
fn geometry_of<T: ?Sized, C: Codec<T>>(name: &str, data: &Segment) -> Result<Geometry, OpenError> {
    let geometry = Geometry::from_params(&data.header().params, data.header().data)
        .map_err(|source| OpenError::Geometry { name: name.to_owned(), source })?;
    if geometry.fixed != C::LEN {
        let found = geometry.fixed.map_or(u64::MAX, |len| len as u64);
        let expected = C::LEN.map_or(u64::MAX, |len| len as u64);
        return Err(SegmentError::Mismatch { name: name.to_owned(), field: "record length", found, expected }.into());
    }
    Ok(geometry)
}

/// What opening a named channel yields before a slot is claimed.
struct Opened {
    data: Segment,
    control: Segment,
    socket: OwnedFd,
}

fn connect(dir: &RunDir, instance: u64) -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    rustix::net::connect(&socket, &address(dir, &socket_file(instance))?)?;
    Ok(socket)
}
