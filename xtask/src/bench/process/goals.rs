//! What the processes are to reach, whether they do, and why not.

use super::kill::{GROUP, Kills};
use super::pipe::{Pipe, middle_half};
use super::report::Run;
use super::samples::{Measured, Samples};
use super::shepherd::Shepherd;
use super::spawn::{
    AUTO, Cores, DIRECTORY, NOTHING_IN_NAMESPACE, PID_NAMESPACE, SHEPHERD, STD, SUBREAPER, TRUE_IN_GROUP,
    TRUE_IN_NAMESPACE, without,
};
use crate::bench::targets::time;

const SPAWN: f64 = 1.5;
const PRIVATE_KIB: u64 = 300;
const KILL_MS: f64 = 50.0;
const KILLED: u32 = 1000;
const PIPE_PERCENT: f64 = 95.0;

/// The judgement of one goal.
pub(crate) struct Verdict {
    pub(crate) goal: String,
    pub(crate) measured: String,
    pub(crate) met: bool,
    /// Why it is known to be missed, as far as that has been found out.
    pub(crate) reason: String,
}

fn find<'a>(measured: &'a [Measured], name: &str) -> Option<&'a Samples> {
    measured.iter().find(|one| one.name == name).map(|one| &one.times)
}

pub(crate) fn spawns(run: &Run) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    for situation in run.situations.iter().filter(|one| one.cores != Cores::Busy) {
        for name in [SUBREAPER, AUTO, PID_NAMESPACE] {
            let Some((ours, std)) = find(&situation.contenders, name).zip(find(&situation.contenders, STD)) else {
                continue;
            };
            let ratio = ours.ratio(std);
            let parent = if situation.large_parent { "4 GiB" } else { "small" };
            verdicts.push(Verdict {
                goal: format!("{name}, {parent} parent, {}: <= {SPAWN} x std", situation.cores.name()),
                measured: format!("{:.2} ({:.2} - {:.2})", ratio.mid, ratio.low, ratio.high),
                met: ratio.mid <= SPAWN,
                reason: spawn_reason(run, name),
            });
        }
    }
    verdicts
}

/// What the kernel takes for that protection, by the figures of the same run.
fn spawn_reason(run: &Run, name: &str) -> String {
    let kernel = |name| find(&run.kernel, name);
    let beyond = |name| kernel(name).zip(without(name).and_then(kernel)).map(|(one, other)| one.beyond(other).mid);
    let at_all = |name| kernel(name).map(|one| one.p50().mid);
    let known = || {
        let shepherd = at_all(SHEPHERD)?;
        let (own, own_text) = match name {
            PID_NAMESPACE => {
                let own = beyond(TRUE_IN_NAMESPACE)?;
                let text = format!(
                    "; the kernel makes and clears away a pid namespace, and mounts with a /proc that shows it, in which `true` takes {} \
                     longer (a process that ends at once takes {} longer in a pid namespace alone)",
                    time(own),
                    time(beyond(NOTHING_IN_NAMESPACE)?)
                );
                (own, text)
            }
            AUTO if run.automatic == "cgroup" => {
                let own = beyond(TRUE_IN_GROUP)?;
                let text = format!(
                    "; a control group is a directory that the kernel fills and clears away, made and removed by two system calls ({} \
                     without a process), and `true` cloned into one takes {} longer with all that",
                    time(at_all(DIRECTORY)?),
                    time(own)
                );
                (own, text)
            }
            _ => (0.0, String::new()),
        };
        let small = run.situations.iter().find(|one| one.cores == Cores::One && !one.large_parent)?;
        let more = find(&small.contenders, name)?.beyond(find(&small.contenders, STD)?).mid;
        Some(format!(
            "{name}: a shepherd is a second program: to execute it and let it end takes {} with nothing to do{own_text}. On one core, with \
             a small parent, that is {} of the {} beyond std; the rest is what parent and shepherd do, and the switches between them.",
            time(shepherd),
            time(shepherd + own),
            time(more)
        ))
    };
    known().unwrap_or_else(|| format!("{name}: not yet known."))
}

pub(crate) fn shepherd(shepherd: &Shepherd) -> Vec<Verdict> {
    let mut verdicts = vec![Verdict {
        goal: format!("private memory of a shepherd: <= {PRIVATE_KIB} KiB"),
        measured: format!("{} KiB", shepherd.private_kib),
        met: shepherd.private_kib <= PRIVATE_KIB,
        reason: String::new(),
    }];
    verdicts.extend(shepherd.idle.iter().map(|idle| Verdict {
        goal: format!("idle, {}: 0 wake-ups, 0 CPU", idle.name),
        measured: format!("{}, {} ns", idle.wakeups, idle.cpu_ns),
        met: idle.wakeups == 0 && idle.cpu_ns == 0,
        reason: String::new(),
    }));
    verdicts
}

pub(crate) fn pipe(pipe: &Pipe) -> Vec<Verdict> {
    let percent = middle_half(&pipe.percent());
    vec![Verdict {
        goal: format!("throughput of a pipe: >= {PIPE_PERCENT} % of the bare pipe"),
        measured: format!("{:.1} % ({:.1} - {:.1})", percent.mid, percent.low, percent.high),
        met: percent.mid >= PIPE_PERCENT,
        reason: String::new(),
    }]
}

pub(crate) fn kills(kills: &Kills) -> Vec<Verdict> {
    let largest = || kills.kills.iter().filter(|kill| kill.processes == KILLED);
    let floor = largest().find(|kill| kill.protection == GROUP).map_or(f64::NAN, |kill| kill.times.quantile(0.5));
    let ours = largest().filter(|kill| kill.protection != GROUP);
    ours.map(|kill| {
        let p50 = kill.times.quantile(0.5);
        let subreaper = kill.protection == "subreaper";
        let look = if subreaper {
            format!(
                " A subreaper finds its tree in /proc: a look at all of it takes {}, and before its signal each process is looked at \
                 again, so that a reused number is not hit.",
                time(kills.look.p50().mid)
            )
        } else {
            String::new()
        };
        Verdict {
            goal: format!("{}: a tree of {KILLED} killed in <= {KILL_MS} ms", kill.protection),
            measured: format!("{} ({} - {})", time(p50), time(kill.times.quantile(0.25)), time(kill.times.quantile(0.75))),
            met: p50 <= KILL_MS * 1e6,
            reason: format!(
                "{}: one `kill` of a process group needs {} for the same tree, which is the kernel's own.{look}",
                kill.protection,
                time(floor)
            ),
        }
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::super::kill::Kill;
    use super::super::shepherd::Idle;
    use super::*;

    fn killed(protection: &str, millis: &[u64]) -> Kill {
        let times = Samples(vec![millis.iter().map(|millis| millis * 1_000_000).collect()]);
        Kill { processes: KILLED, protection: protection.to_owned(), times }
    }

    #[test]
    fn a_kill_is_judged_by_its_median_and_the_floor_not_at_all() {
        let all = vec![killed(GROUP, &[90]), killed("cgroup", &[40, 41, 99]), killed("subreaper", &[40, 60, 61])];
        let verdicts = kills(&Kills { kills: all, look: Samples(vec![vec![6_000_000]]) });
        assert_eq!(verdicts.iter().map(|one| one.met).collect::<Vec<_>>(), [true, false]);
        assert!(verdicts[1].reason.contains("90.0 ms") && verdicts[1].reason.contains("6000.0 us"));
    }

    #[test]
    fn one_wake_up_is_not_idle() {
        let idle = |wakeups, cpu_ns| Idle { name: "it", wakeups, cpu_ns };
        let measured =
            Shepherd { resident_kib: 64, private_kib: 56, seconds: 1, idle: vec![idle(0, 0), idle(1, 0), idle(0, 1)] };
        assert_eq!(shepherd(&measured).iter().map(|one| one.met).collect::<Vec<_>>(), [true, true, false, false]);
    }
}
