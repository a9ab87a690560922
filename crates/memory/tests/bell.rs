//! Who sleeps on a word of a file is reached although the file was cut short under it.
#![cfg(not(loom))]

use ginnel_memory::{Bell, ForeignFile};
use rustix::io::Errno;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(30);

fn file() -> (tempfile::TempDir, ForeignFile) {
    let dir = tempfile::tempdir().unwrap();
    let file = ForeignFile::create(std::fs::File::open(dir.path()).unwrap(), "region", 8192, 0..64).unwrap();
    (dir, file)
}

fn until_asleep(thread: rustix::thread::Pid) {
    let begin = Instant::now();
    let asleep_in = || ginnel_testing::asleep_in(thread.as_raw_nonzero().get().cast_unsigned());
    while !asleep_in().is_some_and(|call| [libc::SYS_futex, libc::SYS_futex_waitv].contains(&call)) {
        assert!(begin.elapsed() < PATIENCE, "it does not sleep");
        std::thread::yield_now();
    }
}

/// A sleeper whose file is cut short, and then rung for.
fn is_reached(before: impl Fn() + Sync) {
    let (_dir, file) = file();
    let (bell, over) = (Bell::default(), AtomicBool::new(false));
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let sleeper = scope.spawn(|| {
            before();
            tell.send(rustix::thread::gettid()).unwrap();
            let begin = Instant::now();
            loop {
                let rung = bell.count();
                let signal = file.load_u32(8, Ordering::Acquire);
                if over.load(Ordering::Acquire) {
                    return;
                }
                assert!(begin.elapsed() < PATIENCE, "nobody reached it");
                let _ = file.sleep(8, signal, &bell, rung, Some(PATIENCE));
            }
        });
        until_asleep(told.recv().unwrap());
        rustix::fs::ftruncate(file.fd(), 0).unwrap();
        // What another thread reads puts the guard's page over the mapping: the word has another key from now on.
        let _ = file.load_u32(8, Ordering::Acquire);
        assert!(file.truncated());
        over.store(true, Ordering::Release);
        file.ring(8, &bell);
        sleeper.join().unwrap();
    });
}

#[test]
fn a_ring_reaches_a_sleeper_whose_file_was_cut_short() {
    is_reached(|| {});
}

#[test]
fn a_ring_reaches_a_sleeper_where_the_kernel_cannot_wait_for_two_words() {
    if !ginnel_testing::is_native("seccomp") {
        return;
    }
    is_reached(forbid_waitv);
}

#[test]
fn a_sleep_ends_at_its_time_and_by_either_word() {
    let (_dir, file) = file();
    let bell = Bell::default();
    let short = Some(Duration::from_millis(5));
    assert_eq!(file.sleep(8, 0, &bell, 0, short), Err(Errno::TIMEDOUT));
    assert_eq!(file.sleep(8, 1, &bell, 0, None), Err(Errno::AGAIN));
    assert_eq!(file.sleep(8, 0, &bell, 1, None), Err(Errno::AGAIN));
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let sleeper = scope.spawn(|| {
            tell.send(rustix::thread::gettid()).unwrap();
            while file.load_u32(8, Ordering::Acquire) == 0 {
                // As long as the clock counts, and longer.
                let _ = file.sleep(8, 0, &bell, 0, Some(Duration::MAX));
            }
        });
        until_asleep(told.recv().unwrap());
        file.add_u32(8, 1, Ordering::AcqRel);
        file.futex_wake(8, 1).unwrap();
        sleeper.join().unwrap();
    });
}

/// The threads of the house have the signals of the program blocked. A fault must reach the guard all the same.
#[test]
fn a_thread_of_the_house_that_touches_a_file_cut_short_reads_zeros() {
    let (_dir, file) = file();
    rustix::fs::ftruncate(file.fd(), 0).unwrap();
    let read =
        ginnel_base::thread::spawn("ginnel-test", move || (file.load_u32(8, Ordering::Acquire), file.truncated()));
    assert_eq!(read.unwrap().join().unwrap(), (0, true));
}

/// From now on `futex_waitv` is not there for the calling thread, as under an old kernel.
#[allow(unsafe_code)]
fn forbid_waitv() {
    let call = libc::SYS_futex_waitv as u32;
    let step = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    let mut program = [
        // The number of the system call is the first word of what a filter sees.
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, call),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the program outlives the call, which copies it; the thread gives up a right of its own and nothing else.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter), 0);
    }
}
