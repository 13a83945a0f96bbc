//! Visits to sites, found in the names that a device tells.
//!
//! Names less than three seconds apart are a group, which spans six seconds at most. The visit is the first name of
//! a group that can be a site: its registrable domain is on no list, not the vendor's, no resolver and no CDN (the
//! caller knows that), and the domain did not come behind another site in most of its groups. A program's own
//! server in the background looks like a site of which nothing is embedded, so a group without further domains is
//! no visit, and a domain that comes alone in most of its groups is no site.

use std::collections::{HashMap, HashSet};

use sensor_ebpf::parse::Mac;

use super::marks::{Mark, StackNumber};
use crate::quota::{Limits, Quota};

/// Names less than this many seconds apart are one group.
const GAP: f64 = 3.0;

/// The most seconds that a group spans.
const SPAN: f64 = 6.0;

/// Seconds after a site's name in which the first part of its page is contacted, and in which its parts are counted.
const FIRST_PART: f64 = 1.0;
const PARTS: f64 = 2.0;

/// By so many more parts a name shows that it is a site, if it comes while another page still loads.
const CONTINUING: usize = 6;

/// The most domains of a group that are told apart.
const MOST_MEMBERS: usize = 64;

/// The most domains of which something is remembered: some 2 MiB.
const DOMAINS: Limits = Limits {
    of_device: 1_024,
    in_all: 16_384,
};

/// Groups after which the counts of a domain are halved, so that recent ones weigh more.
const MANY: u16 = 64;

/// A domain by a hash, by which it cannot be listed.
pub(super) type Domain = u64;

/// An owner of domains, by a hash of the name.
pub(super) type Owner = u64;

/// The marks of a group's visit: the first name that can be it, and the next one.
pub(super) type Visit = [Option<Mark>; 2];

/// A name that a device told.
#[derive(Clone, Copy, Debug)]
pub(super) struct Name {
    /// Its registrable domain.
    pub(super) domain: Domain,
    /// Whether neither lists, nor the vendor, nor its purpose say that it is no site.
    pub(super) can_be_site: bool,
    /// The stack that told it; 0 where that is not known.
    pub(super) stack: StackNumber,
    /// The owner of the domain, where lists know it.
    pub(super) owner: Option<Owner>,
}

/// Finds the visits of all devices, those of each by its own names alone.
#[derive(Debug)]
pub(super) struct Detector {
    devices: HashMap<Mac, Names>,
    domains: Quota<Mac, Domain, History>,
}

/// The latest names of a device.
#[derive(Debug, Default)]
struct Names {
    group: Option<Group>,
    /// The time of the last name, in seconds.
    last: Option<f64>,
    /// The number of the last site.
    sites: u16,
}

/// Names that came one after the other.
#[derive(Debug)]
struct Group {
    start: f64,
    /// Whether it goes on where another group had its full span.
    continues: bool,
    /// The domains in the order in which they came first, each with its time.
    members: Vec<(Name, f64)>,
}

impl Group {
    /// The further domains that come right behind one: the parts of its page, if it is a site.
    fn company(&self, place: usize) -> usize {
        let mut times = self.members[place..].iter().map(|(_, time)| *time);
        let Some(time) = times.next() else { return 0 };
        let mut parts = times.peekable();
        match parts.peek() {
            Some(first) if *first <= time + FIRST_PART => {
                parts.take_while(|part| *part <= time + PARTS).count()
            }
            _ => 0,
        }
    }
}

/// The groups in which a domain was.
#[derive(Clone, Copy, Debug, Default)]
struct History {
    /// Its number as a site; 0 before its first visit.
    site: u16,
    owner: Option<Owner>,
    /// Groups in which it was the site, or came first with others behind it.
    led: u16,
    /// Groups in which it came behind the site.
    behind: u16,
    /// Groups in which it came before the site, or without one.
    alone: u16,
}

impl History {
    /// Whether a device visits it: it led others, and neither came alone in most of its groups nor behind a site in
    /// nearly all of them.
    const fn is_site(&self) -> bool {
        self.led > 0 && self.behind <= 2 * self.led && self.alone <= self.led
    }

    /// Whether little speaks against it: it came alone once at most, or no more often than it led.
    const fn may_be_site(&self) -> bool {
        self.alone <= 1 || self.alone <= self.led
    }

    /// Whether it is the site of a group in which so many domains come right behind it.
    const fn leads(&self, company: usize, continues: bool) -> bool {
        let is_mostly_behind = self.behind > 0 && self.behind >= self.led;
        if self.led > 0 && !is_mostly_behind && self.alone <= self.led {
            // Connections to all parts of a page may still be open.
            return company > 0 || self.alone < self.led;
        }
        // The more groups speak against it, the more domains must speak for it. One that shows up while a page still
        // loads is a part of that page, unless it brings many more.
        let against = (self.behind + self.alone) as usize;
        let continuing = if continues { CONTINUING } else { 0 };
        company > against + continuing
    }

    const fn age(&mut self) {
        if self.led + self.behind + self.alone > MANY {
            self.led /= 2;
            self.behind /= 2;
            self.alone /= 2;
        }
    }
}

impl Default for Detector {
    fn default() -> Self {
        Self {
            devices: HashMap::new(),
            domains: Quota::new(DOMAINS),
        }
    }
}

impl Detector {
    /// Takes a device's name at a time in seconds; the result is the visit of the group before it, if that is over
    /// now.
    pub(super) fn name(&mut self, device: Mac, name: Name, time: f64) -> Visit {
        let visit = self.close(device, time);
        let names = self.devices.entry(device).or_default();
        match &mut names.group {
            Some(group) => {
                let members = &mut group.members;
                let is_known = members.iter().any(|(known, _)| known.domain == name.domain);
                if !is_known && members.len() < MOST_MEMBERS {
                    members.push((name, time));
                }
            }
            // Others keep a group going, and begin none.
            None if !name.can_be_site => return visit,
            None => {
                names.group = Some(Group {
                    start: time,
                    continues: names.last.is_some_and(|last| time - last < GAP),
                    members: vec![(name, time)],
                });
            }
        }
        names.last = Some(time);
        visit
    }

    /// Ends the group of a device if no name at this time would belong to it; the result is its visit.
    pub(super) fn close(&mut self, device: Mac, now: f64) -> Visit {
        let names = self.devices.get_mut(&device);
        let open = names.and_then(|names| Some((names.group.as_ref()?.start, names.last)));
        let Some((start, last)) = open else {
            return [None; 2];
        };
        // After a step back of time a group ends, too.
        let since = now - last.unwrap_or(start);
        let lasts = since < GAP && (0.0..=SPAN).contains(&(now - start));
        if lasts {
            return [None; 2];
        }
        let names = self.devices.get_mut(&device);
        let group = names.and_then(|names| names.group.take());
        group.map_or([None; 2], |group| self.visit_of(device, &group))
    }

    /// Whether a device visited a domain in most of its groups.
    pub(super) fn is_site(&self, device: Mac, domain: Domain) -> bool {
        let history = self.domains.get(device, &domain);
        history.is_some_and(|history| history.site != 0 && history.is_site())
    }

    /// Of marks, those of visits, one for each group. A domain that was taken for a site, until more was known of it,
    /// is none any more: then the second choice of its group is the visit.
    pub(super) fn settle(&self, device: Mac, marks: impl Iterator<Item = Mark>) -> Vec<Mark> {
        let domains = self.domains.iter_of(device).map(|(_, history)| history);
        let (mut sites, mut others) = (HashSet::new(), HashSet::new());
        for history in domains.filter(|history| history.site != 0) {
            if history.is_site() {
                sites.insert(history.site);
            }
            if history.may_be_site() {
                others.insert(history.site);
            }
        }
        let mut visits = Vec::new();
        let mut has_visit = false;
        for mark in marks {
            let is_visit = match mark.is_second {
                false => sites.contains(&mark.site),
                true => !has_visit && others.contains(&mark.site),
            };
            has_visit = is_visit;
            if is_visit {
                visits.push(mark);
            }
        }
        visits
    }

    /// The numbers of the sites that belong to a party: its own domain, and those of the same owner.
    pub(super) fn sites_of(
        &self,
        device: Mac,
        domain: Domain,
        owner: Option<Owner>,
    ) -> HashSet<u16> {
        let domains = self.domains.iter_of(device);
        let own = domains.filter(|(of, history)| {
            let is_owners = owner.is_some() && history.owner == owner;
            history.site != 0 && (**of == domain || is_owners)
        });
        own.map(|(_, history)| history.site).collect()
    }

    /// Forgets a device.
    pub(super) fn forget(&mut self, device: Mac) {
        self.devices.remove(&device);
        drop(self.domains.remove_device(device));
    }

    fn visit_of(&mut self, device: Mac, group: &Group) -> Visit {
        let company = |place| group.company(place);
        let is_site = |place: usize, name: &Name| {
            let history = self.domains.get(device, &name.domain);
            let history = history.copied().unwrap_or_default();
            name.can_be_site && history.leads(company(place), group.continues)
        };
        let members = group.members.iter().enumerate();
        let mut choices = members.filter(|(place, (name, _))| is_site(*place, name));
        let site = choices.next().map(|(place, _)| place);
        let second = choices.next().map(|(place, _)| place);
        drop(choices);
        for (place, (name, _)) in group.members.iter().enumerate() {
            if !name.can_be_site {
                continue;
            }
            let comes_first = place == 0 && !group.continues && company(0) > 0;
            let leads = comes_first || site == Some(place) && company(place) > 0;
            let Some(history) = self.history(device, name.domain) else {
                continue;
            };
            history.owner = name.owner;
            match site {
                _ if leads => history.led += 1,
                Some(site) if place > site => history.behind += 1,
                _ => history.alone += 1,
            }
            history.age();
        }
        [(site, false), (second, true)].map(|(place, is_second)| {
            let (name, time) = group.members[place?];
            Some(Mark {
                time: time as u32,
                site: self.number(device, name.domain)?,
                is_second,
                stack: name.stack,
            })
        })
    }

    /// The number of a device's domain as a site.
    fn number(&mut self, device: Mac, domain: Domain) -> Option<u16> {
        let names = self.devices.get_mut(&device)?;
        let history = self.domains.get_mut(device, &domain)?;
        if history.site == 0 {
            // Numbers go around after 65,535 sites; 0 is none.
            names.sites = names.sites.checked_add(1).unwrap_or(1);
            history.site = names.sites;
        }
        Some(history.site)
    }

    /// The history of a device's domain, which becomes its latest; it begins here if there is none.
    fn history(&mut self, device: Mac, domain: Domain) -> Option<&mut History> {
        if self.domains.get(device, &domain).is_none() {
            let history = History::default();
            self.domains
                .insert(device, domain, history, 1, |_, _, _| {});
        }
        self.domains.renew(device, &domain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PHONE: Mac = Mac::new([2, 0, 0, 0, 0, 1]);
    const LAPTOP: Mac = Mac::new([2, 0, 0, 0, 0, 2]);

    const NEWS: Domain = 1;
    const SHOP: Domain = 2;
    const ADS: Domain = 10;
    const FONTS: Domain = 11;
    const VIDEO: Domain = 12;
    const APP: Domain = 20;
    const LISTED: Domain = 30;

    const fn name(domain: Domain) -> Name {
        Name {
            domain,
            can_be_site: domain < LISTED,
            stack: 1,
            owner: None,
        }
    }

    /// The seconds and site numbers of the visits among names at seconds.
    fn visits(names: &[(f64, Domain)]) -> Vec<(u32, u16)> {
        let mut detector = Detector::default();
        let mut visits: Vec<_> = names
            .iter()
            .filter_map(|(time, domain)| detector.name(PHONE, name(*domain), *time)[0])
            .collect();
        visits.extend(detector.close(PHONE, f64::INFINITY)[0]);
        visits
            .iter()
            .map(|visit| (visit.time, visit.site))
            .collect()
    }

    #[test]
    fn the_first_name_of_a_group_is_the_visit() {
        let page = |at: f64, site| [(at, site), (at + 0.4, ADS), (at + 1.2, FONTS)];
        let names: Vec<_> = [page(100.9, NEWS), page(130.0, SHOP), page(190.0, NEWS)].concat();
        // The second number is that of a part, which could as well have been the site.
        assert_eq!(visits(&names), [(100, 1), (130, 3), (190, 1)]);
        // Three tabs within two seconds are one trial.
        let names = [page(100.0, NEWS), page(101.5, SHOP)].concat();
        assert_eq!(visits(&names), [(100, 1)]);
    }

    #[test]
    fn names_that_are_no_sites_begin_no_group_and_are_company() {
        let names = [
            (100.0, LISTED),
            (101.0, NEWS),
            (101.5, LISTED),
            (101.7, ADS),
        ];
        assert_eq!(visits(&names), [(101, 1)]);
        assert_eq!(
            visits(&[(100.0, LISTED), (101.0, LISTED + 1), (102.0, LISTED + 2)]),
            []
        );
    }

    #[test]
    fn a_domain_that_comes_behind_sites_is_none() {
        let mut names = Vec::new();
        for visit in 0..5 {
            let at = f64::from(visit) * 60.0;
            names.extend([(at, NEWS), (at + 0.5, ADS), (at + 0.9, FONTS)]);
            // Late parts of the page, after its group is over.
            names.extend([(at + 12.0, ADS), (at + 12.2, FONTS), (at + 12.4, VIDEO)]);
        }
        let visits = visits(&names);
        let times: Vec<_> = visits.iter().map(|(time, _)| *time).collect();
        // The first time nothing tells the late parts from a site.
        assert_eq!(times, [0, 12, 60, 120, 180, 240]);
    }

    #[test]
    fn a_second_choice_stands_in_for_a_first_one_that_was_none() {
        let mut detector = Detector::default();
        let mut marks = Vec::new();
        // A program's contact right before a page, and later many alone.
        let first = [(100.2, APP), (100.9, NEWS), (101.2, ADS), (101.4, FONTS)];
        let later = (1..9).map(|hour| (f64::from(hour) * 3_600.0, APP));
        for (time, domain) in first.into_iter().chain(later) {
            marks.extend(
                detector
                    .name(PHONE, name(domain), time)
                    .into_iter()
                    .flatten(),
            );
        }
        let visits = detector.settle(PHONE, marks.iter().copied());
        let [visit] = *visits else {
            panic!("{visits:?}")
        };
        assert_eq!(
            detector.sites_of(PHONE, NEWS, None),
            HashSet::from([visit.site])
        );
    }

    #[test]
    fn a_page_that_loads_for_long_is_one_visit() {
        let parts = (0..40).map(|part| (100.0 + f64::from(part) * 0.3, 10 + part as u64 % 10));
        let names: Vec<_> = std::iter::once((99.8, NEWS)).chain(parts).collect();
        assert_eq!(visits(&names), [(99, 1)]);
    }

    #[test]
    fn a_program_in_the_background_is_no_site() {
        let mut names = Vec::new();
        for hour in 0..20 {
            names.push((f64::from(hour) * 3_600.0, APP));
        }
        // It shares a group with others now and then.
        names.extend([
            (80_000.0, APP),
            (80_001.0, NEWS),
            (80_001.5, ADS),
            (80_001.9, FONTS),
        ]);
        assert_eq!(visits(&names), [(80_001, 1)]);
    }

    #[test]
    fn the_sites_of_a_party_are_its_own_and_those_of_its_owner() {
        let mut detector = Detector::default();
        let owned = |domain| Name {
            owner: (domain == NEWS || domain == VIDEO).then_some(7),
            ..name(domain)
        };
        for (number, site) in (0_u32..).zip([NEWS, SHOP, VIDEO]) {
            let at = f64::from(number) * 60.0;
            detector.name(PHONE, owned(site), at);
            detector.name(PHONE, owned(LISTED), at + 0.3);
        }
        detector.close(PHONE, 1_000.0);
        let sites = |domain, owner| {
            let sites = detector.sites_of(PHONE, domain, owner).into_iter();
            sites.collect::<std::collections::BTreeSet<_>>()
        };
        assert_eq!(Vec::from_iter(sites(LISTED, Some(7))), [1, 3]);
        assert_eq!(Vec::from_iter(sites(SHOP, Some(7))), [1, 2, 3]);
        assert_eq!(Vec::from_iter(sites(SHOP, None)), [2]);
        assert!(sites(LISTED, None).is_empty());
    }

    #[test]
    fn a_device_with_many_domains_forgets_its_own() {
        let mut detector = Detector::default();
        for (at, domain) in [(1.0, NEWS), (1.1, ADS), (1.2, FONTS)] {
            detector.name(LAPTOP, name(domain), at);
        }
        detector.close(LAPTOP, 10.0);
        for domain in 0..10 * DOMAINS.of_device as u64 {
            let name = Name {
                domain,
                can_be_site: true,
                stack: 0,
                owner: None,
            };
            detector.name(PHONE, name, domain as f64 * 0.01);
        }
        assert_eq!(detector.domains.len_of(PHONE), DOMAINS.of_device);
        assert!(detector.is_site(LAPTOP, NEWS));
        assert!(!detector.is_site(LAPTOP, ADS));
        detector.forget(PHONE);
        assert_eq!(detector.domains.len(), 3);
    }
}
