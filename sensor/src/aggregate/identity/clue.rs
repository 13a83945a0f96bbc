//! The suggestions of an observed value, and their weights.

use crate::model::Kind;

/// The source of an observation, the most trusted first.
///
/// The device's own statements stand before its habits, and both before the maker of its network hardware.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    strum::EnumString,
    strum::IntoStaticStr,
    strum::VariantArray,
)]
#[strum(serialize_all = "kebab-case")]
pub enum Source {
    /// The owner's word in the configuration.
    Configuration,
    /// DHCPv4 option 12 (RFC 2132, section 3.14).
    DhcpHostName,
    /// DHCPv4 option 81 (RFC 4702).
    DhcpFqdn,
    /// DHCPv4 option 60 (RFC 2132, section 9.13).
    DhcpVendorClass,
    /// The order of DHCPv4 option 55 (RFC 2132, section 9.8).
    DhcpParameters,
    /// DHCPv6 option 39 (RFC 4704).
    Dhcp6Fqdn,
    /// DHCPv6 option 16 (RFC 8415, section 21.16): the text.
    Dhcp6VendorClass,
    /// DHCPv6 option 16, 17 or a DUID-EN: the enterprise number.
    Dhcp6Enterprise,
    /// The name under which it answers in multicast DNS (RFC 6762).
    MdnsHost,
    /// A service that it offers (RFC 6763).
    MdnsService,
    /// A name that systems of one kind ask for on their own, mostly to find a captive portal.
    Name,
    /// `User-Agent` of HTTP (RFC 9110, section 10.1.5).
    UserAgent,
    /// The registry of hardware addresses.
    Oui,
    /// The services that it offers to other devices.
    Behaviour,
}

impl Source {
    /// The number of sources.
    pub const COUNT: usize = Self::Behaviour as usize + 1;

    /// The word for it in JSON.
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// Whether it is of the very device whose MAC address it has, where other devices are behind that. Their
    /// own DHCPv4 clients are known by the address in their messages; all else may be theirs.
    pub(super) const fn is_of_the_device(self) -> bool {
        match self {
            Self::Configuration | Self::Oui | Self::Behaviour => true,
            Self::DhcpHostName | Self::DhcpFqdn => true,
            Self::DhcpVendorClass | Self::DhcpParameters => true,
            Self::Dhcp6Fqdn | Self::Dhcp6VendorClass | Self::Dhcp6Enterprise => false,
            Self::MdnsHost | Self::MdnsService | Self::Name | Self::UserAgent => false,
        }
    }

    /// How many different values of it are kept of one device. A new one takes the place of the
    /// one that was not seen for the longest time.
    pub(super) const fn capacity(self) -> usize {
        match self {
            Self::Configuration | Self::Oui | Self::Behaviour => 1,
            // The last one is what it is called now; the one before shows that it was renamed.
            Self::DhcpHostName | Self::DhcpFqdn | Self::Dhcp6Fqdn | Self::MdnsHost => 2,
            Self::DhcpVendorClass | Self::Dhcp6VendorClass | Self::Dhcp6Enterprise => 2,
            // A device asks by one list at start and by another when it knows the network.
            Self::DhcpParameters => 2,
            Self::MdnsService | Self::Name => 8,
            Self::UserAgent => 6,
        }
    }
}

/// The suggestions of a row of a table, each with its weight, 0 to 1.
///
/// A weight is the share of cases in which the suggestion is right, by the author's judgement, if nothing
/// contradicts it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Hint {
    pub(super) kind: Option<(Kind, f32)>,
    pub(super) vendor: Option<(&'static str, f32)>,
    pub(super) system: Option<(&'static str, f32)>,
}

impl Hint {
    pub(super) const fn new() -> Self {
        Self {
            kind: None,
            vendor: None,
            system: None,
        }
    }

    pub(super) const fn kind(mut self, kind: Kind, weight: f32) -> Self {
        self.kind = Some((kind, weight));
        self
    }

    pub(super) const fn vendor(mut self, vendor: &'static str, weight: f32) -> Self {
        self.vendor = Some((vendor, weight));
        self
    }

    pub(super) const fn system(mut self, system: &'static str, weight: f32) -> Self {
        self.system = Some((system, weight));
        self
    }

    /// The same, less sure: all weights times a factor.
    pub(super) fn times(mut self, factor: f32) -> Self {
        let weights = [
            self.kind.as_mut().map(|(_, weight)| weight),
            self.vendor.as_mut().map(|(_, weight)| weight),
            self.system.as_mut().map(|(_, weight)| weight),
        ];
        for weight in weights.into_iter().flatten() {
            *weight *= factor;
        }
        self
    }

    /// Fills the empty fields from another hint.
    pub(super) fn or(self, other: Self) -> Self {
        Self {
            kind: self.kind.or(other.kind),
            vendor: self.vendor.or(other.vendor),
            system: self.system.or(other.system),
        }
    }
}

/// The suggestions of one value.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Clue {
    pub(super) hint: Hint,
    /// The version of the system.
    pub(super) version: Option<String>,
    /// The maker's name, if no table has it.
    pub(super) registered: Option<(String, f32)>,
    pub(super) model: Option<(String, f32)>,
    pub(super) name: Option<(String, f32)>,
}

impl Clue {
    /// The same with its texts fit for people, at most so many characters long.
    pub(super) fn bounded(mut self, characters: usize) -> Self {
        let texts = [
            self.version.as_mut(),
            self.registered.as_mut().map(|(text, _)| text),
            self.model.as_mut().map(|(text, _)| text),
            self.name.as_mut().map(|(text, _)| text),
        ];
        for text in texts.into_iter().flatten() {
            *text = clean(text, characters);
        }
        self
    }

    /// It has words, of which the last ones seen count; weights count whenever they were seen.
    pub(super) fn has_words(&self) -> bool {
        self.version.is_some() || self.model.is_some() || self.name.is_some()
    }

    /// It suggests nothing.
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl From<Hint> for Clue {
    fn from(hint: Hint) -> Self {
        Self {
            hint,
            ..Self::default()
        }
    }
}

/// The longest text of a device that is kept, in octets.
pub(super) const MAX_TEXT: usize = 128;

/// The text without control characters and without those that turn the direction of writing, its
/// spaces made one, cut after so many characters.
pub(super) fn clean(text: &str, characters: usize) -> String {
    let mut clean = String::new();
    let visible = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    let mut left = characters;
    for c in visible.filter(|c| !is_invisible(*c)) {
        if c.is_whitespace() && (clean.is_empty() || clean.ends_with(' ')) {
            continue;
        }
        if left == 0 || clean.len() + c.len_utf8() > MAX_TEXT {
            break;
        }
        left -= 1;
        clean.push(if c.is_whitespace() { ' ' } else { c });
    }
    clean.truncate(clean.trim_end().len());
    clean
}

fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}
