//! `cargo xtask test|soak|bench`: the chores of this repository, one module each.

use clap::{Parser, Subcommand};
use std::process::ExitCode;

mod bench;
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
    /// Measure, beside the rivals, and write the report.
    Bench(bench::Bench),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().task {
        Task::Test(task) => task.run(),
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
