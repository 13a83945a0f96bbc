//! How many Initials are opened: each costs as much as some thousand packets that are only counted.

/// How fast a budget fills up, and how much it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Nanoseconds in which it fills up by one.
    pub interval: u64,
    /// How many it holds.
    pub most: u64,
}

/// The Initials of one device: a browser that opens forty tabs says fewer.
pub const OF_DEVICE: Budget = Budget {
    interval: 1_000_000_000 / 50,
    most: 64,
};

/// Of all devices that are not settled, so that made-up ones take no more than half.
pub const OF_UNSETTLED: Budget = Budget {
    interval: 1_000_000_000 / 250,
    most: 128,
};

/// Of all devices.
pub const OF_ALL: Budget = Budget {
    interval: 1_000_000_000 / 500,
    most: 256,
};

impl Budget {
    /// Takes one out of a budget, of which is kept when it will be full again, in nanoseconds since boot. Gives
    /// what is kept from then on; `None` where nothing is left. (The generic cell rate algorithm: ITU-T I.371,
    /// annex A.)
    #[inline(always)]
    pub const fn take(self, full_at: u64, now: u64) -> Option<u64> {
        let full_at = if full_at < now { now } else { full_at };
        let after = full_at + self.interval;
        if after - now > self.interval * self.most {
            return None;
        }
        Some(after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_empty_when_all_is_taken_and_fills_up_again() {
        let second = 1_000_000_000;
        for budget in [OF_DEVICE, OF_UNSETTLED, OF_ALL] {
            let mut now = 5 * second;
            let mut kept = 0;
            for _ in 0..budget.most {
                kept = budget.take(kept, now).expect("some are left");
            }
            assert_eq!(budget.take(kept, now), None);
            now += budget.interval - 1;
            assert_eq!(budget.take(kept, now), None);
            now += 1;
            kept = budget.take(kept, now).expect("one more");
            assert_eq!(budget.take(kept, now), None);
            let in_a_second = (0..budget.most)
                .map_while(|_| {
                    kept = budget.take(kept, now + second)?;
                    Some(())
                })
                .count() as u64;
            assert_eq!(in_a_second, budget.most.min(second / budget.interval));
        }
    }
}
