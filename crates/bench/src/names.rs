//! The names of one pair: paths in its run's directory, and of message queues, which have a space of their own.

use crate::sys::message_queue;
use std::io;
use std::path::{Path, PathBuf};

/// Longest path that fits a socket's address on every system: macOS takes 104 bytes with the terminating NUL.
const LONGEST: usize = 103;

/// The names of one pair.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    pub(crate) directory: PathBuf,
    pub(crate) pair: usize,
}

impl Names {
    /// A path in the run's directory.
    pub(crate) fn path(&self, name: &str) -> io::Result<PathBuf> {
        let path = self.directory.join(format!("{}{name}", self.pair));
        match path.as_os_str().len() {
            0..=LONGEST => Ok(path),
            long => Err(io::Error::other(format!(
                "{} has {long} bytes, a socket's address takes at most {LONGEST}: set GINNEL_RUN_DIR to a shorter path",
                path.display()
            ))),
        }
    }

    /// The names of the queues to the server and to the client: at most 14 bytes, the least that POSIX promises.
    pub(crate) fn queues(&self) -> [String; 2] {
        let run = self.directory.file_name().and_then(|name| name.to_str()).unwrap_or_default().replace('-', "");
        ["s", "c"].map(|end| format!("/{run}{}{end}", self.pair))
    }
}

/// Removes the queues of a run whose sides are gone: one that was killed may have left its own.
pub(crate) fn remove_queues(directory: &Path, pairs: usize) {
    for pair in 0..pairs {
        for queue in (Names { directory: directory.to_owned(), pair }).queues() {
            let _ = message_queue::unlink(&queue); // nearly always it is gone
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_the_shortest_limits() {
        let names = Names { directory: "/run/user/1000/ginnel/b-89abcdef".into(), pair: 64 };
        assert!(names.queues().iter().all(|queue| queue.len() <= 14), "{:?}", names.queues());
        assert_ne!(names.queues()[0], names.queues()[1]);
        assert!(names.path("s").unwrap().as_os_str().len() <= LONGEST);
        let long = Names { directory: format!("/{}", "d".repeat(100)).into(), pair: 64 };
        assert!(long.path("s").unwrap_err().to_string().contains("GINNEL_RUN_DIR"));
    }
}
