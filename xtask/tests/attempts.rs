//! The lab's attempts where nothing refuses them: each is answered, and each is in a server's log,
//! so that one that gets past a filter would be. Needs root.

use std::{env, time::Duration};

use anyhow::{Result, ensure};
use rustix::process::geteuid;
use xtask::{
    lab::{
        ALLOWED, BLOCKED, Device, GATEWAY, Lab, NAME_SERVER, NEWS, ONLY_BLOCKED, Options, Outcome,
        Way,
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
        let named: Vec<_> = match way {
            Way::Dns => [GATEWAY[0], GATEWAY[1], NAME_SERVER]
                .into_iter()
                .flat_map(|server| sites.map(|site| (site.name, server)))
                .collect(),
            _ => sites
                .into_iter()
                .flat_map(|site| site.addresses.map(|address| (site.name, address)))
                .collect(),
        };
        let before = lab.all_requests()?.len();
        let attempts = lab.attempts(&lab.phone, way, EACH, &named)?;
        ensure!(attempts.len() == EACH * named.len());
        for one in &attempts {
            ensure!(one.outcome == Outcome::Answered, "{way:?}: {one:?}");
        }
        if way == Way::Dns {
            for site in sites {
                let questions = lab.questions(site.name)?;
                ensure!(
                    questions >= EACH * 3,
                    "{questions} questions for {}",
                    site.name
                );
            }
            continue;
        }
        let requests = lab.all_requests()?.len() - before;
        ensure!(requests == attempts.len(), "{way:?}: {requests} requests");
    }
    // Without a name, the address tells.
    let bare: Vec<_> = [ALLOWED, ONLY_BLOCKED]
        .into_iter()
        .flat_map(|site| site.addresses.map(|address| ("", address)))
        .collect();
    for way in [Way::Tls, Way::TlsSplit, Way::Http] {
        for one in lab.attempts(&lab.phone, way, EACH, &bare)? {
            ensure!(
                one.outcome == Outcome::Answered,
                "{way:?}, no name: {one:?}"
            );
        }
    }
    for address in ONLY_BLOCKED.addresses {
        let requests = lab.all_requests()?;
        let bare = requests
            .iter()
            .filter(|one| one.address.to_string() == address && one.host != ONLY_BLOCKED.name)
            .count();
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
