//! The cgroups of a machine: found by walking every mounted hierarchy, named, numbered by generation.

use super::identity::{Identity, Names, is_given_once};
use super::mounts::{Hierarchy, hierarchies};
use super::{Host, is_transient, or_nothing, read_bounded};
use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Bounds of one walk. The kernel's own default is 2^31 descendants; nothing sane comes near these.
const CGROUPS_MAX: usize = 65_536;
const DEPTH_MAX: usize = 64;

/// One cgroup. The same path in several hierarchies is one cgroup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CgroupRecord {
    /// Its path in its hierarchy, as `/proc/<pid>/cgroup` says it.
    pub path: Vec<u8>,
    /// Its directory in the most trusted hierarchy that has it.
    pub directory: Vec<u8>,
    /// Whether any process lives in it or below.
    pub populated: bool,
    /// A name that no other cgroup of the index has: the identity's, or the path where two containers claim one name.
    pub name: Vec<u8>,
    /// [`fnv1`] of the name.
    pub hash: u32,
    /// Who it is; `None` if that could not be read just now.
    pub identity: Option<Identity>,
}

/// All cgroups at one moment.
#[derive(Debug, Default)]
pub struct CgroupIndex {
    records: Vec<CgroupRecord>,
    by_path: HashMap<Vec<u8>, usize>,
    generation: u64,
}

impl CgroupIndex {
    /// The cgroups, parents before children, the root left out.
    #[must_use]
    pub fn records(&self) -> &[CgroupRecord] {
        &self.records
    }

    /// The cgroup at this path.
    #[must_use]
    pub fn get(&self, path: &[u8]) -> Option<&CgroupRecord> {
        self.by_path.get(path).map(|index| &self.records[*index])
    }

    /// 1 for the first index of this process, one more whenever anything in it changed.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }
}

/// What is known about a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Found {
    Known(Identity),
    /// It may come, or be readable later.
    Later,
    /// It never will.
    Gone,
}

#[derive(Debug, Default)]
struct Scan {
    index: Arc<CgroupIndex>,
    mounts: Arc<Vec<Hierarchy>>,
    names: Arc<Names>,
    at: Option<Instant>,
}

/// Scans the cgroups of a machine, at most once per `max_age`. Shared by the providers of one process; any thread.
#[derive(Debug)]
pub struct Cgroups {
    host: Host,
    max_age: Duration,
    scan: Mutex<Scan>,
}

impl Cgroups {
    /// Nothing is read before the first question.
    #[must_use]
    pub fn new(host: Host, max_age: Duration) -> Self {
        Self { host, max_age, scan: Mutex::default() }
    }

    /// The machine that is read.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The cgroups, not older than the maximal age; scans on the caller's thread where needed. One scan serves all who
    /// wait for it.
    ///
    /// # Errors
    /// The mount table cannot be read, or this process is out of file descriptors or memory: what could not be looked
    /// at is not said to be absent. Cgroups that vanish during the walk are simply not there.
    pub fn index(&self) -> io::Result<Arc<CgroupIndex>> {
        self.fresh(|scan| Arc::clone(&scan.index))
    }

    fn fresh<T>(&self, take: impl FnOnce(&Scan) -> T) -> io::Result<T> {
        // A panic inside leaves the previous scan, which is still good.
        let mut scan = self.scan.lock().unwrap_or_else(PoisonError::into_inner);
        if scan.at.is_none_or(|at| at.elapsed() >= self.max_age) {
            let mounts = hierarchies(&self.host)?;
            let names = Names::read(&self.host)?;
            let records = walk(&self.host, &mounts, &names)?;
            if records != scan.index.records || scan.at.is_none() {
                let by_path = records.iter().enumerate().map(|(index, record)| (record.path.clone(), index)).collect();
                let generation = scan.index.generation + 1;
                scan.index = Arc::new(CgroupIndex { records, by_path, generation });
            }
            (scan.mounts, scan.names, scan.at) = (Arc::new(mounts), Arc::new(names), Some(Instant::now()));
        }
        Ok(take(&scan))
    }

    /// What is known about `path`, which may also be a directory below a mount. A cgroup made since the last scan is
    /// looked at directly.
    pub(crate) fn find(&self, index: &CgroupIndex, path: &[u8]) -> Found {
        let Some(path) = canonical(path) else { return Found::Gone };
        if let Some(record) = index.get(&path) {
            return record.identity.clone().map_or(Found::Later, Found::Known);
        }
        let Ok((mounts, names)) = self.fresh(|scan| (Arc::clone(&scan.mounts), Arc::clone(&scan.names))) else {
            return Found::Later;
        };
        let path = in_hierarchy(&mounts, &path);
        if let Some(record) = index.get(&path) {
            return record.identity.clone().map_or(Found::Later, Found::Known);
        }
        for mount in mounts.iter() {
            let Some(directory) = directory(mount, &path) else { continue };
            match fs::symlink_metadata(self.host.file(&directory)) {
                Ok(metadata) if metadata.is_dir() => {
                    return names.identify(&self.host, &path).map_or(Found::Later, Found::Known);
                }
                Err(error) if is_transient(&error) => return Found::Later,
                _ => {}
            }
        }
        if is_given_once(&path) { Found::Gone } else { Found::Later }
    }
}

/// The hash that Netdata gives cgroup names: FNV-1, 32 bits.
#[must_use]
pub fn fnv1(name: &[u8]) -> u32 {
    name.iter().fold(0x811c_9dc5, |hash: u32, byte| hash.wrapping_mul(0x0100_0193) ^ u32::from(*byte))
}

/// A path in its one spelling: no slash twice, none at the end. Relative paths and those that climb name nothing.
fn canonical(path: &[u8]) -> Option<Vec<u8>> {
    let segments = path.strip_prefix(b"/")?.split(|byte| *byte == b'/').filter(|segment| !segment.is_empty());
    let mut canonical = Vec::with_capacity(path.len());
    for segment in segments {
        if segment == b"." || segment == b".." {
            return None;
        }
        canonical.push(b'/');
        canonical.extend_from_slice(segment);
    }
    if canonical.is_empty() {
        canonical.push(b'/');
    }
    Some(canonical)
}

/// The path in its hierarchy of what a consumer may call `/sys/fs/cgroup/unified/a` or just `/a`; `path` is canonical.
fn in_hierarchy(mounts: &[Hierarchy], path: &[u8]) -> Vec<u8> {
    let below = mounts
        .iter()
        .filter_map(|mount| Some((mount, Path::new(OsStr::from_bytes(path)).strip_prefix(&mount.mount).ok()?)))
        .max_by_key(|(mount, _)| mount.mount.as_os_str().len());
    match below {
        // The mount itself is its root, without a slash behind it.
        Some((mount, relative)) if relative.as_os_str().is_empty() => mount.root.clone(),
        Some((mount, relative)) => join(&mount.root, relative.as_os_str().as_bytes()),
        None => path.to_vec(),
    }
}

/// Where a path of the hierarchy lies under this mount, if the mount shows it.
fn directory(mount: &Hierarchy, path: &[u8]) -> Option<std::path::PathBuf> {
    let relative = Path::new(OsStr::from_bytes(path)).strip_prefix(OsStr::from_bytes(&mount.root)).ok()?;
    Some(mount.mount.join(relative))
}

fn join(parent: &[u8], child: &[u8]) -> Vec<u8> {
    let mut path = parent.strip_suffix(b"/").unwrap_or(parent).to_vec();
    path.push(b'/');
    path.extend_from_slice(child);
    path
}

struct Walk<'a> {
    host: &'a Host,
    names: &'a Names,
    records: Vec<CgroupRecord>,
    by_path: HashMap<Vec<u8>, usize>,
}

fn walk(host: &Host, mounts: &[Hierarchy], names: &Names) -> io::Result<Vec<CgroupRecord>> {
    let mut walk = Walk { host, names, records: Vec::new(), by_path: HashMap::new() };
    for mount in mounts {
        walk.descend(mount, &mount.mount, &mount.root, 0)?;
    }
    let mut taken = HashSet::new();
    for record in &mut walk.records {
        // Two containers may claim one name: the second goes by its path. No name starts with a slash unless it is such
        // a path.
        let plain = record.path.strip_prefix(b"/").unwrap_or(&record.path);
        for fallback in [plain, &record.path] {
            if taken.contains(&record.name) {
                record.name = fallback.to_vec();
            }
        }
        taken.insert(record.name.clone());
        record.hash = fnv1(&record.name);
    }
    Ok(walk.records)
}

impl Walk<'_> {
    /// Visits a directory and all below; says whether any process lives there.
    fn descend(&mut self, mount: &Hierarchy, directory: &Path, path: &[u8], depth: usize) -> io::Result<bool> {
        let own = if depth > 0 { self.visit(directory, path)? } else { None };
        let mut populated = self.is_populated(mount, directory)?;
        if depth < DEPTH_MAX {
            // Collected before descending: one open directory at a time, however deep the tree.
            let children: Vec<_> = or_nothing(fs::read_dir(self.host.file(directory)).map(Some))?
                .into_iter()
                .flatten()
                .flatten()
                .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                .map(|entry| entry.file_name())
                .collect();
            for child in children {
                populated |= self.descend(mount, &directory.join(&child), &join(path, child.as_bytes()), depth + 1)?;
            }
        }
        if let Some(index) = own {
            self.records[index].populated |= populated;
        }
        Ok(populated)
    }

    fn visit(&mut self, directory: &Path, path: &[u8]) -> io::Result<Option<usize>> {
        if let Some(index) = self.by_path.get(path) {
            return Ok(Some(*index));
        }
        if self.records.len() == CGROUPS_MAX {
            tracing::warn!(limit = CGROUPS_MAX, path = %path.escape_ascii(), "more cgroups than are listed");
            return Ok(None);
        }
        let identity = or_nothing(self.names.identify(self.host, path).map(Some))?;
        let plain = || path.strip_prefix(b"/").unwrap_or(path).to_vec();
        let name = identity.as_ref().map_or_else(plain, |identity| identity.name.clone());
        let directory = directory.as_os_str().as_bytes().to_vec();
        let record = CgroupRecord { path: path.to_vec(), directory, populated: false, name, hash: 0, identity };
        self.by_path.insert(path.to_vec(), self.records.len());
        self.records.push(record);
        Ok(Some(self.records.len() - 1))
    }

    /// Version 2 says it for the whole subtree; version 1 lists the processes of each directory.
    fn is_populated(&self, mount: &Hierarchy, directory: &Path) -> io::Result<bool> {
        let (file, limit) = if mount.is_v2() { ("cgroup.events", 4096) } else { ("cgroup.procs", 1) };
        let text = File::open(self.host.file(directory.join(file))).and_then(|file| read_bounded(file, limit));
        let text = or_nothing(text)?;
        Ok(if mount.is_v2() {
            text.split(|byte| *byte == b'\n').any(|line| line == b"populated 1")
        } else {
            !text.is_empty()
        })
    }
}
