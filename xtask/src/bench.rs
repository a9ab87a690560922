//! `cargo xtask bench NAME`: one module a subject.

mod process;

#[derive(clap::Args)]
pub(crate) struct Bench {
    #[command(subcommand)]
    subject: Subject,
}

#[derive(clap::Subcommand)]
enum Subject {
    /// Spawning, streams and killing of ginnel-process: docs/benchmarks/process.md.
    Process(process::Process),
}

impl Bench {
    pub(crate) fn run(self) -> Result<(), String> {
        match self.subject {
            Subject::Process(subject) => subject.run(),
        }
    }
}
