//! Visits to sites, found in the names that a device tells.
//!
//! Names less than three seconds apart are a group, which spans six seconds at most. The visit is the first name of
//! a group that can be a site: its registrable domain is on no list, not the vendor's, no resolver and no CDN (the
//! caller knows that), and the domain did not come behind another site in most of its groups. A program's own
//! server in the background looks like a site of which nothing is embedded, so a group without further domains is
//! no visit, and a domain that comes alone in most of its groups is no site.

use std::collections::HashMap;

use sensor_ebpf::parse::Mac;

use super::marks::{Mark, StackNumber};
use crate::quota::{Limits, Quota};

/// Names less than this many seconds apart are one group.
const GAP: f64 = 3.0;

/// The most seconds that a group spans.
const SPAN: f64 = 6.0;

/// Further domains in the group of a site that was never visited before.
const COMPANY: usize = 2;

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

/// A name that a device told.
#[derive(Clone, Copy, Debug)]
pub(super) struct Name {
    /// Its registrable domain.
    pub(super) domain: Domain,
    /// Whether neither lists, nor the vendor, nor its purpose say that it is no site.
    pub(super) can_be_site: bool,
    /// The stack that told it; 0 where that is not known.
    pub(super) stack: StackNumber,
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

/// The groups in which a domain was.
#[derive(Clone, Copy, Debug, Default)]
struct History {
    /// Its number as a site; 0 before its first visit.
    site: u16,
    /// Groups in which it was the site, or came first with others behind it.
    led: u16,
    /// Groups in which it came behind the site.
    behind: u16,
    /// Groups in which it came before the site, or without one.
    alone: u16,
}

impl History {
    /// Whether its groups do not speak against a site: it never came behind another one, or led more often than
    /// that, and it came alone in half of them at most, where one group decides nothing.
    const fn can_be_site(&self) -> bool {
        let leads = self.behind == 0 || self.led > self.behind;
        leads && 2 * self.led + 1 >= self.led + self.behind + self.alone
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
    pub(super) fn name(&mut self, device: Mac, name: Name, time: f64) -> Option<Mark> {
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
    pub(super) fn close(&mut self, device: Mac, now: f64) -> Option<Mark> {
        let names = self.devices.get_mut(&device)?;
        let group = names.group.as_ref()?;
        // After a step back of time a group ends, too.
        let since = now - names.last.unwrap_or(group.start);
        let lasts = since < GAP && (0.0..=SPAN).contains(&(now - group.start));
        if lasts {
            return None;
        }
        let group = names.group.take()?;
        self.visit_of(device, &group)
    }

    /// Whether a device visited a domain in most of its groups.
    pub(super) fn is_site(&self, device: Mac, domain: Domain) -> bool {
        let history = self.domains.get(device, &domain);
        history.is_some_and(|history| history.site != 0 && history.can_be_site())
    }

    /// The number of a domain as a site of a device; 0 where it never was one.
    pub(super) fn site(&self, device: Mac, domain: Domain) -> u16 {
        let history = self.domains.get(device, &domain);
        history.map_or(0, |history| history.site)
    }

    /// Forgets a device.
    pub(super) fn forget(&mut self, device: Mac) {
        self.devices.remove(&device);
        drop(self.domains.remove_device(device));
    }

    fn visit_of(&mut self, device: Mac, group: &Group) -> Option<Mark> {
        let behind = |place: usize| group.members.len() - place - 1;
        let is_site = |place: usize, name: &Name| {
            let history = self.domains.get(device, &name.domain);
            let history = history.copied().unwrap_or_default();
            let is_known = history.led > 0;
            // A domain that shows up while a page still loads is a part of that page.
            let is_new_part = group.continues && !is_known;
            let company = match is_known {
                true => 1,
                false => COMPANY,
            };
            name.can_be_site
                && history.can_be_site()
                && !is_new_part
                && behind(place) >= company
        };
        let mut members = group.members.iter().enumerate();
        let site = members.find(|(place, (name, _))| is_site(*place, name));
        let site = site.map(|(place, _)| place);
        for (place, (name, _)) in group.members.iter().enumerate() {
            if !name.can_be_site {
                continue;
            }
            let comes_first = place == 0 && !group.continues && behind(0) >= COMPANY;
            let history = self.history(device, name.domain)?;
            match site {
                _ if comes_first || site == Some(place) => history.led += 1,
                Some(site) if place > site => history.behind += 1,
                _ => history.alone += 1,
            }
            history.age();
        }
        let (name, time) = group.members[site?];
        let names = self.devices.get_mut(&device)?;
        let history = self.domains.get_mut(device, &name.domain)?;
        if history.site == 0 {
            // Numbers go around after 65,535 sites; 0 is none.
            names.sites = names.sites.checked_add(1).unwrap_or(1);
            history.site = names.sites;
        }
        Some(Mark {
            time: time as u32,
            site: history.site,
            stack: name.stack,
        })
    }

    /// The history of a device's domain, which becomes its latest; it begins here if there is none.
    fn history(&mut self, device: Mac, domain: Domain) -> Option<&mut History> {
        if self.domains.get(device, &domain).is_none() {
            let history = History::default();
            self.domains.insert(device, domain, history, 1, |_, _, _| {});
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
        }
    }

    /// The seconds and site numbers of the visits among names at seconds.
    fn visits(names: &[(f64, Domain)]) -> Vec<(u32, u16)> {
        let mut detector = Detector::default();
        let mut visits: Vec<_> = names
            .iter()
            .filter_map(|(time, domain)| detector.name(PHONE, name(*domain), *time))
            .collect();
        visits.extend(detector.close(PHONE, f64::INFINITY));
        visits.iter().map(|visit| (visit.time, visit.site)).collect()
    }

    #[test]
    fn the_first_name_of_a_group_is_the_visit() {
        let page = |at: f64, site| [(at, site), (at + 0.4, ADS), (at + 1.2, FONTS)];
        let names: Vec<_> = [page(100.9, NEWS), page(130.0, SHOP), page(190.0, NEWS)].concat();
        assert_eq!(visits(&names), [(100, 1), (130, 2), (190, 1)]);
        // Three tabs within two seconds are one trial.
        let names = [page(100.0, NEWS), page(101.5, SHOP)].concat();
        assert_eq!(visits(&names), [(100, 1)]);
    }

    #[test]
    fn names_that_are_no_sites_begin_no_group_and_are_company() {
        let names = [(100.0, LISTED), (101.0, NEWS), (101.5, LISTED), (101.7, ADS)];
        assert_eq!(visits(&names), [(101, 1)]);
        assert_eq!(visits(&[(100.0, LISTED), (101.0, LISTED + 1), (102.0, LISTED + 2)]), []);
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
        assert_eq!(times, [0, 60, 120, 180, 240]);
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
        names.extend([(80_000.0, APP), (80_001.0, NEWS), (80_001.5, ADS), (80_001.9, FONTS)]);
        assert_eq!(visits(&names), [(80_001, 1)]);
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
