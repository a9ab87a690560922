//! Answers of the three real services, from the files of this machine.
//!
//! A provider fills a builder and knows nothing of sessions: the server in front of it decides limits and status.

use crate::apps_lookup::{App, AppCgroup, AppOutcome, AppsLookup};
use crate::cgroups_lookup::{CgroupOutcome, CgroupsLookup};
use crate::dispatch::LookupDispatch;
use crate::error::EncodeError;
use crate::host::{Cgroups, Found, Identity, Processes};
use crate::labels::Labels;
use crate::snapshot::{Cgroup, SnapshotBuilder, snapshot_len};
use std::io;
use std::sync::Arc;

/// Why a provider could not answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProviderError {
    /// The answer does not fit or cannot be encoded.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The files of the machine cannot be read.
    #[error("cannot read the cgroups and processes of this machine: {0}")]
    Read(#[from] io::Error),
}

/// Provides CGROUPS_SNAPSHOT, CGROUPS_LOOKUP and APPS_LOOKUP from one view of one machine. Clones share their scans.
#[derive(Debug, Clone)]
pub struct HostProvider {
    cgroups: Arc<Cgroups>,
    processes: Processes,
}

impl HostProvider {
    /// Answers from these cgroups and the processes of the same machine.
    #[must_use]
    pub fn new(cgroups: Arc<Cgroups>) -> Self {
        let processes = Processes::new(cgroups.host().clone());
        Self { cgroups, processes }
    }

    /// Writes the snapshot of all cgroups. `enabled` is 1 where any process lives.
    ///
    /// # Errors
    /// [`ProviderError`]; [`EncodeError::TooLarge`] is the server's cue to learn a larger limit.
    pub fn snapshot(&self, out: &mut Vec<u8>, limit: usize) -> Result<(), ProviderError> {
        let index = self.cgroups.index()?;
        let items = index.records().iter().map(|record| Cgroup {
            hash: record.hash,
            options: 0,
            enabled: u32::from(record.populated),
            name: &record.name,
            path: &record.directory,
        });
        let needed = snapshot_len(items.clone());
        if needed > limit {
            return Err(EncodeError::TooLarge { needed: needed as u64, limit: limit as u64 }.into());
        }
        let systemd = u32::from(self.cgroups.host().runs_systemd());
        let mut builder = SnapshotBuilder::new(out, limit, systemd, index.generation(), items.len())?;
        for item in items {
            builder.push(&item)?;
        }
        builder.finish();
        Ok(())
    }

    /// Answers paths: of a hierarchy (`/system.slice/ssh.service`) or below a mount (`/sys/fs/cgroup/unified/…`).
    ///
    /// # Errors
    /// [`ProviderError`].
    pub fn cgroups(&self, dispatch: &mut LookupDispatch<'_, '_, CgroupsLookup>) -> Result<(), ProviderError> {
        let index = self.cgroups.index()?;
        dispatch.set_generation(index.generation());
        while let Some(path) = dispatch.next_key() {
            match self.cgroups.find(&index, path) {
                Found::Known(identity) => {
                    let labels = borrow(&identity);
                    let (orchestrator, name) = (identity.orchestrator, &identity.name[..]);
                    dispatch.answer(&CgroupOutcome::Known { orchestrator, name, labels: Labels::new(&labels) })?;
                }
                Found::Later => dispatch.answer(&CgroupOutcome::UnknownRetryLater)?,
                Found::Gone => dispatch.answer(&CgroupOutcome::UnknownPermanent)?,
            }
        }
        Ok(())
    }

    /// Answers pids. The generation is always 1: each process is looked at as it is, and a lookup of many need not
    /// start over because some container came or went meanwhile.
    ///
    /// # Errors
    /// [`ProviderError`]; [`ProviderError::Read`] if a process cannot be looked at now. The protocol has no "ask again
    /// later" for a pid, and that a process is unknown is not said before it is known.
    pub fn apps(&self, dispatch: &mut LookupDispatch<'_, '_, AppsLookup>) -> Result<(), ProviderError> {
        let index = self.cgroups.index()?;
        dispatch.set_generation(1);
        while let Some(pid) = dispatch.next_key() {
            let Some(process) = self.processes.get(pid)? else {
                dispatch.answer(&AppOutcome::Unknown)?;
                continue;
            };
            let path = &process.cgroup[..];
            let found = if path == b"/" { None } else { Some(self.cgroups.find(&index, path)) };
            let labels = match &found {
                Some(Found::Known(identity)) => borrow(identity),
                _ => Vec::new(),
            };
            let cgroup = match &found {
                None => AppCgroup::HostRoot,
                Some(Found::Known(identity)) => AppCgroup::Known {
                    path,
                    name: &identity.name,
                    orchestrator: identity.orchestrator,
                    labels: Labels::new(&labels),
                },
                Some(Found::Later) => AppCgroup::UnknownRetryLater { path },
                Some(Found::Gone) => AppCgroup::UnknownPermanent { path },
            };
            let (ppid, uid, starttime) = (process.ppid, process.uid, process.starttime);
            dispatch.answer(&AppOutcome::Known(App { ppid, uid, starttime, comm: &process.comm, cgroup }))?;
        }
        Ok(())
    }
}

fn borrow(identity: &Identity) -> Vec<(&[u8], &[u8])> {
    identity.labels.iter().map(|(key, value)| (&key[..], &value[..])).collect()
}
