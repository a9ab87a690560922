//! Named channels: their files, their names, what can be said about them from outside.
//!
//! A channel `NAME` is four files in the runtime directory:
//!
//! ```text
//! NAME.channel         the data segment, readable by whom the permissions allow
//! NAME.lock            always 0600; the writer holds an exclusive lock on it as long as it lives
//! INSTANCE.control     the control segment, writable by those readers
//! INSTANCE.sock        the socket that ties readers to the writer
//! INSTANCE.making      the data segment until it is complete: a reader that finds NAME.channel finds a whole one
//! ```
//!
//! Of a new channel INSTANCE.making is the first file and gets its name last, all under the directory's lock: under
//! that lock, such a file is the sign of a writer that died while creating, and the next creation of any name removes
//! it with its twins. An instance belongs to one name, whose hash stands in the header: a copy under another name
//! speaks for nothing but itself.
//!
//! Each reader holds a lock on the byte of the control file that has its slot's number. Whoever can take that lock
//! knows that the slot's former reader is gone, in whatever namespace it was, signed or not.
//!
//! The kernel drops the lock with the writer's last breath: it is the proof of death that takeover and cleaning ask
//! for, safe against reuse of process ids and across pid namespaces. `INSTANCE` is a random number that also stands in
//! both headers, so that a reader never mixes the files of two writers. Creation, takeover and cleaning hold the
//! directory's lock. A writer that leaves does not wait for it: nobody takes its name before its lock is gone, and its
//! lock file goes last.

use crate::error::CreateError;
use crate::shrink::Files;
use crate::sys;
use ginnel_codec::fnv1a;
use ginnel_memory::identity::Identity;
use ginnel_memory::ring::{Control, Geometry, Mode, SlotInfo};
use ginnel_memory::{Access, DirLock, Expect, Header, Name, PARAMS, RunDir, RunDirError, Segment};
use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::fs::{FileType, Gid, Mode as FileMode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Connections that wait for the writer's next look. Those of readers that have left again count too, so it is far more
/// than the readers that a channel can have (and what `net.core.somaxconn` allows by default).
pub(crate) const BACKLOG: i32 = 4096;

pub(crate) const DATA: &str = ".channel";
/// A data segment that is not ready yet; it gets its name when it is.
const MAKING: &str = ".making";
pub(crate) const LOCK: &str = ".lock";
const CONTROL: &str = ".control";
const SOCKET: &str = ".sock";

/// Kind of a channel's data segment, in its header.
pub(crate) const KIND_DATA: u32 = 1;
/// Kind of a channel's control segment.
pub(crate) const KIND_CONTROL: u32 = 2;
/// Layout hash of every control segment.
pub(crate) const CONTROL_LAYOUT: u64 = 1;

/// Who may read a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Permissions {
    /// Only processes of the writer's user (and root).
    #[default]
    OwnerOnly,
    /// Also the members of this group.
    Group(u32),
    /// Whoever the read bits of this file mode allow, e.g. `0o644`. Write bits are ignored: nobody but the writer can
    /// write.
    Mode(u32),
}

impl Permissions {
    /// Mode of the data segment, and of what readers write.
    pub(crate) fn modes(self) -> (u32, u32) {
        let read = match self {
            Self::OwnerOnly => 0,
            Self::Group(_) => 0o040,
            Self::Mode(mode) => mode & 0o044,
        };
        (0o600 | read, 0o600 | read | read >> 1)
    }

    pub(crate) fn group(self) -> Option<u32> {
        if let Self::Group(group) = self { Some(group) } else { None }
    }
}

/// The parameter of a named channel's data segment that ties it to its name.
const NAME_PARAM: usize = PARAMS - 1;

fn name_hash(name: &str) -> u64 {
    fnv1a(&[name.as_bytes()])
}

/// Ties a new data segment to `name`.
pub(crate) fn tie_to_name(params: &mut [u64; PARAMS], name: &Name) {
    params[NAME_PARAM] = name_hash(name.as_str());
}

/// Whether a data segment is that of the channel `name`, and not a copy or link of another's.
pub(crate) fn is_named(header: &Header, name: &str) -> bool {
    header.params[NAME_PARAM] == name_hash(name)
}

/// A reader's hold on its slot: proof of its life for every other process, given back on drop or by the kernel.
#[derive(Debug)]
pub(crate) struct Seat {
    files: Arc<Files>,
    locked: Option<usize>,
}

impl Seat {
    /// Takes a slot of a named channel for the reader `token`, `None` if all are in use: its number, and which byte of
    /// the control file is locked for it, if any. The lock lasts as long as `control` is open.
    pub(crate) fn take(
        control: &Segment,
        slots: &Control,
        token: u64,
    ) -> Result<Option<(Option<usize>, usize)>, Errno> {
        let own = Identity::own();
        match slots.claim_by(token, own, |slot| sys::lock_byte(control.fd(), slot)) {
            Ok(taken) => Ok(taken.map(|slot| (Some(slot), slot))),
            // A file system without such locks: ids must do.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::NOLCK) => {
                Ok(slots.claim(token, own).map(|slot| (None, slot)))
            }
            Err(other) => Err(other),
        }
    }

    /// Gives the lock of a byte of the control file back on drop, however long others keep the file open.
    pub(crate) fn new(files: Arc<Files>, locked: Option<usize>) -> Self {
        Self { files, locked }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Some(slot) = self.locked {
            sys::unlock_byte(self.files.control(), slot);
        }
    }
}

/// Whether the reader of a slot lives, `None` if that cannot be known here.
fn reader_lives(control: &Segment, info: &SlotInfo) -> Option<bool> {
    match sys::byte_locked(control.fd(), info.slot) {
        Ok(locked) => Some(locked),
        Err(_) => info.comparable.then(|| info.identity.alive()),
    }
}

pub(crate) fn control_file(instance: u64) -> String {
    format!("{instance:016x}{CONTROL}")
}

pub(crate) fn making_file(instance: u64) -> String {
    format!("{instance:016x}{MAKING}")
}

pub(crate) fn socket_file(instance: u64) -> String {
    format!("{instance:016x}{SOCKET}")
}

/// Files of one name, held by its writer; removed on drop.
#[derive(Debug)]
pub(crate) struct Claimed {
    dir: RunDir,
    name: Name,
    instance: u64,
    abandoned: bool,
    /// The directory's lock while the channel is being made: a creation that fails tidies up under it.
    creating: Option<DirLock>,
    lock: OwnedFd,
}

impl Claimed {
    /// Takes `name` for a new writer, removing what a dead one left. Holds the directory's lock until
    /// [`created`](Self::created).
    pub(crate) fn take(dir: RunDir, name: Name, instance: u64, patience: Duration) -> Result<Self, CreateError> {
        let creating = dir.lock_within(patience)?;
        let file = format!("{name}{LOCK}");
        let system = |what| move |source| CreateError::System { what, source };
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let lock = loop {
            let lock = match rustix::fs::openat(&dir, &file, flags, FileMode::RUSR | FileMode::WUSR) {
                Err(Errno::ACCESS | Errno::PERM) => {
                    return Err(CreateError::Foreign { name: name.as_str().to_owned() });
                }
                lock => lock.map_err(system("open the channel's lock file"))?,
            };
            if !sys::lock(&lock).map_err(system("lock the channel"))? {
                let owner = peek(&dir, name.as_str()).map_or(Identity { pid: 0, start: 0 }, |data| data.owner());
                return Err(CreateError::InUse { name: name.as_str().to_owned(), owner });
            }
            // A writer that left between the two has removed it.
            if rustix::fs::fstat(&lock).map_err(system("examine the channel's lock"))?.st_nlink > 0 {
                break lock;
            }
        };
        // The umask took part in its creation, and may have left nobody the right to ask for the lock.
        rustix::fs::fchmod(&lock, FileMode::RUSR | FileMode::WUSR)
            .map_err(system("set the mode of the channel's lock"))?;
        collect(&dir, name.as_str())?;
        Ok(Self { dir, name, instance, abandoned: false, creating: Some(creating), lock })
    }

    /// The channel is complete: readers may find it, and others may use the directory.
    pub(crate) fn complete(&mut self) -> Result<(), CreateError> {
        let (from, to) = (making_file(self.instance), format!("{}{DATA}", self.name));
        rustix::fs::renameat(&self.dir, from, &self.dir, to)
            .map_err(|source| CreateError::System { what: "name the channel's memory", source })?;
        self.creating = None;
        Ok(())
    }

    /// Leaves the files behind, as a killed writer does.
    pub(crate) fn abandon(&mut self) {
        self.abandoned = true;
    }

    pub(crate) fn dir(&self) -> &RunDir {
        &self.dir
    }

    pub(crate) fn name(&self) -> &Name {
        &self.name
    }

    /// A listening socket for readers, at the channel's place.
    pub(crate) fn listen(&self, mode: u32, group: Option<u32>) -> Result<OwnedFd, CreateError> {
        let system = |what| move |source| CreateError::System { what, source };
        let file = socket_file(self.instance);
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
            .map_err(system("make the channel's socket"))?;
        let address = address(&self.dir, &file).map_err(system("name the channel's socket"))?;
        rustix::net::bind(&socket, &address).map_err(system("bind the channel's socket"))?;
        // Nobody can connect before `listen`, so the mode is in place in time whatever the umask is.
        permit(&self.dir, &file, mode, group)?;
        rustix::net::listen(&socket, BACKLOG).map_err(system("listen for readers"))?;
        Ok(socket)
    }
}

impl Drop for Claimed {
    fn drop(&mut self) {
        if self.abandoned {
            return;
        }
        for file in [socket_file(self.instance), control_file(self.instance), making_file(self.instance)] {
            let _ = self.dir.remove(&file);
        }
        if self.holds_its_name() {
            // The lock goes last: as long as it is there, the name is ours.
            for suffix in [DATA, LOCK] {
                let _ = self.dir.remove(&format!("{}{suffix}", self.name));
            }
        }
    }
}

impl Claimed {
    /// Whether the lock that we hold is the name's: somebody may have removed the file, and another writer taken the
    /// name.
    fn holds_its_name(&self) -> bool {
        let named =
            rustix::fs::statat(&self.dir, format!("{}{LOCK}", self.name), rustix::fs::AtFlags::SYMLINK_NOFOLLOW);
        match (named, rustix::fs::fstat(&self.lock)) {
            (Ok(named), Ok(held)) => (named.st_dev, named.st_ino) == (held.st_dev, held.st_ino),
            _ => false,
        }
    }
}

/// Sets who may connect to the socket `file`.
///
/// Whoever else may write to the directory could have put something in its place: it is opened as what it is, and
/// changed by its descriptor.
fn permit(dir: &RunDir, file: &str, mode: u32, group: Option<u32>) -> Result<(), CreateError> {
    let system = |what| move |source| CreateError::System { what, source };
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let bound =
        rustix::fs::openat(dir, file, flags, FileMode::empty()).map_err(system("find the channel's socket again"))?;
    let stat = rustix::fs::fstat(&bound).map_err(system("examine the channel's socket"))?;
    let ours =
        FileType::from_raw_mode(stat.st_mode) == FileType::Socket && stat.st_uid == rustix::process::geteuid().as_raw();
    if !ours {
        return Err(system("bind the channel's socket (somebody has put something in its place)")(Errno::PERM));
    }
    if let Some(group) = group {
        rustix::fs::chownat(&bound, c"", None, Some(Gid::from_raw(group)), rustix::fs::AtFlags::EMPTY_PATH)
            .map_err(system("change the group of the channel's socket"))?;
    }
    let itself = format!("/proc/self/fd/{}", bound.as_raw_fd());
    rustix::fs::chmod(itself, FileMode::from_raw_mode(mode)).map_err(system("set the mode of the channel's socket"))?;
    Ok(())
}

/// The address of a file in `dir`: by the directory's descriptor, so that it is the directory that was checked,
/// whatever its path leads to by now. Only where there is no `/proc` it goes by that path.
pub(crate) fn address(dir: &RunDir, file: &str) -> Result<SocketAddrUnix, Errno> {
    let itself = format!("/proc/self/fd/{}", dir.as_fd().as_raw_fd());
    // Asked beforehand: that the socket is missing must not lead to the path.
    if rustix::fs::stat(&itself).is_ok() {
        return SocketAddrUnix::new(format!("{itself}/{file}"));
    }
    SocketAddrUnix::new(dir.path().join(file))
}

/// Opens the data segment of `name` to look at it, whatever it carries and whoever owns it.
fn peek(dir: &RunDir, name: &str) -> Option<Segment> {
    let expect = Expect { kind: KIND_DATA, layout: None, instance: None, owner: None };
    Segment::open(dir, &format!("{name}{DATA}"), Access::Read, &expect).ok()
}

/// The channels of a directory, told apart before anything of them is removed. Made under the directory's lock.
struct Census {
    dead: Vec<String>,
    /// Instances of channels that live, or that are not ours to judge; `None` if one of them cannot be read, so that no
    /// instance can be said to be nobody's.
    alive: Option<BTreeSet<u64>>,
}

impl Census {
    /// Of all names but `ours`, whose lock this process has just taken: nothing of that name lives.
    fn take(dir: &RunDir, ours: Option<&str>) -> Result<Self, RunDirError> {
        let (mut dead, mut alive) = (Vec::new(), Some(BTreeSet::new()));
        let names: BTreeSet<String> = dir.list(DATA)?.into_iter().chain(dir.list(LOCK)?).collect();
        for name in names.into_iter().filter(|name| Some(name.as_str()) != ours) {
            if writer_lives(dir, &name) == Some(false) {
                dead.push(name);
            } else if let Some(data) = peek(dir, &name) {
                alive.iter_mut().for_each(|alive| _ = alive.insert(data.header().instance));
            } else {
                alive = None;
            }
        }
        Ok(Self { dead, alive })
    }

    /// Whether no channel that lives can have this instance.
    fn is_nobodys(&self, instance: u64) -> bool {
        self.alive.as_ref().is_some_and(|alive| !alive.contains(&instance))
    }

    /// Removes what a dead writer left of `name`, except its lock. The name's own file is removed in any case; the
    /// files of an instance only if they are that name's, and nobody's that lives.
    fn remove_dead(&self, dir: &RunDir, name: &str) -> Result<(), RunDirError> {
        if let Some(data) = peek(dir, name)
            && is_named(data.header(), name)
            && self.alive.as_ref().is_none_or(|alive| !alive.contains(&data.header().instance))
        {
            dir.remove(&socket_file(data.header().instance))?;
            dir.remove(&control_file(data.header().instance))?;
        }
        dir.remove(&format!("{name}{DATA}"))
    }
}

/// The instances that somebody died while making. Only under the directory's lock that is what the files say.
fn half_made_instances(dir: &RunDir) -> Result<Vec<u64>, RunDirError> {
    Ok(dir.list(MAKING)?.iter().filter_map(|stem| instance(stem)).collect())
}

fn instance(stem: &str) -> Option<u64> {
    (stem.len() == 16).then(|| u64::from_str_radix(stem, 16).ok()).flatten()
}

/// Removes what stands in the way of a new channel `name`, and what others died while making. Under the directory's
/// lock.
fn collect(dir: &RunDir, name: &str) -> Result<(), RunDirError> {
    let half_made = half_made_instances(dir)?;
    let there = rustix::fs::statat(dir, format!("{name}{DATA}"), rustix::fs::AtFlags::SYMLINK_NOFOLLOW).is_ok();
    if !there && half_made.is_empty() {
        return Ok(());
    }
    let census = Census::take(dir, Some(name))?;
    for instance in half_made {
        if census.is_nobodys(instance) {
            // The sign goes last. Another user's may not be ours to remove: that keeps nobody from creating.
            let _ = [socket_file(instance), control_file(instance), making_file(instance)]
                .iter()
                .try_for_each(|file| dir.remove(file));
        }
    }
    census.remove_dead(dir, name)
}

/// What [`list`] and [`inspect`] tell about a channel.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ChannelInfo {
    /// Its name.
    pub name: String,
    /// What happens to slow readers.
    pub mode: Mode,
    /// The length of every record, `None` if it varies.
    pub record: Option<usize>,
    /// The longest record, bytes.
    pub max_record: usize,
    /// Bytes of the ring.
    pub capacity: u64,
    /// Who writes it.
    pub writer: Identity,
    /// The user who owns it.
    pub uid: u32,
    /// Whether the writer lives; `None` if this user may not ask.
    pub alive: Option<bool>,
    /// Whether the writer has closed it.
    pub closed: bool,
    /// Bytes published since the beginning.
    pub position: u64,
    /// Number of records published, where it can be seen.
    pub published: Option<u64>,
    /// Its readers; empty if this user may not see them.
    pub readers: Vec<ReaderInfo>,
    /// The most readers it can have.
    pub max_readers: usize,
}

/// One reader of a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReaderInfo {
    /// Who it says it is.
    pub process: Identity,
    /// Number of the record it reads next, as it last told.
    pub sequence: u64,
    /// Bytes between it and the writer.
    pub lag: u64,
    /// Records it has missed.
    pub missed: u64,
    /// Whether it sleeps.
    pub asleep: bool,
    /// Whether the writer knows it and wakes it: not yet, before the writer has looked, and not at all while the writer
    /// is out of file descriptors.
    pub welcomed: bool,
    /// Whether it lives; `None` if that cannot be known here.
    pub alive: Option<bool>,
}

/// The channels of a runtime directory (`None`: this user's), sorted by name. Never blocks on any of them.
pub fn list(dir: Option<&Path>) -> Result<Vec<ChannelInfo>, RunDirError> {
    let Some(dir) = existing(dir)? else { return Ok(Vec::new()) };
    let names = dir.list(DATA)?;
    Ok(names.iter().filter_map(|name| look(&dir, name)).collect())
}

/// One channel of a runtime directory (`None`: this user's), `None` if there is none of that name.
pub fn inspect(dir: Option<&Path>, name: &str) -> Result<Option<ChannelInfo>, RunDirError> {
    // What is no name is nobody's, and must not be looked up as a path.
    let Ok(name) = name.parse::<Name>() else { return Ok(None) };
    Ok(existing(dir)?.and_then(|dir| look(&dir, name.as_str())))
}

/// The runtime directory, `None` if nobody has made it yet: looking must not leave one behind.
fn existing(dir: Option<&Path>) -> Result<Option<RunDir>, RunDirError> {
    let path = dir.map_or_else(RunDir::user_path, Path::to_owned);
    match RunDir::of(&path, &[0, rustix::process::geteuid().as_raw()]) {
        Err(RunDirError::Open { source: Errno::NOENT, .. }) => Ok(None),
        dir => dir.map(Some),
    }
}

fn look(dir: &RunDir, name: &str) -> Option<ChannelInfo> {
    let data = peek(dir, name)?;
    let header = data.header();
    let geometry = Geometry::from_params(&header.params, header.data).ok()?;
    let view = ginnel_memory::ring::View::new(geometry, data.header_words(), data.data());
    let position = view.position();
    let expect = Expect {
        kind: KIND_CONTROL,
        layout: Some(CONTROL_LAYOUT),
        instance: Some(header.instance),
        owner: data.uid().ok().map(rustix::fs::Uid::as_raw),
    };
    // Read and write: the words are one type for readers and writers; nothing is written here.
    let control = Segment::open(dir, &control_file(header.instance), Access::ReadWrite, &expect).ok();
    let control = control.filter(|_| is_named(header, name));
    let slots = control
        .as_ref()
        .and_then(|control| Control::new(control.data_mut(), geometry.max_readers).map(|slots| (control, slots)));
    let readers = slots.iter().flat_map(|(control, slots)| slots.readers().map(move |info| (control, info)));
    let readers = readers.map(|(control, info)| ReaderInfo {
        process: info.identity,
        sequence: info.sequence,
        lag: position.saturating_sub(info.cursor),
        missed: info.missed,
        asleep: info.armed,
        welcomed: info.welcomed,
        alive: reader_lives(control, &info),
    });
    Some(ChannelInfo {
        name: name.to_owned(),
        mode: geometry.mode,
        record: geometry.fixed,
        max_record: geometry.max_record,
        capacity: geometry.capacity,
        writer: data.owner(),
        uid: data.uid().ok()?.as_raw(),
        alive: writer_lives(dir, name),
        closed: view.closed(),
        position,
        published: view.published(),
        readers: readers.collect(),
        max_readers: geometry.max_readers,
    })
}

/// Asks the kernel whether somebody holds the writer's lock.
fn writer_lives(dir: &RunDir, name: &str) -> Option<bool> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let lock = match rustix::fs::openat(dir, format!("{name}{LOCK}"), flags, FileMode::empty()) {
        Ok(lock) => lock,
        Err(Errno::NOENT) => return Some(false),
        Err(_) => return None,
    };
    sys::locked(&lock).ok()
}

/// What [`clean`] did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Cleaned {
    /// Names of channels that were removed, because their writer is dead.
    pub channels: Vec<String>,
    /// Further files that belonged to no channel any more.
    pub strays: Vec<String>,
}

/// Removes what dead writers left in a runtime directory (`None`: this user's): only what is provably dead.
///
/// Readers of a removed channel are not disturbed; their memory stays mapped.
pub fn clean(dir: Option<&Path>) -> Result<Cleaned, RunDirError> {
    let mut cleaned = Cleaned::default();
    let Some(dir) = existing(dir)? else { return Ok(cleaned) };
    let _lock = dir.lock()?;
    let census = Census::take(&dir, None)?;
    for name in &census.dead {
        census.remove_dead(&dir, name)?;
        dir.remove(&format!("{name}{LOCK}"))?;
    }
    for suffix in [SOCKET, CONTROL, MAKING] {
        for stem in dir.list(suffix)? {
            if instance(&stem).is_some_and(|instance| census.is_nobodys(instance)) {
                let file = format!("{stem}{suffix}");
                dir.remove(&file)?;
                cleaned.strays.push(file);
            }
        }
    }
    cleaned.channels = census.dead;
    Ok(cleaned)
}

/// Removes what dead writers left of channels whose names begin with `prefix`, and only those: the names that were
/// removed. For programs that choose a new name for each of their channels, whose dead names nobody else takes over.
///
/// Asks the kernel for each name's lock first, and does no more if all of them live. Never waits: while somebody else
/// creates or removes in that directory, nothing is done.
pub fn clean_prefix(dir: Option<&Path>, prefix: &str) -> Result<Vec<String>, RunDirError> {
    let Some(dir) = existing(dir)? else { return Ok(Vec::new()) };
    let is_dead = |name: &String| name.starts_with(prefix) && writer_lives(&dir, name) == Some(false);
    if !dir.list(LOCK)?.iter().any(is_dead) {
        return Ok(Vec::new());
    }
    let Some(_lock) = dir.try_lock()? else { return Ok(Vec::new()) };
    let mut census = Census::take(&dir, None)?;
    census.dead.retain(|name| name.starts_with(prefix));
    for name in &census.dead {
        census.remove_dead(&dir, name)?;
        dir.remove(&format!("{name}{LOCK}"))?;
    }
    Ok(census.dead)
}

/// How many channels of a runtime directory (`None`: this user's) have a writer that died while creating them: they
/// have no name yet, but may have memory. The next creation there and [`clean`] remove them. 0 also where it cannot be
/// known without waiting: somebody is creating just now, or this user may not.
pub fn half_made(dir: Option<&Path>) -> Result<usize, RunDirError> {
    let Some(dir) = existing(dir)? else { return Ok(0) };
    if dir.list(MAKING)?.is_empty() {
        return Ok(0);
    }
    let Ok(Some(_lock)) = dir.try_lock() else { return Ok(0) };
    half_made_instances(&dir).map(|found| found.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_link_in_the_place_of_a_socket_is_not_followed() {
        let temp = tempfile::tempdir().unwrap();
        let dir = RunDir::at(&temp.path().join("run")).unwrap();
        let (key, link) = (temp.path().join("key"), dir.path().join("1.sock"));
        std::fs::write(&key, "secret").unwrap();
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::os::unix::fs::symlink(&key, &link).unwrap();
        let refused = permit(&dir, "1.sock", 0o666, None).unwrap_err();
        assert!(refused.to_string().contains("something in its place"), "{refused}");
        assert_eq!(std::fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);

        std::fs::remove_file(&link).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(&link).unwrap();
        permit(&dir, "1.sock", 0o660, Some(rustix::process::getegid().as_raw())).unwrap();
        assert_eq!(std::fs::metadata(&link).unwrap().permissions().mode() & 0o777, 0o660);
    }

    #[test]
    fn a_directory_that_took_the_place_of_the_checked_one_gets_no_socket_and_no_connection() {
        let temp = tempfile::tempdir().unwrap();
        let (run, moved) = (temp.path().join("run"), temp.path().join("moved"));
        let dir = RunDir::at(&run).unwrap();
        std::fs::rename(&run, &moved).unwrap();
        std::fs::create_dir(&run).unwrap();
        let socket = || rustix::net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
        // A decoy that listens: nobody may come to it, also while the true one is missing.
        let decoy = socket();
        rustix::net::bind(&decoy, &SocketAddrUnix::new(run.join("1.sock")).unwrap()).unwrap();
        rustix::net::listen(&decoy, 1).unwrap();
        assert_eq!(rustix::net::connect(socket(), &address(&dir, "1.sock").unwrap()), Err(Errno::NOENT));
        let bound = socket();
        rustix::net::bind(&bound, &address(&dir, "1.sock").unwrap()).unwrap();
        assert!(moved.join("1.sock").exists(), "bound in the directory that was checked");
        rustix::net::listen(&bound, 1).unwrap();
        rustix::net::connect(socket(), &address(&dir, "1.sock").unwrap()).unwrap();
        let accepted = rustix::net::accept_with(&bound, SocketFlags::NONBLOCK);
        assert!(accepted.is_ok(), "connected in the directory that was checked: {accepted:?}");
    }
}
