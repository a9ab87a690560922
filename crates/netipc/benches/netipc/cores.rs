//! Where the two sides run, how far apart that is, and how much of a CPU they use.

use rustix::thread::{CpuSet, Pid, sched_setaffinity};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Pins the calling thread, and every thread and process it starts from now on.
pub(crate) fn pin(core: usize) {
    let mut set = CpuSet::new();
    set.set(core);
    if let Err(error) = sched_setaffinity(None::<Pid>, &set) {
        eprintln!("cannot pin to CPU {core}: {error}");
        std::process::exit(1);
    }
}

/// The CPUs to use: the first and the last that this process may run on.
pub(crate) fn pair() -> [usize; 2] {
    let set = rustix::thread::sched_getaffinity(None).unwrap_or_default();
    let allowed: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|core| set.is_set(*core)).collect();
    [allowed.first().copied().unwrap_or(0), allowed.last().copied().unwrap_or(0)]
}

/// Round trip of one cache line between two spinning threads, in nanoseconds: the floor of everything between two
/// cores.
pub(crate) fn cache_line_round_trip([one, other]: [usize; 2]) -> f64 {
    const ROUNDS: u64 = 20_000;
    #[repr(align(128))]
    struct Line(AtomicU64);
    let line = Line(AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            pin(other);
            for round in 0..ROUNDS {
                while line.0.load(Ordering::Acquire) != 2 * round + 1 {
                    std::hint::spin_loop();
                }
                line.0.store(2 * round + 2, Ordering::Release);
            }
        });
        let asker = scope.spawn(|| {
            pin(one);
            let mut started = Instant::now();
            for round in 0..ROUNDS {
                // The first tenth warms up: thread start, frequency.
                if round == ROUNDS / 10 {
                    started = Instant::now();
                }
                line.0.store(2 * round + 1, Ordering::Release);
                while line.0.load(Ordering::Acquire) != 2 * round + 2 {
                    std::hint::spin_loop();
                }
            }
            started.elapsed().as_nanos() as f64 / (ROUNDS - ROUNDS / 10) as f64
        });
        asker.join().unwrap_or(f64::NAN)
    })
}

/// CPU seconds that all living threads of a process have used, to the nanosecond.
pub(crate) fn cpu_seconds(pid: u32) -> f64 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let on_cpu = tasks.filter_map(|task| {
        let schedstat = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        schedstat.split_whitespace().next()?.parse::<u64>().ok()
    });
    on_cpu.sum::<u64>() as f64 / 1e9
}
