//! What the channels are to reach, row by row, and whether they do.

use super::runner::Distance;
use super::statistics::Summary;
use std::collections::BTreeMap;

/// Our name among the contenders.
pub(crate) const OURS: &str = "ginnel";

/// The clocks, the checks of the payload and the loop itself: what a bare ping-pong does not do.
const TOLERANCE: f64 = 1.05;

/// What is asked of our p50 (latency) or rate (streams).
pub(crate) enum Limit {
    /// At most so many nanoseconds near, and far.
    Nanoseconds(f64, f64),
    /// At most so many cache-line round trips near, and far.
    Lines(f64, f64),
    /// At most what this contender needs, plus the tolerance.
    Floor(&'static str),
    /// At least so many times faster than this contender.
    Faster(&'static str, f64),
    /// At least so many million messages a second near, and far.
    Rate(f64, f64),
    /// At least this share of this contender's rate.
    Share(&'static str, f64),
    /// At most what the same takes in another row, plus the tolerance.
    SameAs(&'static str),
    /// At most so many nanoseconds more than another row.
    MoreThan(&'static str, f64),
}

pub(crate) struct Target {
    pub(crate) row: &'static str,
    pub(crate) limit: Limit,
}

/// Summaries of one distance, by row and contender.
pub(crate) type Results = BTreeMap<(String, String), Summary>;

/// The judgement of one target at one distance.
pub(crate) struct Verdict {
    pub(crate) asked: String,
    pub(crate) got: String,
    pub(crate) met: bool,
}

/// Why a row is known to miss, as far as it has been found out.
pub(crate) fn reason(row: &str) -> &'static str {
    match row {
        "stream/64-by-64" => {
            "a sixteenth of the ring is 64 records here, so every publication moves the overwrite mark, whose line the reader holds, \
             and asks for the reader's cursor. With marks four times as far apart the same stream took 12.4 ns a record instead of \
             13.6; but then late readers would find a quarter of the ring gone. The bare ring has neither mark nor late readers."
        }
        "stream/64" => {
            "the reader looks at the line that is being written. After a run of records it now stands back for ten pauses; how much \
             that gains depends on the distance of the cores."
        }
        "roundtrip/1024" | "roundtrip/8192" | "roundtrip/65536" => {
            "the floor writes the same buffer again and again, which a ring must not: its readers may still copy the newest \
             record. `copy-8` is the floor with eight buffers by turns, so as a ring must do it."
        }
        "loan/65536" | "loan/1048576" | "loan/4194304" => {
            "the ring of this row has room for eight records, so the overwrite mark and the reader's cursor move with every one, \
             and each side fetches the other's line: without the look at the mark a way took 27 ns less. The target's far cores \
             passed a cache line in 400 ns."
        }
        "latest/write" => {
            "a value carries flag, length and position, and a publish looks for sleepers and for truncation."
        }
        "latest/write-and-read" => {
            "`copy` is the least: a payload and a sequence word, written through one mapping and read through another, as readers \
             must. The processor forwards a store to a load of another address only through its cache."
        }
        "setup/open" => {
            "two files are opened, checked and mapped, and their pages faulted in, at 1 us a page on this machine."
        }
        _ => "not yet known.",
    }
}

/// The targets of the channels.
pub(crate) fn channel() -> Vec<Target> {
    use Limit::*;
    let mut targets = Vec::new();
    let mut ask = |row, limit| targets.push(Target { row, limit });
    for row in ["roundtrip/8", "roundtrip/48"] {
        ask(row, Lines(1.0, 1.25));
        ask(row, Floor("copy"));
    }
    ask("roundtrip/64", Floor("copy"));
    ask("roundtrip/64", Nanoseconds(155.0, 640.0));
    ask("roundtrip/64", Faster("iceoryx2", 3.3));
    ask("roundtrip/1024", Nanoseconds(200.0, 760.0));
    ask("roundtrip/1024", Floor("copy"));
    ask("roundtrip/8192", Floor("copy"));
    ask("roundtrip/65536", Nanoseconds(3200.0, 8400.0));
    ask("roundtrip/65536", Floor("copy"));
    ask("roundtrip/1048576", Floor("copy"));
    for row in ["loan/64", "loan/1024", "loan/65536", "loan/1048576", "loan/4194304"] {
        ask(row, Nanoseconds(100.0, 350.0));
        ask(row, Faster("iceoryx2", 1.0));
    }
    ask("stream/64", Rate(110.0, 11.5));
    ask("stream/64", Share("ring", 0.9));
    ask("stream/64-by-64", Rate(330.0, 95.0));
    ask("stream/64-by-64", Share("ring", 0.9));
    for row in ["stream/8", "stream/1024", "stream/65536", "stream/1048576"] {
        ask(row, Share("ring", 0.9));
    }
    ask("publish/0-readers", Nanoseconds(10.0, 10.0));
    ask("publish/64-readers", Nanoseconds(10.0, 10.0));
    ask("publish/64-readers", SameAs("publish/0-readers"));
    ask("latest/write", Nanoseconds(5.0, 5.0));
    ask("latest/write-and-read", MoreThan("latest/write", 3.0));
    ask("setup/first-message", Faster("iceoryx2", 1.0));
    ask("setup/open", Nanoseconds(100_000.0, 100_000.0));
    ask("parked/same-core", Nanoseconds(4200.0, 4200.0));
    targets
}

impl Target {
    /// `None` if the rows were not measured at this distance.
    pub(crate) fn judge(&self, distance: Distance, results: &Results) -> Option<Verdict> {
        let find = |row: &str, contender: &str| results.get(&(row.to_owned(), contender.to_owned()));
        let ours = find(self.row, OURS)?;
        let at = |near: f64, far: f64| if distance == Distance::Near { near } else { far };
        Some(match self.limit {
            Limit::Nanoseconds(near, far) => at_most(ours.p50_ns, at(near, far), String::new()),
            Limit::Lines(near, far) => {
                let times = at(near, far);
                let limit = times * ours.line_ns * TOLERANCE;
                at_most(ours.p50_ns, limit, format!("{times} x line of {:.0} ns + 5 %", ours.line_ns))
            }
            Limit::Floor(floor) => {
                let floor_ns = find(self.row, floor)?.p50_ns;
                at_most(ours.p50_ns, floor_ns * TOLERANCE, format!("{floor} {} + 5 %", time(floor_ns)))
            }
            Limit::Faster(rival, factor) => {
                let rival_ns = find(self.row, rival)?.p50_ns;
                let why = if factor == 1.0 { format!("faster than {rival}") } else { format!("{rival} / {factor}") };
                at_most(ours.p50_ns, rival_ns / factor, why)
            }
            Limit::SameAs(row) => {
                let other = find(row, OURS)?.p50_ns;
                at_most(ours.p50_ns, other * TOLERANCE, format!("{row} {} + 5 %", time(other)))
            }
            Limit::MoreThan(row, nanoseconds) => {
                let other = find(row, OURS)?.p50_ns;
                at_most(ours.p50_ns - other, nanoseconds, format!("beyond {row}"))
            }
            Limit::Rate(near, far) => at_least(ours.rate(), at(near, far) * 1e6, String::new()),
            Limit::Share(floor, share) => {
                let floor_rate = find(self.row, floor)?.rate();
                at_least(
                    ours.rate(),
                    floor_rate * share,
                    format!("{:.0} % of {floor} {}", share * 100.0, rate(floor_rate)),
                )
            }
        })
    }
}

fn explained(sign: &str, limit: String, why: String) -> String {
    if why.is_empty() { format!("{sign} {limit}") } else { format!("{sign} {limit} ({why})") }
}

fn at_most(got: f64, limit: f64, why: String) -> Verdict {
    Verdict { asked: explained("<=", time(limit), why), got: time(got), met: got <= limit }
}

fn at_least(got: f64, limit: f64, why: String) -> Verdict {
    Verdict { asked: explained(">=", rate(limit), why), got: rate(got), met: got >= limit }
}

/// Nanoseconds for people.
pub(crate) fn time(nanoseconds: f64) -> String {
    match nanoseconds {
        ns if ns < 100.0 => format!("{ns:.1} ns"),
        ns if ns < 10_000.0 => format!("{ns:.0} ns"),
        ns if ns < 10_000_000.0 => format!("{:.1} us", ns / 1e3),
        ns => format!("{:.1} ms", ns / 1e6),
    }
}

/// Messages a second for people.
pub(crate) fn rate(per_second: f64) -> String {
    match per_second {
        rate if rate >= 1e8 => format!("{:.0} M/s", rate / 1e6),
        rate if rate >= 1e6 => format!("{:.1} M/s", rate / 1e6),
        rate => format!("{:.1} k/s", rate / 1e3),
    }
}

#[cfg(test)]
mod tests {
    use super::super::statistics::Tally;
    use super::*;

    fn summary(p50_ns: f64) -> Summary {
        Summary {
            repetitions: 5,
            samples: 1,
            p50_ns,
            p99_ns: p50_ns,
            p999_ns: p50_ns,
            spread_ns: (p50_ns, p50_ns),
            line_ns: 100.0,
            line_pause_ns: 100.0,
            sustained: None,
            sent: 1,
            tally: Tally::default(),
        }
    }

    fn results(values: &[(&str, &str, f64)]) -> Results {
        values.iter().map(|&(row, who, p50)| ((row.to_owned(), who.to_owned()), summary(p50))).collect()
    }

    #[test]
    fn a_latency_above_its_floor_by_more_than_the_tolerance_is_missed() {
        let target = Target { row: "a", limit: Limit::Floor("copy") };
        let verdict =
            |ours| target.judge(Distance::Near, &results(&[("a", OURS, ours), ("a", "copy", 100.0)])).unwrap().met;
        assert!(verdict(104.0));
        assert!(!verdict(106.0));
    }

    #[test]
    fn a_rate_is_judged_from_below() {
        // 10 ns a message are 100 M/s.
        let target = Target { row: "a", limit: Limit::Rate(110.0, 90.0) };
        let results = results(&[("a", OURS, 10.0)]);
        assert!(!target.judge(Distance::Near, &results).unwrap().met);
        assert!(target.judge(Distance::Far, &results).unwrap().met);
    }

    #[test]
    fn what_was_not_measured_is_not_judged() {
        let target = Target { row: "a", limit: Limit::Floor("copy") };
        assert!(target.judge(Distance::Near, &results(&[("a", OURS, 1.0)])).is_none());
    }
}
