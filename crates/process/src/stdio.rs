//! What becomes fd 0, 1 and 2 of a command.

use crate::streams::{ChildStderr, ChildStdin, ChildStdout};
use std::fs::File;
use std::io::{PipeReader, PipeWriter};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

/// One standard stream of a command.
#[derive(Clone, Debug)]
pub struct Stdio(pub(crate) Kind);

#[derive(Clone, Debug)]
pub(crate) enum Kind {
    Null,
    Inherit,
    Piped,
    Merged,
    Given(Arc<OwnedFd>),
    /// The first spawn takes it.
    Once(Arc<Mutex<Option<OwnedFd>>>),
}

impl Stdio {
    /// `/dev/null`.
    #[must_use]
    pub fn null() -> Stdio {
        Stdio(Kind::Null)
    }

    /// The parent's own stream; `/dev/null` where the parent has closed it.
    #[must_use]
    pub fn inherit() -> Stdio {
        Stdio(Kind::Inherit)
    }

    /// A pipe to the parent. Nothing is read ahead: who does not read slows the command down.
    #[must_use]
    pub fn piped() -> Stdio {
        Stdio(Kind::Piped)
    }

    /// A descriptor that the first spawn takes, so that the command value keeps none: the end of a pipe, whose other
    /// side hears of its end only when nobody holds it. A second spawn is refused. What a [`ChildStdout`] or a
    /// [`PipeReader`] becomes is of this kind.
    ///
    /// ```
    /// use ginnel_process::{Command, Stdio};
    ///
    /// let mut yes = Command::new("yes").stdout(Stdio::piped()).spawn()?;
    /// let mut head = Command::new("head");
    /// let mut second = head.args(["-n", "1"]).stdin(yes.stdout.take().unwrap()).stdout(Stdio::null()).spawn()?;
    /// second.wait().unwrap();
    /// yes.wait().unwrap(); // although `head` is still there
    /// head.spawn().unwrap_err();
    /// # Ok::<(), ginnel_process::SpawnError>(())
    /// ```
    #[must_use]
    pub fn once(fd: impl Into<OwnedFd>) -> Stdio {
        Stdio(Kind::Once(Arc::new(Mutex::new(Some(fd.into())))))
    }

    /// For stderr only: wherever stdout goes, in the order in which the command writes.
    #[must_use]
    pub fn merged() -> Stdio {
        Stdio(Kind::Merged)
    }
}

/// For every spawn of the command. The value holds it meanwhile; see [`Stdio::once`] for the end of a pipe.
impl From<OwnedFd> for Stdio {
    fn from(fd: OwnedFd) -> Stdio {
        Stdio(Kind::Given(Arc::new(fd)))
    }
}

impl From<File> for Stdio {
    fn from(file: File) -> Stdio {
        OwnedFd::from(file).into()
    }
}

macro_rules! once {
    ($($end:ty),*) => {$(
        /// For one spawn, see [`Stdio::once`].
        impl From<$end> for Stdio {
            fn from(end: $end) -> Stdio {
                Stdio::once(end)
            }
        }
    )*};
}

once!(ChildStdin, ChildStdout, ChildStderr, PipeReader, PipeWriter);
