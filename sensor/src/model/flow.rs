//! Flows, and the names that are known of them.

use serde::{Deserialize, Serialize};

use super::{ByDirection, Tally, Word, word};

/// One flow, as in a list of flows.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Flow {
    /// The device's MAC address.
    pub device: String,
    /// The device's name, if it has one.
    pub device_name: Option<String>,
    /// The interface's name.
    pub interface: String,
    /// `tcp`, `udp`, … or the number; for frames that are not IP, `0x` and the ethertype.
    pub protocol: String,
    /// The device's address and port.
    pub local: String,
    /// The other side's address and port.
    pub remote: String,
    /// Packets and bytes.
    pub traffic: ByDirection<Tally>,
    /// The direction of the first packet.
    #[serde(deserialize_with = "word::one")]
    pub opened_by: Word,
    /// All TCP flags seen, as the bits of RFC 9293.
    pub tcp_flags: ByDirection<u8>,
    /// The facts that its payload told, and those about its party.
    #[serde(flatten)]
    pub facts: FlowFacts,
    /// `pass`, `reject` or `drop`.
    #[serde(deserialize_with = "word::one")]
    pub verdict: Word,
    /// The policy that matched.
    pub policy: Option<String>,
    /// Seconds since the Unix epoch.
    pub first_seen: f64,
    /// Seconds since the Unix epoch.
    pub last_seen: f64,
}

/// The facts that a flow's payload told, and those about its party.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowFacts {
    /// The name of the other side, in lower case.
    pub name: Option<String>,
    /// The source of the name: `tls`, `quic`, `http` or `dns`.
    #[serde(deserialize_with = "word::maybe")]
    pub name_source: Option<Word>,
    /// Whether the name is from a DNS answer to another device.
    pub name_by_another: bool,
    /// The application protocols that its hello offers.
    pub alpn: Option<Vec<String>>,
    /// Whether its hello is encrypted (ECH); `name` is then that of the outer hello.
    pub ech: bool,
    /// The version of QUIC, for example `1`, `draft-29`, `Q046`.
    pub quic_version: Option<String>,
    /// The JA4 fingerprint of the client, by its hello.
    pub ja4: Option<String>,
    /// The TLS stack of the client: the second field of the JA4 of a hello over TCP. A QUIC flow has that of the
    /// device's hellos over TCP for the same name, where there were some in the last 24 hours, and all of one
    /// stack.
    pub stack: Option<String>,
    /// As in [`PartyTraffic`](super::PartyTraffic); `None` where the flow is not IP.
    pub party: Option<String>,
    /// The owner of the party.
    pub owner: Option<String>,
    /// `telemetry`, `advertising`, `dns-bypass` or `never-block`.
    #[serde(deserialize_with = "word::maybe")]
    pub category: Option<Word>,
    /// The country of the address, two capital letters (ISO 3166-1).
    pub country: Option<String>,
    /// The number of the autonomous system.
    pub asn: Option<u32>,
    /// The reason why the name is unknown or incomplete: `ech`, `encrypted-dns`, `vpn`, `plain-address`,
    /// `not-yet-seen`.
    #[serde(deserialize_with = "word::maybe")]
    pub hidden: Option<Word>,
    /// The reason why the flow could not be read, or why a policy by name that applies to the device could not
    /// judge it, as in [`UnreadFlows`]. `None` if the flow is refused.
    #[serde(deserialize_with = "word::maybe")]
    pub unread: Option<Word>,
}

/// Flows that could not be judged by their name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct UnreadFlows {
    /// The reason: one of [`DecodeFailures`](super::DecodeFailures), `unknown-version`, `encrypted-hello`,
    /// `several-questions`, `compressed-question` or `urgent`.
    #[serde(deserialize_with = "word::one")]
    pub reason: Word,
    /// The layer at which a name was looked for: `dns`, `tls`, `quic` or `http`.
    #[serde(deserialize_with = "word::one")]
    pub layer: Word,
    /// How many.
    pub count: u64,
}

/// A DNS question and its answer.
#[derive(Clone, Debug, Default, Serialize)]
pub struct DnsQuestion {
    /// The client's address and port.
    pub client: String,
    /// The server's address and port.
    pub server: String,
    /// The name, in lower case.
    pub name: String,
    /// The type, for example `AAAA`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The data of the answers, as text.
    pub answers: Vec<String>,
    /// The identifier that matches an answer to its question.
    #[serde(skip)]
    pub id: u16,
}
