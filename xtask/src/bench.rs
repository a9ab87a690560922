//! `cargo xtask bench`: measurements that run the rivals beside ours, and the reports made of them.

mod channel;
mod machine;
mod netipc;
mod process;
mod report;
mod runner;
mod statistics;
mod targets;

use std::path::Path;

#[derive(clap::Args)]
pub(crate) struct Bench {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// The channels: latency, throughput, set-up, against the floors of the machine, iceoryx2 and ipc-channel.
    Channel(channel::Channel),
    /// The netipc services: sockets and shared memory, single, batched, pipelined; snapshots, lookups, the cache.
    Netipc(netipc::Netipc),
    /// The processes: spawning, streams and killing, against std, tokio and posix_spawn.
    Process(process::Process),
}

impl Bench {
    pub(crate) fn run(self) -> Result<(), String> {
        match self.what {
            What::Channel(task) => task.run(),
            What::Netipc(task) => task.run(),
            What::Process(task) => task.run(),
        }
    }
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)
            .map_err(|error| format!("cannot create {}: {error}", directory.display()))?;
    }
    std::fs::write(path, text).map_err(|error| format!("cannot write {}: {error}", path.display()))
}
