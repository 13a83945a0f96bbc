//! The maker of the network hardware: the registry of the IEEE, by the longest prefix of an address.
//!
//! The table is part of the binary and is read in place: a binary search over prefixes, after which one name is
//! unpacked. `xtask/src/oui.rs` makes it and describes its format.

use super::{
    LOCALLY_ADMINISTERED, Mac,
    clue::{Clue, Hint},
};
use crate::model::Kind::{Computer, Iot, Phone, Router, Tv};

/// The table, about 840 KiB.
const TABLE: &[u8] = include_bytes!("../../../data/oui.bin");

/// The first bytes of the table: its magic, and the version of its format.
const MAGIC: &[u8] = b"OUI\x01";
/// Set in the first octet of an address that is for a group (IEEE 802, section 8.2).
const GROUP: u8 = 1;
/// The longest name, in bytes.
const MAX_NAME: usize = 255;

/// The owner of an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vendor {
    /// The owner's name in the registry, in one line.
    pub registered: String,
    /// The brand on the device, if that is known.
    pub brand: Option<&'static str>,
}

/// The owner of an address, by the longest of its prefixes of 36, 28 and 24 bits that the registry has. None
/// for a locally administered address, which nobody assigned, for a group address, and for an owner who is not
/// public.
pub fn vendor(mac: Mac) -> Option<Vendor> {
    if mac[0] & (LOCALLY_ADMINISTERED | GROUP) != 0 {
        return None;
    }
    let registered = Table::read(TABLE)?.find(mac)?;
    Some(Vendor {
        brand: brand(&registered),
        registered,
    })
}

/// The table's parts.
struct Table<'a> {
    /// For each symbol the two that it stands for, or itself and 0.
    pairs: &'a [[u8; 2]],
    /// Prefixes of 24 bits.
    large: &'a [[u8; 6]],
    /// Prefixes of 28 bits.
    medium: &'a [[u8; 7]],
    /// Prefixes of 36 bits.
    small: &'a [[u8; 8]],
    /// Names, each behind its number of symbols.
    names: &'a [u8],
}

impl<'a> Table<'a> {
    fn read(table: &'a [u8]) -> Option<Self> {
        let rest = table.strip_prefix(MAGIC)?;
        let (counts, rest) = rest.split_at_checked(4 * size_of::<u32>())?;
        let mut counts = counts
            .as_chunks::<4>()
            .0
            .iter()
            .map(|count| u32::from_le_bytes(*count) as usize);
        let (pairs, rest) = rest.split_at_checked(256 * 2)?;
        let (large, rest) = rest.split_at_checked(counts.next()?.checked_mul(6)?)?;
        let (medium, rest) = rest.split_at_checked(counts.next()?.checked_mul(7)?)?;
        let (small, names) = rest.split_at_checked(counts.next()?.checked_mul(8)?)?;
        Some(Self {
            pairs: pairs.as_chunks().0,
            large: large.as_chunks().0,
            medium: medium.as_chunks().0,
            small: small.as_chunks().0,
            names,
        })
    }

    fn find(&self, [a, b, c, d, e, _]: Mac) -> Option<String> {
        let name = find(self.small, [a, b, c, d, e & 0xf0])
            .or_else(|| find(self.medium, [a, b, c, d & 0xf0]))
            .or_else(|| find(self.large, [a, b, c]))?;
        self.name(name)
    }

    /// Unpacks the name at a place: symbols are replaced by their pairs, the left one first.
    fn name(&self, at: usize) -> Option<String> {
        let (length, rest) = self.names.get(at..)?.split_first()?;
        let mut pending: Vec<u8> = rest.get(..usize::from(*length))?.to_vec();
        pending.reverse();
        let mut name = Vec::with_capacity(2 * pending.len());
        while let Some(symbol) = pending.pop() {
            match self.pairs.get(usize::from(symbol))? {
                [symbol, 0] => name.push(*symbol),
                [left, right] => pending.extend([*right, *left]),
            }
            if name.len() + pending.len() > MAX_NAME {
                return None;
            }
        }
        String::from_utf8(name).ok()
    }
}

/// Where the name of a prefix is. Each entry is the prefix, and that place in three octets.
fn find<const ENTRY: usize, const PREFIX: usize>(
    entries: &[[u8; ENTRY]],
    prefix: [u8; PREFIX],
) -> Option<usize> {
    let at = entries
        .binary_search_by(|entry| entry[..PREFIX].cmp(&prefix))
        .ok()?;
    let place = entries.get(at)?.get(PREFIX..)?;
    Some(
        place
            .iter()
            .rev()
            .fold(0, |place, octet| (place << 8) | usize::from(*octet)),
    )
}

/// The brand on the device, by the first words of the registered name. The first row that matches counts.
#[rustfmt::skip]
const BRANDS: &[(&str, &str)] = &[
    ("allterco", "Shelly"),
    ("amazon", "Amazon"),
    ("apple", "Apple"),
    ("asus", "ASUS"),
    ("asustek", "ASUS"),
    ("avm audiovisuelles", "AVM"),
    ("avm gmbh", "AVM"),
    ("beijing roborock", "Roborock"),
    ("beijing xiaomi", "Xiaomi"),
    ("belkin", "Belkin"),
    ("blackberry", "BlackBerry"),
    ("blink by amazon", "Amazon"),
    ("bose", "Bose"),
    ("brother industries", "Brother"),
    ("canon", "Canon"),
    ("cisco-linksys", "Linksys"),
    ("cisco", "Cisco"),
    ("d-link", "D-Link"),
    ("dell emc", "Dell"),
    ("dell inc", "Dell"),
    ("dell technologies", "Dell"),
    ("draytek", "DrayTek"),
    ("dreame", "Dreame"),
    ("dyson", "Dyson"),
    ("ecobee", "ecobee"),
    ("eero", "eero"),
    ("espressif", "Espressif"),
    ("fairphone", "Fairphone"),
    ("fitbit", "Fitbit"),
    ("garmin", "Garmin"),
    ("gigaset", "Gigaset"),
    ("google", "Google"),
    ("guangdong oppo", "OPPO"),
    ("hewlett packard enterprise", "HPE"),
    ("hewlett packard", "HP"),
    ("hisense", "Hisense"),
    ("hmd global", "Nokia"),
    ("honor device", "Honor"),
    ("hp inc", "HP"),
    ("htc", "HTC"),
    ("huawei", "Huawei"),
    ("ikea", "IKEA"),
    ("infinix", "Infinix"),
    ("intel corporate", "Intel"),
    ("intel corporation", "Intel"),
    ("irobot", "iRobot"),
    ("itel mobile", "itel"),
    ("lenovo", "Lenovo"),
    ("lg electronics", "LG"),
    ("lg innotek", "LG"),
    ("lge", "LG"),
    ("linksys", "Linksys"),
    ("meizu", "Meizu"),
    ("microsoft", "Microsoft"),
    ("motorola mobility", "Motorola"),
    ("motorola (wuhan) mobility", "Motorola"),
    ("motorola(wuhan) mobility", "Motorola"),
    ("nest labs", "Google"),
    ("netgear", "Netgear"),
    ("nintendo", "Nintendo"),
    ("nokia", "Nokia"),
    ("nothing technology", "Nothing"),
    ("oneplus", "OnePlus"),
    ("panasonic", "Panasonic"),
    ("philips lighting", "Philips"),
    ("philips", "Philips"),
    ("qingdao hisense", "Hisense"),
    ("qnap", "QNAP"),
    ("raspberry pi", "Raspberry Pi"),
    ("realme", "realme"),
    ("ring llc", "Ring"),
    ("robert bosch", "Bosch"),
    ("roku", "Roku"),
    ("routerboard", "MikroTik"),
    ("samsung electronics", "Samsung"),
    ("seiko epson", "Epson"),
    ("sharp", "Sharp"),
    ("shelly", "Shelly"),
    ("shenzhen skyworth", "Skyworth"),
    ("shenzhen tcl", "TCL"),
    ("signify", "Philips"),
    ("skyworth", "Skyworth"),
    ("sonos", "Sonos"),
    ("sony", "Sony"),
    ("synology", "Synology"),
    ("tcl", "TCL"),
    ("tecno mobile", "TECNO"),
    ("tp-link", "TP-Link"),
    ("tuya", "Tuya"),
    ("ubiquiti", "Ubiquiti"),
    ("vivo mobile", "vivo"),
    ("vizio", "Vizio"),
    ("withings", "Withings"),
    ("wyze", "Wyze"),
    ("xiaomi", "Xiaomi"),
    ("zte", "ZTE"),
    ("zyxel", "Zyxel"),
];

/// The suggestions of the registry. A brand may buy its parts from another, so it never counts in full.
pub(super) fn clue(vendor: &Vendor) -> Clue {
    let Some(brand) = vendor.brand else {
        // The name of a maker of parts is better than none.
        return Clue {
            registered: Some((vendor.registered.clone(), 0.3)),
            ..Clue::default()
        };
    };
    let made = Hint::new().vendor(brand, 0.8);
    let found = PRODUCTS.iter().find(|(known, _)| *known == brand);
    found.map_or(made, |(_, hint)| hint.or(made)).into()
}

/// The products of makers that make mostly one kind, and makers whose parts are in devices of others.
#[rustfmt::skip]
const PRODUCTS: &[(&str, Hint)] = &[
    ("ASUS", Hint::new().kind(Computer, 0.4)),
    ("AVM", Hint::new().kind(Router, 0.5)),
    ("Bose", Hint::new().kind(Iot, 0.8)),
    ("Brother", Hint::new().kind(Iot, 0.8)),
    ("Canon", Hint::new().kind(Iot, 0.8)),
    ("Cisco", Hint::new().kind(Router, 0.5)),
    ("D-Link", Hint::new().kind(Router, 0.5)),
    ("Dell", Hint::new().kind(Computer, 0.7)),
    ("DrayTek", Hint::new().kind(Router, 0.8)),
    ("Dreame", Hint::new().kind(Iot, 0.9)),
    ("Dyson", Hint::new().kind(Iot, 0.9)),
    ("ecobee", Hint::new().kind(Iot, 0.9)),
    ("eero", Hint::new().kind(Router, 0.9)),
    ("Epson", Hint::new().kind(Iot, 0.8)),
    ("Espressif", Hint::new().kind(Iot, 0.8).vendor("Espressif", 0.3)),
    ("Fairphone", Hint::new().kind(Phone, 0.8)),
    ("Fitbit", Hint::new().kind(Iot, 0.9)),
    ("Garmin", Hint::new().kind(Iot, 0.8)),
    ("HP", Hint::new().kind(Computer, 0.4)),
    ("HPE", Hint::new().kind(Computer, 0.4)),
    ("Hisense", Hint::new().kind(Tv, 0.5)),
    ("Honor", Hint::new().kind(Phone, 0.6)),
    ("Huawei", Hint::new().kind(Phone, 0.3)),
    ("IKEA", Hint::new().kind(Iot, 0.9)),
    ("Infinix", Hint::new().kind(Phone, 0.7)),
    ("Intel", Hint::new().kind(Computer, 0.6).vendor("Intel", 0.3)),
    ("iRobot", Hint::new().kind(Iot, 0.9)),
    ("itel", Hint::new().kind(Phone, 0.7)),
    ("Lenovo", Hint::new().kind(Computer, 0.4)),
    ("Linksys", Hint::new().kind(Router, 0.6)),
    ("Meizu", Hint::new().kind(Phone, 0.7)),
    ("Microsoft", Hint::new().kind(Computer, 0.5)),
    ("MikroTik", Hint::new().kind(Router, 0.8)),
    ("Motorola", Hint::new().kind(Phone, 0.6)),
    ("Netgear", Hint::new().kind(Router, 0.5)),
    ("Nintendo", Hint::new().kind(Iot, 0.8)),
    ("Nokia", Hint::new().kind(Phone, 0.3)),
    ("Nothing", Hint::new().kind(Phone, 0.7)),
    ("OPPO", Hint::new().kind(Phone, 0.6)),
    ("OnePlus", Hint::new().kind(Phone, 0.7)),
    ("Philips", Hint::new().kind(Iot, 0.7)),
    ("QNAP", Hint::new().kind(Computer, 0.6)),
    ("Raspberry Pi", Hint::new().kind(Computer, 0.7)),
    ("realme", Hint::new().kind(Phone, 0.7)),
    ("Ring", Hint::new().kind(Iot, 0.9)),
    ("Roborock", Hint::new().kind(Iot, 0.9)),
    ("Roku", Hint::new().kind(Tv, 0.8)),
    ("Samsung", Hint::new().kind(Phone, 0.3)),
    ("Shelly", Hint::new().kind(Iot, 0.9)),
    ("Skyworth", Hint::new().kind(Tv, 0.5)),
    ("Sonos", Hint::new().kind(Iot, 0.9)),
    ("Synology", Hint::new().kind(Computer, 0.6)),
    ("TCL", Hint::new().kind(Tv, 0.4)),
    ("TECNO", Hint::new().kind(Phone, 0.7)),
    ("TP-Link", Hint::new().kind(Router, 0.3)),
    ("Tuya", Hint::new().kind(Iot, 0.9).vendor("Tuya", 0.6)),
    ("Ubiquiti", Hint::new().kind(Router, 0.6)),
    ("vivo", Hint::new().kind(Phone, 0.6)),
    ("Vizio", Hint::new().kind(Tv, 0.8)),
    ("Withings", Hint::new().kind(Iot, 0.9)),
    ("Wyze", Hint::new().kind(Iot, 0.9)),
    ("Xiaomi", Hint::new().kind(Phone, 0.4)),
    ("Zyxel", Hint::new().kind(Router, 0.6)),
];

fn brand(registered: &str) -> Option<&'static str> {
    let name = registered.to_lowercase();
    let begins = |words: &str| {
        name.strip_prefix(words)
            .is_some_and(|rest| !rest.starts_with(char::is_alphanumeric))
    };
    BRANDS
        .iter()
        .find(|(words, _)| begins(words))
        .map(|(_, brand)| *brand)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assignments() {
        let check = |mac: Mac, registered: &str, brand: Option<&str>| {
            let found = vendor(mac).expect("an assignment");
            assert_eq!(
                (found.registered.as_str(), found.brand),
                (registered, brand),
                "{mac:02x?}"
            );
        };
        let large = |prefix: u32| {
            let [_, a, b, c] = prefix.to_be_bytes();
            [a, b, c, 0xff, 0xff, 0xff]
        };
        for (prefix, registered, brand) in [
            (0x64_cc2e, "Xiaomi Communications Co Ltd", Some("Xiaomi")),
            (0xf0_1898, "Apple, Inc.", Some("Apple")),
            (0x00_0000, "XEROX CORPORATION", None),
            (0x4c_6af6, "HMD Global Oy", Some("Nokia")),
            (0xb8_27eb, "Raspberry Pi Foundation", Some("Raspberry Pi")),
            (0x24_0ac4, "Espressif Inc.", Some("Espressif")),
            (0x3c_5a37, "Samsung Electronics Co.,Ltd", Some("Samsung")),
            (0x60_ab14, "LG Innotek", Some("LG")),
            (0x5c_aafd, "Sonos, Inc.", Some("Sonos")),
            (0x00_1788, "Philips Lighting BV", Some("Philips")),
            (0xb0_a737, "Roku, Inc.", Some("Roku")),
            (0x50_c7bf, "TP-LINK TECHNOLOGIES CO.,LTD.", Some("TP-Link")),
            (0x00_2709, "Nintendo Co., Ltd.", Some("Nintendo")),
            (0x00_e04c, "REALTEK SEMICONDUCTOR CORP.", None),
        ] {
            check(large(prefix), registered, brand);
        }
        // 28 bits: the half octet behind them does not count.
        check([0x4c, 0x65, 0xa8, 0x30, 0, 0], "Roost", None);
        check([0x4c, 0x65, 0xa8, 0x3f, 0xff, 0xff], "Roost", None);
        check(
            [0x4c, 0xea, 0x41, 0x5a, 1, 2],
            "ZICHAN J TECHNOLOGY CO.,LTD",
            None,
        );
        check([0xe4, 0x95, 0x6e, 0xb0, 1, 2], "iConservo Inc", None);
        // 36 bits, of MA-S and of the older IAB.
        check([0x8c, 0x1f, 0x64, 0xb6, 0x50, 1], "HomyHub SL", None);
        check([0x8c, 0x1f, 0x64, 0xb6, 0x5f, 1], "HomyHub SL", None);
        check([0x70, 0xb3, 0xd5, 0xbf, 0xf0, 1], "Sunsa, Inc", None);
        check(
            [0x00, 0x50, 0xc2, 0x84, 0xf0, 1],
            "Gamber-Johnson LLC",
            None,
        );
        check([0x00, 0x50, 0xc2, 0x30, 0x80, 1], "FiveCo", None);
    }

    #[test]
    fn nobody() {
        for mac in [
            // Locally administered, for a group, or both.
            [0x66, 0xcc, 0x2e, 0, 0, 1],
            [0x65, 0xcc, 0x2e, 0, 0, 1],
            [0xff; 6],
            // A part that is not assigned, of a block that is divided further.
            [0x8c, 0x1f, 0x64, 0x00, 0x20, 0],
            // Of 24 and of 28 bits, with an owner who is not public.
            [0x00, 0x50, 0x79, 0, 0, 0],
            [0x74, 0x1a, 0xe0, 0x90, 0, 0],
            // Assigned to nobody.
            [0x0c, 0xff, 0xff, 0, 0, 0],
        ] {
            assert_eq!(vendor(mac), None, "{mac:02x?}");
        }
    }

    #[test]
    fn the_longest_prefix_counts() {
        let listing = "Registry,Assignment,Organization Name,Organization Address\n\
            MA-L,101112,large,\nMA-M,1011121,medium,\nMA-S,101112131,small,\nIAB,101112132,bab,\n";
        let assignments = xtask::oui::read(listing).expect("a listing");
        let table = xtask::oui::encode(&assignments).expect("a table");
        let find = |mac| Table::read(&table).expect("a table").find(mac);
        for (mac, name) in [
            ([0x10, 0x11, 0x12, 0x13, 0x1f, 0xff], "small"),
            ([0x10, 0x11, 0x12, 0x13, 0x2f, 0xff], "bab"),
            ([0x10, 0x11, 0x12, 0x13, 0x30, 0], "medium"),
            ([0x10, 0x11, 0x12, 0x20, 0, 0], "large"),
        ] {
            assert_eq!(find(mac).as_deref(), Some(name), "{mac:02x?}");
        }
        assert_eq!(find([0x10, 0x11, 0x13, 0x13, 0x10, 0]), None);
    }

    #[test]
    fn a_damaged_table_gives_no_name() {
        let listing = "Registry,Assignment,Organization Name,Organization Address\n\
            MA-L,101112,anna anna anna,\n";
        let assignments = xtask::oui::read(listing).expect("a listing");
        let table = xtask::oui::encode(&assignments).expect("a table");
        let mac = [0x10, 0x11, 0x12, 0, 0, 0];
        for end in 0..table.len() {
            let found = Table::read(&table[..end]).and_then(|table| table.find(mac));
            assert_eq!(found, None, "cut after {end} octets");
        }
        // A symbol that stands for itself twice never ends.
        let mut endless = table.clone();
        let pairs = MAGIC.len() + 16;
        endless[pairs..pairs + 512]
            .as_chunks_mut::<2>()
            .0
            .fill([b'a', b'a']);
        let found = Table::read(&endless).and_then(|table| table.find(mac));
        assert_eq!(found, None);
    }
}
