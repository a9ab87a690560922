//! `cargo xtask platforms`: the parts that are bound to no operating system, checked for others than Linux.

use crate::test::cargo;
use std::path::{Path, PathBuf};
use std::process::Command;

const TARGETS: &[&str] = &["x86_64-pc-windows-gnu", "aarch64-apple-darwin"];
/// Protocol, codecs, methods and router, scheduler, executor, cache, and what they stand on.
const PACKAGES: &[&str] = &["ginnel-base", "ginnel-codec", "ginnel-wire", "ginnel-session", "ginnel-service"];
/// A directory with a built standard library for each target.
const SYSROOTS: &str = "GINNEL_SYSROOTS";
/// The source of the standard library of this very compiler.
const LIBRARY: &str = "GINNEL_LIBRARY";

#[derive(clap::Args)]
#[command(after_help = "Examples:\n  cargo xtask platforms\n  \
    cargo xtask platforms --target x86_64-pc-windows-gnu --require\n\n\
    A target is checked if the toolchain has a standard library for it (`rustup target add TARGET`), or else with one \
    of\n  GINNEL_SYSROOTS=DIR   DIR/TARGET/lib/rustlib/TARGET/lib, as `cargo xtask cross` takes it\n  \
    GINNEL_LIBRARY=DIR    the `library` directory of the compiler's own source: it is checked along, which needs\n\
    \x20                       binutils-mingw-w64-x86-64 for Windows")]
pub(crate) struct Platforms {
    /// Check this target only. Can be given more than once.
    #[arg(long)]
    target: Vec<String>,
    /// Fail if a target cannot be checked, instead of saying so.
    #[arg(long)]
    require: bool,
}

/// Where the standard library of a target comes from.
enum Library {
    Toolchain,
    Sysroot(PathBuf),
    Source(PathBuf),
}

impl Platforms {
    pub(crate) fn run(self) -> Result<(), String> {
        let chosen: Vec<&str> = match &self.target[..] {
            [] => TARGETS.to_vec(),
            some => some.iter().map(String::as_str).collect(),
        };
        let mut missing = Vec::new();
        for target in chosen {
            match library(target) {
                Some(library) => {
                    println!("platforms: {target}");
                    check(target, &library)?;
                }
                None => {
                    println!(
                        "platforms: {target} is NOT CHECKED: the toolchain has no standard library for it, and neither \
                         {SYSROOTS} nor {LIBRARY} names one (see `cargo xtask platforms --help`)"
                    );
                    missing.push(target);
                }
            }
        }
        if self.require && !missing.is_empty() {
            return Err(format!("not checked: {}", missing.join(", ")));
        }
        Ok(())
    }
}

fn check(target: &str, library: &Library) -> Result<(), String> {
    let mut args = vec!["check", "--all-features", "--target", target, "--target-dir", "target/platforms"];
    args.extend(PACKAGES.iter().flat_map(|package| ["--package", package]));
    match library {
        Library::Toolchain => cargo(&args, &[]),
        Library::Sysroot(root) => {
            let flags = format!("CARGO_TARGET_{}_RUSTFLAGS", target.to_uppercase().replace('-', "_"));
            cargo(&args, &[(&flags, &format!("--sysroot {}", root.display()))])
        }
        Library::Source(source) => {
            args.push("-Zbuild-std=std,panic_unwind");
            let source = source.to_str().ok_or_else(|| format!("{LIBRARY} is not UTF-8"))?;
            cargo(&args, &[("__CARGO_TESTS_ONLY_SRC_ROOT", source), ("RUSTC_BOOTSTRAP", "1")])
        }
    }
}

fn library(target: &str) -> Option<Library> {
    let asked = Command::new("rustc").args(["--print", "target-libdir", "--target", target]).output().ok()?;
    if asked.status.success() && has_std(Path::new(String::from_utf8_lossy(&asked.stdout).trim())) {
        return Some(Library::Toolchain);
    }
    let named = |variable| std::env::var_os(variable).map(PathBuf::from);
    let sysroot = named(SYSROOTS).map(|sysroots| sysroots.join(target));
    if let Some(root) = sysroot.filter(|root| has_std(&root.join("lib/rustlib").join(target).join("lib"))) {
        return Some(Library::Sysroot(root));
    }
    named(LIBRARY).filter(|source| source.join("std").is_dir()).map(Library::Source)
}

fn has_std(dir: &Path) -> bool {
    let named = |entry: std::io::Result<std::fs::DirEntry>| {
        entry.is_ok_and(|entry| entry.file_name().to_string_lossy().starts_with("libstd-"))
    };
    std::fs::read_dir(dir).is_ok_and(|mut entries| entries.any(named))
}
