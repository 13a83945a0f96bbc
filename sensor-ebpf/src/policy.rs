//! The rules as plain data, and the pure decision over them: which packets may pass.
//!
//! User space compiles the policies of the configuration to: per device a set of rules (one bit
//! each), per remote prefix a [`Chain`] (its rules, most specific prefix first, then in the order
//! of the configuration), per name a chain likewise (see [`name`](crate::name)), and the [`Rule`]s.
//! Two sides of each table exist; the generation's lowest bit tells which one is in force, so that a
//! reload is one store. A generation that is higher by two has the same tables, and every flow is
//! decided again.

use crate::{
    flow::FlowKey,
    parse::{Address, Family, Mac, protocol},
    wire,
};

/// The most rules in force at a time: a set of rules is one word.
pub const MAX_RULES: usize = 64;

/// The most port ranges of one rule.
pub const MAX_PORT_RANGES: usize = 8;

/// The most devices of one side that other rules apply to than to everybody; the kernel's table has room for
/// those of both sides.
pub const MAX_DEVICES: usize = 8_192;

/// The most chains of one side: distinct combinations of rules that prefixes lead to.
pub const MAX_CHAINS: usize = 1024;

/// The most prefixes of one family that policies in force may be about; the kernel's tables have room
/// for those of both sides.
pub const MAX_PREFIXES: usize = 1 << 20;

/// The verdict on a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Verdict {
    /// The packet goes on, as it would without the sensor.
    Pass = 0,
    /// The packet goes no further, and the device is told (TCP RST, ICMP port unreachable).
    Reject = 1,
    /// The packet goes no further, in silence.
    Drop = 2,
    /// The packet goes on because a policy says so, whatever less specific ones say.
    Allow = 3,
}

impl Verdict {
    /// The verdict with this number; an unknown number passes (law 3).
    #[inline(always)]
    pub const fn from_number(number: u8) -> Self {
        match number {
            1 => Self::Reject,
            2 => Self::Drop,
            3 => Self::Allow,
            _ => Self::Pass,
        }
    }

    /// Whether the packet goes no further.
    #[inline(always)]
    pub const fn refuses(self) -> bool {
        matches!(self, Self::Reject | Self::Drop)
    }
}

/// The layer by which a policy matched a flow or a question.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Layer {
    /// Address, protocol and ports.
    #[default]
    Address = 0,
    /// The name of a DNS question.
    Dns = 1,
    /// The SNI of a TLS hello.
    Tls = 2,
    /// The SNI of a QUIC Initial.
    Quic = 3,
    /// The host of an HTTP request.
    Http = 4,
}

impl Layer {
    /// How many there are.
    pub const COUNT: usize = Self::ALL.len();

    /// All, at the place of their number.
    pub const ALL: [Self; 5] = [Self::Address, Self::Dns, Self::Tls, Self::Quic, Self::Http];

    /// The layer with this number; an unknown number is an address.
    #[inline(always)]
    pub const fn from_number(number: u8) -> Self {
        match number {
            1 => Self::Dns,
            2 => Self::Tls,
            3 => Self::Quic,
            4 => Self::Http,
            _ => Self::Address,
        }
    }

    /// The metric label.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Address => "address",
            Self::Dns => "dns",
            Self::Tls => "tls",
            Self::Quic => "quic",
            Self::Http => "http",
        }
    }
}

/// Bits of [`Rule::flags`].
pub mod rule_flag {
    /// The rule applies by name: an address alone does not match it, unless DNS answers taught that it is an
    /// address of such names and the flow told none.
    pub const BY_NAME: u8 = 1;
    /// Of a rule by name: the chain of the remote address has to have the rule too.
    pub const AND_REMOTE: u8 = 2;
    /// A refused DNS question is answered with 0.0.0.0 or ::, not with NXDOMAIN.
    pub const ZERO: u8 = 4;
    /// Packets of the server wait until the name is judged.
    pub const STRICT: u8 = 8;
    /// Names that lead to the rule's names by a DNS answer are left alone. For the daemon: the programs know no
    /// answers.
    pub const NO_ALIASES: u8 = 16;
}

/// A range of remote ports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct PortRange {
    /// First port, included.
    pub first: u16,
    /// Last port, included.
    pub last: u16,
    /// Protocol number; 0 for TCP and UDP.
    pub protocol: u16,
}

/// One policy as the kernel knows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Rule {
    /// The policy's identity in counters, never 0; it keeps it over reloads.
    pub policy: u16,
    /// A [`Verdict`]'s number. `observe` is `Pass` with a policy.
    pub verdict: u8,
    /// Bits of [`rule_flag`].
    pub flags: u8,
    /// How many of `ports` count; 0: every port and every protocol.
    pub port_ranges: u32,
    /// Remote ports.
    pub ports: [PortRange; MAX_PORT_RANGES],
}

/// The rules that a remote address leads to, in order of precedence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Chain {
    /// The same rules as a set.
    pub set: u64,
    /// How many of `rules` count.
    pub len: u64,
    /// Numbers of rules, first match wins.
    pub rules: [u8; MAX_RULES],
}

impl Default for Chain {
    fn default() -> Self {
        Self {
            set: 0,
            len: 0,
            rules: [0; MAX_RULES],
        }
    }
}

/// Key of the device table of rules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct DeviceRulesKey {
    /// The device's MAC address.
    pub mac: [u8; 6],
    /// Which side: the generation's lowest bit.
    pub side: u16,
}

/// Key of the table of learned addresses: those at which, by the DNS answers to the device, it would find only
/// names that rules refuse.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct LearnedKey {
    /// The remote address; of an IPv4 address the first four octets.
    pub address: [u8; 16],
    /// The device's MAC address.
    pub mac: [u8; 6],
    /// Which side: the generation's lowest bit.
    pub side: u8,
    /// The [`Family`]'s number.
    pub family: u8,
}

/// Data of a longest-prefix-match key: the side stands before the address and is always matched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct PrefixV4 {
    /// Which side, in network byte order.
    pub side: [u8; 4],
    /// The address.
    pub address: [u8; 4],
}

/// See [`PrefixV4`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct PrefixV6 {
    /// Which side, in network byte order.
    pub side: [u8; 4],
    /// The address.
    pub address: [u8; 16],
}

/// Bits that stand before the address in a prefix key.
pub const PREFIX_SIDE_BITS: u32 = 32;

wire! {
    PortRange { first: u16, last: u16, protocol: u16 }
    Rule { policy: u16, verdict: u8, flags: u8, port_ranges: u32, ports: [PortRange; MAX_PORT_RANGES] }
    Chain { set: u64, len: u64, rules: [u8; MAX_RULES] }
    DeviceRulesKey { mac: [u8; 6], side: u16 }
    LearnedKey { address: [u8; 16], mac: [u8; 6], side: u8, family: u8 }
    PrefixV4 { side: [u8; 4], address: [u8; 4] }
    PrefixV6 { side: [u8; 4], address: [u8; 16] }
}

/// The tables of one side, wherever they lie: BPF maps in the kernel, vectors on the host.
pub trait Rules {
    /// The rules that apply to a device.
    fn for_device(&self, mac: Mac) -> u64;
    /// The chain of the longest prefix that holds the address, or the chain of every address.
    fn for_remote(&self, family: Family, remote: Address) -> Option<&Chain>;
    /// The chain with this number.
    fn chain(&self, number: u32) -> Option<&Chain>;
    /// One rule.
    fn rule(&self, number: u8) -> Option<&Rule>;
}

/// The decision about a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The identity of the policy that matched; 0 where none did.
    pub policy: u16,
    /// The verdict on the flow's packets.
    pub verdict: Verdict,
    /// The layer that decided.
    pub layer: Layer,
}

impl Decision {
    /// No policy matched.
    pub const PASS: Self = Self {
        policy: 0,
        verdict: Verdict::Pass,
        layer: Layer::Address,
    };
}

/// Decides about a flow by its addresses and ports.
///
/// The first rule of the remote's chain that applies to the device and to the port wins. Flows that keep a link
/// alive are never refused: everything but IP, group and link-local addresses, neighbour discovery, and DHCP; a
/// policy about "everything" means everything beyond the link. Nor are ICMP errors about a connection that is
/// allowed ([`FlowKey::is_vital`]).
#[inline(always)]
pub fn decide<R: Rules>(rules: &R, key: &FlowKey) -> Decision {
    if keeps_link_alive(key) {
        return Decision::PASS;
    }
    let Some(chain) = rules.for_remote(key.family(), key.remote()) else {
        return Decision::PASS;
    };
    match first(rules, chain, rules.for_device(key.mac()), |_, rule| {
        rule.flags & rule_flag::BY_NAME == 0 && matches_port(rule, key)
    }) {
        Some(rule) => decided(rule, Layer::Address),
        None => Decision::PASS,
    }
}

/// Decides about a flow, or a DNS question, by a name that the device said. Returns the rule and its decision;
/// `None` where no rule is about the name.
///
/// `chain` is that of the longest suffix of the name that is in the table. A DNS question goes to a resolver,
/// not to the party: rules that ask for the party's ports or addresses are left to the flow that follows.
#[inline(always)]
pub fn decide_name<'r, R: Rules>(
    rules: &'r R,
    key: &FlowKey,
    chain: u32,
    layer: Layer,
) -> Option<(&'r Rule, Decision)> {
    let chain = rules.chain(chain)?;
    let device = rules.for_device(key.mac());
    if chain.set & device == 0 {
        return None;
    }
    let by_remote = match layer {
        Layer::Dns => 0,
        _ => match rules.for_remote(key.family(), key.remote()) {
            Some(chain) => chain.set,
            None => 0,
        },
    };
    let rule = first(rules, chain, device, |number, rule| match layer {
        Layer::Dns => rule.port_ranges == 0 && rule.flags & rule_flag::AND_REMOTE == 0,
        _ => {
            matches_port(rule, key)
                && (rule.flags & rule_flag::AND_REMOTE == 0
                    || by_remote & (1 << (number & 63)) != 0)
        }
    })?;
    Some((rule, decided(rule, layer)))
}

/// Decides about a flow that said no name, by the rules learned for its address: the set of rules that refuse
/// every name there. The first of them that applies wins.
#[inline(always)]
pub fn decide_learned<R: Rules>(rules: &R, key: &FlowKey, learned: u64) -> Option<Decision> {
    let mut rest = learned & rules.for_device(key.mac());
    let mut looked = 0;
    while looked < MAX_RULES {
        if rest == 0 {
            break;
        }
        let number = rest.trailing_zeros() as u8;
        rest &= rest - 1;
        looked += 1;
        if let Some(rule) = rules.rule(number)
            && matches_port(rule, key)
        {
            return Some(decided(rule, Layer::Address));
        }
    }
    None
}

#[inline(always)]
const fn decided(rule: &Rule, layer: Layer) -> Decision {
    Decision {
        policy: rule.policy,
        verdict: Verdict::from_number(rule.verdict),
        layer,
    }
}

/// The first rule of a chain that applies to a device and for which `holds` gives true.
#[inline(always)]
fn first<'r, R: Rules>(
    rules: &'r R,
    chain: &Chain,
    device: u64,
    holds: impl Fn(u8, &Rule) -> bool,
) -> Option<&'r Rule> {
    if chain.set & device == 0 {
        return None;
    }
    let mut place = 0;
    while place < MAX_RULES {
        if place as u64 >= chain.len {
            break;
        }
        let number = chain.rules[place];
        if device & (1 << (number & 63)) != 0
            && let Some(rule) = rules.rule(number)
            && holds(number, rule)
        {
            return Some(rule);
        }
        place += 1;
    }
    None
}

#[inline(always)]
fn matches_port(rule: &Rule, key: &FlowKey) -> bool {
    if rule.port_ranges == 0 {
        return true;
    }
    let port = key.remote_port();
    let transport = u16::from(key.protocol());
    if !matches!(key.protocol(), protocol::TCP | protocol::UDP) {
        return false;
    }
    let mut index = 0;
    while index < MAX_PORT_RANGES {
        if index as u32 >= rule.port_ranges {
            break;
        }
        let range = &rule.ports[index];
        if range.first <= port
            && port <= range.last
            && (range.protocol == 0 || range.protocol == transport)
        {
            return true;
        }
        index += 1;
    }
    false
}

/// Whether refusing the flow would cut the device off from the link itself.
#[inline(always)]
fn keeps_link_alive(key: &FlowKey) -> bool {
    const DHCP: [u16; 4] = [67, 68, 546, 547];

    let octets = key.remote().octets();
    let group_or_link = match key.family() {
        Family::Other => true,
        // 224.0.0.0/4, 255.255.255.255, 169.254.0.0/16, 0.0.0.0 (RFC 6890).
        Family::V4 => {
            octets[0] >= 224 || (octets[0] == 169 && octets[1] == 254) || key.remote().high == 0
        }
        // ff00::/8, fe80::/10, :: (RFC 4291).
        Family::V6 => {
            octets[0] == 0xff
                || (octets[0] == 0xfe && octets[1] & 0xc0 == 0x80)
                || (key.remote().high == 0 && key.remote().low == 0)
        }
    };
    // DHCP goes no further than the provider's own network.
    group_or_link
        || key.is_vital()
        || (key.protocol() == protocol::UDP
            && key.remote().is_near(key.family())
            && (key.remote_port() == DHCP[0]
                || key.remote_port() == DHCP[1]
                || key.remote_port() == DHCP[2]
                || key.remote_port() == DHCP[3]))
}
