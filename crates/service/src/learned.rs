//! Sizes that both sides learn: powers of two, within a ceiling. What a server refuses is taken back and remembered:
//! the next proposals lie between what is needed and what was refused.

/// Largest size that is learned when nothing else is said, in bytes. The field's ceiling.
pub const DEFAULT_CEILING: u32 = 1 << 20;

/// The smallest power of two that holds `len`, at least 16; `None` beyond `ceiling`, unless `len` itself fits it.
pub(crate) fn grown(len: usize, ceiling: u32) -> Option<u32> {
    let len = u32::try_from(len).ok().filter(|len| *len <= ceiling)?;
    Some(len.max(16).checked_next_power_of_two().map_or(ceiling, |size| size.min(ceiling)))
}

/// Halfway from what is needed to what was refused, which is more.
fn between(needed: u32, refused: u32) -> u32 {
    needed + (refused - needed) / 2
}

/// A limit that grows on demand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Learned {
    /// What to propose or offer next.
    pub(crate) current: u32,
    /// What the other side has accepted last.
    accepted: u32,
    start: u32,
    ceiling: u32,
    /// The smallest that the other side has refused.
    refused: Option<u32>,
    /// What the present need is, in bytes.
    needed: u32,
}

impl Learned {
    pub(crate) fn new(start: u32, ceiling: u32) -> Self {
        Self { current: start, accepted: start, start, ceiling: ceiling.max(start), refused: None, needed: 0 }
    }

    /// What it never grows beyond.
    pub(crate) fn ceiling(&self) -> u32 {
        self.ceiling
    }

    /// What to begin with; it is taken back to the start if it is refused.
    pub(crate) fn propose(&mut self, size: u32) {
        self.current = self.current.max(size);
    }

    /// The other side has said what it takes: that much, and no more. False if that changes nothing.
    pub(crate) fn limit_to(&mut self, most: u32) -> bool {
        if most == 0 || most >= self.current {
            return false;
        }
        (self.current, self.accepted, self.needed) = (most, most, 0);
        self.refused = most.checked_add(1);
        true
    }

    /// Grows to hold `len`; false if it does already or never will, be it because that much was refused.
    pub(crate) fn hold(&mut self, len: usize) -> bool {
        let Some(size) = grown(len, self.ceiling) else { return false };
        let size = match self.refused {
            Some(refused) if len >= refused as usize => return false,
            Some(refused) if size >= refused => between(len as u32, refused),
            _ => size,
        };
        if size <= self.current {
            return false;
        }
        (self.current, self.needed) = (size, len as u32);
        true
    }

    /// The other side may be another one now: what was refused may be granted.
    pub(crate) fn forget_refusals(&mut self) {
        self.refused = None;
    }

    /// Doubles; false at the ceiling.
    pub(crate) fn double(&mut self) -> bool {
        let doubled = self.current.saturating_mul(2).min(self.ceiling);
        std::mem::replace(&mut self.current, doubled) != doubled
    }

    pub(crate) fn accept(&mut self) {
        self.accepted = self.current;
    }

    /// The present size was refused: on to one that still holds what is needed, else back to what was accepted last or,
    /// when that is what was refused, to the start. False if there is nothing to take back.
    pub(crate) fn roll_back(&mut self) -> bool {
        let refused = self.current;
        self.refused = Some(self.refused.map_or(refused, |before| before.min(refused)));
        if self.needed > self.accepted && self.needed < refused {
            // Half of the way, and then what is needed and no more.
            let halfway = between(self.needed, refused);
            self.current = if refused - self.needed < self.needed / 4 { self.needed } else { halfway };
            return true;
        }
        self.needed = 0;
        self.current = if refused == self.accepted { self.start } else { self.accepted };
        self.accepted = self.current;
        self.current != refused
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_grow_in_powers_of_two_up_to_the_ceiling() {
        assert_eq!(grown(0, 1024), Some(16));
        assert_eq!(grown(17, 1024), Some(32));
        assert_eq!(grown(1024, 1024), Some(1024));
        assert_eq!(grown(900, 1000), Some(1000));
        assert_eq!(grown(1025, 1024), None);
        assert_eq!(grown(usize::MAX, u32::MAX), None);
        assert_eq!(grown((1 << 31) + 1, u32::MAX), Some(u32::MAX));
    }

    #[test]
    fn a_refused_size_is_taken_back_and_an_accepted_one_stays() {
        let mut learned = Learned::new(1024, 1 << 20);
        assert!(learned.hold(5000) && learned.current == 8192);
        assert!(!learned.hold(8192), "it holds that already");
        // What lies between is tried before the size is taken back.
        assert!(learned.roll_back() && learned.current == 6596);
        assert!(learned.roll_back() && learned.current == 5798);
        assert!(learned.roll_back() && learned.current == 5000);
        assert!(learned.roll_back() && learned.current == 1024);
        assert!(!learned.hold(5000) && !learned.hold(6000), "refused");
        assert!(learned.hold(2000));
        learned.accept();
        assert!(!learned.hold((1 << 20) + 1) && learned.current == 2048);
        learned.forget_refusals();
        assert!(learned.hold(1 << 20) && learned.roll_back() && learned.current == 2048);
        // Another server may take less than the last one did.
        assert!(learned.roll_back() && learned.current == 1024);
        assert!(!learned.roll_back());
    }

    #[test]
    fn a_limit_that_is_no_power_of_two_is_found_by_those_who_need_it() {
        let limit = 52_096;
        let mut learned = Learned::new(1024, 1 << 20);
        for (len, fits) in [(40_000, true), (52_096, true), (52_097, false), (60_000, false), (52_000, true)] {
            let mut handshakes = 0;
            let mut holds = len as u32 <= learned.current || learned.hold(len);
            while holds && learned.current > limit {
                handshakes += 1;
                holds = learned.roll_back();
            }
            learned.accept();
            assert_eq!(learned.current as usize >= len, fits, "{len}: {learned:?}");
            assert!(handshakes <= 20, "{len} cost {handshakes} refusals");
        }
    }

    #[test]
    fn doubling_ends_at_the_ceiling() {
        let mut learned = Learned::new(600_000, 1 << 20);
        assert!(learned.double() && learned.current == 1 << 20);
        assert!(!learned.double());
        let mut fixed = Learned::new(1 << 24, 1 << 20);
        assert!(!fixed.double() && fixed.current == 1 << 24, "a configured size above the ceiling stays");
    }
}
