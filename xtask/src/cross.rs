//! `cargo xtask cross`: everything checked for aarch64, and the suites that qemu can run run there.
//!
//! qemu translates for this machine's processor, which keeps most orders of memory that an aarch64 does not. What it
//! proves is the target's system calls, layouts, alignment, page size and code, not the orderings: loom is for these.

use crate::test::{cargo, noting_skips};
use ginnel_testing::EMULATOR;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const TARGET: &str = "aarch64-unknown-linux-gnu";
const LINKER: &str = "aarch64-linux-gnu-gcc";
const QEMU: &str = "qemu-aarch64";
/// Where Debian has the C library of the target.
const C_LIBRARY: &str = "/usr/aarch64-linux-gnu";
/// The directory with a standard library for each target, where rustup cannot be asked for one.
const SYSROOTS: &str = "GINNEL_SYSROOTS";
/// Keeps the change of target and flags from rebuilding everything else.
const DIR: &str = "target/cross";

/// The crates whose tests run, and which of their programs, where not all do.
const RUN: &[(&str, &str)] = &[
    ("ginnel-wire", "all()"),
    ("ginnel-base", "not test(/a_thread_has_every_signal_blocked/)"),
    ("ginnel-memory", "all()"),
    ("ginnel-channel", "all()"),
    ("ginnel-session", "all()"),
    ("ginnel-service", "all()"),
    ("ginnel-netipc", "all()"),
    ("ginnel-cli", "(binary(channel_flow) | binary(channel_inspect) | binary(netipc))"),
];

/// What is checked and not run, and why. (A single test that needs what qemu does not have skips itself, by name.)
const NOT_RUN: &[(&str, &str)] = &[
    ("ginnel-base a_thread_has_every_signal_blocked…", "/proc shows the signals that qemu blocks"),
    ("ginnel-process, `ginnel run`, `ginnel demo`", "a shepherd starts by CLONE_PIDFD and clone3, which qemu refuses"),
];

#[derive(clap::Args)]
#[command(after_help = "Examples:\n  cargo xtask cross\n  cargo xtask cross --package ginnel-channel\n  \
    cargo xtask cross --no-run\n\n\
    Needs Debian's gcc-aarch64-linux-gnu and, to run, qemu-user; and a standard library for the target: from \
    `rustup target add`, or, where that is not to be had, from\n  GINNEL_SYSROOTS=DIR\n\
    with DIR/aarch64-unknown-linux-gnu/lib/rustlib/aarch64-unknown-linux-gnu/lib/*.rlib, as \
    `cargo build -Zbuild-std=std,panic_unwind,panic_abort,proc_macro,test` makes them of the same compiler's source.")]
pub(crate) struct Cross {
    /// Check only.
    #[arg(long)]
    no_run: bool,
    /// Run the tests of this package only, and check nothing else. Can be given more than once.
    #[arg(long)]
    package: Vec<String>,
}

impl Cross {
    pub(crate) fn run(self) -> Result<(), String> {
        let flags = standard_library()?;
        if !ginnel_testing::finds(LINKER) {
            return Err(format!("no {LINKER}: on Debian, apt-get install gcc-aarch64-linux-gnu libc6-dev-arm64-cross"));
        }
        let env = [
            ("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUSTFLAGS", flags.as_str()),
            ("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", LINKER),
            ("QEMU_LD_PREFIX", C_LIBRARY),
            (EMULATOR, QEMU),
            // Emulated code is slow enough.
            ("CARGO_PROFILE_DEV_OPT_LEVEL", "1"),
            ("NEXTEST_PROFILE", "cross"),
        ];
        let place = ["--locked", "--all-features", "--target", TARGET, "--target-dir", DIR];
        if self.package.is_empty() {
            let lints = ["--", "-D", "warnings"];
            cargo(&[&["clippy", "--workspace", "--all-targets"], &place[..], &lints].concat(), &env)?;
        }
        if self.no_run {
            return Ok(());
        }
        let qemu = program(QEMU).ok_or_else(|| format!("no {QEMU}: on Debian, apt-get install qemu-user"))?;
        for (what, why) in NOT_RUN {
            println!("not run under {QEMU}: {what}: {why}");
        }
        let chosen = |(package, _): &&(&str, &str)| {
            self.package.is_empty() || self.package.iter().any(|wanted| wanted == package)
        };
        let suites: Vec<_> = RUN.iter().filter(chosen).collect();
        let filter: Vec<_> = suites.iter().map(|(package, tests)| format!("(package({package}) & {tests})")).collect();
        let filter = filter.join(" | ");
        let mut args = vec!["nextest", "run", "-E", &filter];
        args.extend(place);
        args.extend(suites.iter().flat_map(|(package, _)| ["--package", package]));
        noting_skips(&env, |env| emulated(&qemu, &args, env))
    }
}

/// The flags with which the compiler finds a standard library for the target.
fn standard_library() -> Result<String, String> {
    let added =
        Command::new("rustup").args(["target", "add", TARGET]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    if added.is_ok_and(|status| status.success()) {
        return Ok(String::new());
    }
    let advice = || {
        format!(
            "`rustup target add {TARGET}` failed, and {SYSROOTS} has no library for it (see `cargo xtask cross --help`)"
        )
    };
    let root = PathBuf::from(std::env::var_os(SYSROOTS).ok_or_else(advice)?).join(TARGET);
    if !root.join("lib/rustlib").join(TARGET).join("lib").is_dir() {
        return Err(advice());
    }
    Ok(format!("--sysroot {}", root.display()))
}

/// Where in `PATH` a program is.
fn program(name: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?).map(|dir| dir.join(name)).find(|path| path.is_file())
}

/// Waits for its ids, registers the emulator for the programs of the target, runs the rest. The pattern is an ELF
/// file's of 64 bits, little-endian, for machine 183; `P` keeps the program's own name, `F` opens the emulator now.
const REGISTER: &str = r#"
read -r _ || exit 1
mount -t binfmt_misc none /proc/sys/fs/binfmt_misc || exit 1
magic='\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00'
mask='\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff'
printf %s ":$0:M::$magic:$mask:$QEMU:PF" >/proc/sys/fs/binfmt_misc/register || exit 1
exec "$@" </dev/null
"#;

/// Runs cargo where the target's programs start under the emulator. Tests start themselves anew, so that a runner for
/// cargo is not enough. The kernel does it for us in a user namespace (since Linux 6.7), without a change to the
/// machine.
fn emulated(qemu: &Path, args: &[&str], env: &[(&str, &str)]) -> Result<(), String> {
    let told = |error| format!("cannot make a namespace for the emulator: {error}");
    let mut child = Command::new("unshare")
        .args(["--user", "--mount", "sh", "-c", REGISTER, "ginnel-aarch64", "cargo"])
        .args(args)
        .env("QEMU", qemu)
        .envs(env.iter().copied())
        .stdin(Stdio::piped())
        .spawn()
        .map_err(told)?;
    let mapped = map_ids(child.id());
    // Without its line the child ends by itself.
    let mut stdin = child.stdin.take().expect("it is piped");
    let started = mapped.and_then(|()| stdin.write_all(b"\n"));
    drop(stdin);
    let status = child.wait().map_err(told)?;
    started.map_err(told)?;
    if status.success() { Ok(()) } else { Err(format!("`cargo {}` under {QEMU} failed ({status})", args.join(" "))) }
}

/// Gives the user namespace of `pid` ids: all for root, whose tests become other users, else our own as root's.
fn map_ids(pid: u32) -> std::io::Result<()> {
    use rustix::process::{getgid, getuid};
    // It has left our namespace when its own is another.
    let namespace = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/user"));
    let limit = Instant::now() + Duration::from_secs(10);
    while namespace(&pid.to_string())? == namespace("self")? {
        if Instant::now() > limit {
            return Err(std::io::Error::other("`unshare --user` did not make one"));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let (users, groups) = if getuid().is_root() {
        ("0 0 65536".to_owned(), "0 0 65536".to_owned())
    } else {
        std::fs::write(format!("/proc/{pid}/setgroups"), "deny")?;
        (format!("0 {} 1", getuid().as_raw()), format!("0 {} 1", getgid().as_raw()))
    };
    std::fs::write(format!("/proc/{pid}/uid_map"), users)?;
    std::fs::write(format!("/proc/{pid}/gid_map"), groups)
}
