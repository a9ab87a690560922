//! `cargo xtask soak`: the long proofs. Every test at full length, then every fuzz target.

use crate::fuzz;
use crate::test;

#[derive(clap::Args)]
#[command(after_help = "Examples:\n  cargo xtask soak\n  cargo xtask soak --fuzz-minutes 120")]
pub(crate) struct Soak {
    /// How long all fuzz targets run together, each for an equal share.
    #[arg(long, default_value_t = 30)]
    fuzz_minutes: u64,
}

impl Soak {
    pub(crate) fn run(self) -> Result<(), String> {
        test::tests(&[("GINNEL_SOAK", "1"), ("NEXTEST_PROFILE", "soak")])?;
        let targets = fuzz::targets()?;
        fuzz::run(&targets, (self.fuzz_minutes * 60).div_ceil(targets.len().max(1) as u64))
    }
}
