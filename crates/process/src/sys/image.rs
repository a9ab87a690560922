//! The shepherd's program in a sealed memfd, made once per process.

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

static PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/shepherd"));

struct Image {
    fd: Arc<OwnedFd>,
    device: u64,
    inode: u64,
}

static IMAGE: Mutex<Option<Image>> = Mutex::new(None);

/// The memfd, sealed: nobody, not even this process, can change what will run.
pub(crate) fn shepherd_image() -> Result<Arc<OwnedFd>, Errno> {
    let mut image = IMAGE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = image.take() {
        let same =
            rustix::fs::fstat(&known.fd).is_ok_and(|stat| (stat.st_dev, stat.st_ino) == (known.device, known.inode));
        if same {
            let fd = Arc::clone(&known.fd);
            *image = Some(known);
            return Ok(fd);
        }
        // A program that closes every descriptor has closed ours; the number may be somebody else's now, so it must not
        // be closed again.
        std::mem::forget(known.fd);
    }
    let fd = create()?;
    let stat = rustix::fs::fstat(&fd)?;
    let fd = Arc::new(fd);
    *image = Some(Image { fd: Arc::clone(&fd), device: stat.st_dev, inode: stat.st_ino });
    Ok(fd)
}

fn create() -> Result<OwnedFd, Errno> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Before Linux 6.3 the flag is unknown, and every memfd may be executed.
    let fd = rustix::fs::memfd_create(c"ginnel-shepherd", flags | MemfdFlags::EXEC)
        .or_else(|_| rustix::fs::memfd_create(c"ginnel-shepherd", flags))?;
    let mut rest = PROGRAM;
    while !rest.is_empty() {
        let written = rustix::io::write(&fd, rest)?;
        rest = &rest[written..];
    }
    rustix::fs::fcntl_add_seals(&fd, SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(fd)
}
