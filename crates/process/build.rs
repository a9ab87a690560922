//! Compiles the shepherd, a freestanding program of its own, so that the library can carry it inside.

use std::{env, path::PathBuf, process::Command};

fn main() {
    println!("cargo:rerun-if-changed=shepherd");
    println!("cargo:rerun-if-changed=build.rs");
    // Cargo compares times, and takes what another checkout has left in a shared target directory for ours if it is
    // newer than our sources. The variable (.cargo/config.toml) is the path of this checkout.
    println!("cargo:rerun-if-env-changed=GINNEL_CHECKOUT");
    let target = env::var("TARGET").expect("cargo sets TARGET");
    let arch = env::var("CARGO_CFG_TARGET_ARCH").expect("cargo sets CARGO_CFG_TARGET_ARCH");
    let os = env::var("CARGO_CFG_TARGET_OS").expect("cargo sets CARGO_CFG_TARGET_OS");
    assert!(
        os == "linux" && (arch == "x86_64" || arch == "aarch64"),
        "ginnel-process runs on Linux on x86_64 and aarch64; this build is for {target}"
    );
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("shepherd");
    let mut rustc = Command::new(env::var_os("RUSTC").expect("cargo sets RUSTC"));
    rustc
        .args(["--edition", "2024", "--crate-name", "ginnel_shepherd", "--crate-type", "bin", "--target", &target])
        .args(["-C", "panic=abort", "-C", "opt-level=s", "-C", "strip=symbols", "-C", "codegen-units=1"])
        // No C library: nothing to load, nothing to relocate, and the whole program is a few pages.
        .args(["-C", "relocation-model=static", "-C", "target-feature=+crt-static"])
        .args(["-C", "link-arg=-nostartfiles", "-C", "link-arg=-nostdlib", "-C", "link-arg=-static"])
        .args(["-C", "link-arg=-Wl,--build-id=none", "-C", "link-arg=-Wl,-z,noseparate-code"])
        // Every segment is a mapping to be made and undone with each command.
        .args(["-C", "link-arg=-Wl,-z,norelro", "-C", "force-unwind-tables=no"])
        .arg("shepherd/main.rs")
        .arg("-o")
        .arg(&out);
    if let Some(linker) = env::var_os("RUSTC_LINKER") {
        rustc.arg("-C").arg({
            let mut flag = std::ffi::OsString::from("linker=");
            flag.push(linker);
            flag
        });
    }
    // Where the target's `core` is, when it is not beside the compiler. The other flags are for programs with a C
    // library.
    let flags = env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    let mut flags = flags.split('\x1f');
    while let Some(flag) = flags.next() {
        if flag == "--sysroot" {
            rustc.arg("--sysroot").arg(flags.next().expect("--sysroot is followed by a directory"));
        } else if flag.starts_with("--sysroot=") {
            rustc.arg(flag);
        }
    }
    let status = rustc.status().expect("the compiler cargo uses must be there to start");
    assert!(status.success(), "the shepherd did not compile ({status})");
}
