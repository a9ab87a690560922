//! The store itself. It knows nothing of services: the scheduler sees to it that nobody reads a fork while it is written.

use crate::interface::{Change, FORK_EXISTS, NO_SUCH_FORK, View};
use ginnel::service::{ApplicationError, Failure};
use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

type Values = BTreeMap<String, String>;

#[derive(Default)]
struct ForkState {
    /// Swapped by a commit, never changed: whoever has it reads it in peace.
    committed: RwLock<Arc<Values>>,
    /// The same with all changes. Written alone, read by many: the lock is never waited for.
    current: RwLock<Values>,
    commits: RwLock<u64>,
}

pub(crate) struct Store {
    forks: RwLock<HashMap<String, Arc<ForkState>>>,
}

/// The store's locks guard single assignments, whole after any panic.
fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

impl Store {
    /// A store with one empty fork.
    pub(crate) fn new(fork: &str) -> Self {
        Self { forks: RwLock::new([(fork.to_owned(), Arc::default())].into()) }
    }

    fn fork(&self, name: &str) -> Result<Arc<ForkState>, Failure> {
        let absent = || ApplicationError::new(NO_SUCH_FORK, format!("there is no fork {name:?}"));
        Ok(Arc::clone(read(&self.forks).get(name).ok_or_else(absent)?))
    }

    pub(crate) fn forks(&self) -> Vec<String> {
        let mut names: Vec<String> = read(&self.forks).keys().cloned().collect();
        names.sort();
        names
    }

    pub(crate) fn get(&self, fork: &str, view: View, key: &str) -> Result<Option<String>, Failure> {
        let fork = self.fork(fork)?;
        Ok(match view {
            View::Committed => read(&fork.committed).get(key).cloned(),
            View::Uncommitted => read(&fork.current).get(key).cloned(),
        })
    }

    pub(crate) fn write(&self, fork: &str, changes: Vec<Change>) -> Result<u64, Failure> {
        let fork = self.fork(fork)?;
        let mut current = write(&fork.current);
        let count = changes.len() as u64;
        for (key, value) in changes {
            match value {
                Some(value) => current.insert(key, value),
                None => current.remove(&key),
            };
        }
        Ok(count)
    }

    pub(crate) fn commit(&self, fork: &str) -> Result<u64, Failure> {
        let fork = self.fork(fork)?;
        let committed = Arc::new(read(&fork.current).clone());
        *write(&fork.committed) = committed;
        let mut commits = write(&fork.commits);
        *commits += 1;
        Ok(*commits)
    }

    pub(crate) fn fork_off(&self, from: &str, name: String) -> Result<(), Failure> {
        let from = self.fork(from)?;
        let fork = ForkState {
            committed: RwLock::new(Arc::clone(&read(&from.committed))),
            current: RwLock::new(read(&from.current).clone()),
            commits: RwLock::default(),
        };
        match write(&self.forks).entry(name) {
            std::collections::hash_map::Entry::Vacant(place) => {
                place.insert(Arc::new(fork));
                Ok(())
            }
            std::collections::hash_map::Entry::Occupied(taken) => {
                Err(ApplicationError::new(FORK_EXISTS, format!("there is a fork {:?} already", taken.key())).into())
            }
        }
    }

    /// A copy of a range, so that a slow client holds nobody up.
    pub(crate) fn range(
        &self,
        fork: &str,
        view: View,
        from: &str,
        to: Option<&str>,
    ) -> Result<Vec<(String, String)>, Failure> {
        let fork = self.fork(fork)?;
        let end = to.map_or(Bound::Unbounded, Bound::Excluded);
        if to.is_some_and(|to| to <= from) {
            return Ok(Vec::new());
        }
        let copy = |values: &Values| {
            let range = values.range::<str, _>((Bound::Included(from), end));
            range.map(|(key, value)| (key.clone(), value.clone())).collect()
        };
        Ok(match view {
            View::Committed => copy(&read(&fork.committed)),
            View::Uncommitted => copy(&read(&fork.current)),
        })
    }
}
