//! What becomes fd 0, 1 and 2 of a command.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;

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

    /// For stderr only: wherever stdout goes, in the order in which the command writes.
    #[must_use]
    pub fn merged() -> Stdio {
        Stdio(Kind::Merged)
    }
}

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
