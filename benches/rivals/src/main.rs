//! Runs one measurement between real processes. `cargo xtask bench channel` calls this program, once per repetition;
//! by hand: `rivals list`, `rivals measure roundtrip/64 ginnel`.

use clap::{Parser, Subcommand};
use measure::{Assignment, Side};
use meet::{Handoff, Plan};
use rustix::fd::RawFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

mod contenders;
mod drive;
mod measure;
mod meet;
mod page;
mod payload;
mod rows;
mod setup;
mod sys;
mod syscalls;

/// An error here ends in one line on stderr and a non-zero exit: never in a number.
pub type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

#[derive(Parser)]
#[command(name = "rivals", about = "One measurement of one mechanism, between processes")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Prints every row as JSON.
    List,
    /// Measures one row with one contender and prints the result as one line of JSON.
    Measure(Measure),
    /// Counts the system calls that each side makes for a message.
    Syscalls(Measure),
    /// Keeps one core busy at the lowest priority there is, until killed.
    Burn { core: usize },
    #[command(hide = true)]
    Join(Join),
}

#[derive(clap::Args, Clone)]
struct Measure {
    row: String,
    contender: String,
    /// The parent's core and the readers' core.
    #[arg(long, value_delimiter = ',', default_values_t = [0, 1])]
    cores: Vec<usize>,
    /// A name that no other run has, for channels and services.
    #[arg(long, default_value_t = format!("rivals-{}", std::process::id()))]
    name: String,
    /// Where to leave files; removed at the end. In memory, as runtime directories are: no disk shall be measured.
    #[arg(long, default_value_os_t = PathBuf::from(format!("/dev/shm/rivals-{}", std::process::id())))]
    directory: PathBuf,
    /// How long to measure.
    #[arg(long, default_value_t = 200)]
    millis: u64,
    /// End earlier, after this many messages.
    #[arg(long, default_value_t = u64::MAX >> 1)]
    messages: u64,
    /// Give up after this many seconds.
    #[arg(long, default_value_t = 20)]
    timeout: u64,
}

#[derive(clap::Args)]
struct Join {
    #[command(flatten)]
    measure: Measure,
    #[arg(long)]
    index: usize,
    #[arg(long)]
    page: RawFd,
    #[arg(long)]
    fd: Vec<RawFd>,
    #[arg(long)]
    inherit_name: Vec<String>,
}

impl Measure {
    fn assignment(&self) -> Outcome<Assignment> {
        let row = rows::all().into_iter().find(|row| row.id == self.row);
        let row = row.ok_or_else(|| format!("no row is called {:?}; see `rivals list`", self.row))?;
        let cores = self.cores[..].try_into().map_err(|_| "--cores wants two numbers")?;
        let plan = Plan { row, name: self.name.clone(), directory: self.directory.clone() };
        Ok(Assignment {
            plan,
            contender: self.contender.clone(),
            cores,
            budget: Duration::from_millis(self.millis),
            messages: self.messages,
        })
    }

    /// Removes what a run left: files of its directory, and shared memory that carries its name.
    fn clean(&self) {
        // What is not there needs no removing; what cannot be removed will be seen in the listing of these directories.
        let _ = std::fs::remove_dir_all(&self.directory);
        for entry in std::fs::read_dir("/dev/shm").into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(&self.name) {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }

    /// Ends this process, and with it its children, when a measurement takes too long.
    fn watch(&self) {
        let task = self.clone();
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_secs(task.timeout));
            eprintln!("rivals: {} by {} took longer than {} s", task.row, task.contender, task.timeout);
            task.clean();
            std::process::exit(4);
        });
    }
}

fn run(task: Task) -> Outcome<()> {
    match task {
        Task::List => println!("{}", serde_json::to_string(&rows::all())?),
        Task::Measure(task) => {
            task.watch();
            std::fs::create_dir_all(&task.directory)?;
            let played = contenders::play(&task.assignment()?, Side::Parent);
            task.clean();
            if let Some(measurement) = played? {
                println!("{}", serde_json::to_string(&measurement)?);
            }
        }
        Task::Syscalls(task) => println!("{}", serde_json::to_string(&syscalls::count(&task)?)?),
        Task::Burn { core } => {
            sys::die_with_parent()?;
            sys::schedule_idle()?;
            sys::pin(core)?;
            loop {
                std::hint::black_box(core);
            }
        }
        Task::Join(task) => {
            let page = measure::inherit(&[task.page]).remove(0);
            let handoff = Handoff { fds: measure::inherit(&task.fd), names: task.inherit_name };
            contenders::play(&task.measure.assignment()?, Side::Child { index: task.index, page, handoff })?;
        }
    }
    Ok(())
}

fn main() -> ExitCode {
    match run(Cli::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("rivals: {error}");
            ExitCode::FAILURE
        }
    }
}
