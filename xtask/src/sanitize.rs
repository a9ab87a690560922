//! `cargo xtask sanitize`: the tests under AddressSanitizer (with its leak checker) or ThreadSanitizer.
//!
//! Sanitizers see one process. The stress tests of the ring therefore map it twice and let threads stand for processes.

use crate::test::cargo;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where the standard library's source is looked for, if not beside the toolchain (`rustup component add rust-src`).
const LIBRARY: &str = "GINNEL_RUST_LIBRARY";
const TARGET: &str = "x86_64-unknown-linux-gnu";

#[derive(clap::Args)]
#[command(after_help = "Examples:\n  cargo xtask sanitize address\n  cargo xtask sanitize thread\n\n\
    `address` needs a nightly toolchain. `thread` builds the standard library anew and needs its source:\n  \
    rustup component add rust-src\nor, unpacked from a distribution's package of the same version,\n  \
    GINNEL_RUST_LIBRARY=/usr/src/rustc-1.95.0/library cargo xtask sanitize thread")]
pub(crate) struct Sanitize {
    /// Which sanitizer to run.
    sanitizer: Sanitizer,
    /// Test this crate only.
    #[arg(long, value_parser = PACKAGES)]
    package: Option<String>,
}

/// Where memory is shared.
const PACKAGES: [&str; 2] = ["ginnel-memory", "ginnel-channel"];

#[derive(Clone, Copy, clap::ValueEnum)]
enum Sanitizer {
    /// Use after free, out of bounds, leaks.
    Address,
    /// Data races.
    Thread,
}

impl Sanitize {
    pub(crate) fn run(self) -> Result<(), String> {
        let packages: Vec<&str> = self.package.as_deref().map_or(PACKAGES.to_vec(), |package| vec![package]);
        match self.sanitizer {
            Sanitizer::Address => address(&packages),
            Sanitizer::Thread => thread(&packages),
        }
    }
}

fn address(packages: &[&str]) -> Result<(), String> {
    let dir = ["--target", TARGET, "--target-dir", "target/asan"];
    for package in packages {
        let args = ["+nightly", "test", "--package", package, "--all-features", "--lib", "--tests"];
        // The guard's handler comes before the sanitizer's, and passes on what is not its own.
        let env = [("RUSTFLAGS", "-Zsanitizer=address"), ("ASAN_OPTIONS", "allow_user_segv_handler=1:detect_leaks=1")];
        cargo(&[&args[..], &dir[..]].concat(), &env)?;
    }
    Ok(())
}

fn thread(packages: &[&str]) -> Result<(), String> {
    let library = library()?;
    let library = library.to_str().ok_or("the path of the library's source is not UTF-8")?;
    let dir = ["--target", TARGET, "--target-dir", "target/tsan", "-Zbuild-std"];
    let env = [
        // Cargo looks for the source here instead of beside the toolchain, and takes -Z on a stable toolchain.
        ("__CARGO_TESTS_ONLY_SRC_ROOT", library),
        ("RUSTC_BOOTSTRAP", "1"),
        // The copy in assembly is invisible to the sanitizer: the atomic one is what it checks.
        ("RUSTFLAGS", "-Zsanitizer=thread --cfg ginnel_atomic_copy"),
        ("TSAN_OPTIONS", "halt_on_error=1"),
    ];
    for package in packages {
        let args = ["test", "--package", package, "--all-features", "--lib", "--tests"];
        // The sanitizer's own system calls and background thread would be counted as ours.
        let skip = ["--", "--skip", "syscalls::", "--skip", "idle::"];
        cargo(&[&args[..], &dir[..], &skip[..]].concat(), &env)?;
    }
    Ok(())
}

fn library() -> Result<PathBuf, String> {
    let library = match std::env::var_os(LIBRARY) {
        Some(path) => PathBuf::from(path),
        None => {
            let out = Command::new("rustc").args(["--print", "sysroot"]).output();
            let out = out.map_err(|error| format!("cannot start rustc: {error}"))?;
            Path::new(String::from_utf8_lossy(&out.stdout).trim()).join("lib/rustlib/src/rust/library")
        }
    };
    if library.join("std/Cargo.toml").exists() {
        return Ok(library);
    }
    Err(format!(
        "there is no source of the standard library in {}: `rustup component add rust-src`, or set {LIBRARY} to it",
        library.display()
    ))
}
