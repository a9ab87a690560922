//! A shared file whose layout another protocol dictates: no header of ours, 32-bit words beside 64-bit ones, and a
//! futex word that sleepers of other programs use.
//!
//! A byte belongs to words of one width only, because atomic accesses of two widths that race are undefined: whoever
//! maps the file says which range of it holds 32-bit words, and everything else is 64-bit words. Every access is
//! checked against that, and a copy goes by the width of what it touches.
//!
//! The rules are the crate's: a shrunk file reads as zeros and is marked (M4), offsets are checked against the private
//! length (M3), bytes are copied out before they are judged (M5).

use crate::Bell;
use crate::sys::{Mapping, Protection, futex};
use crate::words::{WordsMut, as_uninit};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{FallocateFlags, FileType, Mode, OFlags};
use rustix::io::{Errno, Result};
use rustix::path::Arg;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// A mapped file of somebody else's layout. Unmapped on drop; the file stays.
#[derive(Debug)]
pub struct ForeignFile {
    words: WordsMut,
    mapping: Arc<Mapping>,
    len: usize,
    /// Where the 32-bit words are; its ends are multiples of 8.
    narrow: Range<usize>,
    fd: OwnedFd,
}

impl ForeignFile {
    /// Creates `name` in `dir` with `len` zero bytes, all of them backed, mode 0600. It must not exist. The bytes of
    /// `narrow` hold 32-bit words.
    ///
    /// # Errors
    /// The system's; `EXIST` if the name is taken, `NOSPC` if there is no room, `INVAL` if `narrow` does not begin and
    /// end at multiples of 8. Nothing is left behind.
    pub fn create(dir: impl AsFd, name: impl Arg + Copy, len: usize, narrow: Range<usize>) -> Result<Self> {
        check_narrow(&narrow)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&dir, name, flags, Mode::RUSR | Mode::WUSR)?;
        let made = rustix::fs::fchmod(&fd, Mode::RUSR | Mode::WUSR)
            .and_then(|()| allocate(&fd, len))
            .and_then(|()| Self::map(fd, len, narrow));
        if made.is_err() {
            let _ = rustix::fs::unlinkat(&dir, name, rustix::fs::AtFlags::empty());
        }
        made
    }

    /// Opens and maps the whole of `name` in `dir` for reading and writing. Symbolic links are not followed. The bytes
    /// of `narrow` hold 32-bit words.
    ///
    /// # Errors
    /// The system's; `INVAL` if it is empty or no regular file, or if `narrow` does not begin and end at multiples of 8.
    pub fn open(dir: impl AsFd, name: impl Arg, narrow: Range<usize>) -> Result<Self> {
        check_narrow(&narrow)?;
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let fd = rustix::fs::openat(dir, name, flags, Mode::empty())?;
        let stat = rustix::fs::fstat(&fd)?;
        let len = usize::try_from(stat.st_size).map_err(|_| Errno::INVAL)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || len == 0 {
            return Err(Errno::INVAL);
        }
        Self::map(fd, len, narrow)
    }

    fn map(fd: OwnedFd, len: usize, narrow: Range<usize>) -> Result<Self> {
        let pages = len.checked_next_multiple_of(rustix::param::page_size()).ok_or(Errno::OVERFLOW)?;
        let mapping = Arc::new(Mapping::new(fd.as_fd(), pages, 0, false, Protection::ReadWrite, true)?);
        // The bytes between `len` and the end of the last page are memory, but never touched.
        let words = WordsMut::new(&mapping, 0, len / 8);
        Ok(Self { words, mapping, len, narrow, fd })
    }

    /// Bytes of the file when it was mapped.
    #[must_use]
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none; never true.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The file was cut short by somebody: what is read now are zeros, not data.
    #[must_use]
    #[inline]
    pub fn truncated(&self) -> bool {
        self.words.truncated()
    }

    /// The file.
    #[must_use]
    #[inline]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Reads the 64-bit word at byte `at`.
    ///
    /// # Panics
    /// If `at` is misaligned or out of range, or the word has another width: callers derive it from private values
    /// only.
    #[inline]
    #[must_use]
    pub fn load_u64(&self, at: usize, order: Ordering) -> u64 {
        self.u64_at(at).load(order)
    }

    /// Adds to the 64-bit word at byte `at` and returns what it was.
    ///
    /// # Panics
    /// As [`ForeignFile::load_u64`].
    #[inline]
    pub fn add_u64(&self, at: usize, value: u64, order: Ordering) -> u64 {
        self.u64_at(at).fetch_add(value, order)
    }

    /// Reads the 32-bit word at byte `at`.
    ///
    /// # Panics
    /// As [`ForeignFile::load_u64`].
    #[inline]
    #[must_use]
    pub fn load_u32(&self, at: usize, order: Ordering) -> u32 {
        self.u32_at(at).load(order)
    }

    /// Writes the 32-bit word at byte `at`.
    ///
    /// # Panics
    /// As [`ForeignFile::load_u64`].
    #[inline]
    pub fn store_u32(&self, at: usize, value: u32, order: Ordering) {
        self.u32_at(at).store(value, order);
    }

    /// Adds to the 32-bit word at byte `at` and returns what it was.
    ///
    /// # Panics
    /// As [`ForeignFile::load_u64`].
    #[inline]
    pub fn add_u32(&self, at: usize, value: u32, order: Ordering) -> u32 {
        self.u32_at(at).fetch_add(value, order)
    }

    /// Sleeps while the word at byte `at` holds `expected`, at most for `timeout`. May return early: look again.
    ///
    /// # Errors
    /// `TIMEDOUT`, `AGAIN` if the word holds something else, `INTR` on a signal, `FAULT` if the file was cut short.
    ///
    /// # Panics
    /// As [`ForeignFile::load_u64`].
    pub fn futex_wait(&self, at: usize, expected: u32, timeout: Option<Duration>) -> Result<()> {
        futex::wait(self.u32_at(at), expected, timeout)
    }

    /// Sleeps while the word at byte `at` holds `expected` and `bell` has been rung `rung` times, at most for
    /// `timeout`. May return early: look again.
    ///
    /// The end of the file's memory cannot keep [`ring`](Self::ring) and the timeout from the sleeper. Where the kernel
    /// cannot wait for two words at once (before Linux 5.16, or where a filter forbids it), it sleeps a quarter of a
    /// second at a time.
    ///
    /// # Errors
    /// As [`futex_wait`](Self::futex_wait).
    ///
    /// # Panics
    /// As [`ForeignFile::load_u64`].
    pub fn sleep(&self, at: usize, expected: u32, bell: &Bell, rung: u32, timeout: Option<Duration>) -> Result<()> {
        futex::wait_either((self.u32_at(at), expected), (bell.word(), rung), timeout)
    }

    pub(crate) fn word(&self, at: usize) -> &AtomicU32 {
        self.u32_at(at)
    }

    /// Rings `bell` for those of this process that [`sleep`](Self::sleep) on the word at byte `at`.
    ///
    /// # Panics
    /// As [`ForeignFile::load_u64`].
    pub fn ring(&self, at: usize, bell: &Bell) {
        bell.ring();
        if !futex::waits_for_two() {
            // They sleep on this word alone, and within a quarter of a second they look for themselves.
            self.add_u32(at, 1, Ordering::AcqRel);
            let _ = self.futex_wake(at, i32::MAX);
        }
    }

    /// Wakes at most `count` sleepers of the word at byte `at`, in whatever process, and says how many.
    ///
    /// # Errors
    /// `FAULT` if the file was cut short.
    ///
    /// # Panics
    /// As [`ForeignFile::load_u64`].
    #[inline]
    pub fn futex_wake(&self, at: usize, count: i32) -> Result<usize> {
        futex::wake(self.u32_at(at), count)
    }

    /// Copies bytes out of the file. They may be torn and may change behind: judge the copy.
    ///
    /// # Panics
    /// If `at` is no multiple of 8 or the range leaves the file.
    #[inline]
    pub fn copy_out(&self, at: usize, out: &mut [u8]) {
        let narrow = self.narrow_part(at, out.len());
        let (wide, rest) = out.split_at_mut(narrow.start);
        let (narrow, behind) = rest.split_at_mut(narrow.len());
        let (middle, last) = (at + wide.len(), at + wide.len() + narrow.len());
        self.words.copy_out(at / 8, as_uninit(wide));
        for (i, bytes) in narrow.chunks_mut(4).enumerate() {
            let word = self.load_u32(middle + 4 * i, Ordering::Relaxed).to_ne_bytes();
            bytes.copy_from_slice(&word[..bytes.len()]);
        }
        if !behind.is_empty() {
            self.words.copy_out(last / 8, as_uninit(behind));
        }
    }

    /// Copies bytes into the file. Up to 7 bytes behind them, in the same word, may become zero.
    ///
    /// # Panics
    /// If `at` is no multiple of 8 or the range leaves the file.
    #[inline]
    pub fn copy_in(&self, at: usize, bytes: &[u8]) {
        let narrow = self.narrow_part(at, bytes.len());
        let (wide, rest) = bytes.split_at(narrow.start);
        let (narrow, behind) = rest.split_at(narrow.len());
        let (middle, last) = (at + wide.len(), at + wide.len() + narrow.len());
        self.words.copy_in(at / 8, wide);
        for (i, bytes) in narrow.chunks(4).enumerate() {
            let mut word = [0; 4];
            word[..bytes.len()].copy_from_slice(bytes);
            self.store_u32(middle + 4 * i, u32::from_ne_bytes(word), Ordering::Relaxed);
        }
        if !behind.is_empty() {
            self.words.copy_in(last / 8, behind);
        }
    }

    /// Which part of the `len` bytes at `at` are 32-bit words, counted from `at`. Checks the whole range.
    #[inline]
    fn narrow_part(&self, at: usize, len: usize) -> Range<usize> {
        let inside = at.checked_add(len).is_some_and(|end| end <= self.len);
        assert!(at.is_multiple_of(8) && inside, "copy at a misaligned offset, or outside its file");
        let from = self.narrow.start.clamp(at, at + len) - at;
        from..self.narrow.end.clamp(at + from, at + len) - at
    }

    #[inline]
    fn u64_at(&self, at: usize) -> &AtomicU64 {
        assert!(at.is_multiple_of(8) && self.has(at, 8), "word outside its file");
        assert!(!self.narrow.contains(&at), "a 64-bit access to 32-bit words");
        // SAFETY: aligned, in range (M3) and mapped as long as `self` (M1); only ever accessed as atomics of this width
        // (M2).
        unsafe { self.mapping.base().add(at).cast::<AtomicU64>().as_ref() }
    }

    #[inline]
    pub(crate) fn futex_word(&self, at: usize) -> &AtomicU32 {
        self.u32_at(at)
    }

    #[inline]
    fn u32_at(&self, at: usize) -> &AtomicU32 {
        assert!(at.is_multiple_of(4) && self.has(at, 4), "word outside its file");
        assert!(self.narrow.contains(&at), "a 32-bit access to 64-bit words");
        // SAFETY: as in `u64_at`.
        unsafe { self.mapping.base().add(at).cast::<AtomicU32>().as_ref() }
    }

    #[inline]
    fn has(&self, at: usize, bytes: usize) -> bool {
        at.checked_add(bytes).is_some_and(|end| end <= self.len)
    }
}

fn check_narrow(narrow: &Range<usize>) -> Result<()> {
    let aligned = narrow.start.is_multiple_of(8) && narrow.end.is_multiple_of(8) && narrow.start <= narrow.end;
    if aligned { Ok(()) } else { Err(Errno::INVAL) }
}

fn allocate(fd: &OwnedFd, len: usize) -> Result<()> {
    loop {
        match rustix::fs::fallocate(fd, FallocateFlags::empty(), 0, len as u64) {
            Err(Errno::INTR) => {}
            done => return done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::unix::fs::PermissionsExt;

    /// Six 32-bit words come first.
    const NARROW: Range<usize> = 0..24;

    fn dir() -> (tempfile::TempDir, File) {
        let dir = tempfile::tempdir().unwrap();
        let fd = File::open(dir.path()).unwrap();
        (dir, fd)
    }

    #[test]
    fn what_one_mapping_writes_another_reads() {
        let (path, dir) = dir();
        let owner = ForeignFile::create(&dir, "region", 4096 + 72, NARROW).unwrap();
        assert_eq!(std::fs::metadata(path.path().join("region")).unwrap().permissions().mode() & 0o7777, 0o600);
        assert_eq!(ForeignFile::create(&dir, "region", 64, NARROW).unwrap_err(), Errno::EXIST);
        let other = ForeignFile::open(&dir, "region", NARROW).unwrap();
        assert_eq!((owner.len(), other.len()), (4168, 4168));
        owner.copy_in(4096, b"seventy-two bytes end here");
        owner.store_u32(4, 7, Ordering::Release);
        assert_eq!(other.add_u32(4, 1, Ordering::AcqRel), 7);
        assert_eq!(owner.load_u32(4, Ordering::Acquire), 8);
        owner.add_u64(24, 5, Ordering::AcqRel);
        assert_eq!(other.load_u64(24, Ordering::Acquire), 5);
        let mut out = [0; 26];
        other.copy_out(4096, &mut out);
        assert_eq!(&out, b"seventy-two bytes end here");
    }

    #[test]
    fn a_sleeper_is_woken_and_a_changed_word_does_not_sleep() {
        let (_path, dir) = dir();
        let file = ForeignFile::create(&dir, "region", 64, NARROW).unwrap();
        assert_eq!(file.futex_wait(8, 1, None), Err(Errno::AGAIN));
        assert_eq!(file.futex_wait(8, 0, Some(Duration::from_millis(1))), Err(Errno::TIMEDOUT));
        let other = ForeignFile::open(&dir, "region", NARROW).unwrap();
        std::thread::scope(|scope| {
            let sleeper = scope.spawn(|| {
                while file.load_u32(8, Ordering::Acquire) == 0 {
                    let _ = file.futex_wait(8, 0, Some(Duration::from_secs(20)));
                }
            });
            other.add_u32(8, 1, Ordering::AcqRel);
            other.futex_wake(8, 1).unwrap();
            sleeper.join().unwrap();
        });
    }

    #[test]
    fn a_file_cut_short_in_use_reads_as_zeros_and_says_so() {
        let (_path, dir) = dir();
        let file = ForeignFile::create(&dir, "region", 16384, NARROW).unwrap();
        file.copy_in(8192, b"there");
        assert!(!file.truncated());
        rustix::fs::ftruncate(file.fd(), 0).unwrap();
        let mut out = [1; 5];
        file.copy_out(8192, &mut out);
        assert_eq!(out, [0; 5]);
        assert!(file.truncated());
    }

    #[test]
    fn links_directories_and_empty_files_are_refused() {
        let (path, dir) = dir();
        std::fs::write(path.path().join("empty"), "").unwrap();
        std::fs::write(path.path().join("full"), "content!").unwrap();
        std::os::unix::fs::symlink("full", path.path().join("link")).unwrap();
        assert_eq!(ForeignFile::open(&dir, "empty", NARROW).unwrap_err(), Errno::INVAL);
        assert_eq!(ForeignFile::open(&dir, "link", NARROW).unwrap_err(), Errno::LOOP);
        assert_eq!(ForeignFile::open(&dir, "absent", NARROW).unwrap_err(), Errno::NOENT);
        assert_eq!(ForeignFile::open(&dir, ".", NARROW).unwrap_err(), Errno::ISDIR);
        assert_eq!(ForeignFile::create(&dir, "link", 64, NARROW).unwrap_err(), Errno::EXIST);
    }

    #[test]
    fn a_byte_belongs_to_words_of_one_width() {
        let (_path, dir) = dir();
        assert_eq!(ForeignFile::create(&dir, "region", 64, 4..8).unwrap_err(), Errno::INVAL);
        let file = ForeignFile::create(&dir, "region", 64, 16..32).unwrap();
        let panics = |access: &dyn Fn()| std::panic::catch_unwind(std::panic::AssertUnwindSafe(access)).is_err();
        for at in (0..64).step_by(4) {
            let narrow = (16..32).contains(&at);
            assert_eq!(panics(&|| file.store_u32(at, 1, Ordering::Relaxed)), !narrow, "{at}");
            let wide = at.is_multiple_of(8) && !narrow;
            assert_eq!(panics(&|| _ = file.add_u64(at, 1, Ordering::Relaxed)), !wide, "{at}");
        }
        // Copies go over both, and end anywhere.
        let bytes: [u8; 64] = std::array::from_fn(|i| i as u8 + 1);
        for (at, len) in [(0, 64), (0, 13), (8, 11), (8, 27), (16, 16), (16, 3), (24, 40), (32, 32), (64, 0)] {
            file.copy_in(0, &[0; 64]);
            file.copy_in(at, &bytes[..len]);
            let mut out = [0; 64];
            file.copy_out(at, &mut out[..len]);
            assert_eq!(out[..len], bytes[..len], "{len} bytes at {at}");
            file.copy_out(0, &mut out);
            assert_eq!(out[at..at + len], bytes[..len]);
            assert!(out[..at].iter().all(|&byte| byte == 0), "nothing before {at}");
        }
    }
}
