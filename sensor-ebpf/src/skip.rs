//! Why a frame is not accounted to a device.

/// The reason a frame is booked to its interface's skip counter instead of to a flow.
///
/// The number indexes [`InterfaceRecord::skipped`](crate::books::InterfaceRecord); the
/// [name](Self::name) is the metric label `reason`. A skipped frame passes, unless it is a
/// [copy](Self::Copy) of one that was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Skip {
    /// Shorter than an Ethernet header (14 bytes).
    EthernetTruncated = 0,
    /// Upload with a group address as its source: no device can be named (IEEE 802.3, 3.2.3).
    SourceIsGroup = 1,
    /// Ends inside an 802.1Q or 802.1ad tag.
    VlanTruncated = 2,
    /// More tags than [`MAX_VLAN_TAGS`](crate::parse::MAX_VLAN_TAGS).
    VlanTooDeep = 3,
    /// Ends inside the PPPoE session header (RFC 2516, section 4).
    PppoeTruncated = 4,
    /// Ends inside the IPv4 header.
    Ipv4Truncated = 5,
    /// An IPv4 header whose version, header length or total length contradict each other
    /// (RFC 791, section 3.1).
    Ipv4Malformed = 6,
    /// Ends inside the IPv6 header.
    Ipv6Truncated = 7,
    /// Ethertype IPv6 with another version number, or a payload shorter than its extension headers
    /// (RFC 8200, sections 3 and 4).
    Ipv6Malformed = 8,
    /// Ends inside an IPv6 extension header.
    Ipv6ExtensionTruncated = 9,
    /// More extension headers than
    /// [`MAX_EXTENSION_HEADERS`](crate::parse::MAX_EXTENSION_HEADERS).
    Ipv6ExtensionsTooMany = 10,
    /// Ends inside the TCP or UDP header, and is no fragment.
    TransportTruncated = 11,
    /// From one port of a bridge to another, where its ports are watched and `local` is not set. Not a
    /// fault: the frame is read and passes.
    Local = 12,
    /// A copy of a frame that leaves by several ports of a bridge, beside the one that is booked. Copies of a
    /// refused frame are refused too.
    Copy = 13,
}

impl Skip {
    /// How many reasons there are.
    pub const COUNT: usize = Self::ALL.len();

    /// Every reason, at the place of its number.
    pub const ALL: [Self; 14] = [
        Self::EthernetTruncated,
        Self::SourceIsGroup,
        Self::VlanTruncated,
        Self::VlanTooDeep,
        Self::PppoeTruncated,
        Self::Ipv4Truncated,
        Self::Ipv4Malformed,
        Self::Ipv6Truncated,
        Self::Ipv6Malformed,
        Self::Ipv6ExtensionTruncated,
        Self::Ipv6ExtensionsTooMany,
        Self::TransportTruncated,
        Self::Local,
        Self::Copy,
    ];

    /// Whether the parser gives the reason: it cannot read the frame.
    pub const fn is_of_parser(self) -> bool {
        !matches!(self, Self::SourceIsGroup | Self::Local | Self::Copy)
    }

    /// The metric label.
    pub const fn name(self) -> &'static str {
        match self {
            Self::EthernetTruncated => "ethernet_truncated",
            Self::SourceIsGroup => "source_is_group",
            Self::VlanTruncated => "vlan_truncated",
            Self::VlanTooDeep => "vlan_too_deep",
            Self::PppoeTruncated => "pppoe_truncated",
            Self::Ipv4Truncated => "ipv4_truncated",
            Self::Ipv4Malformed => "ipv4_malformed",
            Self::Ipv6Truncated => "ipv6_truncated",
            Self::Ipv6Malformed => "ipv6_malformed",
            Self::Ipv6ExtensionTruncated => "ipv6_extension_truncated",
            Self::Ipv6ExtensionsTooMany => "ipv6_extensions_too_many",
            Self::TransportTruncated => "transport_truncated",
            Self::Local => "local",
            Self::Copy => "copy",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_stands_at_its_number_and_no_label_twice() {
        for (number, reason) in Skip::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, number);
            assert_eq!(
                Skip::ALL
                    .iter()
                    .filter(|other| other.name() == reason.name())
                    .count(),
                1
            );
        }
    }
}
