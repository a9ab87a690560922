//! `cargo xtask bench`: measurements that run the rivals beside ours, and the reports made of them.

mod netipc;

#[derive(clap::Args)]
pub(crate) struct Bench {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// The netipc services: sockets and shared memory, single, batched, pipelined; snapshots, lookups, the cache.
    Netipc(netipc::Netipc),
}

impl Bench {
    pub(crate) fn run(self) -> Result<(), String> {
        match self.what {
            What::Netipc(task) => task.run(),
        }
    }
}
