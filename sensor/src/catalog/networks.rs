//! Country and network of an address, from the `.mmdb` files that the configuration names.
//!
//! Read whole into memory and never mapped: a file that is rewritten in place would change below a
//! map, or end the process. Works without any file, and with any part of them.

use std::{
    fs, io,
    net::IpAddr,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use ipnet::IpNet;
use maxminddb::{MaxMindDbError, PathElement, Reader, WithinOptions};
use serde::Deserialize;

use super::file_stamp::FileStamp;
use crate::catalog::NetworkSelector;

/// The longest name of an organisation in octets; more is cut off.
pub const LONGEST_ORGANISATION: usize = 100;

/// Where the country stands: GeoLite2 and DB-IP, what registered the address where its place is
/// not known, ip-location-db.
const COUNTRY: [&[PathElement<'_>]; 3] = [
    &[PathElement::Key("country"), PathElement::Key("iso_code")],
    &[
        PathElement::Key("registered_country"),
        PathElement::Key("iso_code"),
    ],
    &[PathElement::Key("country_code")],
];

/// GeoLite2-ASN, DB-IP and ip-location-db.
const NUMBER: &[PathElement<'_>] = &[PathElement::Key("autonomous_system_number")];
const ORGANISATION: &[PathElement<'_>] = &[PathElement::Key("autonomous_system_organization")];

/// Where an address is, and whose network it is in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Network {
    /// The country, by its two capital letters (ISO 3166-1).
    pub country: Option<String>,
    /// The number of the autonomous system.
    pub asn: Option<u32>,
    /// The organisation that runs it, at most [`LONGEST_ORGANISATION`] bytes, no control characters.
    pub organisation: Option<String>,
}

/// The reason why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be read.
    #[error("{0}")]
    Unreadable(#[source] io::Error),
    /// It is not a database of networks, or not a whole one.
    #[error("it is not a whole database of networks (.mmdb): {0}")]
    Damaged(#[source] MaxMindDbError),
}

/// A database in a file: as it is now, or as it was when it could be read last.
#[derive(Clone)]
pub struct Database {
    /// Where it is.
    pub file: PathBuf,
    /// When the file was written, in seconds since the Unix epoch.
    pub modified: f64,
    /// The reason why it could not be used the last time; its earlier content is then in use.
    pub problem: Option<String>,
    /// How the file looked when it was read.
    pub look: FileStamp,
    /// `None` where it could never be used.
    reader: Option<Arc<Reader<Vec<u8>>>>,
}

/// The databases, in the order in which they are asked.
#[derive(Default)]
pub struct Networks {
    databases: Vec<Database>,
}

impl Networks {
    /// Reads databases. One that cannot be used keeps its content from `before`.
    pub fn load(files: &[PathBuf], before: &Self) -> Self {
        let databases = files.iter().map(|file| {
            let look = FileStamp::of(file);
            Database::read(file).unwrap_or_else(|error| {
                let mut all = before.databases.iter();
                let kept = all.find(|database| database.file == *file);
                tracing::error!(
                    "{}: {error}; {}",
                    file.display(),
                    match kept {
                        Some(kept) if kept.reader.is_some() => "what it had before stays in force",
                        _ => "nothing of it is known",
                    }
                );
                Database {
                    file: file.clone(),
                    modified: kept.map_or(0.0, |kept| kept.modified),
                    problem: Some(error.to_string()),
                    look,
                    reader: kept.and_then(|kept| kept.reader.clone()),
                }
            })
        });
        Self {
            databases: databases.collect(),
        }
    }

    /// The databases, those of which nothing is known among them.
    pub fn databases(&self) -> &[Database] {
        &self.databases
    }

    /// How many databases there are that can be asked.
    pub fn len(&self) -> usize {
        self.readers().count()
    }

    /// Whether there is no database that can be asked.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn readers(&self) -> impl Iterator<Item = &Reader<Vec<u8>>> {
        self.databases.iter().filter_map(|it| it.reader.as_deref())
    }

    /// The facts known of an address, each from the first database that has it.
    pub fn find(&self, address: IpAddr) -> Network {
        let address = address.to_canonical();
        let mut network = Network::default();
        for reader in self.readers() {
            if network.country.is_none() {
                network.country = COUNTRY
                    .into_iter()
                    .find_map(|path| value::<&str>(reader, address, path).and_then(country));
            }
            if network.asn.is_none() {
                network.asn = value::<u32>(reader, address, NUMBER).filter(|number| *number != 0);
            }
            if network.organisation.is_none() {
                network.organisation =
                    value::<&str>(reader, address, ORGANISATION).and_then(organisation);
            }
        }
        network
    }

    /// The prefixes of networks in one of these countries, or of one of these networks, in no order
    /// and some perhaps twice. Of an address that two databases place differently, both count.
    pub fn prefixes(&self, countries: &[String], networks: &[NetworkSelector]) -> Vec<IpNet> {
        if countries.is_empty() && networks.is_empty() {
            return Vec::new();
        }
        let mut prefixes = Vec::new();
        for reader in self.readers() {
            // A damaged database has what can be read of it.
            let Ok(all) = reader.networks(WithinOptions::default()) else {
                continue;
            };
            for found in all.flatten() {
                let text = |path| found.decode_path::<&str>(path).ok().flatten();
                let in_country = !countries.is_empty()
                    && COUNTRY
                        .into_iter()
                        .find_map(|path| text(path).and_then(country))
                        .is_some_and(|country| countries.contains(&country));
                let is_one = |network: &NetworkSelector| match network {
                    NetworkSelector::Asn(asn) => {
                        found.decode_path::<u32>(NUMBER).ok().flatten() == Some(*asn)
                    }
                    NetworkSelector::Organisation(name) => text(ORGANISATION)
                        .is_some_and(|known| known.to_lowercase().contains(&name.to_lowercase())),
                };
                if (in_country || networks.iter().any(is_one))
                    && let Ok(network) = found.network()
                    && let Ok(prefix) = IpNet::new(network.ip(), network.prefix())
                {
                    prefixes.push(prefix.trunc());
                }
            }
        }
        prefixes
    }
}

/// Whether a file can be used.
///
/// # Errors
/// Why it cannot.
pub fn inspect(file: &Path) -> Result<(), Error> {
    open(file).map(|_| ())
}

impl Database {
    fn read(file: &Path) -> Result<Self, Error> {
        let reader = open(file)?;
        let metadata = fs::metadata(file).map_err(Error::Unreadable)?;
        Ok(Self::of(file.to_owned(), metadata.mtime() as f64, reader))
    }

    fn of(file: PathBuf, modified: f64, reader: Reader<Vec<u8>>) -> Self {
        Self {
            file,
            modified,
            problem: None,
            look: FileStamp::default(),
            reader: Some(Arc::new(reader)),
        }
    }
}

fn open(file: &Path) -> Result<Reader<Vec<u8>>, Error> {
    // A device or a pipe may never end.
    if !fs::metadata(file).map_err(Error::Unreadable)?.is_file() {
        let error = io::Error::new(io::ErrorKind::InvalidInput, "it is not an ordinary file");
        return Err(Error::Unreadable(error));
    }
    Reader::open_readfile(file).map_err(|error| match error {
        MaxMindDbError::Io(error) => Error::Unreadable(error),
        error => Error::Damaged(error),
    })
}

/// The value in a database for an address at a path; none for damaged data and data of another type.
fn value<'r, T: Deserialize<'r>>(
    reader: &'r Reader<Vec<u8>>,
    address: IpAddr,
    path: &[PathElement<'_>],
) -> Option<T> {
    reader.lookup(address).ok()?.decode_path(path).ok()?
}

fn country(code: &str) -> Option<String> {
    let is_code = code.len() == 2 && code.bytes().all(|octet| octet.is_ascii_alphabetic());
    is_code.then(|| code.to_ascii_uppercase())
}

fn organisation(name: &str) -> Option<String> {
    let cut = &name[..name.floor_char_boundary(LONGEST_ORGANISATION)];
    let clean: String = cut.chars().filter(|c| !c.is_control()).collect();
    let clean = clean.trim();
    (!clean.is_empty()).then(|| clean.to_owned())
}

#[cfg(test)]
pub(crate) mod testing;

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, path::PathBuf};

    use proptest::prelude::*;

    use super::{
        testing::{Data, database},
        *,
    };

    fn code(code: &str) -> Data {
        Data::Map(vec![("iso_code", Data::text(code))])
    }

    /// As GeoLite2-Country and DB-IP are laid out, with a place that is not known.
    fn countries() -> Vec<u8> {
        database(&[
            ("192.0.2.0/24", Data::Map(vec![("country", code("SG"))])),
            (
                "198.51.100.0/24",
                Data::Map(vec![("registered_country", code("us"))]),
            ),
            (
                "203.0.113.0/24",
                Data::Map(vec![("country", Data::text("Utopia"))]),
            ),
            ("2001:db8::/32", Data::Map(vec![("country", code("DE"))])),
        ])
    }

    /// As those of ip-location-db are, both in one.
    fn systems() -> Vec<u8> {
        let system = |country, number, name: &str| {
            Data::Map(vec![
                ("country_code", Data::text(country)),
                ("autonomous_system_number", Data::Number(number)),
                ("autonomous_system_organization", Data::text(name)),
            ])
        };
        database(&[
            ("192.0.2.0/25", system("JP", 64_496, "Example\nNet ")),
            ("203.0.113.0/24", system("NOWHERE", 0, "\u{7}")),
            (
                "2001:db8::/48",
                system("FR", 4_200_000_000, &"é".repeat(60)),
            ),
        ])
    }

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let name = format!("sensor-networks-{name}-{}", std::process::id());
            let folder = Self(std::env::temp_dir().join(name));
            fs::create_dir_all(&folder.0).expect("a folder for temporary files");
            folder
        }

        fn file(&self, name: &str, octets: &[u8]) -> PathBuf {
            let file = self.0.join(name);
            fs::write(&file, octets).expect("a temporary file");
            file
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            // Where it stays, an empty folder of temporary files stays.
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn each_fact_is_from_the_first_that_has_it() {
        let folder = Folder::new("facts");
        let files = [("a.mmdb", countries()), ("b.mmdb", systems())];
        let files = files.map(|(name, octets)| folder.file(name, &octets));
        let networks = Networks::load(&files, &Networks::default());
        assert_eq!(networks.len(), 2);
        let check = |address: &str, country: Option<&str>, asn, organisation: Option<&str>| {
            let found = networks.find(address.parse().expect("an address"));
            let expected = Network {
                country: country.map(str::to_owned),
                asn,
                organisation: organisation.map(str::to_owned),
            };
            assert_eq!(found, expected, "{address}");
        };
        check("192.0.2.1", Some("SG"), Some(64_496), Some("ExampleNet"));
        check(
            "::ffff:192.0.2.1",
            Some("SG"),
            Some(64_496),
            Some("ExampleNet"),
        );
        check("192.0.2.200", Some("SG"), None, None);
        check("198.51.100.1", Some("US"), None, None);
        check("203.0.113.1", None, None, None);
        let cut = "é".repeat(LONGEST_ORGANISATION / 2);
        check("2001:db8::1", Some("DE"), Some(4_200_000_000), Some(&cut));
        check("2001:db8:1::1", Some("DE"), None, None);
        check("10.0.0.1", None, None, None);
        check("::", None, None, None);
    }

    #[test]
    fn without_files_nothing_is_known() {
        let networks = Networks::default();
        assert!(networks.is_empty());
        let address = "192.0.2.1".parse().expect("an address");
        assert_eq!(networks.find(address), Network::default());
    }

    #[test]
    fn a_file_that_cannot_be_used_has_a_sentence() {
        let folder = Folder::new("damaged");
        let whole = systems();
        let cut = &whole[..whole.len() / 2];
        let cases: BTreeMap<&str, PathBuf> = [
            ("No such file", folder.0.join("none.mmdb")),
            ("not an ordinary file", folder.0.clone()),
            ("not an ordinary file ", "/dev/zero".into()),
            ("not a whole database", folder.file("empty.mmdb", b"")),
            (
                "not a whole database ",
                folder.file("text.mmdb", b"192.0.2.0/24,SG\n"),
            ),
            ("not a whole database  ", folder.file("cut.mmdb", cut)),
        ]
        .into();
        for (part, file) in &cases {
            let error = inspect(file).expect_err(part).to_string();
            assert!(error.contains(part.trim_end()), "{error}");
            let networks = Networks::load(std::slice::from_ref(file), &Networks::default());
            assert!(networks.is_empty());
            let problem = networks.databases()[0].problem.as_deref();
            assert_eq!(problem, Some(error.as_str()));
        }
    }

    #[test]
    fn what_a_database_had_stays_until_it_can_be_used_again() {
        let folder = Folder::new("kept");
        let file = folder.file("a.mmdb", &countries());
        let other = folder.file("b.mmdb", &systems());
        let files = [file.clone(), other];
        let known = |networks: &Networks| {
            let address = "192.0.2.1".parse().expect("an address");
            networks.find(address).country
        };
        let first = Networks::load(&files, &Networks::default());
        assert_eq!(known(&first).as_deref(), Some("SG"));
        let whole = countries();
        let mut networks = first;
        for damage in [None, Some(&whole[..whole.len() / 2]), Some(b"")] {
            match damage {
                None => fs::remove_file(&file).expect("it was made above"),
                Some(octets) => drop(folder.file("a.mmdb", octets)),
            }
            networks = Networks::load(&files, &networks);
            assert_eq!(known(&networks).as_deref(), Some("SG"));
            let [a, b] = networks.databases() else {
                panic!("there are two");
            };
            assert!(a.problem.is_some() && b.problem.is_none());
            assert!(a.modified > 0.0);
            let prefix: IpNet = "192.0.2.0/24".parse().expect("a prefix");
            assert_eq!(networks.prefixes(&["SG".to_owned()], &[]), [prefix]);
        }
        let changed = database(&[("192.0.2.0/24", Data::Map(vec![("country", code("CH"))]))]);
        folder.file("a.mmdb", &changed);
        networks = Networks::load(&files, &networks);
        assert_eq!(known(&networks).as_deref(), Some("CH"));
        assert!(networks.databases()[0].problem.is_none());
        // One that is configured no more is forgotten.
        let networks = Networks::load(&files[1..], &networks);
        assert_eq!(known(&networks).as_deref(), Some("JP"));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_damaged_file_is_refused_or_read(
            damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
            address in prop_oneof![
                Just("192.0.2.1"), Just("203.0.113.1"), Just("2001:db8::1"), Just("10.0.0.1"),
            ],
        ) {
            let mut octets = systems();
            for (place, octet) in damage {
                let place = place.index(octets.len());
                octets[place] = octet;
            }
            if let Ok(reader) = Reader::from_source(octets) {
                let networks = Networks { databases: vec![Database::of(PathBuf::new(), 0.0, reader)] };
                let network = networks.find(address.parse().expect("an address"));
                prop_assert!(network.country.is_none_or(|country| country.len() == 2));
            }
        }
    }
}
