//! Attempts at a blocked name by every way, interleaved with as many at an allowed name on the same
//! addresses, and what the servers know of them.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use serde::Serialize;
use xtask::lab::{
    ALLOWED, Attempt, BLOCKED, GATEWAY, Host, Lab, NAME_SERVER, ONLY_BLOCKED, Outcome, Request, Way,
};

/// The outcomes of the attempts by one way.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Figures {
    /// Attempts at the blocked name; as many were made at the allowed one.
    pub(crate) attempts: usize,
    /// How those at the blocked name ended.
    pub(crate) refused: usize,
    pub(crate) silent: usize,
    pub(crate) failed: usize,
    pub(crate) answered: usize,
    /// Requests, or questions, that the blocked name's servers have had.
    pub(crate) leaked: usize,
    /// Attempts at the allowed name that were answered.
    pub(crate) allowed: usize,
    /// Milliseconds until an attempt was refused.
    pub(crate) refused_ms_median: f64,
    pub(crate) refused_ms_most: f64,
    /// Milliseconds until an attempt was answered.
    pub(crate) allowed_ms_median: f64,
    /// The clients' reports of attempts that ended otherwise than expected, each text once.
    pub(crate) odd: BTreeMap<String, usize>,
}

impl Figures {
    /// That nothing of the blocked name got through, and everything of the allowed one.
    pub(crate) fn check(&self, way: &str) -> Result<()> {
        ensure!(
            self.attempts > 0
                && self.leaked == 0
                && self.answered == 0
                && self.failed == 0
                && self.allowed == self.attempts,
            "{way}: {self:#?}"
        );
        Ok(())
    }
}

/// Makes `count` attempts of the phone at the blocked name by this way, half of them by either family, and
/// as many at the allowed one.
pub(crate) fn attempt(lab: &Lab, way: Way, count: usize) -> Result<Figures> {
    attempt_from(lab, &lab.phone, way, count)
}

/// As [`attempt`], by this host.
pub(crate) fn attempt_from(lab: &Lab, host: &Host, way: Way, count: usize) -> Result<Figures> {
    let addresses: Vec<&str> = match way.is_question() {
        true => vec![GATEWAY[0], GATEWAY[1], NAME_SERVER],
        false => BLOCKED.addresses.to_vec(),
    };
    let targets: Vec<_> = addresses
        .iter()
        .flat_map(|&address| [(BLOCKED.name, address), (ALLOWED.name, address)])
        .collect();
    let each = count.div_ceil(addresses.len());
    let before = leaks(lab, way)?;
    let attempts = lab.attempts(host, way, each, &targets)?;
    let (blocked, allowed) = attempts.into_iter().partition(|one| one.target % 2 == 0);
    Ok(figures(&blocked, &allowed, leaks(lab, way)? - before))
}

/// Attempts by hard-coded address that tell no name: at the address that only a blocked name has,
/// and at one that it shares with an allowed name.
pub(crate) fn attempt_without_name(lab: &Lab, way: Way, count: usize) -> Result<Figures> {
    let targets: Vec<_> = [0, 1]
        .into_iter()
        .flat_map(|family| [ONLY_BLOCKED, ALLOWED].map(|site| ("", site.addresses[family])))
        .collect();
    let at_only = || -> Result<usize> {
        let requests = lab.all_requests()?;
        Ok(requests.iter().filter(|one| is_to_only(one)).count())
    };
    let before = at_only()?;
    let attempts = lab.attempts(&lab.phone, way, count.div_ceil(2), &targets)?;
    let (blocked, allowed) = attempts.into_iter().partition(|one| one.target % 2 == 0);
    Ok(figures(&blocked, &allowed, at_only()? - before))
}

fn is_to_only(request: &Request) -> bool {
    ONLY_BLOCKED
        .addresses
        .iter()
        .any(|address| request.address.to_string() == *address)
}

fn leaks(lab: &Lab, way: Way) -> Result<usize> {
    if way.is_question() {
        return lab.questions(BLOCKED.name);
    }
    let requests = lab.all_requests()?;
    Ok(requests
        .iter()
        .filter(|one| one.host == BLOCKED.name || one.sni == BLOCKED.name)
        .count())
}

fn figures(blocked: &Vec<Attempt>, allowed: &Vec<Attempt>, leaked: usize) -> Figures {
    let ended = |attempts: &[Attempt], outcome| {
        attempts.iter().filter(|one| one.outcome == outcome).count()
    };
    let mut odd = BTreeMap::new();
    for (attempts, expected) in [(blocked, Outcome::Refused), (allowed, Outcome::Answered)] {
        for one in attempts.iter().filter(|one| one.outcome != expected) {
            let place = ["blocked", "allowed"][one.target % 2];
            let what = format!("{place}: {:?} {}", one.outcome, one.detail);
            *odd.entry(what).or_insert(0) += 1;
        }
    }
    let times = |attempts: &[Attempt], outcome| {
        let of = attempts.iter().filter(|one| one.outcome == outcome);
        let mut times: Vec<f64> = of.map(|one| one.ms).collect();
        times.sort_by(f64::total_cmp);
        times
    };
    let refused = times(blocked, Outcome::Refused);
    let answered = times(allowed, Outcome::Answered);
    let median = |times: &[f64]| times.get(times.len() / 2).copied().unwrap_or_default();
    Figures {
        attempts: blocked.len(),
        refused: refused.len(),
        silent: ended(blocked, Outcome::Silent),
        failed: ended(blocked, Outcome::Failed),
        answered: ended(blocked, Outcome::Answered),
        leaked,
        allowed: answered.len(),
        refused_ms_median: median(&refused),
        refused_ms_most: refused.last().copied().unwrap_or_default(),
        allowed_ms_median: median(&answered),
        odd,
    }
}
