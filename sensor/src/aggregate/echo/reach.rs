//! On how many sites a party that follows visits is: nearly all of them, or some, always the same.
//!
//! A party that is built into a page is contacted on each visit to that site, and on no visit to another. The
//! likelihood of the share of sites with the party is computed over visits by site, and over visits by session.

use std::collections::BTreeMap;

/// Half the difference of twice the logarithm of likelihoods within which a share lies in the 95 % interval: half
/// the 95 % quantile of the χ² distribution with one degree of freedom.
const INTERVAL: f64 = 1.92;

/// The logarithm of the ratio of likelihoods from which "all sites" is rejected (p about 0.01).
const REJECTED: f64 = 3.3;

/// By so much the likelihood over sessions must be better than that over sites.
const BETTER: f64 = 2.0;

/// The least chance that an upload of another cause falls into a visit's band.
const LEAST_CHANCE: f64 = 0.01;

/// Shares and rates are looked for in steps of a fiftieth.
const STEPS: usize = 50;

/// Where a party that follows visits is found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Reach {
    /// After visits to nearly every site.
    NearlyEverySite,
    /// After visits to some sites, always the same.
    SomeSites,
    /// In some sessions of visits only: one of several browsers or apps.
    SomeSessions,
    /// After visits to at least this share of sites, 0 to 1; more cannot be told.
    Unclear(f64),
}

/// A visit and whether the party followed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Followed {
    /// The number of the site.
    pub(super) site: u16,
    /// The number of the session.
    pub(super) session: u32,
    /// Whether an upload came in the band.
    pub(super) is_hit: bool,
    /// The chance of that without the visit, 0 to 1.
    pub(super) chance: f64,
}

/// A share of sites, by maximum likelihood.
#[derive(Clone, Copy, Debug)]
struct Share {
    /// The logarithm of the likelihood, and that of all sites.
    likelihood: f64,
    of_all: f64,
    /// The 95 % interval of the share, and the rate of visits that are followed on these sites.
    lower: f64,
    upper: f64,
    rate: f64,
}

/// The reach of a party that follows visits. Only visits with no other visit near them tell it.
pub(super) fn reach(visits: &[Followed]) -> Reach {
    if visits.is_empty() {
        return Reach::Unclear(0.0);
    }
    let sites = share(visits, |visit| visit.site.into());
    let sessions = share(visits, |visit| visit.session);
    let rejection = |share: &Share| share.likelihood - share.of_all;
    if rejection(&sessions) > REJECTED && sessions.likelihood > sites.likelihood + BETTER {
        Reach::SomeSessions
    } else if rejection(&sites) > REJECTED && sites.upper < 0.97 {
        Reach::SomeSites
    } else if sites.lower >= 0.8 && sites.upper > 0.97 && sites.rate >= 0.5 {
        Reach::NearlyEverySite
    } else {
        Reach::Unclear(sites.lower)
    }
}

/// The share of groups of visits with the party; `group` numbers them.
fn share(visits: &[Followed], group: impl Fn(&Followed) -> u32) -> Share {
    let mut groups: BTreeMap<u32, Vec<&Followed>> = BTreeMap::new();
    for visit in visits {
        groups.entry(group(visit)).or_default().push(visit);
    }
    // Of each group, the logarithm of the likelihood without the party, and the ratio with it at each rate.
    let log = |visit: &Followed, rate: f64| {
        let chance = visit.chance.clamp(LEAST_CHANCE, 1.0 - LEAST_CHANCE);
        let hit = chance + (1.0 - chance) * rate;
        match visit.is_hit {
            true => hit.ln(),
            // No visit rules out a rate of 1.
            false => (1.0 - hit).max(1e-6).ln(),
        }
    };
    let sum = |group: &[&Followed], rate: f64| -> f64 {
        group.iter().map(|visit| log(visit, rate)).sum()
    };
    let without: Vec<_> = groups.values().map(|group| sum(group, 0.0)).collect();
    let base: f64 = without.iter().sum();
    let step = |number: usize| number as f64 / STEPS as f64;
    // For each share, the best rate.
    let mut best = [(f64::NEG_INFINITY, 0.0); STEPS + 1];
    for rate in (1..=STEPS).map(step) {
        let ratios: Vec<_> = groups
            .values()
            .zip(&without)
            .map(|(group, without)| (sum(group, rate) - without).exp())
            .collect();
        for (number, best) in best.iter_mut().enumerate() {
            let share = step(number);
            let terms = ratios.iter().map(|ratio| share * ratio + 1.0 - share);
            let likelihood = base + product(terms);
            if likelihood > best.0 {
                *best = (likelihood, rate);
            }
        }
    }
    let (likelihood, rate) = best
        .into_iter()
        .max_by(|one, other| one.0.total_cmp(&other.0))
        .unwrap_or_default();
    let is_inside = |number: &usize| best[*number].0 >= likelihood - INTERVAL;
    Share {
        likelihood,
        of_all: best[STEPS].0,
        lower: (0..=STEPS).find(is_inside).map_or(0.0, step),
        upper: (0..=STEPS).rev().find(is_inside).map_or(1.0, step),
        rate,
    }
}

/// The logarithm of a product of positive numbers, with few logarithms.
fn product(terms: impl Iterator<Item = f64>) -> f64 {
    let mut logarithm = 0.0;
    let mut product = 1.0;
    for term in terms {
        product *= term;
        if !(1e-200..1e200).contains(&product) {
            logarithm += product.max(f64::MIN_POSITIVE).ln();
            product = 1.0;
        }
    }
    logarithm + product.max(f64::MIN_POSITIVE).ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Visits to sites in turn, seven in a session.
    fn visits(sites: u16, count: u32, is_hit: impl Fn(u32, u16, u32) -> bool) -> Vec<Followed> {
        let visit = |number: u32| {
            let site = (number % u32::from(sites)) as u16;
            let session = number / 7;
            Followed {
                site,
                session,
                is_hit: is_hit(number, site, session),
                chance: 0.02,
            }
        };
        (0..count).map(visit).collect()
    }

    #[test]
    fn a_party_on_all_sites_and_one_on_some() {
        assert_eq!(
            reach(&visits(40, 160, |_, _, _| true)),
            Reach::NearlyEverySite
        );
        let four_of_five = visits(40, 160, |number, _, _| number % 5 != 0);
        assert!(matches!(
            reach(&four_of_five),
            Reach::NearlyEverySite | Reach::SomeSites
        ));
        let some = reach(&visits(40, 160, |_, site, _| site % 3 == 0));
        assert_eq!(some, Reach::SomeSites);
        let sessions = reach(&visits(40, 160, |_, _, session| session % 2 == 0));
        assert_eq!(sessions, Reach::SomeSessions);
        let each_third = reach(&visits(40, 160, |number, _, _| number % 3 == 0));
        assert!(matches!(each_third, Reach::Unclear(_)), "{each_third:?}");
        assert_eq!(reach(&[]), Reach::Unclear(0.0));
    }

    #[test]
    fn the_likelihood_of_two_sites_is_that_of_the_formula() {
        // One visit each, one of them followed.
        let visits = visits(2, 2, |_, site, _| site == 0);
        let share = share(&visits, |visit| visit.site.into());
        let of = |pi: f64, r: f64| -> f64 {
            let hit = 0.02 + 0.98 * r;
            let followed = pi * hit + (1.0 - pi) * 0.02;
            let not = pi * (1.0 - hit).max(1e-6) + (1.0 - pi) * 0.98;
            (followed * not).ln()
        };
        let step = |number: u32| f64::from(number) / 50.0;
        let all = (0..=50).flat_map(|pi| (1..=50).map(move |r| of(step(pi), step(r))));
        let expected = all.fold(f64::NEG_INFINITY, f64::max);
        assert!((share.likelihood - expected).abs() < 1e-9, "{share:?}");
        let of_all = (1..=50).map(|r| of(1.0, step(r)));
        let of_all = of_all.fold(f64::NEG_INFINITY, f64::max);
        assert!((share.of_all - of_all).abs() < 1e-9, "{share:?}");
    }

    #[test]
    fn products_of_many_terms_neither_vanish_nor_overflow() {
        let terms = |term: f64| std::iter::repeat_n(term, 1_000);
        assert!((product(terms(1e-3)) - 1_000.0 * 1e-3_f64.ln()).abs() < 1e-6);
        assert!((product(terms(1e3)) - 1_000.0 * 1e3_f64.ln()).abs() < 1e-6);
    }
}
