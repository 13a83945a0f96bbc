//! Which interfaces have a default route: the side of the internet.

use std::{collections::BTreeSet, fs, io};

/// Where the kernel shows the routes of this network namespace (proc_pid_net(5)).
const IPV4: &str = "/proc/self/net/route";
const IPV6: &str = "/proc/self/net/ipv6_route";

/// The names of the interfaces that have a default route, of IPv4 or IPv6.
///
/// # Errors
///
/// The kernel shows no routes of IPv4. It has none of IPv6 where that is turned off.
pub fn default_routes() -> io::Result<BTreeSet<String>> {
    let mut interfaces = ipv4(&fs::read_to_string(IPV4)?);
    interfaces.extend(ipv6(&fs::read_to_string(IPV6).unwrap_or_default()));
    Ok(interfaces)
}

/// Lines of interface, destination, gateway, flags, three counters, mask: addresses and flags in
/// hexadecimal.
fn ipv4(table: &str) -> BTreeSet<String> {
    let interface = |line: &str| {
        let fields: Vec<_> = line.split_ascii_whitespace().collect();
        let [name, destination, _, flags, _, _, _, mask, ..] = fields[..] else {
            return None;
        };
        let is_default = [destination, mask] == ["00000000"; 2];
        (is_default && is_usable(flags)).then(|| name.to_owned())
    };
    table.lines().skip(1).filter_map(interface).collect()
}

/// Lines of destination, its length, source, its length, next hop, metric, two counters, flags, interface.
fn ipv6(table: &str) -> BTreeSet<String> {
    let interface = |line: &str| {
        let fields: Vec<_> = line.split_ascii_whitespace().collect();
        let [destination, length, _, _, _, _, _, _, flags, name] = fields[..] else {
            return None;
        };
        let is_default = length == "00" && destination.bytes().all(|digit| digit == b'0');
        // The kernel has one of its own on `lo`, which leads nowhere.
        (is_default && is_usable(flags)).then(|| name.to_owned())
    };
    table.lines().filter_map(interface).collect()
}

/// Whether a route is up, and refuses nothing (linux/route.h, linux/ipv6_route.h).
fn is_usable(flags: &str) -> bool {
    const UP: u32 = 0x1;
    const REJECT: u32 = 0x200;
    u32::from_str_radix(flags, 16).is_ok_and(|flags| flags & UP != 0 && flags & REJECT == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_side_of_the_internet_has_the_default_route() {
        let table = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
                     wan\t00000000\t0100A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n\
                     br-lan\t0001A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
                     tun0\t00000000\t00000000\t0001\t0\t0\t0\t00000080\t0\t0\t0\n\
                     old\t00000000\t0100A8C0\t0200\t0\t0\t100\t00000000\t0\t0\t0\n\
                     cut\t00000000\n";
        assert_eq!(ipv4(table), BTreeSet::from(["wan".to_owned()]));
        assert_eq!(ipv4(""), BTreeSet::new());
    }

    #[test]
    fn of_ipv6_too() {
        let zero = "0".repeat(32);
        let lan = format!("fd{}", "0".repeat(30));
        let line = |destination: &str, length: &str, flags: &str, name: &str| {
            format!(
                "{destination} {length} {zero} 00 {zero} 00000400 00000001 00000000 {flags} {name}\n"
            )
        };
        let table = [
            line(&zero, "00", "00450003", "ppp0"),
            line(&lan, "40", "00000001", "br-lan"),
            line(&zero, "00", "00200200", "lo"),
        ];
        assert_eq!(ipv6(&table.concat()), BTreeSet::from(["ppp0".to_owned()]));
    }
}
