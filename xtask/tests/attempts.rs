//! The lab's attempts where nothing refuses them: each is answered, and each is in a server's log,
//! so that one that gets past a filter would be. Needs root.

use std::{env, time::Duration};

use anyhow::{Result, ensure};
use rustix::process::geteuid;
use xtask::{
    lab::{
        ALLOWED, BLOCKED, Device, GATEWAY, Lab, NAME_SERVER, NEWS, ONLY_BLOCKED, Options, Outcome,
        Request, Site, Way, wait_until,
    },
    setup::{self, Need},
};

const EACH: usize = 30;

#[test]
fn every_way_leads_to_every_site() -> Result<()> {
    if !geteuid().is_root() && env::var_os("CI").is_none() {
        eprintln!("not run: namespaces take root");
        return Ok(());
    }
    setup::ensure(&[Need::Lab, Need::Browser])?;
    let mut lab = Lab::start(Options {
        sites: true,
        delay: Some(Duration::from_millis(5)),
        ..Options::default()
    })?;
    lab.plug(Device::Phone)?;

    let sites = [BLOCKED, ALLOWED, ONLY_BLOCKED];
    for way in Way::ALL {
        let named: Vec<_> = if way.is_question() {
            [GATEWAY[0], GATEWAY[1], NAME_SERVER]
                .into_iter()
                .flat_map(|server| sites.map(|site| (site.name, server)))
                .collect()
        } else {
            sites
                .into_iter()
                .flat_map(|site| site.addresses.map(|address| (site.name, address)))
                .collect()
        };
        let asked = |lab: &Lab| -> Result<Vec<usize>> {
            if way.is_question() {
                sites.iter().map(|site| lab.questions(site.name)).collect()
            } else {
                let requests = lab.all_requests()?;
                let named = |site: Site| requests.iter().filter(move |one| one.host == site.name);
                Ok(sites.into_iter().map(|site| named(site).count()).collect())
            }
        };
        let before = asked(&lab)?;
        let attempts = lab.attempts(&lab.phone, way, EACH, &named)?;
        ensure!(attempts.len() == EACH * named.len());
        for one in &attempts {
            ensure!(one.outcome == Outcome::Answered, "{way:?}: {one:?}");
        }
        for (at, site) in sites.iter().enumerate() {
            let expected = EACH * named.iter().filter(|(name, _)| *name == site.name).count();
            // The web server writes a request down when it closes the connection, which for one
            // of several may be after the client has its page.
            let mut count = 0;
            wait_until(
                &format!("{way:?}: {expected} for {}", site.name),
                Duration::from_secs(5),
                || {
                    count = asked(&lab).map_or(0, |now| now[at] - before[at]);
                    count >= expected
                },
            )?;
            // A question may have been asked twice, by the household's name server.
            ensure!(
                way.is_question() || count == expected,
                "{way:?}: {count} of {expected} for {}",
                site.name
            );
        }
    }
    // Without a name, the address tells.
    let bare: Vec<_> = [ALLOWED, ONLY_BLOCKED]
        .into_iter()
        .flat_map(|site| site.addresses.map(|address| ("", address)))
        .collect();
    let bare_at = |lab: &Lab, address: &str| -> Result<usize> {
        let requests = lab.all_requests()?;
        let bare =
            |one: &&Request| one.address.to_string() == address && one.host != ONLY_BLOCKED.name;
        Ok(requests.iter().filter(bare).count())
    };
    let before = ONLY_BLOCKED
        .addresses
        .iter()
        .map(|address| bare_at(&lab, address))
        .collect::<Result<Vec<_>>>()?;
    for way in [Way::Tls, Way::TlsSplit, Way::Http] {
        for one in lab.attempts(&lab.phone, way, EACH, &bare)? {
            ensure!(
                one.outcome == Outcome::Answered,
                "{way:?}, no name: {one:?}"
            );
        }
    }
    for (address, before) in ONLY_BLOCKED.addresses.iter().zip(before) {
        let bare = bare_at(&lab, address)? - before;
        ensure!(
            bare == 3 * EACH,
            "{bare} requests without a name at {address}"
        );
    }
    // Where no server is, the client is told by ICMP; a host sends that a few times in a second.
    for address in NEWS.addresses {
        for one in lab.attempts(&lab.phone, Way::Quic, 3, &[(NEWS.name, address)])? {
            ensure!(one.outcome == Outcome::Refused, "{address}: {one:?}");
        }
    }
    let url = format!("https://{}/", BLOCKED.name);
    let taken = lab.time_in_browser(&lab.phone, &url)?;
    ensure!(taken > Duration::from_millis(5), "{taken:?}");
    println!("Chromium has a page after {taken:?}");
    Ok(())
}
