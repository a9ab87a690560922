//! Segments: files of shared memory with a header that says what they hold and who made them.
//!
//! ```text
//! byte                                                            who writes, when
//!    0  magic            u64  "GINNEL\0\1"                        creator, last (release)
//!    8  version u32 | kind u32                                    creator
//!   16  layout           u64  hash of what the records are        creator
//!   24  size             u64  of the whole file                   creator
//!   32  owner pid        u64                                      creator; again by the process that adopts it
//!   40  owner start time u64  clock ticks since boot              the same
//!   48  instance         u64  random, ties a segment to its twin  creator
//!   56  flags            u64  bit 0: data is mapped twice;        creator
//!                             bit 1: the data are two areas, of params[0] and params[1] bytes, each mapped twice
//!   64  params     24 x  u64  meaning by kind                     creator
//!  256  unused up to 512, then up to HEADER_BYTES: words that the kind defines, changed while in use
//!  HEADER_BYTES  data, a multiple of the page size
//! ```
//!
//! A memfd is sealed against shrinking and growing, and (data segments) against any further writable mapping. A named
//! segment is a file in the runtime directory, created `O_EXCL`, mode 0600 until its header is complete, and backed in
//! full at creation, so that a full file system is an error there and never a SIGBUS later.

use crate::identity::Identity;
use crate::run_dir::RunDir;
use crate::segment_params::{PARAMS, WORD_PARAMS};
use crate::sync::Ordering;
use crate::sys::{Mapping, Protection};
use crate::words::{Words, WordsMut, WriterWords};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{FallocateFlags, FileType, Gid, MemfdFlags, Mode, OFlags, SealFlags, Uid};
use rustix::io::Errno;
use rustix::process::Resource;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError, Weak};

const MAGIC: u64 = u64::from_ne_bytes(*b"GINNEL\0\x01");
const VERSION: u32 = 1;
const FLAG_MIRROR: u64 = 1;
const FLAG_AREAS: u64 = 2;

/// Size of the header, and offset of the data. One page on most machines; the page size where pages are larger.
pub const HEADER_BYTES: usize = if cfg!(target_arch = "x86_64") { 4096 } else { 65536 };
const _: () = assert!(8 + PARAMS <= WORD_PARAMS && WORD_PARAMS * 8 < HEADER_BYTES);

/// What a new segment shall be.
#[derive(Debug, Clone)]
pub struct Spec {
    /// What the segment is for; opening checks it.
    pub kind: u32,
    /// Hash of the layout of what it holds; opening checks it.
    pub layout: u64,
    /// Ties segments that belong together; see [`random_instance`](Self::random_instance).
    pub instance: u64,
    /// Constants of the kind.
    pub params: [u64; PARAMS],
    /// Bytes of data; rounded up to whole pages.
    pub data: usize,
    /// Map the data twice in a row, so that a record may run over its end.
    pub mirror: bool,
}

impl Spec {
    /// An instance number that no other segment has, for all practical purposes.
    #[must_use]
    pub fn random_instance() -> u64 {
        ginnel_base::random_u64()
    }
}

/// What an opener insists on.
#[derive(Debug, Clone, Copy)]
pub struct Expect {
    /// The kind of segment.
    pub kind: u32,
    /// The layout hash, `None` to accept any (tools that only look).
    pub layout: Option<u64>,
    /// The instance that it must belong to, if known.
    pub instance: Option<u64>,
    /// The uid that must own the file, `None` to accept any.
    pub owner: Option<u32>,
}

/// What this process wants to do with a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Only look: the mapping cannot be written.
    Read,
    /// Read and write.
    ReadWrite,
}

/// A private, validated copy of a segment's header.
#[derive(Debug, Clone)]
pub struct Header {
    /// What the segment is for.
    pub kind: u32,
    /// Hash of the layout of what it holds.
    pub layout: u64,
    /// Ties segments that belong together.
    pub instance: u64,
    /// The process that writes it.
    pub owner: Identity,
    /// Constants of the kind.
    pub params: [u64; PARAMS],
    /// Bytes of data.
    pub data: usize,
    mirror: bool,
    /// The data are these two, each mapped twice.
    areas: Option<[usize; 2]>,
}

impl Header {
    fn flags(&self) -> u64 {
        (if self.mirror { FLAG_MIRROR } else { 0 }) | (if self.areas.is_some() { FLAG_AREAS } else { 0 })
    }
}

/// Why a segment cannot be made or opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SegmentError {
    /// A system call failed.
    #[error("cannot {what} {name:?}: {source}{}", advice(*.source))]
    System {
        /// What was tried.
        what: &'static str,
        /// The segment's name.
        name: String,
        /// What the system said.
        source: Errno,
    },
    /// There is no such segment, or its creator has not finished it.
    #[error("there is no segment {name:?} (yet)")]
    Absent {
        /// The segment's name.
        name: String,
    },
    /// There is one already.
    #[error("the segment {name:?} exists already")]
    Exists {
        /// The segment's name.
        name: String,
    },
    /// It cannot be backed by memory.
    #[error("no room for {bytes} bytes for {name:?}: {source}; free some, or ask for a smaller capacity")]
    NoSpace {
        /// The segment's name.
        name: String,
        /// How much was asked for.
        bytes: usize,
        /// What the system said.
        source: Errno,
    },
    /// Somebody else made it.
    #[error("{name:?} belongs to uid {found}, expected uid {expected}: name the owner explicitly if that is intended")]
    Owner {
        /// The segment's name.
        name: String,
        /// Who owns it.
        found: u32,
        /// Who should.
        expected: u32,
    },
    /// It is not what the opener expects.
    #[error("{name:?} cannot be used: its {field} is {found:#x}, expected {expected:#x}")]
    Mismatch {
        /// The segment's name.
        name: String,
        /// Which field of the header differs.
        field: &'static str,
        /// What it holds.
        found: u64,
        /// What it should hold.
        expected: u64,
    },
    /// A memfd from somebody else could be shrunk under us.
    #[error("the inherited segment {name:?} is not sealed against shrinking: refusing to map it")]
    Unsealed {
        /// The segment's name.
        name: String,
    },
    /// The writer's words are taken already, or somebody looks at words of this mapping, or it cannot be written.
    #[error("the segment {name:?} cannot be written through: {why}")]
    Taken {
        /// The segment's name.
        name: String,
        /// Why not.
        why: &'static str,
    },
    /// There is less memory behind it than it says, so its creator is no Ginnel.
    #[error("segment {name:?} has holes: {backed} of its {size} bytes are backed by memory; refusing to map it")]
    Sparse {
        /// The segment's name.
        name: String,
        /// Its size, bytes.
        size: u64,
        /// How much of that there is, bytes.
        backed: u64,
    },
}

impl SegmentError {
    /// The same error about `called`: for parts of something that its user knows by another name.
    #[must_use]
    pub fn about(mut self, called: &str) -> Self {
        match &mut self {
            Self::System { name, .. }
            | Self::Absent { name }
            | Self::Exists { name }
            | Self::NoSpace { name, .. }
            | Self::Owner { name, .. }
            | Self::Mismatch { name, .. }
            | Self::Sparse { name, .. }
            | Self::Taken { name, .. }
            | Self::Unsealed { name } => called.clone_into(name),
        }
        self
    }
}

fn advice(errno: Errno) -> &'static str {
    match errno {
        Errno::MFILE => "; this process has too many open files: close some or raise `ulimit -n`",
        Errno::NFILE => "; the system has too many open files",
        Errno::ACCESS | Errno::PERM => "; its owner does not allow it",
        Errno::NOMEM => "; this process may not map that much memory",
        _ => "",
    }
}

/// A mapped segment.
#[derive(Debug)]
pub struct Segment {
    mapping: Arc<Mapping>,
    header: Header,
    fd: OwnedFd,
}

/// How much of a file is mapped: for one who may sleep without touching what somebody cuts off.
#[derive(Debug)]
pub struct Extent {
    mapping: Weak<Mapping>,
    mapped: u64,
}

impl Extent {
    /// Whether somebody could make `file` shorter than the mapping: not a memfd that is sealed against it.
    #[must_use]
    pub fn shrinkable(&self, file: impl AsFd) -> bool {
        !rustix::fs::fcntl_get_seals(file).is_ok_and(|seals| seals.contains(SealFlags::SHRINK))
    }

    /// Looks whether `file` has become shorter than the mapping, and if so lets every [`Words`] of it say so
    /// ([`Words::truncated`]). One system call; does not block.
    #[must_use]
    pub fn shrunk(&self, file: impl AsFd) -> bool {
        let short = rustix::fs::fstat(file).is_ok_and(|stat| (stat.st_size as u64) < self.mapped);
        if short && let Some(mapping) = self.mapping.upgrade() {
            mapping.trip();
        }
        short
    }
}

impl Segment {
    /// Makes an anonymous segment: a memfd, called `label` in `/proc/PID/maps`, sealed against shrinking and growing.
    ///
    /// With `readers_only_read` nobody can map it writable from now on, whoever gets its fd; this mapping stays
    /// writable.
    pub fn memfd(label: &str, spec: &Spec, readers_only_read: bool) -> Result<Self, SegmentError> {
        Self::sealed_memfd(label, spec, readers_only_read, None)
    }

    fn sealed_memfd(
        label: &str,
        spec: &Spec,
        readers_only_read: bool,
        areas: Option<[usize; 2]>,
    ) -> Result<Self, SegmentError> {
        let fail = |what| move |source| SegmentError::System { what, name: label.to_owned(), source };
        let fd = rustix::fs::memfd_create(label, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
            .map_err(fail("create a memfd for"))?;
        let segment = Self::initialise(label, fd, spec, false, areas)?;
        let mut seals = SealFlags::SHRINK | SealFlags::GROW;
        if readers_only_read {
            seals |= SealFlags::FUTURE_WRITE | SealFlags::SEAL;
        }
        rustix::fs::fcntl_add_seals(&segment.fd, seals).map_err(fail("seal"))?;
        Ok(segment)
    }

    /// Makes an anonymous segment as [`memfd`](Self::memfd) does whose data are two areas, of `spec.params[0]` and
    /// `spec.params[1]` bytes (whole pages), each mapped twice in a row. Both sides may write.
    pub(crate) fn memfd_of_areas(label: &str, spec: &Spec) -> Result<Self, SegmentError> {
        Self::sealed_memfd(label, spec, false, areas_of(&spec.params, spec.data))
    }

    /// Makes a named segment: the file `name` in `dir`, which must not exist, with mode `mode` and group `group`.
    pub fn file(dir: &RunDir, name: &str, spec: &Spec, mode: u32, group: Option<u32>) -> Result<Self, SegmentError> {
        let fail = |what| move |source| SegmentError::System { what, name: name.to_owned(), source };
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(dir, name, flags, Mode::RUSR | Mode::WUSR).map_err(|source| match source {
            Errno::EXIST => SegmentError::Exists { name: name.to_owned() },
            source => fail("create")(source),
        })?;
        let made = Self::initialise(name, fd, spec, true, None).and_then(|segment| {
            if let Some(group) = group {
                rustix::fs::fchown(&segment.fd, None, Some(Gid::from_raw(group)))
                    .map_err(fail("change the group of"))?;
            }
            rustix::fs::fchmod(&segment.fd, Mode::from_raw_mode(mode)).map_err(fail("set the mode of"))?;
            Ok(segment)
        });
        if made.is_err() {
            let _ = dir.remove(name);
        }
        made
    }

    fn initialise(
        name: &str,
        fd: OwnedFd,
        spec: &Spec,
        guarded: bool,
        areas: Option<[usize; 2]>,
    ) -> Result<Self, SegmentError> {
        let data = round_to_pages(spec.data);
        let bytes = HEADER_BYTES + data;
        // Beyond this limit the kernel would end the process by SIGXFSZ instead of saying no.
        if rustix::process::getrlimit(Resource::Fsize).current.is_some_and(|limit| limit < bytes as u64) {
            return Err(SegmentError::NoSpace { name: name.to_owned(), bytes, source: Errno::FBIG });
        }
        rustix::fs::fallocate(&fd, FallocateFlags::empty(), 0, bytes as u64).map_err(|source| match source {
            Errno::NOSPC | Errno::DQUOT | Errno::FBIG | Errno::NOMEM => {
                SegmentError::NoSpace { name: name.to_owned(), bytes, source }
            }
            source => SegmentError::System { what: "reserve memory for", name: name.to_owned(), source },
        })?;
        let header = Header {
            kind: spec.kind,
            layout: spec.layout,
            instance: spec.instance,
            owner: Identity::own(),
            params: spec.params,
            data,
            mirror: spec.mirror,
            areas,
        };
        let segment = Self::map(name, fd, header, Access::ReadWrite, guarded)?;
        let words = segment.header_mut();
        let header = &segment.header;
        words.store(1, u64::from(VERSION) | u64::from(header.kind) << 32, Ordering::Relaxed);
        words.store(2, header.layout, Ordering::Relaxed);
        words.store(3, bytes as u64, Ordering::Relaxed);
        words.store(6, header.instance, Ordering::Relaxed);
        words.store(7, header.flags(), Ordering::Relaxed);
        for (index, &param) in header.params.iter().enumerate() {
            words.store(8 + index, param, Ordering::Relaxed);
        }
        segment.sign(header.owner);
        words.store(0, MAGIC, Ordering::Release); // SYNC segment.ready
        Ok(segment)
    }

    /// Opens the named segment `name` in `dir`. Symbolic links are not followed.
    pub fn open(dir: &RunDir, name: &str, access: Access, expect: &Expect) -> Result<Self, SegmentError> {
        let mode = match access {
            Access::Read => OFlags::RDONLY,
            Access::ReadWrite => OFlags::RDWR,
        };
        let flags = mode | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let fd = rustix::fs::openat(dir, name, flags, Mode::empty()).map_err(|source| match source {
            Errno::NOENT => SegmentError::Absent { name: name.to_owned() },
            source => SegmentError::System { what: "open", name: name.to_owned(), source },
        })?;
        Self::validate(name, fd, access, expect, true)
    }

    /// Takes an inherited or received memfd. It must be sealed against shrinking.
    pub fn inherit(label: &str, fd: OwnedFd, access: Access, expect: &Expect) -> Result<Self, SegmentError> {
        let sealed = rustix::fs::fcntl_get_seals(&fd).is_ok_and(|seals| seals.contains(SealFlags::SHRINK));
        if !sealed {
            return Err(SegmentError::Unsealed { name: label.to_owned() });
        }
        // Guarded although it cannot shrink: a memfd of huge pages, punched full of holes, faults where none are left.
        Self::validate(label, fd, access, expect, true)
    }

    fn validate(name: &str, fd: OwnedFd, access: Access, expect: &Expect, guarded: bool) -> Result<Self, SegmentError> {
        let fail = |what| move |source| SegmentError::System { what, name: name.to_owned(), source };
        let stat = rustix::fs::fstat(&fd).map_err(fail("examine"))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(fail("use as a segment (it is not a regular file)")(Errno::INVAL));
        }
        if let Some(expected) = expect.owner
            && stat.st_uid != expected
        {
            return Err(SegmentError::Owner { name: name.to_owned(), found: stat.st_uid, expected });
        }
        // One read into private memory: what is validated is what is used.
        let mut bytes = [0_u8; WORD_PARAMS * 8];
        let got = rustix::io::pread(&fd, &mut bytes, 0).map_err(fail("read"))?;
        let word = |index: usize| u64::from_ne_bytes(bytes[index * 8..index * 8 + 8].try_into().expect("eight bytes"));
        if word(0) == 0 {
            // A creator writes its magic last: an empty file is one that is being made.
            return Err(SegmentError::Absent { name: name.to_owned() });
        }
        let check = |field, found: u64, expected: u64| {
            if found == expected {
                return Ok(());
            }
            Err(SegmentError::Mismatch { name: name.to_owned(), field, found, expected })
        };
        check("magic", word(0), MAGIC)?;
        check("header length", got as u64, bytes.len() as u64)?;
        check("version", word(1) & 0xffff_ffff, u64::from(VERSION))?;
        check("kind", word(1) >> 32, u64::from(expect.kind))?;
        if let Some(layout) = expect.layout {
            check("layout hash", word(2), layout)?;
        }
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        check("recorded size", word(3), size)?;
        if let Some(instance) = expect.instance {
            check("instance", word(6), instance)?;
        }
        // Ours are backed in full. Reading the holes of another would allocate it all, however large it says that it
        // is.
        let backed = u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512);
        if backed < size {
            return Err(SegmentError::Sparse { name: name.to_owned(), size, backed });
        }
        let data = usize::try_from(size).unwrap_or(0).saturating_sub(HEADER_BYTES);
        if data == 0 || data != round_to_pages(data) {
            return Err(SegmentError::Mismatch { name: name.to_owned(), field: "data size", found: size, expected: 0 });
        }
        let params = std::array::from_fn(|index| word(8 + index));
        let areas = if word(7) & FLAG_AREAS == 0 { None } else { areas_of(&params, data) };
        if word(7) & FLAG_AREAS != 0 && areas.is_none() {
            return Err(SegmentError::Mismatch {
                name: name.to_owned(),
                field: "size of both areas",
                found: params[0].saturating_add(params[1]),
                expected: data as u64,
            });
        }
        let header = Header {
            kind: expect.kind,
            layout: word(2),
            instance: word(6),
            owner: Identity { pid: u32::try_from(word(4)).unwrap_or(0), start: word(5) },
            params,
            data,
            mirror: word(7) & FLAG_MIRROR != 0,
            areas,
        };
        Self::map(name, fd, header, access, guarded)
    }

    fn map(name: &str, fd: OwnedFd, header: Header, access: Access, guarded: bool) -> Result<Self, SegmentError> {
        let protection = match access {
            Access::Read => Protection::Read,
            Access::ReadWrite => Protection::ReadWrite,
        };
        let mapping = match header.areas {
            Some(areas) => Mapping::of_areas(fd.as_fd(), HEADER_BYTES, areas, protection, guarded),
            None => Mapping::new(fd.as_fd(), HEADER_BYTES, header.data, header.mirror, protection, guarded),
        };
        let mapping = mapping.map_err(|source| SegmentError::System { what: "map", name: name.to_owned(), source })?;
        Ok(Self { mapping: Arc::new(mapping), header, fd })
    }

    /// Makes this process the recorded owner: for the process that takes over the writer's part of an inherited
    /// segment.
    ///
    /// # Panics
    ///
    /// If the segment was opened for reading.
    pub fn sign(&self, owner: Identity) {
        let words = self.header_mut();
        words.store(4, u64::from(owner.pid), Ordering::Relaxed);
        words.store(5, owner.start, Ordering::Relaxed);
    }

    /// Seals an inherited memfd against any further writable mapping: for the process that is to be its only writer.
    pub fn seal_for_readers(&self) -> Result<(), SegmentError> {
        rustix::fs::fcntl_add_seals(&self.fd, SealFlags::FUTURE_WRITE | SealFlags::SEAL)
            .map_err(|source| SegmentError::System { what: "seal", name: "inherited".to_owned(), source })
    }

    /// Forbids further seals on a memfd: whoever gets its fd could otherwise keep the next one from mapping it.
    pub fn seal_as_it_is(&self) -> Result<(), SegmentError> {
        rustix::fs::fcntl_add_seals(&self.fd, SealFlags::SEAL).map_err(|source| SegmentError::System {
            what: "seal",
            name: "control".to_owned(),
            source,
        })
    }

    /// The process that is recorded as owner now (the header's private copy holds who it was on opening).
    #[must_use]
    pub fn owner(&self) -> Identity {
        let words = self.header_words();
        let pid = u32::try_from(words.load(4, Ordering::Relaxed)).unwrap_or(0);
        Identity { pid, start: words.load(5, Ordering::Relaxed) }
    }

    /// The private copy of the header.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Faults all pages in now instead of on first use.
    pub fn populate(&self) {
        self.mapping.populate();
    }

    /// What is to be seen of the mapping's size by one who holds the file.
    #[must_use]
    pub fn extent(&self) -> Extent {
        Extent { mapping: Arc::downgrade(&self.mapping), mapped: (HEADER_BYTES + self.header.data) as u64 }
    }

    /// The file alone. The mapping lives on as long as its words do.
    #[must_use]
    pub fn into_file(self) -> OwnedFd {
        self.fd
    }

    /// The segment's file, to hand on.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The uid that owns the segment's file.
    pub fn uid(&self) -> Result<Uid, SegmentError> {
        let stat = rustix::fs::fstat(&self.fd).map_err(|source| SegmentError::System {
            what: "examine",
            name: "segment".to_owned(),
            source,
        })?;
        Ok(Uid::from_raw(stat.st_uid))
    }

    /// The words of the header.
    #[must_use]
    pub fn header_words(&self) -> Words {
        Words::new(&self.mapping, 0, HEADER_BYTES / 8)
    }

    /// The words of the header, to change.
    ///
    /// # Panics
    ///
    /// If the segment was opened for reading.
    #[must_use]
    pub fn header_mut(&self) -> WordsMut {
        WordsMut::new(&self.mapping, 0, HEADER_BYTES / 8)
    }

    /// The sizes of the areas of a segment that has two.
    pub(crate) fn areas(&self) -> Option<[usize; 2]> {
        self.header.areas
    }

    /// The words of area `index`, twice in a row, to change.
    ///
    /// # Panics
    ///
    /// If the segment has no such area, or was opened for reading.
    pub(crate) fn area(&self, index: usize) -> WordsMut {
        let areas = self.header.areas.expect("a segment of areas");
        let at = HEADER_BYTES + if index == 0 { 0 } else { 2 * areas[0] };
        WordsMut::new(&self.mapping, at, 2 * areas[index] / 8)
    }

    /// `len` words of the header from `first` on, to change.
    ///
    /// # Panics
    ///
    /// If they are not in the header, or the segment was opened for reading.
    pub(crate) fn header_area(&self, first: usize, len: usize) -> WordsMut {
        assert!((first + len) * 8 <= HEADER_BYTES, "words outside their header");
        WordsMut::new(&self.mapping, first * 8, len)
    }

    /// The words of the data; twice as many if it is mirrored.
    #[must_use]
    pub fn data(&self) -> Words {
        Words::new(&self.mapping, HEADER_BYTES, (self.mapping.len() - HEADER_BYTES) / 8)
    }

    /// Takes the words for the segment's one writer, and returns the segment's file beside them.
    ///
    /// [`SegmentError::Taken`] while words of this mapping are in use, if it was opened for reading, and while the
    /// words of another mapping of the same file are taken in this process. (Another process is kept out by a seal, or
    /// by who may open the file.)
    ///
    /// ```
    /// # use ginnel_memory::{Segment, SegmentError, Spec, PARAMS};
    /// let spec = Spec { kind: 1, layout: 0, instance: 7, params: [0; PARAMS], data: 4096, mirror: false };
    /// let segment = Segment::memfd("example", &spec, true)?;
    /// let (words, file) = segment.into_words()?;
    /// # Ok::<(), SegmentError>(())
    /// ```
    ///
    /// The segment is gone then, so there is no second take:
    ///
    /// ```compile_fail,E0382
    /// # use ginnel_memory::{Segment, SegmentError};
    /// fn twice(segment: Segment) -> Result<(), SegmentError> {
    ///     let first = segment.into_words()?;
    ///     let second = segment.into_words()?;
    ///     Ok(())
    /// }
    /// ```
    pub fn into_words(self) -> Result<(WriterWords, OwnedFd), SegmentError> {
        let taken = |why| SegmentError::Taken { name: format!("{:016x}", self.header.instance), why };
        if !self.mapping.writable() {
            return Err(taken("it was opened for reading"));
        }
        if self.header.areas.is_some() {
            return Err(taken("both sides write it"));
        }
        // Whoever has words of it holds the mapping, and nobody else can get any: the segment is ours alone.
        if Arc::strong_count(&self.mapping) > 1 {
            return Err(taken("words of it are in use"));
        }
        let stat = rustix::fs::fstat(&self.fd).map_err(|source| SegmentError::System {
            what: "examine",
            name: format!("{:016x}", self.header.instance),
            source,
        })?;
        let place = WriterPlace::take(stat.st_dev, stat.st_ino).ok_or_else(|| taken("its writer is here already"))?;
        let words = WriterWords::new(self.header_mut(), self.data_mut(), place);
        Ok((words, self.fd))
    }

    /// The words of the data, to change.
    ///
    /// # Panics
    ///
    /// If the segment was opened for reading.
    #[must_use]
    pub fn data_mut(&self) -> WordsMut {
        WordsMut::new(&self.mapping, HEADER_BYTES, (self.mapping.len() - HEADER_BYTES) / 8)
    }
}

/// The files whose writer's words are taken in this process, as device and inode.
static WRITERS: Mutex<BTreeSet<(u64, u64)>> = Mutex::new(BTreeSet::new());

/// The right to be the one writer of a file in this process. Given back on drop.
#[derive(Debug)]
pub(crate) struct WriterPlace(u64, u64);

impl WriterPlace {
    fn take(device: u64, inode: u64) -> Option<Self> {
        let mut writers = WRITERS.lock().unwrap_or_else(PoisonError::into_inner);
        writers.insert((device, inode)).then(|| Self(device, inode))
    }
}

#[cfg(test)]
impl WriterPlace {
    /// Of a segment whose other words are in use, against the rule: for a test that looks for races.
    pub(crate) fn of(segment: &Segment) -> Self {
        let stat = rustix::fs::fstat(&segment.fd).unwrap();
        Self::take(stat.st_dev, stat.st_ino).unwrap()
    }
}

impl Drop for WriterPlace {
    fn drop(&mut self) {
        WRITERS.lock().unwrap_or_else(PoisonError::into_inner).remove(&(self.0, self.1));
    }
}

/// The two areas that the parameters tell of, if they are whole pages and all of the data.
fn areas_of(params: &[u64; PARAMS], data: usize) -> Option<[usize; 2]> {
    let area = |bytes: u64| {
        let bytes = usize::try_from(bytes).ok()?;
        (bytes > 0 && bytes <= data && bytes == round_to_pages(bytes)).then_some(bytes)
    };
    let areas = [area(params[0])?, area(params[1])?];
    (areas[0].checked_add(areas[1]) == Some(data)).then_some(areas)
}

fn round_to_pages(bytes: usize) -> usize {
    bytes.max(1).checked_next_multiple_of(rustix::param::page_size()).unwrap_or(usize::MAX / 4)
}
