//! The descriptors that this process would pass on.

use rustix::io::{Errno, FdFlags};
use std::fs;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

/// A copy of every descriptor from 3 without close-on-exec, with its number.
pub(crate) fn inherited() -> io::Result<Vec<(u32, OwnedFd)>> {
    let numbers: Vec<i32> = match fs::read_dir("/proc/self/fd") {
        Ok(numbers) => numbers
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter(|number| *number > 2)
            .collect(),
        // There is no /proc, or it is another pid namespace's: every number is asked.
        Err(error) if error.kind() == io::ErrorKind::NotFound => (3..numbers_without_proc()).collect(),
        Err(error) => return Err(error),
    };
    let mut copies = Vec::new();
    for number in numbers {
        // SAFETY: it was open a moment ago, and is used for two system calls only, which refuse a number that is not
        // open (any more). Nothing is read, written or closed by it.
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

/// The limit of descriptors, or as many as can be asked in a tenth of a second.
fn numbers_without_proc() -> i32 {
    const MOST: u64 = 1 << 20;
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current.map_or(MOST, |limit| limit.min(MOST)) as i32
}
