//! `ginnel ps`: what runs under shepherds.

use crate::outcome;
use crate::quantity::{show_age, show_size};
use ginnel_process::{Shepherd, TreeProcess};
use serde::Serialize;
use std::io::Write;
use std::process::ExitCode;

/// Show what runs under shepherds of this user (of every user, for root), as trees.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  ginnel ps
  ginnel ps --json | jq '.[].tree[].pid'")]
pub(crate) struct Ps {
    /// Print JSON: ages and CPU time in seconds, memory in bytes.
    #[arg(long)]
    json: bool,
}

impl Ps {
    pub(crate) fn run(self) -> ExitCode {
        let shepherds = match ginnel_process::shepherds() {
            Ok(shepherds) => shepherds,
            Err(error) => {
                outcome::tell(format_args!("ginnel ps: cannot read /proc: {error}"));
                return ExitCode::FAILURE;
            }
        };
        let text = if self.json {
            let rows: Vec<Row<'_>> = shepherds.iter().map(Row::new).collect();
            serde_json::to_string_pretty(&rows).map(|text| text + "\n").unwrap_or_default()
        } else {
            table(&shepherds)
        };
        // A reader that has seen enough is no failure.
        match std::io::stdout().write_all(text.as_bytes()) {
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
                outcome::tell(format_args!("ginnel ps: {error}"));
                ExitCode::FAILURE
            }
            _ => ExitCode::SUCCESS,
        }
    }
}

#[derive(Serialize)]
struct Row<'a> {
    shepherd: u32,
    parent: u32,
    uid: u32,
    guarantee: String,
    command: &'a [String],
    age: f64,
    memory: u64,
    tree: Vec<Member<'a>>,
}

#[derive(Serialize)]
struct Member<'a> {
    pid: u32,
    parent: u32,
    name: &'a str,
    command: &'a [String],
    state: char,
    age: f64,
    memory: u64,
    cpu: f64,
}

impl<'a> Row<'a> {
    fn new(shepherd: &'a Shepherd) -> Row<'a> {
        let member = |process: &'a TreeProcess| Member {
            pid: process.pid,
            parent: process.parent,
            name: &process.name,
            command: &process.command,
            state: process.state,
            age: process.age.as_secs_f64(),
            memory: process.memory,
            cpu: process.cpu.as_secs_f64(),
        };
        Row {
            shepherd: shepherd.pid,
            parent: shepherd.parent,
            uid: shepherd.uid,
            guarantee: shepherd.protection.to_string(),
            command: &shepherd.command,
            age: shepherd.age.as_secs_f64(),
            memory: memory(shepherd),
            tree: shepherd.tree.iter().map(member).collect(),
        }
    }
}

fn memory(shepherd: &Shepherd) -> u64 {
    shepherd.tree.iter().map(|process| process.memory).sum()
}

fn table(shepherds: &[Shepherd]) -> String {
    if shepherds.is_empty() {
        return "nothing runs under a shepherd\n".to_owned();
    }
    let mut text = format!("{:>8} {:>7} {:>7} {:<13} {}\n", "PID", "AGE", "MEMORY", "GUARANTEE", "COMMAND");
    // A shepherd inside another's tree is shown there, with its guarantee.
    let inner: Vec<u32> = shepherds.iter().flat_map(|shepherd| &shepherd.tree).map(|process| process.pid).collect();
    for shepherd in shepherds.iter().filter(|shepherd| !inner.contains(&shepherd.pid)) {
        let line = format!("shepherd of {}", shepherd.parent);
        push(
            &mut text,
            shepherd.pid,
            show_age(shepherd.age),
            memory(shepherd),
            &shepherd.protection.to_string(),
            &line,
        );
        branch(&mut text, shepherds, &shepherd.tree, shepherd.pid, "");
    }
    text
}

fn push(text: &mut String, pid: u32, age: String, memory: u64, guarantee: &str, line: &str) {
    text.push_str(&format!("{pid:>8} {age:>7} {:>7} {guarantee:<13} {line}\n", show_size(memory)));
}

fn branch(text: &mut String, shepherds: &[Shepherd], tree: &[TreeProcess], parent: u32, indent: &str) {
    let children: Vec<&TreeProcess> = tree.iter().filter(|process| process.parent == parent).collect();
    for (index, process) in children.iter().enumerate() {
        let last = index + 1 == children.len();
        let command =
            if process.command.is_empty() { format!("[{}]", process.name) } else { process.command.join(" ") };
        // Control characters of another program must not reach the terminal.
        let command: String = command.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
        let guarantee = shepherds
            .iter()
            .find(|shepherd| shepherd.pid == process.pid)
            .map(|shepherd| shepherd.protection.to_string());
        let line = format!("{indent}{} {command}", if last { "└─" } else { "├─" });
        push(text, process.pid, show_age(process.age), process.memory, guarantee.as_deref().unwrap_or(""), &line);
        branch(text, shepherds, tree, process.pid, &format!("{indent}{} ", if last { "  " } else { "│ " }));
    }
}
