//! The run directory: who owns it, and whether others can put things into it.

use crate::config::ClientConfig;
use crate::credentials::PeerCredentials;
use crate::endpoint::Endpoint;
use crate::error::{ConnectError, WritableDir};
use rustix::fd::OwnedFd;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use std::path::Path;

/// An opened run directory with what counts for trust in it.
#[derive(Debug)]
pub(crate) struct Directory {
    pub(crate) fd: OwnedFd,
    /// User id of its owner.
    pub(crate) owner: u32,
    /// Whether its group or everybody may write to it.
    pub(crate) writable: bool,
}

#[derive(Debug)]
pub(crate) enum DirectoryError {
    Io(Errno),
    Writable(WritableDir),
}

impl Directory {
    /// Opens a run directory, for reading (`RDONLY`) or only as a place (`PATH`). A symbolic link is followed: the path
    /// is the caller's word, and it is the directory behind it that is judged.
    pub(crate) fn open(path: &Path, access: OFlags, allow_writable: bool) -> Result<Self, DirectoryError> {
        let fd = rustix::fs::openat(CWD, path, OFlags::DIRECTORY | OFlags::CLOEXEC | access, Mode::empty())
            .map_err(DirectoryError::Io)?;
        let stat = rustix::fs::fstat(&fd).map_err(DirectoryError::Io)?;
        let writable = stat.st_mode & 0o022 != 0;
        if writable && !allow_writable {
            let (path, mode) = (path.to_owned(), stat.st_mode & 0o7777);
            return Err(DirectoryError::Writable(WritableDir { path, mode }));
        }
        Ok(Self { fd, owner: stat.st_uid, writable })
    }
}

/// Whom a client may talk to at an endpoint: judged from its run directory before it connects.
pub(crate) struct Trust<'a> {
    config: &'a ClientConfig,
    owner: Option<u32>,
}

impl<'a> Trust<'a> {
    pub(crate) fn at(endpoint: &Endpoint, config: &'a ClientConfig) -> Result<Self, ConnectError> {
        let owner = match endpoint.service() {
            None => None,
            Some((run_dir, _)) => match Directory::open(run_dir, OFlags::PATH, config.allow_writable_dir) {
                Ok(dir) => Some(dir.owner),
                Err(DirectoryError::Writable(error)) => return Err(ConnectError::WritableDir(error)),
                // Connecting says what is wrong with it.
                Err(DirectoryError::Io(_)) => None,
            },
        };
        Ok(Self { config, owner })
    }

    /// Whether the server may be told anything; `None` is a peer over TCP, which has no user.
    pub(crate) fn accept(&self, peer: Option<PeerCredentials>) -> Result<(), ConnectError> {
        match peer {
            Some(peer) if !self.config.server.accepts(peer.uid, self.owner) => {
                Err(ConnectError::ForeignServer { uid: peer.uid })
            }
            _ => Ok(()),
        }
    }
}
