//! The process table of this machine, read from `/proc` (see `proc_pid_stat(5)`).

use crate::outcome::Failure;
use std::fs::File;
use std::io::Read;

/// One process, as far as the demo is interested.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) pid: u32,
    pub(super) name: [u8; 16],
    /// `R`, `S`, `D`, `Z`, ...
    pub(super) state: u8,
    /// User and system time, clock ticks.
    pub(super) cpu_ticks: u64,
    /// Resident memory, pages.
    pub(super) memory_pages: u64,
}

/// Reads the table; keeps its buffer.
#[derive(Default)]
pub(super) struct Table {
    stat: Vec<u8>,
}

impl Table {
    /// Calls `each` for every process there is. Processes that end meanwhile are left out.
    pub(super) fn sweep(&mut self, mut each: impl FnMut(Process) -> Result<(), Failure>) -> Result<(), Failure> {
        let entries =
            std::fs::read_dir("/proc").map_err(|error| Failure::new(format!("cannot read /proc: {error}")))?;
        for entry in entries {
            let name = entry?.file_name();
            let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
            self.stat.clear();
            let read = File::open(format!("/proc/{pid}/stat")).and_then(|mut file| file.read_to_end(&mut self.stat));
            if read.is_ok()
                && let Some(process) = parse(pid, &self.stat)
            {
                each(process)?;
            }
        }
        Ok(())
    }
}

/// The name stands in brackets and may itself hold brackets: it ends at the last one.
fn parse(pid: u32, stat: &[u8]) -> Option<Process> {
    let open = stat.iter().position(|&byte| byte == b'(')?;
    let close = stat.iter().rposition(|&byte| byte == b')')?;
    let mut name = [0; 16];
    let text = stat.get(open + 1..close)?;
    let len = text.len().min(name.len());
    name[..len].copy_from_slice(&text[..len]);
    let fields: Vec<&str> = std::str::from_utf8(&stat[close + 1..]).ok()?.split_ascii_whitespace().collect();
    // Field 3 of the manual is the first here.
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    Some(Process {
        pid,
        name,
        state: *fields.first()?.as_bytes().first()?,
        cpu_ticks: number(14)? + number(15)?,
        memory_pages: number(24)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_and_spaces_does_not_shift_the_fields() {
        let stat = b"42 (a) (b c) R 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 2100 22\n";
        let process = parse(42, stat).unwrap();
        assert_eq!(&process.name, b"a) (b c\0\0\0\0\0\0\0\0\0");
        assert_eq!((process.state, process.cpu_ticks, process.memory_pages), (b'R', 11 + 12, 2100));
    }

    #[test]
    fn a_sweep_meets_this_process() {
        let mut pids = Vec::new();
        Table::default()
            .sweep(|process| {
                pids.push(process.pid);
                Ok(())
            })
            .unwrap();
        assert!(pids.contains(&std::process::id()));
    }
}
