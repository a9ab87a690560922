//! The directory for names of one run, in the run directory. It is gone when the run is, and those of runs that were
//! killed are removed by the next one.

use crate::error::BenchError;
use crate::names::remove_queues;
use crate::page::SIDES;
use ginnel_memory::RunDir;
use rustix::fd::OwnedFd;
use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};
use std::io;
use std::path::{Path, PathBuf};

/// What the names of such directories begin with; eight hexadecimal digits follow.
const PREFIX: &str = "b-";

/// A directory of our own, locked as long as this lives.
#[derive(Debug)]
pub(crate) struct Place {
    path: PathBuf,
    /// Pairs that have names here.
    pairs: usize,
    _lock: OwnedFd,
}

impl Place {
    /// In `run_dir`, else in the user's.
    pub(crate) fn make(run_dir: Option<&Path>, pairs: usize) -> Result<Self, BenchError> {
        let run_dir = run_dir.map_or_else(RunDir::open, RunDir::at);
        let run_dir = run_dir.map_err(|error| BenchError::io("open the run directory")(io::Error::other(error)))?;
        sweep(run_dir.path());
        Self::make_in(run_dir.path(), pairs).map_err(BenchError::io("make a directory for names"))
    }

    fn make_in(run_dir: &Path, pairs: usize) -> io::Result<Self> {
        let path = run_dir.join(format!("{PREFIX}{:08x}", ginnel_base::random_u64() as u32));
        // Between the two steps a sweep may take it away: then there is nothing to lock, and the run fails cleanly.
        rustix::fs::mkdir(&path, Mode::RWXU)?;
        let lock = lock(&path)?.ok_or_else(|| io::Error::other("another process has locked it"))?;
        Ok(Self { path, pairs, _lock: lock })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        remove_queues(&self.path, self.pairs);
        let _ = std::fs::remove_dir_all(&self.path); // the next run tries again
    }
}

fn lock(path: &Path) -> io::Result<Option<OwnedFd>> {
    let fd = open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    match flock(&fd, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(fd)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Removes the directories of runs that are dead. A directory younger than a second may be one whose run has not locked
/// it yet.
fn sweep(run_dir: &Path) {
    let Ok(entries) = std::fs::read_dir(run_dir) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let ours = name.to_str().and_then(|name| name.strip_prefix(PREFIX)).is_some_and(|digits| digits.len() == 8);
        let old = entry
            .metadata()
            .and_then(|meta| meta.modified())
            .is_ok_and(|time| time.elapsed().is_ok_and(|age| age > std::time::Duration::from_secs(1)));
        if ours
            && old
            && let Ok(Some(_lock)) = lock(&entry.path())
        {
            remove_queues(&entry.path(), SIDES / 2);
            let _ = std::fs::remove_dir_all(entry.path()); // the next run tries again
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_goes_with_its_run_and_a_dead_runs_with_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::make_in(dir.path(), 1).unwrap();
        let dead = dir.path().join("b-0badcafe");
        std::fs::create_dir(&dead).unwrap();
        let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(60);
        for path in [&dead, &place.path] {
            std::fs::File::open(path).unwrap().set_modified(long_ago).unwrap();
        }
        sweep(dir.path());
        assert!(!dead.exists() && place.path().exists());
        drop(place);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
