//! A test that lacks a privilege or a tool says so, by name.
//!
//! The output of a test that passes is hidden, so that a line in it tells nobody. A skipped test is therefore noted in
//! the file that [`SKIPS`] names, and `cargo xtask test` prints that file at the end of the run.
//!
//! ```no_run
//! # fn a_test() {
//! if !ginnel_testing::is_root("to become another user") {
//!     return;
//! }
//! # }
//! ```

use std::fmt::Display;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

mod sys;

pub use sys::default_signals;

/// The variable with the path of the file to which each skipped test adds a line.
pub const SKIPS: &str = "GINNEL_SKIPS";

/// The variable with the name of the emulator under which the tests run, if they do (`cargo xtask cross`).
pub const EMULATOR: &str = "GINNEL_EMULATOR";

/// Notes that the calling test, or a part of it, is skipped, and why: `needs …`.
pub fn skip(why: impl Display) {
    let line = format!("{}: {why}\n", test());
    eprint!("skipped: {line}");
    let Some(path) = std::env::var_os(SKIPS) else { return };
    // One write to a file opened for appending: tests of many processes do not mix their lines.
    let file = OpenOptions::new().append(true).create(true).open(path);
    // A test that has become another user may be unable to write here; its own output still has the line.
    let _ = file.and_then(|mut file| file.write_all(line.as_bytes()));
}

/// `has`; if it is false, the calling test is noted as skipped because of `why`.
#[must_use]
pub fn has(has: bool, why: impl Display) -> bool {
    if !has {
        skip(why);
    }
    has
}

/// Whether this is root; if not, the calling test is noted as skipped because it needs root for `purpose`: `to …`.
#[must_use]
pub fn is_root(purpose: impl Display) -> bool {
    has(rustix::process::geteuid().is_root(), format_args!("needs root {purpose}"))
}

/// Whether `program` is installed; if not, the calling test is noted as skipped.
#[must_use]
pub fn has_program(program: &str) -> bool {
    has(finds(program), format_args!("needs the program {program}"))
}

/// Whether `program` is in one of the directories of `PATH`.
#[must_use]
pub fn finds(program: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()))
}

/// Whether `unshare` with these options (`-pfm`) works here; if not, the calling test is noted as skipped.
#[must_use]
pub fn has_namespaces(options: &str) -> bool {
    let made = Command::new("unshare").args([options, "true"]).stderr(Stdio::null()).status();
    has(made.is_ok_and(|status| status.success()), format_args!("needs the namespaces of `unshare {options}`"))
}

/// Whether this runs on the processor itself; if not, the calling test is noted as skipped because the emulator lacks
/// `what`: `ptrace`.
#[must_use]
pub fn is_native(what: impl Display) -> bool {
    match std::env::var(EMULATOR) {
        Ok(emulator) => has(false, format_args!("needs {what}, which {emulator} does not have")),
        Err(_) => true,
    }
}

/// Whether an emulator runs this.
#[must_use]
pub fn is_emulated() -> bool {
    std::env::var_os(EMULATOR).is_some()
}

/// The number of the system call in which a thread of this process sleeps; `None` while it runs, or is gone.
#[must_use]
pub fn asleep_in(thread: u32) -> Option<i64> {
    let call = std::fs::read_to_string(format!("/proc/self/task/{thread}/syscall")).ok()?;
    let call = call.split_whitespace().next()?.parse().ok()?;
    // An emulator sleeps by a call of the processor below, whose numbers are those of x86_64.
    let emulated = [(271, libc::SYS_ppoll), (45, libc::SYS_recvfrom), (202, libc::SYS_futex)];
    match emulated.into_iter().find(|(below, _)| *below == call) {
        Some((_, call)) if is_emulated() => Some(call),
        _ => Some(call),
    }
}

/// The calling test: package, test program, name.
fn test() -> String {
    let package = std::env::var("CARGO_PKG_NAME").unwrap_or_else(|_| "?".to_owned());
    let program = std::env::current_exe().unwrap_or_default();
    let thread = std::thread::current();
    // With one test at a time the test harness uses its own thread, whose name says nothing.
    let name = match thread.name() {
        Some(name) if name != "main" => name.to_owned(),
        _ => std::env::var("NEXTEST_TEST_NAME").unwrap_or_else(|_| "?".to_owned()),
    };
    format!("{package}::{} {name}", stem(&program))
}

/// The name of a test program without the hash that cargo adds.
fn stem(program: &Path) -> String {
    let name = program.file_name().unwrap_or_default().to_string_lossy();
    name.rsplit_once('-').map_or(name.to_string(), |(stem, _)| stem.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_of_a_test_can_be_interrupted_also_under_nohup() {
        use std::os::unix::process::ExitStatusExt;
        const NAME: &str = "tests::a_child_of_a_test_can_be_interrupted_also_under_nohup";
        let interrupted = || {
            let status = Command::new("sh").args(["-c", "kill -INT $$; kill -QUIT $$; kill -HUP $$"]).status();
            status.unwrap().signal()
        };
        if std::env::var_os("GINNEL_TESTING_CHILD").is_some() {
            assert_eq!(interrupted(), None, "nothing is ignored here");
            default_signals();
            assert_eq!(interrupted(), Some(2));
            return;
        }
        let script = "trap '' HUP INT QUIT; exec \"$@\"";
        let test = std::env::current_exe().unwrap();
        let output = Command::new("sh")
            .args(["-c", script, "sh", test.to_str().unwrap(), "--exact", NAME])
            .env("GINNEL_TESTING_CHILD", "1")
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    #[test]
    fn what_is_skipped_is_noted_by_name() {
        if std::env::var_os("GINNEL_TESTING_CHILD").is_some() {
            assert!(has(true, "never said"));
            assert!(!has(false, "needs the moon"));
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("skips");
        for _ in 0..2 {
            let output = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "tests::what_is_skipped_is_noted_by_name"])
                .env(SKIPS, &file)
                .env("GINNEL_TESTING_CHILD", "1")
                .env("CARGO_PKG_NAME", "ginnel-testing")
                .output()
                .unwrap();
            assert!(output.status.success(), "{output:?}");
        }
        let line = "ginnel-testing::ginnel_testing tests::what_is_skipped_is_noted_by_name: needs the moon\n";
        assert_eq!(std::fs::read_to_string(&file).unwrap(), line.repeat(2));
    }
}
