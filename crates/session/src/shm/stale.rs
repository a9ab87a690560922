//! Regions whose server died: told from live ones by proof, not by their pid alone.
//!
//! * Our own servers hold a `flock` on each region. The kernel drops it with the process, and it is visible in every
//!   pid namespace: taken is alive, free is dead. A mark in `owner_generation` says that this rule holds for a region.
//! * For regions of other programs the pid counts, as in the contract: alive in our namespace, and started before the
//!   region was made, so a reused pid is no proof. If the pid says nothing, the owner may live in another namespace:
//!   the region is live as long as anybody holds it open for writing, which a read lease tells.

use super::layout::{AT_GENERATION, AT_MAGIC, AT_OWNER_PID, HEADER_LEN, MAGIC};
use crate::sys::is_open_for_writing;
use ginnel_memory::identity::Identity;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags, StatxFlags};
use rustix::io::Errno;
use std::time::Duration;

/// Top byte of `owner_generation` of our regions. The known peers fill the field with seconds (of uptime, or since
/// 1970), which do not reach it before the year 2100.
const OURS: u32 = 0xf8 << 24;
/// Clock ticks and adjustments blur when a process started.
const BLUR: Duration = Duration::from_secs(2);

/// The generation of regions of this process: the mark, and its start time for those who look.
pub(super) fn own_generation() -> u32 {
    OURS | (Identity::own().start as u32 & 0x00ff_ffff)
}

/// Removes the stale regions of `service` from a run directory. Failures are left to the next start.
pub(crate) fn sweep(dir: &OwnedFd, service: &str) {
    let Ok(entries) = rustix::fs::Dir::read_from(dir) else { return };
    for entry in entries.flatten() {
        if let Ok(name) = entry.file_name().to_str()
            && is_region_of(name, service)
            && remove_if_stale(dir, name)
        {
            tracing::info!(name, "removed a stale region");
        }
    }
}

/// `{service}-{16 hexadecimal digits}.ipcshm`, and not a region of a service whose name merely begins like ours.
fn is_region_of(name: &str, service: &str) -> bool {
    name.strip_prefix(service)
        .and_then(|rest| rest.strip_prefix('-'))
        .and_then(|rest| rest.strip_suffix(".ipcshm"))
        .is_some_and(|id| id.len() == 16 && id.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// Removes `name` unless it is live; true if it was removed.
pub(super) fn remove_if_stale(dir: &OwnedFd, name: &str) -> bool {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = match rustix::fs::openat(dir, name, flags, Mode::empty()) {
        Ok(file) => file,
        Err(Errno::NOENT | Errno::MFILE | Errno::NFILE) => return false,
        // A link, or whatever else nobody can use as a region.
        Err(_) => return remove(dir, name),
    };
    if is_live(&file) {
        return false;
    }
    // What was judged is what goes: another server may have made a new one since.
    let (Ok(judged), Ok(now)) = (rustix::fs::fstat(&file), rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW))
    else {
        return false;
    };
    (judged.st_dev, judged.st_ino) == (now.st_dev, now.st_ino) && remove(dir, name)
}

fn remove(dir: &OwnedFd, name: &str) -> bool {
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Err(Errno::ISDIR) => rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR).is_ok(),
        done => done.is_ok(),
    }
}

fn is_live(file: &OwnedFd) -> bool {
    let regular = rustix::fs::fstat(file).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode).is_file());
    let mut header = [0; HEADER_LEN];
    // Read, not mapped: nobody can make a read fault.
    if !regular || rustix::io::pread(file, &mut header, 0) != Ok(HEADER_LEN) {
        return false;
    }
    let word = |at: usize| u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    if word(AT_MAGIC) != MAGIC {
        return false;
    }
    if rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) == Err(Errno::WOULDBLOCK) {
        return true;
    }
    let (pid, generation) = (word(AT_OWNER_PID), word(AT_GENERATION));
    if generation & OURS == OURS || generation == 0 {
        return false;
    }
    // Where that cannot be asked (another user's file, a file system without leases), it may live: it is left alone.
    owner_is_here(pid, file) || is_open_for_writing(file.as_fd()).unwrap_or(true)
}

/// Whether the process that made the region lives in our pid namespace.
fn owner_is_here(pid: u32, file: &OwnedFd) -> bool {
    if !(Identity { pid, start: 0 }).alive() {
        return false;
    }
    may_have_made(started(pid), born(file))
}

/// Whether a process that started then can have made a file that was born then. Without both times its pid has the last
/// word.
fn may_have_made(started: Option<Duration>, born: Option<Duration>) -> bool {
    match (started, born) {
        (Some(started), Some(born)) => started <= born + BLUR,
        _ => true,
    }
}

/// When a process started, since 1970.
fn started(pid: u32) -> Option<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may contain anything, brackets too: fields are counted from its last one.
    let ticks: u64 = stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(19)?.parse().ok()?;
    let system = std::fs::read_to_string("/proc/stat").ok()?;
    let boot: u64 = system.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    let per_second = rustix::param::clock_ticks_per_second();
    Some(Duration::from_secs(boot) + Duration::from_millis(ticks * 1000 / per_second.max(1)))
}

/// When a file was made, since 1970.
fn born(file: &OwnedFd) -> Option<Duration> {
    let stat = rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::BTIME).ok()?;
    let known = stat.stx_mask & StatxFlags::BTIME.bits() != 0;
    known.then(|| Duration::from_secs(u64::try_from(stat.stx_btime.tv_sec).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Dir {
        path: tempfile::TempDir,
        fd: OwnedFd,
    }

    fn dir() -> Dir {
        let path = tempfile::tempdir().unwrap();
        let fd = std::fs::File::open(path.path()).unwrap().into();
        Dir { path, fd }
    }

    impl Dir {
        fn region(&self, name: &str, pid: u32, generation: u32) -> std::path::PathBuf {
            let layout = super::super::Layout::for_limits(64, 64).unwrap();
            let path = self.path.path().join(name);
            let mut bytes = layout.header(pid.cast_signed(), generation).to_vec();
            bytes.resize(layout.file_len(), 0);
            std::fs::write(&path, bytes).unwrap();
            path
        }
    }

    const NAME: &str = "svc-0000000000000001.ipcshm";

    #[test]
    fn a_region_of_a_live_owner_stays_and_that_of_a_dead_one_goes() {
        let dir = dir();
        let path = dir.region(NAME, std::process::id(), 7);
        assert!(!remove_if_stale(&dir.fd, NAME) && path.exists());
        dir.region(NAME, i32::MAX as u32, 7);
        assert!(remove_if_stale(&dir.fd, NAME) && !path.exists());
        dir.region(NAME, std::process::id(), 0);
        assert!(remove_if_stale(&dir.fd, NAME), "generation 0 is no owner");
    }

    #[test]
    fn a_pid_that_was_reused_is_no_proof_of_life() {
        let dir = dir();
        let path = dir.region(NAME, std::process::id(), 7);
        let file = std::fs::File::open(&path).unwrap().into();
        let (own, born) = (started(std::process::id()).unwrap(), born(&file).unwrap());
        // Both clocks are the same one: this process made the file within its lifetime.
        assert!(own <= born + BLUR && born < own + Duration::from_secs(600), "{own:?} {born:?}");
        assert!(may_have_made(Some(own), Some(born)));
        assert!(!may_have_made(Some(born + Duration::from_secs(3)), Some(born)), "started after the file was made");
        assert!(may_have_made(None, Some(born)) && may_have_made(Some(own), None));
        assert!(owner_is_here(std::process::id(), &file));
    }

    #[test]
    fn a_region_whose_owners_number_somebody_else_has_now_goes() {
        let dir = dir();
        let path = dir.region(NAME, i32::MAX as u32, 7);
        // Two who started closer together cannot be told apart.
        std::thread::sleep(BLUR + Duration::from_millis(1100));
        let mut other = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &other.id().to_ne_bytes(), AT_OWNER_PID as u64).unwrap();
        drop(file);
        let removed = remove_if_stale(&dir.fd, NAME);
        other.kill().unwrap();
        other.wait().unwrap();
        assert!(removed && !path.exists());
    }

    #[test]
    fn a_region_whose_owner_has_no_pid_here_stays_while_somebody_holds_it_open() {
        let dir = dir();
        let path = dir.region(NAME, i32::MAX as u32, 7);
        let held = std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
        assert!(!remove_if_stale(&dir.fd, NAME) && path.exists());
        drop(held);
        assert!(remove_if_stale(&dir.fd, NAME) && !path.exists());
    }

    #[test]
    fn a_region_of_ours_lives_as_long_as_its_lock() {
        let dir = dir();
        let path = dir.region(NAME, i32::MAX as u32, own_generation());
        let held = std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
        rustix::fs::flock(&held, FlockOperation::LockExclusive).unwrap();
        assert!(!remove_if_stale(&dir.fd, NAME) && path.exists());
        // Open by a client, but its server is dead.
        rustix::fs::flock(&held, FlockOperation::Unlock).unwrap();
        assert!(remove_if_stale(&dir.fd, NAME) && !path.exists());
    }

    #[test]
    fn what_is_no_region_goes_and_what_is_not_ours_to_judge_stays() {
        let dir = dir();
        let at = |name: &str| dir.path.path().join(name);
        std::fs::write(at(NAME), "short").unwrap();
        assert!(remove_if_stale(&dir.fd, NAME));
        std::fs::create_dir(at(NAME)).unwrap();
        assert!(remove_if_stale(&dir.fd, NAME));
        std::fs::write(at("precious"), "target").unwrap();
        std::os::unix::fs::symlink("precious", at(NAME)).unwrap();
        assert!(remove_if_stale(&dir.fd, NAME));
        assert!(at("precious").exists(), "the link goes, not what it points to");

        for other in ["svc-x-0000000000000001.ipcshm", "svc-1.ipcshm", "svc-000000000000000g.ipcshm", "other"] {
            std::fs::write(at(other), "").unwrap();
        }
        std::fs::write(at(NAME), "").unwrap();
        sweep(&dir.fd, "svc");
        assert!(!at(NAME).exists());
        assert_eq!(std::fs::read_dir(dir.path.path()).unwrap().count(), 5);
    }
}
