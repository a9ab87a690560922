//! How long to spin before sleeping.

use std::sync::OnceLock;

/// An adaptive spin budget: it grows while spinning finds what it waits for, and shrinks while it does not. A spinner
/// that keeps finding nothing stops altogether and only tries again now and then: its peer is slow, or shares its
/// processor and cannot run before the spinner sleeps.
///
/// The unit is one look with one pause in between, some 10 to 40 nanoseconds. The budget is zero where spinning cannot
/// help (one processor) or is not wanted (`GINNEL_SPIN=0`), and never exceeds the cap that it was made with.
#[derive(Debug, Clone)]
pub struct Spin {
    /// `None`: spin for ever.
    cap: Option<u32>,
    budget: u32,
    /// Waits that look once and no more, before the next one that spins.
    rests: u32,
    /// How many such waits follow when that one finds nothing either.
    pause: u32,
}

impl Spin {
    /// The cap of [`Spin::default`]: about 50 microseconds, the price of a wake across processors on a virtual machine.
    pub const DEFAULT_CAP: u32 = 2_000;
    /// How often one who spins for ever looks before it also looks whether its peer still lives.
    const ROUND: u32 = 20_000;
    /// The first rest of a spinner whose budget is used up, in waits, and the longest. In the longest, a spin of the
    /// whole cap costs each wait a thousandth of it.
    const RESTS: [u32; 2] = [4, 1024];

    /// At most `cap` looks; `Spin::new(0)` sleeps at once.
    #[must_use]
    pub fn new(cap: u32) -> Self {
        let cap = if allowed() { cap } else { 0 };
        Self { cap: Some(cap), budget: cap, rests: 0, pause: 0 }
    }

    /// Never sleep. Takes a processor of its own; falls back to sleeping where spinning is not allowed.
    #[must_use]
    pub fn forever() -> Self {
        if allowed() { Self { cap: None, budget: Self::ROUND, rests: 0, pause: 0 } } else { Self::new(0) }
    }

    /// Whether sleeping is the next step after [`until`](Self::until) found nothing.
    #[must_use]
    pub fn sleeps(&self) -> bool {
        self.cap.is_some()
    }

    /// Looks until `look` finds something or the budget is used up.
    #[inline]
    pub fn until<T>(&mut self, mut look: impl FnMut() -> Option<T>) -> Option<T> {
        if self.rests > 0 {
            self.rests -= 1;
            return look();
        }
        for round in 0..self.budget {
            if let Some(found) = look() {
                // What is there at once says nothing about whether it is worth waiting for: it may have come while this
                // thread had to leave the processor to its peer.
                if round > 0 {
                    self.found();
                }
                return Some(found);
            }
            std::hint::spin_loop();
        }
        self.missed();
        None
    }

    #[inline]
    fn found(&mut self) {
        if let Some(cap) = self.cap {
            self.budget = self.budget.saturating_mul(2).min(cap);
            self.pause = 0;
        }
    }

    #[cold]
    fn missed(&mut self) {
        let Some(cap) = self.cap else { return };
        let least = cap / 16;
        if self.pause == 0 && self.budget > least {
            self.budget = (self.budget / 2).max(least);
            return;
        }
        let [first, most] = Self::RESTS;
        self.pause = self.pause.saturating_mul(2).clamp(first, most);
        self.rests = if cap > 0 { self.pause } else { 0 };
        // The try after a long rest is a whole one: two peers that both sleep take as long as two wakes to answer, and
        // would never find out that neither need sleep.
        self.budget = if self.pause > 16 { cap } else { least };
    }
}

impl Default for Spin {
    fn default() -> Self {
        Self::new(Self::DEFAULT_CAP)
    }
}

#[cfg(not(loom))]
use crate::sys::online_processors;
#[cfg(loom)]
fn online_processors() -> usize {
    1
}

fn allowed() -> bool {
    static ALLOWED: OnceLock<bool> = OnceLock::new();
    *ALLOWED.get_or_init(|| {
        std::env::var_os("GINNEL_SPIN").is_none_or(|value| value != "0")
            // Of the machine, not of this process: one that is pinned to a processor has its peer on another.
            && online_processors() > 1
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAP: u32 = 160;

    fn spin() -> Spin {
        Spin { cap: Some(CAP), budget: CAP, rests: 0, pause: 0 }
    }

    /// How often a wait looks that finds nothing.
    fn looks_in_vain(spin: &mut Spin) -> u32 {
        let mut looks = 0;
        assert_eq!(
            spin.until(|| {
                looks += 1;
                None::<()>
            }),
            None
        );
        looks
    }

    #[test]
    fn a_budget_shrinks_while_it_finds_nothing_and_recovers_when_it_does() {
        let mut spin = spin();
        let looks: Vec<u32> = (0..5).map(|_| looks_in_vain(&mut spin)).collect();
        assert_eq!(looks, [160, 80, 40, 20, 10]);
        while spin.rests > 0 {
            assert_eq!(looks_in_vain(&mut spin), 1);
        }
        assert_eq!(spin.until(|| Some(7)), Some(7));
        assert_eq!(spin.budget, CAP / 16, "what is there at once changes nothing");
        for _ in 0..10 {
            let mut looks = 0;
            let mut second = || {
                looks += 1;
                (looks > 1).then_some(7)
            };
            assert_eq!(spin.until(&mut second), Some(7));
        }
        assert_eq!((spin.budget, spin.pause), (CAP, 0));
    }

    #[test]
    fn one_that_never_finds_anything_hardly_looks_and_still_notices_a_peer_that_has_become_quick() {
        let mut spin = spin();
        let looks: u32 = (0..100_000).map(|_| looks_in_vain(&mut spin)).sum();
        assert!(looks < 140_000, "{looks} looks in 100,000 waits");
        // The peer takes most of the cap to answer.
        let mut waits = 0;
        loop {
            let mut looks = 0;
            waits += 1;
            let mut slow = || {
                looks += 1;
                (looks > CAP - 10).then_some(())
            };
            if spin.until(&mut slow).is_some() {
                break;
            }
            assert!(waits <= 1025, "it has given up");
        }
        assert_eq!((spin.budget, spin.rests), (CAP, 0));
    }

    #[test]
    fn a_zero_cap_never_looks() {
        let mut spin = Spin { cap: Some(0), budget: 0, rests: 0, pause: 0 };
        assert_eq!(spin.until(|| Some(())), None);
    }
}
