//! The output of `policy try`.

use std::io::{self, Write};

use serde::Serialize;

use super::text::{grouped, json, octets, print_table, table};
use crate::{cli::args::Output, sink::store::read::PartyHour};

/// Amounts of the history.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct TriedAmounts {
    /// Flows that began.
    pub flows: u64,
    /// Bytes that left the device.
    pub upload_bytes: u64,
    /// Bytes that reached it.
    pub download_bytes: u64,
}

impl TriedAmounts {
    /// Adds an hour.
    pub fn add(&mut self, row: &PartyHour<'_>) {
        self.flows += row.flows.unsigned_abs();
        self.upload_bytes += row.upload_bytes.unsigned_abs();
        self.download_bytes += row.download_bytes.unsigned_abs();
    }
}

/// A party that policies would have refused to a device.
#[derive(Clone, Debug, Default, Serialize)]
pub struct RefusedParty {
    /// The party.
    pub party: String,
    /// Its category.
    pub category: Option<String>,
    /// The policy that would have refused it.
    pub policy: String,
    /// The traffic of the device with it.
    #[serde(flatten)]
    pub amounts: TriedAmounts,
}

/// The verdicts that policies would have given to a device.
#[derive(Clone, Debug, Default, Serialize)]
pub struct DeviceTrial {
    /// Its MAC address, or `multicast` or `other`.
    pub device: String,
    /// Its name.
    pub name: Option<String>,
    /// The parties that would have been refused.
    pub refused: Vec<RefusedParty>,
    /// Amounts of which the history does not tell whether they would have been refused.
    pub cannot_be_told: TriedAmounts,
    /// All amounts of the device.
    pub all: TriedAmounts,
}

/// Prints what policies would have refused, the parties with most flows first, and the share of which that cannot be
/// told.
///
/// # Errors
///
/// When the output takes no more.
pub fn print_trial(
    out: &mut impl Write,
    devices: &[DeviceTrial],
    output: Output,
) -> io::Result<()> {
    if output.json {
        return json(out, &devices);
    }
    let mut listing = table(
        [
            "DEVICE", "PARTY", "CATEGORY", "POLICY", "FLOWS", "UPLOAD", "DOWNLOAD",
        ],
        4..=6,
    );
    for device in devices {
        let name = device.name.as_ref().unwrap_or(&device.device);
        let mut refused: Vec<_> = device.refused.iter().collect();
        refused.sort_by(|one, other| {
            let flows = other.amounts.flows.cmp(&one.amounts.flows);
            flows.then_with(|| one.party.cmp(&other.party))
        });
        for party in refused {
            listing.add_row([
                name.clone(),
                party.party.clone(),
                party.category.clone().unwrap_or_else(|| "-".to_owned()),
                party.policy.clone(),
                grouped(party.amounts.flows),
                octets(party.amounts.upload_bytes),
                octets(party.amounts.download_bytes),
            ]);
        }
    }
    let empty = "of what the history tells, nothing would have been refused";
    print_table(out, &listing, empty)?;
    for device in devices {
        let unknown = &device.cannot_be_told;
        if unknown.flows == 0 && unknown.upload_bytes == 0 && unknown.download_bytes == 0 {
            continue;
        }
        writeln!(
            out,
            "{}: of {} of {} flows ({} of {} up, {} of {} down) it cannot be told",
            super::printable_lines(device.name.as_ref().unwrap_or(&device.device)),
            grouped(unknown.flows),
            grouped(device.all.flows),
            octets(unknown.upload_bytes),
            octets(device.all.upload_bytes),
            octets(unknown.download_bytes),
            octets(device.all.download_bytes),
        )?;
    }
    Ok(())
}
