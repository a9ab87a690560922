//! The bells, with a peer that spoils them.

use super::bell::{Ringer, bell, ear, end_of_pipe};
use rustix::fd::AsFd;
use rustix::fs::OFlags;
use std::sync::mpsc;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(20);

/// Runs `work` in a thread of its own; panics if it does not end.
fn ends(work: impl FnOnce() + Send + 'static) {
    let (done, ended) = mpsc::channel();
    let _worker = std::thread::spawn(move || {
        work();
        let _ = done.send(());
    });
    ended.recv_timeout(PATIENCE).expect("a bell has blocked the side that rings or hears it");
}

#[test]
fn a_peer_that_makes_its_bell_block_blocks_nobody() {
    let (hears, write) = bell().unwrap();
    let read = hears.as_fd().try_clone_to_owned().unwrap();
    // Both ends are the peer's as well: it clears what keeps them from blocking, and fills the pipe.
    for end in [hears.as_fd(), write.as_fd()] {
        let flags = rustix::fs::fcntl_getfl(end).unwrap();
        rustix::fs::fcntl_setfl(end, flags - OFlags::NONBLOCK).unwrap();
    }
    let ringer = Ringer::new(write, read);
    ends(move || {
        (0..100_000).for_each(|_| ringer.ring());
        // More than there is: the last ones find nothing.
        (0..400).for_each(|_| hears.drain());
        ringer.ring();
        hears.drain();
    });
}

#[test]
fn a_bell_that_nobody_hears_any_more_raises_no_signal() {
    let (hears, write) = bell().unwrap();
    let read = hears.as_fd().try_clone_to_owned().unwrap();
    let spare = write.try_clone().unwrap();
    let ringer = Ringer::new(write, read);
    drop(hears);
    ringer.ring();
    // What would raise SIGPIPE is told by the error that comes with it.
    assert_eq!(rustix::io::write(&spare, &[1]), Ok(1));
    drop(ringer);
    assert_eq!(rustix::io::write(&spare, &[1]), Err(rustix::io::Errno::PIPE));
}

#[test]
fn only_the_right_end_of_a_pipe_is_a_bell() {
    let pipe = || rustix::pipe::pipe().unwrap();
    let (read, write) = pipe();
    assert!(end_of_pipe(write, OFlags::RDONLY).is_none() && ear(read).is_some());
    let (read, write) = pipe();
    assert!(ear(write).is_none() && end_of_pipe(read, OFlags::WRONLY).is_none());
    let file = std::fs::File::open("/dev/null").unwrap();
    assert!(ear(file.into()).is_none());
    let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    assert!(end_of_pipe(socket.into(), OFlags::RDWR).is_none());
}
