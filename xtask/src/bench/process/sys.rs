//! The rival that Rust has no safe name for.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::io;
use std::ptr;

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
