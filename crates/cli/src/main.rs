//! The `ginnel` command. Thin: each command parses its arguments, calls a library, prints.
//!
//! Exit codes: 0 done, 1 the work failed, 2 the command line is wrong; `run` passes its command's own code on.

#![deny(unsafe_code)]

use clap::{Parser, Subcommand};
use std::process::ExitCode;

mod bench;
mod call;
mod channel;
mod demo;
mod interrupt;
mod job;
mod netipc;
mod outcome;
mod procs;
mod ps;
mod quantity;
mod run;
mod serve;
mod service;
mod terminal;
mod top;
mod waiting;

/// Talk between processes of this machine: shared-memory channels, services, supervised commands.
#[derive(Parser)]
#[command(name = "ginnel", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

// One variant a command; its arguments and its `run(self) -> ExitCode` live in the module of the same name.
#[derive(Subcommand)]
enum Command {
    /// What every way to talk between processes costs on this machine.
    Bench(Box<bench::Bench>),
    /// A process of `bench`.
    #[command(hide = true)]
    BenchSide,
    /// Shared-memory channels: publish, read, list, inspect, clean.
    Channel(channel::Channel),
    /// The quick start: two processes talk through shared memory and show what that costs.
    Demo(demo::Demo),
    /// The other process of `demo`.
    #[command(hide = true)]
    DemoChild(demo::DemoChild),
    Ps(ps::Ps),
    Run(run::Run),
    Call(call::Call),
    Serve(serve::Serve),
    /// Servers and clients of this user: list them, show one.
    Service(service::Service),
    Top(top::Top),
    /// Netdata's services: serve this machine's cgroups and processes, ask any such service, measure one.
    Netipc(netipc::Netipc),
}

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_env("GINNEL_LOG"))
        .with_writer(std::io::stderr)
        .init();
    match Cli::parse().command {
        Command::Bench(bench) => bench.run(),
        Command::BenchSide => bench::side(),
        Command::Channel(channel) => channel.run(),
        Command::Demo(demo) => demo.run(),
        Command::DemoChild(child) => child.run(),
        Command::Ps(ps) => ps.run(),
        Command::Run(run) => run.run(),
        Command::Call(call) => call.run(),
        Command::Serve(serve) => serve.run(),
        Command::Service(service) => service.run(),
        Command::Top(top) => top.run(),
        Command::Netipc(netipc) => netipc.run(),
    }
}
