//! A household with rules about names, in tables of its own, and the frames of a device in it.

use anyhow::{Context as _, Result};
use sensor_ebpf::{
    flow::FlowRecord,
    name::{NAME_BUCKET_ENTRIES, NameBucket, NameEntry, Suffixes, name_bucket},
    policy::{Chain, MAX_CHAINS, MAX_RULES, PortRange, Rule, Verdict, rule_flag},
};

use super::{Programs, Tables};

pub(crate) const XDP_DROP: u32 = 1;
pub(crate) const XDP_PASS: u32 = 2;
pub(crate) const XDP_TX: u32 = 3;

/// The secret of the names' hashes.
pub(crate) const SECRET: u64 = 0x5eed;

/// The chains of names in the order of their numbers, from 1, with the rule of each.
pub(crate) const NAMES: [(&str, u8); 5] = [
    ("blocked.example", 0),
    ("zero.example", 1),
    ("dropped.example", 2),
    ("port.example", 3),
    ("open.blocked.example", 4),
];

/// Rules about the names, for every device, in force.
pub(crate) fn household(tables: Tables) -> Result<Programs> {
    let mut programs = Programs::load(tables)?;
    let mut settings = programs.settings()?;
    let side = settings.generation & 1;
    let rule = |policy, verdict: Verdict, flags| Rule {
        policy,
        verdict: verdict as u8,
        flags: flags | rule_flag::BY_NAME,
        ..Rule::default()
    };
    let mut rules = [
        rule(1, Verdict::Reject, 0),
        rule(2, Verdict::Reject, rule_flag::ZERO),
        rule(3, Verdict::Drop, 0),
        rule(4, Verdict::Reject, 0),
        rule(5, Verdict::Allow, 0),
    ];
    rules[3].port_ranges = 1;
    rules[3].ports[0] = PortRange {
        first: 443,
        last: 443,
        protocol: 6,
    };
    for (number, rule) in rules.into_iter().enumerate() {
        programs.set("RULES", side * MAX_RULES as u32 + number as u32, rule)?;
    }
    let mut buckets = vec![NameBucket::default(); 4];
    for (number, (name, rule)) in (1..).zip(NAMES) {
        let mut chain = Chain {
            set: 1 << rule,
            len: 1,
            ..Chain::default()
        };
        chain.rules[0] = rule;
        programs.set(
            "CHAINS",
            side * MAX_CHAINS as u32 + u32::from(number),
            chain,
        )?;
        let hash = Suffixes::of(name.as_bytes(), SECRET)
            .whole()
            .context("a name")?;
        let bucket = &mut buckets[name_bucket(hash, 3) as usize];
        let place = bucket.entries.iter().position(|entry| *entry == 0);
        bucket.entries[place.context("room")?] = NameEntry::new(hash, number).0;
    }
    assert!(
        buckets
            .iter()
            .all(|b| b.entries[NAME_BUCKET_ENTRIES - 1] == 0)
    );
    programs.set_names(side, &buckets)?;
    let side = side as usize;
    settings.default_rules[side] = 0b11111;
    settings.name_rules[side] = 0b11111;
    settings.name_secret[side] = SECRET;
    settings.name_mask[side] = 3;
    programs.set("SETTINGS", 0, settings)?;
    Ok(programs)
}

/// A UDP or TCP frame from a device's port to a server's; TCP with these flags.
pub(crate) fn frame(
    v6: bool,
    protocol: u8,
    ports: (u16, u16),
    flags: u8,
    payload: &[u8],
) -> Vec<u8> {
    let mut transport = [ports.0.to_be_bytes(), ports.1.to_be_bytes()].concat();
    if protocol == 17 {
        transport.extend((payload.len() as u16 + 8).to_be_bytes());
        transport.extend([0, 0]);
    } else {
        transport.extend(1_000_u32.to_be_bytes());
        transport.extend(2_000_u32.to_be_bytes());
        transport.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    }
    transport.extend(payload);
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0x11];
    if v6 {
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        frame.extend((transport.len() as u16).to_be_bytes());
        frame.extend([protocol, 64]);
        frame.extend([0x20, 1, 0xd, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x11]);
        frame.extend([0x20, 1, 0xd, 0xb8, 0, 0xa, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10]);
    } else {
        frame.extend([8, 0, 0x45, 0]);
        frame.extend((transport.len() as u16 + 20).to_be_bytes());
        frame.extend([0, 1, 0x40, 0, 64, protocol, 0, 0]);
        frame.extend([192, 168, 77, 17, 198, 51, 100, 10]);
    }
    frame.extend(transport);
    frame
}

/// A frame of IPv4 with the other end's addresses, as if that had sent it.
pub(crate) fn back(mut frame: Vec<u8>) -> Vec<u8> {
    let (to, from) = frame[..12].split_at_mut(6);
    to.swap_with_slice(from);
    let (source, destination) = frame[26..34].split_at_mut(4);
    source.swap_with_slice(destination);
    frame
}

/// A TCP frame of IPv4 with these numbers.
pub(crate) fn numbered(mut frame: Vec<u8>, sequence: u32, acknowledges: u32) -> Vec<u8> {
    frame[38..42].copy_from_slice(&sequence.to_be_bytes());
    frame[42..46].copy_from_slice(&acknowledges.to_be_bytes());
    frame
}

/// A hello with this name.
pub(crate) fn hello(name: &str, before: usize) -> Vec<u8> {
    hello_with(name, before, None)
}

/// The same with an extension behind the name, of so many octets.
pub(crate) fn hello_with(name: &str, before: usize, behind: Option<usize>) -> Vec<u8> {
    let mut extensions = vec![0xff, 1];
    extensions.extend((before as u16).to_be_bytes());
    extensions.extend(vec![0; before]);
    let len = name.len() as u16;
    extensions.extend([0, 0]);
    extensions.extend((len + 5).to_be_bytes());
    extensions.extend((len + 3).to_be_bytes());
    extensions.push(0);
    extensions.extend(len.to_be_bytes());
    extensions.extend(name.as_bytes());
    if let Some(behind) = behind {
        extensions.extend([0xff, 2]);
        extensions.extend((behind as u16).to_be_bytes());
        extensions.extend(vec![0; behind]);
    }
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.push(32);
    body.extend([8; 32]);
    body.extend([0, 4, 0x13, 1, 0x13, 2, 1, 0]);
    body.extend((extensions.len() as u16).to_be_bytes());
    body.extend(extensions);
    let mut record = vec![22, 3, 1];
    record.extend((body.len() as u16 + 4).to_be_bytes());
    record.extend([1, 0]);
    record.extend((body.len() as u16).to_be_bytes());
    record.extend(body);
    record
}

/// The flow of a device's port.
pub(crate) fn flow_of(programs: &Programs, port: u16) -> Result<FlowRecord> {
    let flows = programs.flows()?;
    let found = flows.into_iter().find(|flow| flow.key.local_port() == port);
    found.with_context(|| format!("no flow of port {port}"))
}
