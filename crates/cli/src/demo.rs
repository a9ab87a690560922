//! `ginnel demo`
use clap::Args;
use std::process::ExitCode;
/// x
#[derive(Args)]
pub(crate) struct Demo {}
impl Demo {
    pub(crate) fn run(self) -> ExitCode {
        ExitCode::SUCCESS
    }
}
