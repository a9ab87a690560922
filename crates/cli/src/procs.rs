//! The interface `procs`: this machine's process table as a service. What `ginnel serve procs` answers and `ginnel
//! call` knows by name.

use ginnel_process::TreeProcess;
use ginnel_service::{
    Cache, Context, Failure, Interface, ItemSink, Keyed, Method, Router, SinkError, StreamMethod, Table,
};
use serde::{Deserialize, Serialize};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// All processes, one item each.
pub(crate) const LIST: StreamMethod<(), Process> = StreamMethod::new(1, "list");
/// One process by its pid, if there is one.
pub(crate) const GET: Method<u32, Option<Process>> = Method::new(2, "get").idempotent();
/// All processes at once: what a [`Cache`] of a client is filled with.
pub(crate) const SNAPSHOT: Method<(), Vec<Process>> = Method::new(3, "snapshot").idempotent();

/// One process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    parent: u32,
    name: String,
    command: Vec<String>,
    state: char,
    age_ns: u64,
    cpu_ns: u64,
    memory_bytes: u64,
}

impl Keyed for Process {
    type Key = u32;

    fn key(&self) -> &u32 {
        &self.pid
    }
}

impl From<TreeProcess> for Process {
    fn from(process: TreeProcess) -> Self {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        Self {
            pid: process.pid,
            parent: process.parent,
            age_ns: nanos(process.age),
            cpu_ns: nanos(process.cpu),
            memory_bytes: process.memory,
            name: process.name,
            command: process.command,
            state: process.state,
        }
    }
}

/// The process table, read again when an answer would be older than `max_age`: while nobody asks, nothing is read.
pub(crate) struct Processes {
    cache: Cache<Table<Process>>,
    read: Mutex<Option<Instant>>,
    max_age: Duration,
}

impl Processes {
    pub(crate) fn new(max_age: Duration) -> Self {
        Self { cache: Cache::new(Table::default()), read: Mutex::default(), max_age }
    }

    /// The table, young enough. A read that fails leaves the one before; without any, the request fails.
    fn current(&self) -> Result<Arc<Table<Process>>, Failure> {
        // Whoever comes while another reads waits for its table: all are answered from one read.
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if read.is_none_or(|at| at.elapsed() > self.max_age) {
            let table =
                || -> io::Result<_> { Ok(Table::new(ginnel_process::processes()?.into_iter().map(Process::from))) };
            if self.cache.refresh(table).is_ok() {
                *read = Some(Instant::now());
            }
        }
        drop(read);
        if self.cache.is_ready() { Ok(self.cache.load()) } else { Err(Failure::Internal) }
    }

    /// The methods.
    pub(crate) fn router(self) -> Router {
        let (list, get, all) = {
            let table = Arc::new(self);
            (Arc::clone(&table), Arc::clone(&table), table)
        };
        Router::new(Interface::named("procs"))
            .on_stream(LIST, move |(), mut sink: ItemSink<Process>| {
                let table = match list.current() {
                    Ok(table) => table,
                    Err(failure) => return sink.fail(failure),
                };
                for process in table.iter() {
                    match sink.item(process) {
                        Ok(()) => {}
                        Err(SinkError::TooLarge { len, .. }) => return sink.fail(Failure::Overflow { needed: len }),
                        // The client has enough, or is gone.
                        Err(SinkError::Over(_)) => return,
                        Err(_) => return sink.fail(Failure::Internal),
                    }
                }
                sink.finish();
            })
            .on(GET, move |pid: u32, _: &Context| Ok(get.current()?.get(&pid).cloned()))
            .on(SNAPSHOT, move |(), _: &Context| Ok(all.current()?.iter().cloned().collect()))
    }
}
