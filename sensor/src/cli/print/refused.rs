//! The output of `refused`, and the part of `devices` about it.

use std::io::{self, Write};

use super::text::{ago, grouped, print_table, printable, shortened, table};
use crate::model::{DeviceRefused, Refused};

/// The most characters of a device's and of a refused name in the table.
const DEVICE: usize = 17;
const NAME: usize = 44;

/// Prints the refusals of late of several devices, the latest first; `now` is in seconds since the Unix epoch.
///
/// # Errors
///
/// When the output takes no more.
pub fn print_refused(out: &mut impl Write, devices: &[DeviceRefused], now: f64) -> io::Result<()> {
    let of = |device: &'_ DeviceRefused| {
        let name = device.name.as_ref().unwrap_or(&device.device);
        shortened(name, DEVICE)
    };
    let all = devices.iter();
    let all = all.flat_map(|device| device.refused.iter().map(move |one| (of(device), one)));
    let mut all: Vec<_> = all.collect();
    all.sort_by(|(_, one), (_, other)| other.last.total_cmp(&one.last));
    let mut table = table(
        [
            "DEVICE",
            "REFUSED",
            "BY",
            "POLICY",
            "BECAUSE OF",
            "TIMES",
            "LAST",
        ],
        5..=5,
    );
    for (device, refused) in all {
        let [what, layer, policy, cause, times, last] = cells(refused, now);
        table.add_row([device, what, layer, policy, cause, times, last]);
    }
    print_table(out, &table, "nothing was refused since the daemon started")
}

/// Prints the refusals of late of one device; nothing where there is none.
pub(super) fn print_refused_of(
    out: &mut impl Write,
    refused: &[Refused],
    now: f64,
) -> io::Result<()> {
    if refused.is_empty() {
        return Ok(());
    }
    let mut table = table(
        ["REFUSED", "BY", "POLICY", "BECAUSE OF", "TIMES", "LAST"],
        4..=4,
    );
    for refused in refused {
        table.add_row(cells(refused, now));
    }
    writeln!(out)?;
    print_table(out, &table, "")
}

fn cells(refused: &Refused, now: f64) -> [String; 6] {
    let alias = refused
        .alias_of
        .as_ref()
        .map(|name| format!("CNAME {}", printable(name)));
    let listed = refused.list.as_ref().zip(refused.line);
    let listed = listed.map(|(list, line)| format!("line {line} of {}", printable(list)));
    let causes: Vec<_> = alias.into_iter().chain(listed).collect();
    [
        shortened(&refused.what, NAME),
        refused.layer.clone(),
        refused.policy.clone(),
        match causes.is_empty() {
            true => "-".to_owned(),
            false => causes.join(", "),
        },
        grouped(refused.count),
        ago(refused.last, now),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(what: &str, last: f64) -> Refused {
        Refused {
            what: what.to_owned(),
            layer: "tls".to_owned(),
            policy: "ads".to_owned(),
            action: "reject".to_owned(),
            alias_of: None,
            list: None,
            line: None,
            count: 1_234,
            last,
        }
    }

    #[test]
    fn the_latest_comes_first_with_device_and_cause() -> io::Result<()> {
        let listed = Refused {
            alias_of: Some("tracker.example".to_owned()),
            list: Some("/ads.txt".to_owned()),
            line: Some(7),
            ..refused("shop.example", 95.0)
        };
        let devices = [
            DeviceRefused {
                device: "02:00:00:00:00:01".to_owned(),
                name: None,
                refused: vec![refused("a.example", 90.0)],
            },
            DeviceRefused {
                device: "02:00:00:00:00:02".to_owned(),
                name: Some("Anna".to_owned()),
                refused: vec![listed],
            },
        ];
        let mut text = Vec::new();
        print_refused(&mut text, &devices, 100.0)?;
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<Vec<_>> = text
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(lines[1][..4], ["Anna", "shop.example", "tls", "ads"]);
        let cause = lines[1][4..].join(" ");
        assert!(
            cause.starts_with("CNAME tracker.example, line 7 of /ads.txt 1,234"),
            "{cause}"
        );
        assert_eq!(lines[2][..2], ["02:00:00:00:00:01", "a.example"]);
        let mut text = Vec::new();
        print_refused(&mut text, &[], 100.0)?;
        assert!(String::from_utf8_lossy(&text).starts_with("nothing was refused"));
        Ok(())
    }
}
