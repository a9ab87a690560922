//! Times of several repetitions, and taking them turn by turn.

use crate::bench::machine;
use ginnel_bench::median;
use serde::Serialize;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// Nanoseconds, by repetition.
#[derive(Default, Serialize)]
pub(crate) struct Samples(pub(crate) Vec<Vec<u64>>);

/// A middle with the lowest and the highest.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) mid: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

impl Spread {
    pub(crate) fn of(values: &[f64]) -> Spread {
        Spread {
            mid: median(values.to_vec()),
            low: values.iter().copied().fold(f64::INFINITY, f64::min),
            high: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        }
    }
}

impl Samples {
    pub(crate) fn len(&self) -> usize {
        self.0.iter().map(Vec::len).sum()
    }

    fn medians(&self) -> Vec<f64> {
        self.0.iter().map(|repetition| quantile(&sorted(repetition), 0.5)).collect()
    }

    /// The median of the repetitions' medians, and their extremes.
    pub(crate) fn p50(&self) -> Spread {
        Spread::of(&self.medians())
    }

    /// Over all repetitions.
    pub(crate) fn quantile(&self, part: f64) -> f64 {
        quantile(&sorted(&self.0.concat()), part)
    }

    /// How many times as long as `other`, whose repetitions were taken in turns with these.
    pub(crate) fn ratio(&self, other: &Samples) -> Spread {
        Spread::of(&self.medians().iter().zip(other.medians()).map(|(ours, theirs)| ours / theirs).collect::<Vec<_>>())
    }

    /// How much longer than `other`.
    pub(crate) fn beyond(&self, other: &Samples) -> Spread {
        Spread::of(&self.medians().iter().zip(other.medians()).map(|(ours, theirs)| ours - theirs).collect::<Vec<_>>())
    }
}

fn sorted(values: &[u64]) -> Vec<u64> {
    let mut values = values.to_vec();
    values.sort_unstable();
    values
}

/// The value that a part of the sorted ones does not exceed.
fn quantile(sorted: &[u64], part: f64) -> f64 {
    let rank = (sorted.len() as f64 * part).ceil() as usize;
    sorted.get(rank.max(1) - 1).map_or(f64::NAN, |&value| value as f64)
}

type Work<'a> = Box<dyn FnMut() -> Result<(), String> + 'a>;

/// One of those that take turns.
pub(crate) struct Contender<'a> {
    pub(crate) name: &'static str,
    work: Work<'a>,
}

impl<'a> Contender<'a> {
    pub(crate) fn new(name: &'static str, work: impl FnMut() -> Result<(), String> + 'a) -> Self {
        Contender { name, work: Box::new(work) }
    }
}

#[derive(Serialize)]
pub(crate) struct Measured {
    pub(crate) name: &'static str,
    pub(crate) times: Samples,
}

/// How often, and how patiently, everything is measured.
pub(crate) struct Plan {
    pub(crate) repetitions: usize,
    pub(crate) rounds: usize,
    pub(crate) patience: Duration,
    /// How busy the machine was before each repetition, in percent.
    pub(crate) busy: Vec<f64>,
    /// Contenders that do not work here, and why.
    pub(crate) left_out: BTreeSet<String>,
}

/// Of one repetition.
#[derive(Clone, Copy)]
pub(crate) struct Turns {
    /// Of each contender.
    pub(crate) rounds: usize,
    /// In one turn.
    pub(crate) goes: usize,
    /// Something else is busy where we run.
    pub(crate) neighbour: bool,
}

/// A process that never sleeps, in a session of its own, on the cores that we have.
struct Neighbour(ginnel_process::Child);

impl Neighbour {
    fn start() -> Result<Self, String> {
        let mut command = ginnel_process::Command::new("sh");
        command.args(["-c", "while :; do :; done"]).spawn().map(Self).map_err(|error| error.to_string())
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        // One that is gone already needs no ending.
        let _ = self.0.kill();
    }
}

impl Plan {
    pub(crate) fn wait_for_quiet(&mut self, first: bool) {
        self.busy.push(machine::wait_for_quiet(if first { self.patience } else { Duration::ZERO }));
    }

    /// Turn by turn, so that every contender meets the same machine. What it leaves for later (the
    /// kernel clears away groups and namespaces some milliseconds after their last process has gone) is to meet the
    /// contender itself and not the next one: so a turn is long, and its beginning is not counted.
    pub(crate) fn measure(
        &mut self,
        mut contenders: Vec<Contender<'_>>,
        turns: Turns,
    ) -> Result<Vec<Measured>, String> {
        contenders.retain_mut(|one| one.go().map_err(|error| self.left_out.insert(error)).is_ok());
        let mut measured: Vec<Measured> =
            contenders.iter().map(|one| Measured { name: one.name, times: Samples::default() }).collect();
        for repetition in 0..self.repetitions {
            self.wait_for_quiet(repetition == 0);
            let neighbour = turns.neighbour.then(Neighbour::start).transpose()?;
            for measured in &mut measured {
                measured.times.0.push(Vec::with_capacity(turns.rounds));
            }
            for _ in 0..turns.rounds.div_ceil(turns.goes) {
                for (contender, measured) in contenders.iter_mut().zip(&mut measured) {
                    for _ in 0..turns.goes / 10 {
                        contender.go()?;
                    }
                    for _ in 0..turns.goes {
                        measured.times.0[repetition].push(contender.go()?);
                    }
                }
            }
            drop(neighbour);
        }
        Ok(measured)
    }
}

impl Contender<'_> {
    /// Once; how many nanoseconds it took.
    fn go(&mut self) -> Result<u64, String> {
        let begun = Instant::now();
        (self.work)().map_err(|error| format!("{}: {error}", self.name))?;
        Ok(begun.elapsed().as_nanos() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_is_that_of_all_repetitions_and_the_median_that_of_the_medians() {
        let calm = vec![100; 999];
        let rough = [vec![100; 600], vec![5000; 399]].concat();
        let samples = Samples(vec![calm.clone(), calm, rough]);
        assert_eq!(samples.p50(), Spread { mid: 100.0, low: 100.0, high: 100.0 });
        assert_eq!(samples.quantile(0.99), 5000.0);
        assert_eq!(samples.len(), 2997);
    }

    #[test]
    fn ratios_are_of_repetitions_that_were_taken_together() {
        // The machine became three times as slow; both felt it.
        let std = Samples(vec![vec![100], vec![300]]);
        let ours = Samples(vec![vec![150], vec![420]]);
        assert_eq!(ours.ratio(&std), Spread { mid: 1.45, low: 1.4, high: 1.5 });
        assert_eq!(ours.beyond(&std), Spread { mid: 85.0, low: 50.0, high: 120.0 });
    }

    #[test]
    fn a_quantile_is_a_sample() {
        assert_eq!(quantile(&[1, 2, 3, 4], 0.5), 2.0);
        assert_eq!(quantile(&[1, 2, 3, 4], 1.0), 4.0);
        assert_eq!(quantile(&[1, 2, 3, 4], 0.0), 1.0);
    }
}
