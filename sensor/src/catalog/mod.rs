//! Reference data: lists of names, resolvers, and databases of networks, as files and the program have them.

pub mod cdn;
pub mod domain;
pub mod embedded;
pub mod file_stamp;
pub mod lists;
pub mod networks;
pub mod resolvers;

use std::{collections::HashMap, iter::once, net::IpAddr, path::PathBuf, sync::Arc};

use ipnet::{IpNet, Ipv6Net};
use sensor_ebpf::parse::protocol;

use self::{
    embedded::Embedded,
    lists::{Category, ListFile, Listed, Lists, MOST_NAMES},
    networks::{Network, Networks},
    resolvers::{Hidden, Resolvers},
};

/// Parties of a device that have series of their own, by default.
pub const TOP_PARTIES: u32 = 20;

/// The facts known of a party.
#[derive(Clone, Debug, Default)]
pub struct PartyInfo {
    /// The registrable domain of its name, or its address.
    pub name: Arc<str>,
    /// The owner.
    pub owner: Option<Arc<str>>,
    /// The category of the names under this domain that are counted here: one domain is several parties if the
    /// lists give its names different categories.
    pub category: Option<Category>,
    /// The network of its first address.
    pub network: Network,
}

/// Networks of remote addresses that a policy is about, as the databases of networks have them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum NetworkSelector {
    /// By autonomous system number.
    Asn(u32),
    /// By the name of the organisation; without case, a part of it is enough.
    Organisation(String),
}

/// The settings about parties.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parties {
    /// Parties of a device that have series of their own, 1 to 1,000; 20 by default.
    pub top: u32,
    /// Whether the lists that the program carries are used; true by default.
    pub builtin_lists: bool,
    /// Resolvers of the house beside the gateway and those that its DHCP and its router advertisements name, none
    /// twice.
    pub resolvers: Vec<IpAddr>,
    /// Databases of networks (`.mmdb`) in the order in which they are asked, absolute, none twice.
    pub networks: Vec<PathBuf>,
    /// Prefixes by which a NAT64 of the house carries IPv4, beside 64:ff9b::/96; none twice.
    pub nat64: Vec<Ipv6Net>,
}

/// A list of the user's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List {
    /// Where it is, absolute.
    pub file: PathBuf,
    /// The category of all that is on it; left out: as it says itself.
    pub category: Option<Category>,
    /// The owner of all that is on it, 1 to 63 octets; left out: as it says itself.
    pub owner: Option<String>,
}

/// The knowledge that the daemon starts with. A reload replaces it as a whole.
pub struct Catalog {
    /// Owners and categories of names, from `files` and from the built-in lists.
    pub lists: Lists,
    /// The owner's own lists, each by itself: one that cannot be read keeps its earlier content.
    pub files: HashMap<PathBuf, ListFile>,
    /// The resolvers whose questions and answers nobody else can read.
    pub resolvers: Resolvers,
    /// Countries and networks of addresses.
    pub networks: Networks,
    /// Resolvers of the house that the configuration names.
    pub house_resolvers: Vec<IpAddr>,
    /// Where IPv4 addresses stand in IPv6 addresses.
    pub embedded: Embedded,
    /// Parties of a device that have series of their own.
    pub top: usize,
}

impl Default for Catalog {
    fn default() -> Self {
        Self {
            lists: Lists::builtin(),
            files: HashMap::new(),
            resolvers: Resolvers::builtin(),
            networks: Networks::default(),
            house_resolvers: Vec::new(),
            embedded: Embedded::default(),
            top: TOP_PARTIES as usize,
        }
    }
}

impl Catalog {
    /// Loads the files that a configuration names, and the owner's own lists. A file that cannot be read, or
    /// that has nothing usable, keeps its content from `before`, and the log has an error.
    pub fn load(parties: &Parties, own: &[List], before: Option<&Self>) -> Self {
        let mut lists = Lists::default();
        let mut files = HashMap::new();
        let mut room = MOST_NAMES;
        for list in own {
            let about = (list.category, list.owner.as_deref());
            let before = before.and_then(|before| before.files.get(&list.file));
            let file = ListFile::load(&list.file, about, room, before);
            // Together they may have as many names as one may, so that memory is bounded, whatever they hold.
            room = room.saturating_sub(file.names.len());
            let without_place = lists.add_lists(&file.names);
            if without_place > 0 {
                tracing::error!(
                    "{}: {without_place} names are not used: all lists together have too many",
                    list.file.display()
                );
            }
            files.insert(list.file.clone(), file);
        }
        // After the owner's own: of entries for the same name, the first counts.
        if parties.builtin_lists {
            lists.add_builtin();
        }
        lists.shrink();
        let networks = match before {
            Some(before) => Networks::load(&parties.networks, &before.networks),
            None => Networks::load(&parties.networks, &Networks::default()),
        };
        let mut resolvers = Resolvers::builtin();
        resolvers.add(&lists);
        Self {
            lists,
            files,
            resolvers,
            networks,
            house_resolvers: parties.resolvers.clone(),
            embedded: Embedded::new(&parties.nat64),
            top: parties.top as usize,
        }
    }
}

impl Catalog {
    /// How many names the lists of policies may have: all lists together have as many as one may.
    pub fn room_for_names(&self) -> usize {
        let own = self.files.values().map(|file| file.names.len());
        MOST_NAMES.saturating_sub(own.sum())
    }
}

impl std::fmt::Debug for Catalog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Catalog")
            .field("names", &self.lists.len())
            .field("networks", &self.networks.len())
            .finish_non_exhaustive()
    }
}

impl Catalog {
    /// The facts known of the party at an address, by its name if it has one. The party of a name is its
    /// registrable domain.
    pub fn about(&self, name: Option<&str>, address: IpAddr) -> PartyInfo {
        let listed = match name {
            Some(name) => self.lists.find(name),
            None => self.lists.find_address(address),
        };
        PartyInfo {
            name: match name {
                Some(name) => domain::registrable(name).unwrap_or(name).into(),
                None if is_local(address) => "local".into(),
                None => address.to_string().into(),
            },
            owner: listed
                .as_ref()
                .and_then(|listed| listed.owner)
                .map(Arc::from),
            category: listed.and_then(|listed| listed.category),
            network: self.networks.find(self.without_nat64(address)),
        }
    }

    /// The entry of category `never-block` that a name is on.
    pub fn never_block(&self, name: &str) -> Option<Listed<'_>> {
        let listed = self.lists.find(name);
        listed.filter(|listed| listed.category == Some(Category::NeverBlock))
    }

    /// The names of category `never-block` that are refused where this name and all below it are, in order.
    pub fn missed(&self, name: &str) -> Vec<String> {
        let is_below = |below: &str| domain::is_at_or_below(below, name);
        let mut missed = Vec::new();
        self.lists.each_name_about(&[name], |entry| {
            if entry.listed.category == Some(Category::NeverBlock) && is_below(entry.what) {
                missed.push(entry.what.to_owned());
            }
        });
        if missed.is_empty() && self.never_block(name).is_some() {
            missed.push(name.to_owned());
        }
        missed.sort_unstable();
        missed
    }

    /// The IPv4 address that an IPv6 address stands for, or the address itself.
    fn without_nat64(&self, address: IpAddr) -> IpAddr {
        match address {
            IpAddr::V6(address) => {
                let inside = self.embedded.inside(address);
                inside.map_or(address.into(), IpAddr::from)
            }
            IpAddr::V4(_) => address,
        }
    }

    /// The prefix, and the IPv6 prefixes of the addresses that stand for those of an IPv4 prefix.
    pub fn with_forms(&self, prefix: IpNet) -> impl Iterator<Item = IpNet> {
        let forms = match prefix {
            IpNet::V4(prefix) => Some(self.embedded.forms(prefix)),
            IpNet::V6(_) => None,
        };
        once(prefix).chain(forms.into_iter().flatten().map(IpNet::from))
    }

    /// Why the name of a flow is not all there is to know; `None` where it is.
    pub fn hidden(&self, flow: &Shown<'_>) -> Option<Hidden> {
        const ESP: u8 = 50;
        const AH: u8 = 51;
        const GRE: u8 = 47;
        const IPV4_INSIDE: u8 = 4;
        const IPV6_INSIDE: u8 = 41;

        /// Of HTTPS: what says hello is encrypted at any port.
        const ENCRYPTED: u16 = 443;

        let port = if flow.says_hello {
            ENCRYPTED
        } else {
            flow.port
        };
        let tunnel = flow.is_tunnel
            || matches!(flow.protocol, ESP | AH | GRE | IPV4_INSIDE | IPV6_INSIDE)
            || self.resolvers.is_relay(flow.name, flow.protocol, port);
        if tunnel {
            return Some(Hidden::Vpn);
        }
        let is_clear = flow.is_readable && !flow.says_hello;
        if !is_clear
            && self
                .resolvers
                .is_encrypted_dns(flow.name, flow.remote, flow.protocol, port)
        {
            return Some(Hidden::EncryptedDns);
        }
        if flow.is_ech {
            return Some(Hidden::Ech);
        }
        // A request may give an address in the place of a name.
        let has_name = flow
            .name
            .is_some_and(|name| name.parse::<IpAddr>().is_err());
        if has_name || is_local(flow.remote) || flow.is_readable {
            return None;
        }
        if flow.protocol == protocol::TCP && !flow.spoke {
            return Some(Hidden::Unseen);
        }
        Some(Hidden::Address)
    }
}

/// The properties of a flow by which its name counts as hidden.
#[derive(Clone, Copy, Debug)]
pub struct Shown<'a> {
    /// Its name, from any source.
    pub name: Option<&'a str>,
    /// The address of the other side.
    pub remote: IpAddr,
    /// The protocol number of IANA.
    pub protocol: u8,
    /// The remote port; 0 without one.
    pub port: u16,
    /// Whether its first bytes were those of a tunnel.
    pub is_tunnel: bool,
    /// Whether its hello is encrypted.
    pub is_ech: bool,
    /// Whether a hello of TLS or QUIC gave its name.
    pub says_hello: bool,
    /// Whether its payload can be read without a name: DNS, DHCP.
    pub is_readable: bool,
    /// Whether a payload was seen, or no more will be looked at.
    pub spoke: bool,
}

/// Whether an address is in the house or on the link: private, link-local, a group, or none
/// (RFC 1918, RFC 4193, RFC 4291, RFC 6890).
pub fn is_local(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => {
            address.is_private()
                || address.is_link_local()
                || address.is_loopback()
                || address.is_multicast()
                || address.is_broadcast()
                || address.is_unspecified()
        }
        IpAddr::V6(address) => {
            address.is_unique_local()
                || address.is_unicast_link_local()
                || address.is_loopback()
                || address.is_multicast()
                || address.is_unspecified()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, io, path::Path};

    use super::*;
    use crate::catalog::lists::Category;

    /// A folder that goes when the test ends.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> io::Result<Self> {
            let name = format!("sensor-catalog-{name}-{}", std::process::id());
            let folder = std::env::temp_dir().join(name);
            fs::create_dir_all(&folder)?;
            Ok(Self(folder))
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    const PARTIES: Parties = Parties {
        top: 1,
        builtin_lists: false,
        resolvers: Vec::new(),
        networks: Vec::new(),
        nat64: Vec::new(),
    };

    fn list(file: &Path, category: Option<Category>, owner: Option<&str>) -> List {
        List {
            file: file.to_owned(),
            category,
            owner: owner.map(str::to_owned),
        }
    }

    /// Category, owner, and the end of the list that says so.
    fn said(catalog: &Catalog, name: &str) -> Option<(Option<Category>, Option<String>, char)> {
        let listed = catalog.lists.find(name)?;
        let owner = listed.owner.map(str::to_owned);
        Some((listed.category, owner, listed.list.chars().last()?))
    }

    #[test]
    fn what_would_be_missed() {
        let catalog = Catalog::default();
        let apple = catalog.missed("apple.com");
        assert!(
            apple.iter().any(|name| name == "captive.apple.com"),
            "{apple:?}"
        );
        assert!(
            apple.iter().any(|name| name == "push.apple.com"),
            "{apple:?}"
        );
        assert_eq!(catalog.missed("push.apple.com"), ["push.apple.com"]);
        assert_eq!(catalog.missed("1.push.apple.com"), ["1.push.apple.com"]);
        assert_eq!(catalog.missed("h.apple.com"), [""; 0]);
        assert_eq!(catalog.missed("tracking.intl.miui.com"), [""; 0]);
        assert!(catalog.never_block("apple.com").is_none());
    }

    #[test]
    fn what_a_list_had_stays_until_it_can_be_read_again() -> io::Result<()> {
        let folder = Folder::new("kept")?;
        let files = ["a", "b", "c"].map(|name| folder.0.join(name));
        let [a, b, c] = &files;
        let (ads, never) = (Some(Category::Advertising), Some(Category::NeverBlock));
        let own = [
            list(a, ads, None),
            list(b, None, Some("B")),
            list(c, never, None),
        ];
        fs::write(a, "both.example\na.example\n")?;
        fs::write(b, "both.example\nb.example\n")?;
        fs::write(c, "kept.both.example\n")?;
        let first = Catalog::load(&PARTIES, &own, None);
        let b_owns = || Some("B".to_owned());
        assert_eq!(said(&first, "both.example"), Some((ads, b_owns(), 'a')));

        // Those that are gone or are none any more keep what they had, though another says the same.
        fs::write(a, "both.example\n")?;
        fs::remove_file(b)?;
        fs::write(c, "<html>\n<p>Please sign in.</p>\n")?;
        let second = Catalog::load(&PARTIES, &own, Some(&first));
        let third = Catalog::load(&PARTIES, &own, Some(&second));
        for catalog in [&second, &third] {
            assert_eq!(said(catalog, "a.example"), None);
            assert_eq!(said(catalog, "both.example"), Some((ads, b_owns(), 'a')));
            assert_eq!(said(catalog, "b.example"), Some((None, b_owns(), 'b')));
            let kept = said(catalog, "kept.both.example");
            assert_eq!(kept, Some((never, b_owns(), 'c')));
            let are_kept = files.each_ref().map(|file| {
                let file = &catalog.files[file];
                (file.problem.is_some(), file.modified > 0.0)
            });
            assert_eq!(are_kept, [(false, true), (true, true), (true, true)]);
        }

        // Empty is not damaged; what is configured no more is forgotten.
        fs::write(c, "")?;
        let fourth = Catalog::load(&PARTIES, &own[1..], Some(&third));
        assert_eq!(
            said(&fourth, "kept.both.example"),
            Some((None, b_owns(), 'b'))
        );
        assert_eq!(fourth.files.len(), 2);
        fs::write(b, "b.example\n")?;
        let fifth = Catalog::load(&PARTIES, &own, Some(&fourth));
        assert_eq!(said(&fifth, "both.example"), Some((ads, None, 'a')));
        assert!(fifth.files.values().all(|file| file.problem.is_none()));
        Ok(())
    }
}
