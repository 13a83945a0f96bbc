//! Flow offload: which interfaces a flowtable of nftables sends packets past.
//!
//! A flowtable forwards packets of established connections from the ingress of one of its devices to
//! another one of them. Since Linux 5.13 that is the port of a bridge, or the interface on which a VLAN
//! stands (`FLOW_OFFLOAD_XMIT_DIRECT`): the bridge and the VLAN never see these packets, the ports do.

use std::io;

use rustix::net::netlink::NETFILTER;

use super::{
    links::Links,
    netlink::{Message, Netlink, attributes},
    text,
};

/// The flowtables there were when it was last looked.
#[derive(Default)]
pub(super) struct Flowtables {
    pub(super) found: Vec<Flowtable>,
    looks: u32,
    /// Whether the kernel has no nftables, as far as is known.
    without: bool,
}

impl Flowtables {
    /// How many looks at interfaces there are for one at flowtables.
    const EVERY: u32 = 10;

    /// Looks, now and then. A kernel that knows no nftables tries to load them whenever it is asked:
    /// it is not asked again before the interfaces have changed.
    pub(super) fn look(&mut self, has_changed: bool) {
        self.looks += 1;
        let is_time = self.looks % Self::EVERY == 1 && !self.without;
        if !is_time && !has_changed {
            return;
        }
        self.note(list());
    }

    fn note(&mut self, listed: io::Result<Vec<Flowtable>>) {
        match listed {
            Ok(found) => (self.found, self.without) = (found, false),
            Err(error) if is_without(&error) => (self.found, self.without) = (Vec::new(), true),
            // The process lacks something for a moment: the next look asks again.
            Err(error) => tracing::debug!("flowtables cannot be listed: {error}"),
        }
    }
}

/// Whether an error says that the kernel has no nftables: no such protocol of netlink, or no subsystem that
/// answers for that part of it (net/netfilter/nfnetlink.c, `nfnetlink_rcv_msg`).
fn is_without(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EPROTONOSUPPORT | libc::EAFNOSUPPORT | libc::EINVAL | libc::EOPNOTSUPP)
    )
}

/// A flowtable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Flowtable {
    name: String,
    devices: Vec<String>,
    /// Whether the network card is to forward by itself.
    is_hardware: bool,
}

/// The flowtables of this network namespace.
///
/// # Errors
///
/// The error that the kernel gives; also where it has no nftables.
pub(super) fn list() -> io::Result<Vec<Flowtable>> {
    /// `NFNL_SUBSYS_NFTABLES` and `NFT_MSG_GETFLOWTABLE` (linux/netfilter).
    const GETFLOWTABLE: u16 = 10 << 8 | 23;
    let mut netlink = Netlink::open(Some(NETFILTER))?;
    netlink.list(
        || Message::new(GETFLOWTABLE, 0, &[0; NFGENMSG]),
        Vec::new,
        |tables, body| tables.extend(flowtable(body)),
    )
}

/// Octets of `struct nfgenmsg`.
const NFGENMSG: usize = 4;

const NAME: u16 = 2;
const HOOK: u16 = 3;
const HOOK_DEVICES: u16 = 3;
const FLAGS: u16 = 7;

fn flowtable(body: &[u8]) -> Option<Flowtable> {
    const HARDWARE: u8 = 1;

    let mut table = Flowtable {
        name: String::new(),
        devices: Vec::new(),
        is_hardware: false,
    };
    for (kind, value) in attributes(body.get(NFGENMSG..)?) {
        match kind {
            NAME => table.name = text(value),
            HOOK => {
                let devices = attributes(value).filter(|(kind, _)| *kind == HOOK_DEVICES);
                let devices = devices.flat_map(|(_, value)| attributes(value));
                table.devices.extend(devices.map(|(_, value)| text(value)));
            }
            // Big-endian, as all numbers of nftables.
            FLAGS => table.is_hardware = value.get(3).is_some_and(|flags| flags & HARDWARE != 0),
            _ => {}
        }
    }
    Some(table)
}

/// The traffic that flowtables hide from programs on an interface, in sentences.
pub(super) fn hidden(tables: &[Flowtable], links: &Links, interface: &str) -> Vec<String> {
    let mut hidden = Vec::new();
    for table in tables {
        let below = table
            .devices
            .iter()
            .find(|device| links.relation(interface, device).is_some());
        if let Some(device) = below {
            hidden.push(format!(
                "the flowtable {} of nftables sends packets of established connections straight \
                 to {device}: they are neither counted nor filtered here; watch what is below (on a \
                 bridge with `ports = true`), or turn flow offload off",
                table.name
            ));
        }
        let is_on_it = table.devices.iter().any(|device| device == interface);
        if table.is_hardware && (below.is_some() || is_on_it) {
            hidden.push(format!(
                "the flowtable {} has hardware offload: packets that the network card forwards by \
                 itself are seen by no program; turn hardware offload off for exact books",
                table.name
            ));
        }
    }
    hidden
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::kernel::links::Link;

    #[test]
    fn only_a_kernel_without_nftables_is_asked_no_more() {
        let mut tables = Flowtables::default();
        let found = Flowtable {
            name: "fast".to_owned(),
            devices: Vec::new(),
            is_hardware: false,
        };
        let failed = |number| Err(io::Error::from_raw_os_error(number));
        tables.note(Ok(vec![found]));
        for number in [libc::EMFILE, libc::ENOMEM, libc::EAGAIN, libc::EBUSY] {
            tables.note(failed(number));
            assert!(!tables.without && tables.found.len() == 1, "{number}");
        }
        tables.note(failed(libc::EINVAL));
        assert!(tables.without && tables.found.is_empty());
    }

    #[test]
    fn a_table_over_ports_hides_from_their_bridge() {
        let mut message = Message::new(0, 0, &[0; NFGENMSG]);
        message.add(1, b"filter\0");
        message.add(NAME, b"fast\0");
        message.nest(HOOK, |hook| {
            hook.add(1, &[0; 4]);
            hook.nest(HOOK_DEVICES, |devices| {
                devices.add(1, b"wan\0");
                devices.add(1, b"lan1\0");
            });
        });
        message.add(FLAGS, &[0, 0, 0, 1]);
        let table = flowtable(message.body()).expect("a table");
        assert_eq!(
            table,
            Flowtable {
                name: "fast".to_owned(),
                devices: vec!["wan".to_owned(), "lan1".to_owned()],
                is_hardware: true,
            }
        );
        for len in 0..message.body().len() {
            // The parser ends on every truncated message.
            let _ = flowtable(&message.body()[..len]);
        }
        let link = |index, name: &str, kind: &str, master| Link {
            index,
            name: name.to_owned(),
            kind: kind.to_owned(),
            master,
            ..Link::default()
        };
        let links = Links::of(vec![
            link(1, "br-lan", "bridge", 0),
            link(2, "lan1", "", 1),
            link(3, "wan", "", 0),
        ]);
        let count = |interface| hidden(std::slice::from_ref(&table), &links, interface).len();
        assert_eq!(count("br-lan"), 2);
        assert_eq!(count("lan1"), 1);
        assert_eq!(hidden(&[], &links, "br-lan"), [""; 0]);
    }
}
