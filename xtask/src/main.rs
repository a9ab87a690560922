//! `cargo xtask test|fuzz|soak|sanitize|cross`: the chores of this repository, one module each.

use clap::{Parser, Subcommand};
use std::process::ExitCode;

mod bench;
mod cross;
mod each;
mod fuzz;
mod platforms;
mod sanitize;
mod soak;
mod test;

#[derive(Parser)]
#[command(name = "xtask", about = "Chores of this repository")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Run every test: unit, integration, documentation, loom models.
    Test(test::Test),
    /// Check what is bound to no operating system for Windows and macOS.
    Platforms(platforms::Platforms),
    /// Run every fuzz target for a while.
    Fuzz(fuzz::Fuzz),
    /// Run the long proofs: every test at full length, every fuzz target.
    Soak(soak::Soak),
    /// Run the tests of shared memory under a sanitizer.
    Sanitize(sanitize::Sanitize),
    /// Build everything for aarch64, and run the tests that an emulator can run.
    Cross(cross::Cross),
    /// Measure, beside the rivals, and write the report.
    Bench(bench::Bench),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().task {
        Task::Test(task) => task.run(),
        Task::Platforms(task) => task.run(),
        Task::Fuzz(task) => task.run(),
        Task::Soak(task) => task.run(),
        Task::Sanitize(task) => task.run(),
        Task::Cross(task) => task.run(),
        Task::Bench(task) => task.run(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("xtask: {message}");
            ExitCode::FAILURE
        }
    }
}
