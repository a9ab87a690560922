//! The descriptors that this process would pass on.

use rustix::io::{Errno, FdFlags};
use std::fs;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

/// A copy of every descriptor from 3 without close-on-exec, with its number.
pub(crate) fn inherited() -> io::Result<Vec<(u32, OwnedFd)>> {
    let numbers = fs::read_dir("/proc/self/fd")?;
    let numbers = numbers.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    let mut copies = Vec::new();
    for number in numbers.filter(|number| *number > 2).collect::<Vec<i32>>() {
        // SAFETY: it was open a moment ago, and is used for two system calls only, which refuse a number that is not open (any more).
        // Nothing is read, written or closed by it.
        let fd = unsafe { BorrowedFd::borrow_raw(number) };
        match rustix::io::fcntl_getfd(fd) {
            Ok(flags) if flags.contains(FdFlags::CLOEXEC) => continue,
            // Closed meanwhile: the directory itself, for one.
            Err(Errno::BADF) => continue,
            result => result?,
        };
        copies.push((number as u32, rustix::io::fcntl_dupfd_cloexec(fd, 3)?));
    }
    Ok(copies)
}
