//! `cargo xtask soak`: the long proofs. Every test at full length, then every fuzz target.

use crate::fuzz;
use crate::test;

#[derive(clap::Args)]
#[command(after_help = "Examples:\n  cargo xtask soak\n  cargo xtask soak --fuzz-minutes 120")]
pub(crate) struct Soak {
    /// How long the fuzz targets of each half (shared memory; bytes of a peer) run in all, each for an equal share.
    #[arg(long, default_value_t = 30)]
    fuzz_minutes: u64,
}

/// What the names of the targets that work on shared memory begin with; the others read bytes.
const MEMORY: [&str; 3] = ["channel_", "ring_", "segment_"];

impl Soak {
    pub(crate) fn run(self) -> Result<(), String> {
        test::tests(&[("GINNEL_SOAK", "1"), ("NEXTEST_PROFILE", "soak")])?;
        let (memory, bytes): (Vec<_>, Vec<_>) =
            fuzz::targets()?.into_iter().partition(|target| MEMORY.iter().any(|prefix| target.starts_with(prefix)));
        let share = |targets: Vec<String>| {
            let seconds = (self.fuzz_minutes * 60).div_ceil(targets.len().max(1) as u64);
            targets.into_iter().map(move |target| (target, seconds))
        };
        fuzz::run(share(memory).chain(share(bytes)).collect())
    }
}
