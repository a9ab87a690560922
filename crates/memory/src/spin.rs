//! How long to spin before sleeping.

use std::sync::OnceLock;

/// An adaptive spin budget: it grows while spinning finds what it waits for, and shrinks while it does not.
///
/// The unit is one look with one pause in between, some 10 to 40 nanoseconds. The budget is zero where spinning cannot
/// help (one processor) or is not wanted (`GINNEL_SPIN=0`), and never exceeds the cap that it was made with.
#[derive(Debug, Clone)]
pub struct Spin {
    /// `None`: spin for ever.
    cap: Option<u32>,
    budget: u32,
}

impl Spin {
    /// The cap of [`Spin::default`]: about 50 microseconds, the price of a wake across processors on a virtual machine.
    pub const DEFAULT_CAP: u32 = 2_000;
    /// How often one who spins for ever looks before it also looks whether its peer still lives.
    const ROUND: u32 = 20_000;

    /// At most `cap` looks; `Spin::new(0)` sleeps at once.
    #[must_use]
    pub fn new(cap: u32) -> Self {
        let cap = if allowed() { cap } else { 0 };
        Self { cap: Some(cap), budget: cap }
    }

    /// Never sleep. Takes a processor of its own; falls back to sleeping where spinning is not allowed.
    #[must_use]
    pub fn forever() -> Self {
        if allowed() { Self { cap: None, budget: Self::ROUND } } else { Self::new(0) }
    }

    /// Whether sleeping is the next step after [`until`](Self::until) found nothing.
    #[must_use]
    pub fn sleeps(&self) -> bool {
        self.cap.is_some()
    }

    /// Looks until `look` finds something or the budget is used up.
    #[inline]
    pub fn until<T>(&mut self, mut look: impl FnMut() -> Option<T>) -> Option<T> {
        for _ in 0..self.budget {
            if let Some(found) = look() {
                if let Some(cap) = self.cap {
                    self.budget = self.budget.saturating_mul(2).min(cap);
                }
                return Some(found);
            }
            std::hint::spin_loop();
        }
        if let Some(cap) = self.cap {
            // One look in sixteen stays, so that a peer that has become quick again is noticed.
            self.budget = (self.budget / 2).max(cap / 16);
        }
        None
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

    #[test]
    fn a_budget_shrinks_while_it_finds_nothing_and_recovers_when_it_does() {
        let mut spin = Spin { cap: Some(160), budget: 160 };
        for _ in 0..10 {
            assert_eq!(spin.until(|| None::<()>), None);
        }
        assert_eq!(spin.budget, 10, "a sixteenth of the cap stays");
        for _ in 0..10 {
            assert_eq!(spin.until(|| Some(7)), Some(7));
        }
        assert_eq!(spin.budget, 160);
    }

    #[test]
    fn a_zero_cap_never_looks() {
        let mut spin = Spin { cap: Some(0), budget: 0 };
        assert_eq!(spin.until(|| Some(())), None);
    }
}
