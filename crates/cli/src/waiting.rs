//! Which descriptors a process waits at for input, as the kernel tells of the system call that it is in.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

/// What a call that waits for input says of its descriptors.
#[derive(Clone, Copy)]
enum Wait {
    /// `read` and its like: the one in the first argument.
    Read,
    /// `poll` and its like: an array of `pollfd`, and its length.
    Poll,
    /// `select` and its like: how many bits, and the set to read from.
    Select,
    /// `epoll_wait` and its like: an epoll in the first argument.
    Epoll,
}

#[cfg(target_arch = "x86_64")]
const CALLS: &[(u64, Wait)] = &[
    (0, Wait::Read),
    (19, Wait::Read),  // readv
    (327, Wait::Read), // preadv2, without an offset
    (7, Wait::Poll),
    (271, Wait::Poll), // ppoll
    (23, Wait::Select),
    (270, Wait::Select), // pselect6
    (232, Wait::Epoll),
    (281, Wait::Epoll), // epoll_pwait
    (441, Wait::Epoll), // epoll_pwait2
];
#[cfg(not(target_arch = "x86_64"))]
const CALLS: &[(u64, Wait)] = &[
    (63, Wait::Read),
    (65, Wait::Read),   // readv
    (286, Wait::Read),  // preadv2, without an offset
    (73, Wait::Poll),   // ppoll
    (72, Wait::Select), // pselect6
    (22, Wait::Epoll),  // epoll_pwait
    (441, Wait::Epoll), // epoll_pwait2
];

/// The most descriptors of one call that are looked at.
const MOST: u64 = 1024;
/// `POLLIN | POLLRDNORM`, and the same for `epoll`.
const INPUT: u64 = 0x41;

/// The descriptors at which a thread of the process waits for input.
pub(crate) fn for_input(pid: u32) -> Vec<u64> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let calls = threads.filter_map(|thread| fs::read_to_string(thread.path().join("syscall")).ok());
    calls.flat_map(|call| descriptors(pid, &call)).collect()
}

/// `call` is the number and then the arguments; `running` of one that is in no call.
fn descriptors(pid: u32, call: &str) -> Vec<u64> {
    let mut words = call.split(' ');
    let number = words.next().and_then(|word| word.parse::<u64>().ok());
    let Some((_, wait)) = CALLS.iter().find(|(known, _)| Some(*known) == number) else { return Vec::new() };
    let mut argument = || u64::from_str_radix(words.next()?.trim_start_matches("0x"), 16).ok();
    let (Some(first), Some(second)) = (argument(), argument()) else { return Vec::new() };
    match wait {
        Wait::Read => vec![first],
        Wait::Poll => polled(pid, first, second).unwrap_or_default(),
        Wait::Select => selected(pid, first, second).unwrap_or_default(),
        Wait::Epoll => in_epoll(pid, first).unwrap_or_default(),
    }
}

fn memory(pid: u32, at: u64, len: usize) -> Option<Vec<u8>> {
    let mut bytes = vec![0; len];
    File::open(format!("/proc/{pid}/mem")).ok()?.read_exact_at(&mut bytes, at).ok()?;
    Some(bytes)
}

fn polled(pid: u32, at: u64, count: u64) -> Option<Vec<u64>> {
    let array = memory(pid, at, count.min(MOST) as usize * 8)?;
    let fds = array.chunks_exact(8).filter_map(|entry| {
        let fd = i32::from_ne_bytes(entry[..4].try_into().ok()?);
        let events = u64::from(u16::from_ne_bytes(entry[4..6].try_into().ok()?));
        (events & INPUT != 0).then(|| u64::try_from(fd).ok())?
    });
    Some(fds.collect())
}

fn selected(pid: u32, count: u64, at: u64) -> Option<Vec<u64>> {
    if at == 0 {
        return None;
    }
    let count = count.min(MOST);
    let set = memory(pid, at, count.div_ceil(64) as usize * 8)?;
    let set: Vec<u64> =
        set.chunks_exact(8).map(|word| word.try_into().map(u64::from_ne_bytes)).collect::<Result<_, _>>().ok()?;
    Some((0..count).filter(|fd| set[*fd as usize / 64] & 1 << (fd % 64) != 0).collect())
}

/// Lines such as `tfd:        0 events:       19 data: …`.
fn in_epoll(pid: u32, epoll: u64) -> Option<Vec<u64>> {
    let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{epoll}")).ok()?;
    let watched = info.lines().filter_map(|line| {
        let mut words = line.strip_prefix("tfd:")?.split_whitespace();
        let fd = words.next()?.parse().ok()?;
        let events = u64::from_str_radix(words.nth(1)?, 16).ok()?;
        (events & INPUT != 0).then_some(fd)
    });
    Some(watched.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command, Stdio};
    use std::time::{Duration, Instant};

    struct Waiter(Child);

    impl Drop for Waiter {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[test]
    fn every_way_to_wait_for_input_is_seen_and_a_wait_for_something_else_is_not() {
        let script = |wait: &str| format!("import select, time, os\n{wait}\n");
        let epoll = "e = select.epoll(); e.register(0, select.EPOLLIN); e.poll()";
        let waits = [
            ("os.read(0, 1)", true),
            ("os.readv(0, [bytearray(1)])", true),
            ("p = select.poll(); p.register(0, select.POLLIN); p.poll()", true),
            ("select.select([0], [], [])", true),
            (epoll, true),
            ("p = select.poll(); p.register(0, select.POLLPRI); p.poll()", false),
            ("select.select([], [], [0], 1000)", false),
            ("time.sleep(1000)", false),
        ];
        if !ginnel_testing::has(Command::new("python3").arg("-V").output().is_ok(), "needs python3") {
            return;
        }
        for (wait, seen) in waits {
            let mut command = Command::new("python3");
            command.args(["-c", &script(wait)]).stdin(Stdio::piped());
            let waiter = Waiter(command.spawn().unwrap());
            let deadline = Instant::now() + Duration::from_secs(30);
            let asleep = || {
                let call = fs::read_to_string(format!("/proc/{}/syscall", waiter.0.id())).unwrap_or_default();
                // Its last call: the interpreter has read all of itself by then.
                let maps = fs::read_to_string(format!("/proc/{}/maps", waiter.0.id())).unwrap_or_default();
                maps.contains("select") && !call.starts_with("running")
            };
            while for_input(waiter.0.id()) != if seen { vec![0] } else { vec![] } || !seen && !asleep() {
                assert!(Instant::now() < deadline, "{wait}: {:?}", for_input(waiter.0.id()));
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}
