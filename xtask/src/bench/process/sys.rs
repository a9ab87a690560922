//! The rivals that Rust has no safe name for.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::io::{self, BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Instant;
use std::{mem, ptr};

/// `posix_spawn` and `waitpid`, as bare as they come.
pub(crate) fn posix_spawn(program: &CStr) -> io::Result<()> {
    unsafe extern "C" {
        static environ: *const *mut libc::c_char;
    }
    let args = [program.as_ptr().cast_mut(), ptr::null_mut()];
    let mut pid = 0;
    // SAFETY: NUL-terminated strings in lists that end with null; nobody changes the environment while this measures.
    let error =
        unsafe { libc::posix_spawn(&raw mut pid, program.as_ptr(), ptr::null(), ptr::null(), args.as_ptr(), environ) };
    if error != 0 {
        return Err(io::Error::from_raw_os_error(error));
    }
    // SAFETY: our own child, waited for once; the status is not asked for.
    if unsafe { libc::waitpid(pid, ptr::null_mut(), 0) } == pid { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Pins this thread, and what it starts, to one core until it is dropped.
pub(crate) struct Pinned(libc::cpu_set_t);

impl Pinned {
    pub(crate) fn to(core: usize) -> io::Result<Pinned> {
        // SAFETY: the sets are plain bits, and live across the calls.
        unsafe {
            let (mut before, mut only): (libc::cpu_set_t, libc::cpu_set_t) = (mem::zeroed(), mem::zeroed());
            if libc::sched_getaffinity(0, size_of_val(&before), &raw mut before) != 0 {
                return Err(io::Error::last_os_error());
            }
            libc::CPU_SET(core, &mut only);
            if libc::sched_setaffinity(0, size_of_val(&only), &raw const only) != 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(Pinned(before))
        }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // SAFETY: as above.
        unsafe { libc::sched_setaffinity(0, size_of_val(&self.0), &raw const self.0) };
    }
}

/// The least that ending a tree can cost: seconds from one signal to its process group until all of it was waited for.
pub(crate) fn kill_group(script: &str) -> io::Result<f64> {
    // SAFETY: takes numbers. Orphans of the group come to us, and nobody else's are there.
    if unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let mut child = Command::new("sh").args(["-c", script]).process_group(0).stdout(Stdio::piped()).spawn()?;
    BufReader::new(child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?).read_line(&mut String::new())?;
    let group = i32::try_from(child.id()).map_err(io::Error::other)?;
    let begun = Instant::now();
    // SAFETY: takes numbers.
    if unsafe { libc::kill(-group, libc::SIGKILL) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the status is not asked for.
    while unsafe { libc::waitpid(-group, ptr::null_mut(), 0) } > 0 {}
    let took = begun.elapsed().as_secs_f64();
    // SAFETY: as above.
    unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0) };
    Ok(took)
}
