//! When a device is looked at, and which of its parties pass.
//!
//! A look comes at 20, 40, 80, … visits, and after 640 at each further 640. The error of 5 % is divided over all
//! looks that ever come, and at each look over all parties (S. Holm, 1979), without those that could not pass
//! whatever the visits had been (R. E. Tarone, *A modified Bonferroni method for discrete data*, Biometrics 46,
//! 1990).

use super::lags::Tested;

/// The visits of the first look.
pub(super) const FIRST: u32 = 20;

/// From so many visits on, looks are as far apart as this.
const APART: u32 = 640;

/// The probability of any false echo on a device, over all parties and all looks.
const ERROR: f64 = 0.05;

/// The visits of the look after the one at `visits`.
pub(super) const fn next(visits: u32) -> u32 {
    match visits {
        0 => FIRST,
        _ if visits < APART => 2 * visits,
        _ => visits + APART,
    }
}

/// The error of a look, numbered from 1. The sum over all numbers is 5 %, because 1 / (n (n + 1)) is
/// 1 / n − 1 / (n + 1).
pub(super) fn error_of(look: u32) -> f64 {
    let look = f64::from(look);
    ERROR / (look * (look + 1.0))
}

/// Of all parties of a look, the p-values of those that pass, corrected, by their places.
///
/// `error` is that of the look. A p-value passes if it is not above the error, divided by the number of parties
/// that could have passed and have no lower one.
pub(super) fn passing(tested: &[Tested], error: f64) -> Vec<(usize, f64)> {
    let parties = candidates(tested, error);
    let mut places: Vec<_> = (0..tested.len())
        .filter(|place| tested[*place].least <= error / parties as f64)
        .collect();
    places.sort_by(|one, other| tested[*one].p.total_cmp(&tested[*other].p));
    let mut highest: f64 = 0.0;
    let mut passing = Vec::new();
    for (rank, place) in places.into_iter().enumerate() {
        // Of dependent tests, a corrected value is not below the one of a lower p-value.
        highest = highest.max(tested[place].p * (parties - rank) as f64);
        if highest > error {
            break;
        }
        passing.push((place, highest));
    }
    passing
}

/// The number of parties over which the error is divided: the lowest one that is not below the number of those that
/// could pass if it were divided by it.
pub(super) fn candidates(tested: &[Tested], error: f64) -> usize {
    let mut least: Vec<_> = tested.iter().map(|tested| tested.least).collect();
    least.sort_by(f64::total_cmp);
    let could = |parties: usize| least.partition_point(|least| *least <= error / parties as f64);
    (1..=least.len().max(1))
        .find(|parties| could(*parties) <= *parties)
        .unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tested(least: f64, p: f64) -> Tested {
        Tested {
            least,
            p,
            at: None,
            is_after: true,
        }
    }

    #[test]
    fn looks_share_the_error() {
        let mut visits = Vec::from([next(0)]);
        while visits.len() < 9 {
            visits.extend(visits.last().map(|last| next(*last)));
        }
        assert_eq!(visits, [20, 40, 80, 160, 320, 640, 1_280, 1_920, 2_560]);
        assert!((error_of(1) - 0.025).abs() < 1e-12);
        assert!((error_of(4) - 0.0025).abs() < 1e-12);
        let sum: f64 = (1..100_000).map(error_of).sum();
        assert!((0.049..0.05).contains(&sum), "{sum}");
    }

    #[test]
    fn parties_that_cannot_pass_cost_nothing() {
        let check = |least: &[f64], expected| {
            let tested: Vec<_> = least.iter().map(|least| tested(*least, 1.0)).collect();
            assert_eq!(candidates(&tested, 0.05), expected, "{least:?}");
        };
        check(&[], 1);
        check(&[1.0, 1.0, 1.0], 1);
        check(&[1e-9, 1.0, 1.0], 1);
        check(&[1e-9; 3], 3);
        // With two, a half of the error is for each: the third could not pass.
        check(&[1e-9, 0.02, 0.03], 2);
        check(&[1e-9, 0.01, 0.016], 3);
    }

    #[test]
    fn the_values_are_corrected_as_holm_does() {
        let of = [
            tested(1e-9, 0.03),
            tested(1e-9, 0.01),
            tested(1e-9, 0.02),
            tested(0.5, 0.5),
        ];
        // Three could pass: 0.01 · 3, then 0.02 · 2, then 0.03 · 1, which is not below the one before.
        let passing = |error| -> Vec<_> {
            let values = passing(&of, error).into_iter();
            values
                .map(|(place, p)| (place, (p * 1e6).round() as u32))
                .collect()
        };
        assert_eq!(passing(0.05), [(1, 30_000), (2, 40_000), (0, 40_000)]);
        assert_eq!(passing(0.035), [(1, 30_000)]);
        assert_eq!(passing(0.02), []);
    }
}
