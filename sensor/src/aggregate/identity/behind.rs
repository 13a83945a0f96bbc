//! Several devices behind one MAC address: a repeater that puts its own address into the frames of its
//! clients, or a computer with machines of its own on WLAN.
//!
//! Two things show it. A DHCP client writes its MAC address into its messages, and a repeater sends those of
//! others. And two IPv4 addresses in use at the same time whose owners tell of systems, or by multicast DNS
//! of names, that exclude each other are not of one device.

use std::net::Ipv4Addr;

use super::Mac;

/// The most other clients that are kept of one device.
const MAX_CLIENTS: usize = 32;

/// The most IPv4 addresses that are told apart.
const MAX_ENDS: usize = 16;

/// Seconds after which a client that asked for nothing is no longer counted as behind it. Leases of home
/// routers last a day to ten days; a client asks anew after half of that.
const ABSENT_AFTER: f64 = 7.0 * 24.0 * 60.0 * 60.0;

/// The observations that tell that several devices have the same MAC address.
#[derive(Clone, Debug, Default)]
pub(super) struct Behind {
    /// Other DHCP clients whose messages it sent, each with the seconds since the Unix epoch of the last.
    clients: Vec<(Mac, f64)>,
    ends: Vec<End>,
}

/// An IPv4 address, and the device that seems to have it.
#[derive(Clone, Debug)]
struct End {
    address: Ipv4Addr,
    /// The times at which it was seen first and last, in seconds since the Unix epoch.
    first: f64,
    last: f64,
    family: Option<Family>,
    host: Option<String>,
}

/// Systems of which one device has no two. An iPad calls itself a Mac, a phone a Linux computer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    Apple,
    Windows,
    Linux,
}

impl Family {
    fn of(system: &str) -> Option<Self> {
        match system {
            "iOS" | "macOS" | "tvOS" | "watchOS" | "audioOS" => Some(Self::Apple),
            "Windows" => Some(Self::Windows),
            "Android" | "ChromeOS" | "Fire OS" | "Linux" | "Tizen" | "webOS" => Some(Self::Linux),
            _ => None,
        }
    }
}

impl Behind {
    /// Takes a DHCP message of another client, and gives whether that is news.
    pub(super) fn client(&mut self, client: Mac, now: f64) -> bool {
        const GROUP: u8 = 1;
        if client == Mac::default() || client[0] & GROUP != 0 {
            return false;
        }
        let before = self.clients.len();
        self.clients.retain(|(_, last)| now - last < ABSENT_AFTER);
        let is_gone = self.clients.len() < before;
        if let Some((_, last)) = self.clients.iter_mut().find(|(known, _)| *known == client) {
            *last = now;
            return is_gone;
        }
        if self.clients.len() == MAX_CLIENTS {
            return is_gone;
        }
        self.clients.push((client, now));
        true
    }

    /// Takes that an address is in use.
    pub(super) fn used(&mut self, address: Ipv4Addr, now: f64) {
        let known = self.ends.iter_mut().find(|end| end.address == address);
        if let Some(end) = known {
            end.last = now;
        }
    }

    /// Takes the system that a device at this address tells, and returns whether that is news.
    pub(super) fn system(&mut self, address: Ipv4Addr, system: &str, now: f64) -> bool {
        let Some(family) = Family::of(system) else {
            return false;
        };
        let end = self.end(address, now);
        end.family.replace(family) != Some(family)
    }

    /// Takes the name in multicast DNS of a device at this address, and returns whether that is news.
    pub(super) fn host(&mut self, address: Ipv4Addr, name: &str, now: f64) -> bool {
        let end = self.end(address, now);
        let name = name.to_lowercase();
        let is_news = end.host.as_ref() != Some(&name);
        end.host = Some(name);
        is_news
    }

    fn end(&mut self, address: Ipv4Addr, now: f64) -> &mut End {
        let known = self.ends.iter().position(|end| end.address == address);
        let at = match known {
            Some(at) => at,
            None => {
                if self.ends.len() == MAX_ENDS {
                    let ends = self.ends.iter().enumerate();
                    let oldest = ends.min_by(|(_, a), (_, b)| a.last.total_cmp(&b.last));
                    let oldest = oldest.map_or(0, |(at, _)| at);
                    self.ends.swap_remove(oldest);
                }
                self.ends.push(End {
                    address,
                    first: now,
                    last: now,
                    family: None,
                    host: None,
                });
                self.ends.len() - 1
            }
        };
        let end = &mut self.ends[at];
        end.last = now;
        end
    }

    /// How many devices there are at least with this MAC address, itself among them; 0 where nothing tells
    /// of more than one.
    pub(super) fn count(&self) -> u32 {
        let mut others: Vec<&End> = Vec::new();
        for end in &self.ends {
            if others.iter().all(|other| other.excludes(end)) {
                others.push(end);
            }
        }
        let at_addresses = match others.len() {
            0 | 1 => 0,
            several => several,
        };
        let clients = match self.clients.len() {
            0 => 0,
            others => 1 + others,
        };
        // Both are small numbers.
        u32::try_from(clients.max(at_addresses)).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
impl Behind {
    /// The heap memory that it uses, in bytes.
    pub(super) fn memory(&self) -> usize {
        let hosts = self.ends.iter().filter_map(|end| end.host.as_ref());
        self.clients.capacity() * size_of::<(Mac, f64)>()
            + self.ends.capacity() * size_of::<End>()
            + hosts.map(String::capacity).sum::<usize>()
    }
}

impl End {
    /// Whether another device has the other address: both are in use at the same time, and their facts exclude
    /// each other.
    fn excludes(&self, other: &Self) -> bool {
        let differ = self.family.zip(other.family).is_some_and(|(a, b)| a != b)
            || self
                .host
                .as_ref()
                .zip(other.host.as_ref())
                .is_some_and(|(a, b)| a != b);
        differ && self.first <= other.last && other.first <= self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 40);
    const SECOND: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 41);
    const THIRD: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 42);

    #[test]
    fn clients_of_others_are_counted_with_the_one_that_sends() {
        let mut behind = Behind::default();
        assert_eq!(behind.count(), 0);
        assert!(behind.client([2, 0, 0, 0, 0, 1], 0.0));
        assert!(!behind.client([2, 0, 0, 0, 0, 1], 1.0));
        assert_eq!(behind.count(), 2);
        assert!(behind.client([2, 0, 0, 0, 0, 2], 2.0));
        assert_eq!(behind.count(), 3);
        // No client's address.
        assert!(!behind.client([0; 6], 3.0));
        assert!(!behind.client([0xff; 6], 3.0));
        // The first one left.
        assert!(behind.client([2, 0, 0, 0, 0, 2], 1.5 + ABSENT_AFTER));
        assert_eq!(behind.count(), 2);
        for number in 0..=u8::MAX {
            behind.client([2, 0, 0, 0, 1, number], ABSENT_AFTER);
        }
        assert_eq!(behind.clients.len(), MAX_CLIENTS);
    }

    #[test]
    fn addresses_of_different_systems_at_one_time_are_of_several() {
        let mut behind = Behind::default();
        assert!(behind.system(FIRST, "iOS", 0.0));
        assert!(!behind.system(FIRST, "iOS", 1.0));
        // It has another address by now, and asks for a page made for computers.
        assert!(behind.system(SECOND, "macOS", 2.0));
        assert_eq!(behind.count(), 0);
        behind.used(FIRST, 3.0);
        assert_eq!(behind.count(), 0);
        assert!(behind.system(THIRD, "Android", 4.0));
        // A lease may have ended.
        assert_eq!(behind.count(), 0);
        behind.used(FIRST, 5.0);
        assert_eq!(behind.count(), 2);
        assert!(!behind.system(THIRD, "an unknown one", 5.0));
    }

    #[test]
    fn addresses_of_different_names_at_one_time_are_of_several() {
        let mut behind = Behind::default();
        behind.host(FIRST, "Annas-iPhone", 0.0);
        behind.host(SECOND, "annas-iphone", 0.0);
        assert_eq!(behind.count(), 0);
        behind.host(SECOND, "nas", 1.0);
        behind.used(FIRST, 2.0);
        assert_eq!(behind.count(), 2);
        // Renamed.
        behind.host(FIRST, "nas", 3.0);
        assert_eq!(behind.count(), 0);
        for number in 0..=u8::MAX {
            behind.host(Ipv4Addr::new(10, 0, 0, number), "x", f64::from(number));
        }
        assert_eq!(behind.ends.len(), MAX_ENDS);
    }
}
