//! The chance of so many hits, exactly: the tail of the Poisson-binomial distribution, and the sign test.

/// A bound that is this small stands for the probability itself.
const SMALL: f64 = 1e-9;

/// The probability that at least `hits` of independent trials succeed, each with its own chance of 0 to 1.
///
/// The bound of Chernoff and Hoeffding is computed first, in a few steps: it is never below the true value, and
/// is returned where it is at most 10⁻⁹. Else the value is exact.
pub(super) fn at_least(hits: usize, chances: &[f64]) -> f64 {
    let bound = bound(hits, chances);
    match bound <= SMALL {
        true => bound,
        false => exactly(hits, chances),
    }
}

/// A value that the probability of at least `hits` successes does not exceed (W. Hoeffding, *Probability
/// inequalities for sums of bounded random variables*, 1963, theorem 1: of all chances with the same mean, equal
/// ones have the highest bound).
fn bound(hits: usize, chances: &[f64]) -> f64 {
    // Trials that cannot succeed would loosen the bound.
    let possible = chances.iter().filter(|chance| **chance > 0.0).count();
    if hits > possible {
        return 0.0;
    }
    let trials = possible as f64;
    let mean = chances.iter().sum::<f64>() / trials;
    let share = hits as f64 / trials;
    if hits == 0 || share <= mean {
        return 1.0;
    }
    // Kullback–Leibler divergence of the two shares; the second term is 0 where every trial succeeds.
    let misses = match hits == possible {
        true => 0.0,
        false => (1.0 - share) * ((1.0 - share) / (1.0 - mean)).ln(),
    };
    (-trials * (share * (share / mean).ln() + misses)).exp()
}

/// The exact probability, by the recursion over trials. Every step adds positive numbers, so small values are
/// as exact as large ones.
fn exactly(hits: usize, chances: &[f64]) -> f64 {
    if hits == 0 {
        return 1.0;
    }
    if hits > chances.len() {
        return 0.0;
    }
    // The probability of each number of successes so far; the last one stands for all from `hits` on.
    let mut successes = vec![0.0; hits + 1];
    successes[0] = 1.0;
    for (trial, chance) in chances.iter().enumerate() {
        successes[hits] += successes[hits - 1] * chance;
        // A number of successes from which the rest cannot lead to `hits` needs no update.
        let first = hits.saturating_sub(chances.len() - trial);
        for number in (first.max(1)..hits.min(trial + 2)).rev() {
            successes[number] = successes[number] * (1.0 - chance) + successes[number - 1] * chance;
        }
        successes[0] *= 1.0 - chance;
    }
    successes[hits]
}

/// The probability that a fair coin shows heads at least `heads` times in `tosses` tosses: the p-value of the
/// one-sided sign test.
pub(super) fn heads(heads: usize, tosses: usize) -> f64 {
    if heads == 0 {
        return 1.0;
    }
    // From the least likely term on, each is a multiple of the one before; logarithms keep the first from 0.
    let mut logarithm = -(tosses as f64) * std::f64::consts::LN_2;
    let mut sum = 0.0;
    for number in (heads..=tosses).rev() {
        sum += logarithm.exp();
        logarithm += (number as f64).ln() - ((tosses - number + 1) as f64).ln();
    }
    sum.min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_close(one: f64, other: f64) -> bool {
        (one - other).abs() <= 1e-12 * other.abs().max(1e-300)
    }

    /// The probability by all outcomes of the trials, one after the other.
    fn by_outcomes(hits: usize, chances: &[f64]) -> f64 {
        let outcomes = 0..1_u32 << chances.len();
        let enough = outcomes.filter(|outcome| outcome.count_ones() as usize >= hits);
        let probability = |outcome: u32| -> f64 {
            let trials = chances.iter().enumerate();
            trials
                .map(|(trial, chance)| match outcome >> trial & 1 {
                    1 => *chance,
                    _ => 1.0 - chance,
                })
                .product()
        };
        enough.map(probability).sum()
    }

    #[test]
    fn tails_that_were_computed_by_hand() {
        let check = |hits, chances: &[f64], expected: f64| {
            let found = exactly(hits, chances);
            assert!(is_close(found, expected), "{hits} of {chances:?}: {found}");
        };
        check(0, &[0.3], 1.0);
        check(1, &[0.3], 0.3);
        check(2, &[0.3], 0.0);
        // 1 - 0.7 · 0.6, and 0.3 · 0.4.
        check(1, &[0.3, 0.4], 0.58);
        check(2, &[0.3, 0.4], 0.12);
        // 0.5 · 0.2 · 0.9 + 0.5 · 0.8 · 0.1 + 0.5 · 0.2 · 0.1 + 0.5 · 0.2 · 0.1: two of them, or all three.
        check(2, &[0.5, 0.2, 0.1], 0.09 + 0.04 + 0.01 + 0.01);
        // Binomial: (6 + 4 + 1) / 16.
        check(2, &[0.5; 4], 11.0 / 16.0);
        check(1, &[0.0, 0.0], 0.0);
        check(2, &[1.0, 1.0, 0.25], 1.0);
        check(3, &[1.0, 1.0, 0.25], 0.25);
        check(20, &[0.1; 20], 1e-20);
    }

    #[test]
    fn tails_are_those_of_all_outcomes() {
        let mut state = 1_u64;
        let mut next = || {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            (state >> 40) as f64 / (1_u64 << 24) as f64
        };
        for trials in 1..=12 {
            for _ in 0..20 {
                // Some that are certain or impossible.
                let chance = |share: f64| (share * 1.2 - 0.1).clamp(0.0, 1.0);
                let chances: Vec<_> = (0..trials).map(|_| chance(next())).collect();
                for hits in 0..=trials + 1 {
                    let expected = by_outcomes(hits, &chances);
                    let found = exactly(hits, &chances);
                    let difference = (found - expected).abs();
                    assert!(difference < 1e-12, "{hits} of {chances:?}: {found}");
                    let bound = bound(hits, &chances);
                    assert!(bound >= expected - 1e-12, "{hits} of {chances:?}: {bound}");
                }
            }
        }
    }

    #[test]
    fn a_small_bound_stands_for_the_value() {
        let chances = [0.1; 60];
        let (bound, exact) = (bound(40, &chances), exactly(40, &chances));
        assert!(exact < bound && bound < SMALL, "{exact} {bound}");
        assert_eq!(at_least(40, &chances), bound);
        assert_eq!(at_least(9, &chances), exactly(9, &chances));
    }

    #[test]
    fn coins() {
        let check = |(least, tosses), expected: f64| {
            let found = heads(least, tosses);
            assert!(
                (found - expected).abs() < 1e-12,
                "{least} of {tosses}: {found}"
            );
        };
        check((0, 0), 1.0);
        check((0, 5), 1.0);
        check((1, 1), 0.5);
        check((4, 4), 1.0 / 16.0);
        check((3, 4), 5.0 / 16.0);
        check((6, 6), 1.0 / 64.0);
        check((8, 10), 56.0 / 1_024.0);
        check((2, 1), 0.0);
        // Two thousand tosses do not end in 0 · ∞.
        let half = heads(1_000, 2_000);
        assert!((0.5..0.52).contains(&half), "{half}");
    }
}
