//! A file that is begun anew before it grows too large.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// A file of limited size: when it is full it is renamed to `NAME.1` (the older ones to `NAME.2` and so on, the oldest
/// is removed), and a new one is begun. A line is kept in one file unless it alone is larger than one. On a full disk a
/// write fails, and what was written so far of a line stays a line of its own; later writes succeed as soon as there is
/// room. For
/// [`Command::tee_stdout`](crate::Command::tee_stdout) and [`Sink::Writer`](crate::Sink::Writer).
///
/// ```
/// use ginnel_process::{Command, RotatingFile};
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("log");
///
/// let log = RotatingFile::open(&path, 1000, 2)?;
/// Command::new("seq").arg("500").tee_stdout(log).run()?;
/// assert!(std::fs::read_to_string(&path)?.ends_with("499\n500\n"));
/// assert!(std::fs::metadata(dir.path().join("log.1"))?.len() <= 1000);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct RotatingFile {
    path: PathBuf,
    file: File,
    len: u64,
    most: u64,
    keep: u32,
    /// Whether the last byte ended a line.
    at_start: bool,
    /// The line that was begun last is lost: its rest will not come.
    torn: bool,
}

impl RotatingFile {
    /// Opens a file for appending, or makes it: at most so many bytes (0 counts as 1), and so many older files beside
    /// it.
    ///
    /// # Errors
    /// When it cannot be opened or made.
    pub fn open(path: impl AsRef<Path>, most_bytes: u64, keep: u32) -> io::Result<RotatingFile> {
        let path = path.as_ref().to_owned();
        let file = append(&path)?;
        let len = file.metadata()?.len();
        Ok(RotatingFile { path, file, len, most: most_bytes.max(1), keep, at_start: true, torn: false })
    }

    fn older(&self, number: u32) -> PathBuf {
        let mut name = self.path.as_os_str().to_owned();
        name.push(format!(".{number}"));
        name.into()
    }

    fn write_piece(&mut self, piece: &[u8]) -> io::Result<usize> {
        let len = self.file.write(piece)?;
        self.len += len as u64;
        self.at_start = piece.get(len.wrapping_sub(1)).is_none_or(|&byte| byte == b'\n');
        Ok(len)
    }

    fn rotate(&mut self) -> io::Result<()> {
        // It may be gone: somebody removed it, or an earlier rotation got no further because the disk was full. Nothing
        // older may be shifted out for one that is not there.
        if fs::symlink_metadata(&self.path).is_ok() {
            for number in (1..self.keep).rev() {
                renamed(fs::rename(self.older(number), self.older(number + 1)))?;
            }
            renamed(if self.keep > 0 { fs::rename(&self.path, self.older(1)) } else { fs::remove_file(&self.path) })?;
        }
        (self.file, self.len) = (append(&self.path)?, 0);
        Ok(())
    }
}

/// What is not there need not be renamed.
fn renamed(result: io::Result<()>) -> io::Result<()> {
    result.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}

impl Write for RotatingFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.torn {
            self.write_piece(b"\n")?;
            self.torn = false;
        }
        let room = usize::try_from(self.most.saturating_sub(self.len)).unwrap_or(usize::MAX);
        let piece = if bytes.len() <= room {
            bytes
        } else if let Some(end) = bytes[..room].iter().rposition(|&byte| byte == b'\n') {
            // The lines that fit.
            &bytes[..=end]
        } else if self.len > 0 && (self.at_start || room == 0) {
            self.rotate()?;
            return self.write(bytes);
        } else {
            // A line that is larger than a file, or the rest of one that was begun here.
            &bytes[..room.max(1)]
        };
        let written = self.write_piece(piece);
        self.torn = written.as_ref().is_err_and(|error| !self.at_start && error.kind() != io::ErrorKind::Interrupted);
        written
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_file_is_too_large_no_line_is_cut_and_the_oldest_goes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = RotatingFile::open(&path, 100, 3).unwrap();
        let text: String = (0..200).map(|number| format!("line {number}\n")).collect();
        for piece in text.as_bytes().chunks(7) {
            log.write_all(piece).unwrap();
        }
        let mut all = String::new();
        for name in ["log.3", "log.2", "log.1", "log"] {
            let part = fs::read_to_string(dir.path().join(name)).unwrap();
            assert!(part.len() <= 100 + 7, "{name}: {}", part.len());
            all.push_str(&part);
        }
        assert!(text.ends_with(&all) && all.len() > 200, "{all}");
        assert!(!dir.path().join("log.4").exists());
        // A whole line that is written at once stays in one file.
        let mut log = RotatingFile::open(dir.path().join("whole"), 30, 1).unwrap();
        for number in 0..20 {
            log.write_all(format!("a whole line {number}\n").as_bytes()).unwrap();
            let part = fs::read_to_string(dir.path().join("whole")).unwrap();
            assert!(part.starts_with("a whole") && part.len() <= 30, "{part:?}");
        }
    }

    #[test]
    fn a_file_that_somebody_removed_is_begun_anew_and_costs_no_older_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        for keep in [0, 2] {
            let mut log = RotatingFile::open(&path, 10, keep).unwrap();
            log.write_all(b"first\nsecond\n").unwrap();
            fs::remove_file(&path).unwrap();
            log.write_all(b"third\n").unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), "third\n");
        }
        assert_eq!(fs::read_to_string(dir.path().join("log.1")).unwrap(), "first\n");
    }

    #[test]
    fn what_is_larger_than_a_file_is_cut() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = RotatingFile::open(&path, 10, 1).unwrap();
        log.write_all(&[b'x'; 25]).unwrap();
        assert_eq!((fs::read(&path).unwrap().len(), fs::read(dir.path().join("log.1")).unwrap().len()), (5, 10));
        let mut none = RotatingFile::open(dir.path().join("none"), 10, 0).unwrap();
        none.write_all(&[b'x'; 25]).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
    }
}
