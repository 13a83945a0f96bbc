//! Tests of `sensor block`, `allow`, `forget`, `pause` and `resume`, with the real daemon.

use std::{
    env, fs,
    process::Stdio,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use sensor::control::{
    client,
    protocol::{About, Request, Response},
    socket::Place,
};
use serde_json::Value;
use xtask::{
    command::capture,
    lab::{
        ALLOWED, BLOCKED, Device, GATEWAY, Host, LAPTOP_MAC, Lab, NEWS, Outcome, PHONE_MAC, SHOP,
        Sensor, Site, VIDEO, Way, wait_until,
    },
};

use super::{Answer, PACE, ask, binary, can_be, inhabit, resolver};

/// The ways on which the kernel judges alone: what is said is in force as soon as it is answered.
const WAYS: [Way; 3] = [Way::Dns, Way::Tls, Way::Http];

/// That every attempt at a site by every way ends so, over both families.
#[track_caller]
fn all(lab: &Lab, host: &Host, site: Site, outcome: Outcome) -> Result<()> {
    for way in WAYS {
        let addresses = match way {
            Way::Dns => GATEWAY,
            _ => site.addresses,
        };
        let targets = addresses.map(|address| (site.name, address));
        let attempts = lab.attempts(host, way, 2, &targets)?;
        ensure!(
            attempts.len() == 4 && attempts.iter().all(|one| one.outcome == outcome),
            "{} at {} by {}, to be {outcome:?}: {attempts:#?}",
            host.name,
            site.name,
            way.name()
        );
    }
    Ok(())
}

/// Runs a command, and gives what it wrote.
fn tell(lab: &Lab, sensor: &Sensor, words: &[&str]) -> Result<String> {
    capture(&mut sensor.command(lab, words))
}

/// Blocks a site for the phone, for less time than may be typed.
fn block_for(lab: &Lab, site: Site, holds_for: Duration) -> Result<()> {
    let request = Request::Override {
        about: About {
            name: site.name.to_owned(),
            devices: Some(PHONE_MAC.to_owned()),
        },
        holds_for: Some(holds_for.as_secs()),
        blocks: true,
    };
    let place = Place::new(&lab.runtime(), &lab.pins());
    let answer = client::ask(&place, &request)?.context("a daemon runs")?;
    let Response::Overridden { said, .. } = answer.only()? else {
        bail!("another response");
    };
    ensure!(said.is == "blocked" && said.until.is_some(), "{said:?}");
    Ok(())
}

/// How the phone's question for a site is answered.
fn asks(lab: &Lab, site: Site) -> Result<Answer> {
    let answer = ask(&resolver(&lab.phone)?, site.name, 1)?;
    answer.with_context(|| format!("{} is not answered", site.name))
}

/// The names that commands said something of and that still hold.
fn said(lab: &Lab, sensor: &Sensor) -> Result<Vec<String>> {
    let status = sensor.json(lab, "status")?;
    let commands = status["commands"].as_array().context("a list")?;
    let names = commands.iter().filter_map(|said| said["name"].as_str());
    let mut names: Vec<_> = names.map(str::to_owned).collect();
    names.sort();
    Ok(names)
}

/// A household where one site is refused by its name, and another by a list.
fn household() -> Result<(Lab, Sensor)> {
    let mut lab = super::lab(None)?;
    let list = lab.gateway.folder.join("shops.list");
    fs::write(&list, format!("{}\n", SHOP.name))?;
    let policies = format!(
        "[[policy]]\nname = \"named\"\ndomains = [\"{}\"]\naction = \"reject\"\n\
         [[policy]]\nname = \"listed\"\nlists = [\"{}\"]\naction = \"reject\"\n",
        NEWS.name,
        list.display()
    );
    let sensor = inhabit(&mut lab, &policies)?;
    Ok((lab, sensor))
}

#[test]
fn what_is_said_holds_at_once_and_for_its_device_alone() -> Result<()> {
    if !can_be()? {
        return Ok(());
    }
    let (lab, sensor) = household()?;
    let (phone, laptop) = (&lab.phone, &lab.laptop);
    for host in [phone, laptop] {
        all(&lab, host, BLOCKED, Outcome::Answered)?;
        all(&lab, host, NEWS, Outcome::Refused)?;
        all(&lab, host, SHOP, Outcome::Refused)?;
    }

    let device = ["--device", PHONE_MAC];
    let told = tell(
        &lab,
        &sensor,
        &[&["block", BLOCKED.name], &device[..]].concat(),
    )?;
    ensure!(
        told.contains(BLOCKED.name) && told.contains("blocked") && told.contains(PHONE_MAC),
        "{told}"
    );
    all(&lab, phone, BLOCKED, Outcome::Refused)?;
    all(&lab, laptop, BLOCKED, Outcome::Answered)?;
    let refused = |device: &str| -> Result<Vec<(String, String, String)>> {
        let told = tell(&lab, &sensor, &["refused", device, "--json"])?;
        let told: Vec<serde_json::Value> = serde_json::from_str(&told)?;
        let all = told.iter().filter_map(|of| of["refused"].as_array());
        let text = |one: &serde_json::Value, key: &str| one[key].as_str().map(str::to_owned);
        let all = all.flatten().filter_map(|one| {
            let is_counted = one["count"].as_u64()? > 0;
            let told = (
                text(one, "what")?,
                text(one, "layer")?,
                text(one, "policy")?,
            );
            is_counted.then_some(told)
        });
        Ok(all.collect())
    };
    for device in [PHONE_MAC, "192.168.77.11"] {
        let of_phone = refused(device)?;
        for layer in ["dns", "tls", "http"] {
            let policy = "blocked-by-command".to_owned();
            let one = (BLOCKED.name.to_owned(), layer.to_owned(), policy);
            ensure!(of_phone.contains(&one), "{layer} of {device}: {of_phone:?}");
        }
        let by_address = of_phone.iter().find(|(_, layer, _)| layer == "address");
        ensure!(
            by_address.is_none(),
            "{by_address:?} was refused by its name"
        );
    }
    let of_laptop = refused(LAPTOP_MAC)?;
    ensure!(
        of_laptop.iter().all(|(what, ..)| what != BLOCKED.name),
        "{of_laptop:?}"
    );
    let device_told = tell(&lab, &sensor, &["devices", PHONE_MAC])?;
    ensure!(device_told.contains("BECAUSE OF"), "{device_told}");
    ensure!(tell(&lab, &sensor, &["refused", "nosuch"]).is_err());
    // At the same addresses.
    all(&lab, phone, ALLOWED, Outcome::Answered)?;

    for site in [NEWS, SHOP] {
        tell(
            &lab,
            &sensor,
            &[&["allow", site.name], &device[..]].concat(),
        )?;
        all(&lab, phone, site, Outcome::Answered)?;
        all(&lab, laptop, site, Outcome::Refused)?;
    }
    ensure!(said(&lab, &sensor)? == [BLOCKED.name, NEWS.name, SHOP.name]);

    // Of the same name for the same device, what is said last holds.
    tell(
        &lab,
        &sensor,
        &[&["block", NEWS.name], &device[..]].concat(),
    )?;
    all(&lab, phone, NEWS, Outcome::Refused)?;

    for site in [BLOCKED, NEWS, SHOP] {
        let told = tell(
            &lab,
            &sensor,
            &[&["forget", site.name], &device[..]].concat(),
        )?;
        ensure!(told.contains("is no longer"), "{told}");
    }
    for host in [phone, laptop] {
        all(&lab, host, BLOCKED, Outcome::Answered)?;
        all(&lab, host, NEWS, Outcome::Refused)?;
        all(&lab, host, SHOP, Outcome::Refused)?;
    }
    ensure!(said(&lab, &sensor)?.is_empty());
    let again = tell(&lab, &sensor, &["forget", BLOCKED.name]);
    let again = again.err().context("there is nothing to forget")?;
    let again = format!("{again:#}");
    ensure!(again.contains("no command said anything of"), "{again}");
    lab.balanced_books(&sensor)?;
    Ok(())
}

#[test]
fn what_is_said_holds_for_a_device_that_was_never_seen() -> Result<()> {
    if !can_be()? {
        return Ok(());
    }
    let mut lab = super::lab(None)?;
    // Until the next tick, the daemon does not know who came.
    let sensor = lab.sensor(binary(), &lab.configuration("tick = \"1m\"\n"))?;
    let device = ["--device", LAPTOP_MAC];
    tell(
        &lab,
        &sensor,
        &[&["block", BLOCKED.name], &device[..]].concat(),
    )?;
    lab.plug(Device::Laptop)?;
    all(&lab, &lab.laptop, BLOCKED, Outcome::Refused)?;
    tell(
        &lab,
        &sensor,
        &[&["forget", BLOCKED.name], &device[..]].concat(),
    )?;
    all(&lab, &lab.laptop, BLOCKED, Outcome::Answered)
}

#[test]
fn what_is_said_ends_on_time() -> Result<()> {
    const HOLDS_FOR: Duration = Duration::from_secs(3);
    if !can_be()? {
        return Ok(());
    }
    let (lab, sensor) = household()?;
    let begun = Instant::now();
    block_for(&lab, BLOCKED, HOLDS_FOR)?;
    ensure!(asks(&lab, BLOCKED)? == Answer::Refused);
    wait_until("over", Duration::from_secs(20), || {
        asks(&lab, BLOCKED).is_ok_and(|answer| answer == Answer::Exists)
    })?;
    let taken = begun.elapsed();
    println!("what was to hold for {HOLDS_FOR:?} held for {taken:?}");
    ensure!(taken >= HOLDS_FOR, "{taken:?}");
    all(&lab, &lab.phone, BLOCKED, Outcome::Answered)?;
    ensure!(said(&lab, &sensor)?.is_empty());
    Ok(())
}

#[test]
fn what_is_said_survives_a_crash_until_it_is_over() -> Result<()> {
    /// Longer than a start takes.
    const LONG: Duration = Duration::from_secs(15);
    const SHORT: Duration = Duration::from_secs(2);
    if !can_be()? {
        return Ok(());
    }
    let (lab, sensor) = household()?;
    let configuration = fs::read_to_string(sensor.configuration())?;
    let device = ["--device", PHONE_MAC];
    tell(
        &lab,
        &sensor,
        &[&["block", BLOCKED.name], &device[..]].concat(),
    )?;
    tell(
        &lab,
        &sensor,
        &[&["allow", NEWS.name], &device[..]].concat(),
    )?;
    let begun = Instant::now();
    block_for(&lab, ALLOWED, LONG)?;
    block_for(&lab, VIDEO, SHORT)?;
    sensor.process.kill()?;

    // While nobody is there, and while somebody begins, there is no moment without it.
    let begins = AtomicBool::new(true);
    let sensor = thread::scope(|scope| {
        let asking = scope.spawn(|| -> Result<u64> {
            let socket = resolver(&lab.phone)?;
            let mut asked = 0_u64;
            while begins.load(Ordering::Relaxed) {
                for (site, expected) in [(BLOCKED, Answer::Refused), (NEWS, Answer::Exists)] {
                    let answer = ask(&socket, site.name, asked as u16)?;
                    ensure!(
                        answer == Some(expected),
                        "question {asked}, for {}: {answer:?}",
                        site.name
                    );
                    asked += 1;
                }
                thread::sleep(PACE);
            }
            Ok(asked)
        });
        thread::sleep(SHORT.saturating_sub(begun.elapsed()));
        let sensor = lab.sensor(binary(), &configuration);
        // Some ticks more.
        thread::sleep(Duration::from_millis(2_500));
        begins.store(false, Ordering::Relaxed);
        let asked = asking.join().expect("it does not panic")?;
        ensure!(asked > 1_000, "only {asked} questions");
        sensor
    })?;
    all(&lab, &lab.phone, VIDEO, Outcome::Answered)?;
    all(&lab, &lab.phone, BLOCKED, Outcome::Refused)?;
    all(&lab, &lab.phone, NEWS, Outcome::Answered)?;
    all(&lab, &lab.laptop, BLOCKED, Outcome::Answered)?;
    all(&lab, &lab.laptop, NEWS, Outcome::Refused)?;
    let answer = asks(&lab, ALLOWED)?;
    ensure!(
        begun.elapsed() < LONG && answer == Answer::Refused,
        "{answer:?} after {:?}",
        begun.elapsed()
    );
    ensure!(said(&lab, &sensor)? == [ALLOWED.name, BLOCKED.name, NEWS.name]);

    wait_until("over", LONG + Duration::from_secs(20), || {
        asks(&lab, ALLOWED).is_ok_and(|answer| answer == Answer::Exists)
    })?;
    ensure!(begun.elapsed() >= LONG, "{:?}", begun.elapsed());
    tell(
        &lab,
        &sensor,
        &[&["forget", BLOCKED.name], &device[..]].concat(),
    )?;
    sensor.process.kill()?;
    let sensor = lab.sensor(binary(), &configuration)?;
    // A command that is over or was taken back does not come into force again.
    for site in [ALLOWED, VIDEO, BLOCKED] {
        all(&lab, &lab.phone, site, Outcome::Answered)?;
    }
    ensure!(said(&lab, &sensor)? == [NEWS.name]);
    Ok(())
}

#[test]
fn what_is_refused_by_its_address_stays_so_and_that_is_said() -> Result<()> {
    if !can_be()? {
        return Ok(());
    }
    let mut lab = super::lab(None)?;
    let policies = format!(
        "[[policy]]\nname = \"bedtime\"\ndevices = [\"{PHONE_MAC}\"]\naction = \"reject\"\n"
    );
    let sensor = inhabit(&mut lab, &policies)?;
    let told = tell(&lab, &sensor, &["allow", NEWS.name, "--device", PHONE_MAC])?;
    let but = "but not by dns, tls, quic, http: policy `bedtime` refuses that now by its address";
    ensure!(
        told.contains("is allowed for") && told.contains(but),
        "{told}"
    );
    for way in [Way::Tls, Way::Http] {
        let targets = NEWS.addresses.map(|address| (NEWS.name, address));
        let attempts = lab.attempts(&lab.phone, way, 2, &targets)?;
        let refused = attempts.iter().all(|one| one.outcome == Outcome::Refused);
        ensure!(refused, "{}: {attempts:#?}", way.name());
    }
    let told = tell(&lab, &sensor, &["refused", PHONE_MAC])?;
    ensure!(
        told.contains(&format!("{}:443", NEWS.addresses[0])) && told.contains("bedtime"),
        "{told}"
    );
    let told = tell(&lab, &sensor, &["explain", PHONE_MAC, NEWS.name])?;
    ensure!(told.starts_with("BLOCKED by policy `bedtime`"), "{told}");
    let refused = "is refused, and the device is told, by its address, before it says a name: policy \
                   `bedtime`";
    ensure!(told.contains(refused), "{told}");
    ensure!(
        told.contains("a command would allow it") && told.contains("says no name"),
        "{told}"
    );
    let told = tell(&lab, &sensor, &["allow", NEWS.name, "--device", LAPTOP_MAC])?;
    ensure!(!told.contains("but not by"), "{told}");
    let told = tell(&lab, &sensor, &["allow", NEWS.name])?;
    ensure!(
        told.contains("quic, http for some of them: policy"),
        "{told}"
    );

    // By the name that its DHCP client gave, which stands in no configuration.
    let name = || -> Result<Option<String>> {
        let devices = sensor.json(&lab, "devices")?;
        let mut devices = devices.as_array().context("a list")?.iter();
        let laptop = devices.find(|device| device["device"] == LAPTOP_MAC);
        Ok(laptop.and_then(|laptop| Some(laptop["name"].as_str()?.to_owned())))
    };
    wait_until("called something", Duration::from_secs(10), || {
        name().is_ok_and(|name| name.is_some())
    })?;
    let name = name()?.context("a name")?;
    let told = tell(&lab, &sensor, &["block", SHOP.name, "--device", &name])?;
    ensure!(
        told.contains(&format!("is blocked for {LAPTOP_MAC}")),
        "{told}"
    );
    all(&lab, &lab.laptop, SHOP, Outcome::Refused)?;
    let told = tell(&lab, &sensor, &["forget", SHOP.name, "--device", &name])?;
    ensure!(told.contains("is no longer blocked"), "{told}");
    all(&lab, &lab.laptop, SHOP, Outcome::Answered)?;
    // By its address, in every command that is about a device.
    let flows = |device: &str| -> Result<Vec<serde_json::Value>> {
        let told = tell(&lab, &sensor, &["flows", "--json", device])?;
        Ok(serde_json::from_str(&told)?)
    };
    let devices = sensor.json(&lab, "devices")?;
    let mut known = devices.as_array().context("a list")?.iter();
    let laptop = known.find(|device| device["device"] == LAPTOP_MAC);
    let addresses = laptop.and_then(|laptop| laptop["addresses"].as_array());
    let addresses = addresses.context("its addresses")?;
    ensure!(!addresses.is_empty(), "{devices:#}");
    for address in addresses {
        let address = address.as_str().context("an address")?;
        let told = tell(&lab, &sensor, &["devices", address])?;
        ensure!(told.contains(LAPTOP_MAC), "{told}");
        let told = tell(&lab, &sensor, &["block", SHOP.name, "--device", address])?;
        ensure!(
            told.contains(&format!("is blocked for {LAPTOP_MAC}")),
            "{told}"
        );
        let told = tell(&lab, &sensor, &["explain", address, SHOP.name])?;
        ensure!(told.contains("command"), "{told}");
        tell(&lab, &sensor, &["forget", SHOP.name, "--device", address])?;
        let of_address = flows(address)?;
        ensure!(!of_address.is_empty(), "no flow of {address}");
        let is_its = |flow: &serde_json::Value| flow["device"] == LAPTOP_MAC;
        ensure!(of_address.iter().all(is_its), "{of_address:#?}");
        ensure!(flows(&name)?.len() == of_address.len(), "{name} has others");
    }
    for words in [
        &["devices", "Nobody"][..],
        &["devices", "--json", "Nobody"],
        &["flows", "Nobody"],
        &["flows", "198.51.100.250"],
    ] {
        let output = sensor.command(&lab, words).output()?;
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        ensure!(
            output.status.code() == Some(1) && text.contains("no device is called"),
            "{words:?}: {} «{text}»",
            output.status
        );
    }
    // A name that everybody would miss is blocked, with a warning.
    let told = tell(
        &lab,
        &sensor,
        &["block", "apple.com", "--device", LAPTOP_MAC],
    )?;
    ensure!(told.contains("careful: captive.apple.com"), "{told}");
    tell(
        &lab,
        &sensor,
        &["forget", "apple.com", "--device", LAPTOP_MAC],
    )?;
    // A device that the daemon does not know is an error, not a success.
    sensor.rewrite(&lab.configuration(
        "[[device]]\nmac = \"02:00:00:00:00:77\"\nname = \"Lea\"\ngroups = [\"kids\"]\n[[",
    ))?;
    for (device, error) in [
        ("Nobody", "no device is called `Nobody`"),
        (
            "Lea",
            "no device is called `Lea`, in the configuration of the daemon",
        ),
    ] {
        let words = ["block", SHOP.name, "--device", device];
        let output = sensor.command(&lab, &words).output()?;
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        ensure!(!output.status.success() && text.contains(error), "«{text}»");
    }
    Ok(())
}

/// The pauses that `status` shows.
fn pauses(lab: &Lab, sensor: &Sensor) -> Result<usize> {
    let status = sensor.json(lab, "status")?;
    Ok(status["policy"]["pauses"]
        .as_array()
        .context("a list")?
        .len())
}

#[test]
fn in_a_pause_nothing_is_refused_to_its_devices_until_it_is_over() -> Result<()> {
    const SHORT: Duration = Duration::from_secs(6);
    if !can_be()? {
        return Ok(());
    }
    let (lab, sensor) = household()?;
    let configuration = fs::read_to_string(sensor.configuration())?;
    let (phone, laptop) = (&lab.phone, &lab.laptop);
    tell(&lab, &sensor, &["block", BLOCKED.name])?;
    all(&lab, phone, NEWS, Outcome::Refused)?;
    let device = ["--device", PHONE_MAC];
    let told = tell(
        &lab,
        &sensor,
        &[&["pause", "--for", "10m"], &device[..]].concat(),
    )?;
    ensure!(told.contains(PHONE_MAC), "{told}");
    for site in [NEWS, SHOP, BLOCKED] {
        all(&lab, phone, site, Outcome::Answered)?;
        all(&lab, laptop, site, Outcome::Refused)?;
    }
    let told = tell(&lab, &sensor, &["explain", PHONE_MAC, NEWS.name])?;
    ensure!(
        told.starts_with("ALLOWED while policies are paused") && told.contains("`named`"),
        "{told}"
    );
    let told = tell(&lab, &sensor, &["explain", LAPTOP_MAC, NEWS.name])?;
    ensure!(told.starts_with("BLOCKED by policy `named`"), "{told}");
    let told = tell(&lab, &sensor, &["status"])?;
    ensure!(told.contains(&format!("paused for {PHONE_MAC}")), "{told}");

    sensor.process.kill()?;
    let sensor = lab.sensor(binary(), &configuration)?;
    all(&lab, phone, NEWS, Outcome::Answered)?;
    all(&lab, laptop, NEWS, Outcome::Refused)?;
    ensure!(pauses(&lab, &sensor)? == 1);
    tell(&lab, &sensor, &[&["resume"], &device[..]].concat())?;
    all(&lab, phone, NEWS, Outcome::Refused)?;
    all(&lab, phone, BLOCKED, Outcome::Refused)?;
    ensure!(tell(&lab, &sensor, &["resume"]).is_err());

    // For all devices, and for less time than may be typed.
    let begun = Instant::now();
    let request = Request::Pause {
        devices: None,
        holds_for: Some(SHORT.as_secs()),
    };
    let place = Place::new(&lab.runtime(), &lab.pins());
    let answer = client::ask(&place, &request)?.context("a daemon runs")?;
    let Response::Paused { pause, .. } = answer.only()? else {
        bail!("another response");
    };
    ensure!(
        pause.devices.is_none() && pause.until.is_some(),
        "{pause:?}"
    );
    ensure!(asks(&lab, NEWS)? == Answer::Exists);
    wait_until("over", Duration::from_secs(20), || {
        asks(&lab, NEWS).is_ok_and(|answer| answer == Answer::Refused)
    })?;
    ensure!(begun.elapsed() >= SHORT, "{:?}", begun.elapsed());
    all(&lab, laptop, NEWS, Outcome::Refused)?;
    ensure!(pauses(&lab, &sensor)? == 0);
    Ok(())
}

#[test]
fn a_watched_listing_comes_again_and_again() -> Result<()> {
    if !can_be()? {
        return Ok(());
    }
    let (lab, sensor) = household()?;
    for listing in ["devices", "flows", "refused"] {
        let mut command = sensor.command(&lab, &[listing, "--watch", "--json"]);
        let mut child = command.stdout(Stdio::piped()).spawn()?;
        let out = child.stdout.take().context("it is piped")?;
        let documents = serde_json::Deserializer::from_reader(out).into_iter::<Vec<Value>>();
        let documents: Result<Vec<_>, _> = documents.take(2).collect();
        child.kill()?;
        child.wait()?;
        let documents = documents.with_context(|| listing.to_owned())?;
        ensure!(documents.len() == 2, "{listing}: {documents:?}");
        ensure!(
            listing != "devices" || !documents[1].is_empty(),
            "{documents:?}"
        );
    }
    Ok(())
}

#[test]
fn nobody_but_root_says_anything() -> Result<()> {
    if !can_be()? {
        return Ok(());
    }
    let (lab, sensor) = household()?;
    tell(&lab, &sensor, &["block", VIDEO.name])?;
    // Where anybody may read it and run it.
    let folder = env::temp_dir().join(format!("gateway-sensor-commands-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    let (program, file) = (folder.join("sensor"), folder.join("sensor.toml"));
    fs::copy(binary(), &program)?;
    fs::write(&file, lab.configuration(""))?;
    let as_nobody = |words: &[&str]| -> Result<()> {
        let mut command = lab.gateway.command(
            "setpriv",
            ["--reuid=65534", "--regid=65534", "--clear-groups"],
        );
        let output = command
            .arg(&program)
            .arg("--config")
            .arg(&file)
            .args(words)
            .output()?;
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        ensure!(
            output.status.code() == Some(1)
                && text.contains("no daemon takes this from you, and nothing has changed")
                && text.contains("sudo sensor"),
            "{words:?}: {} «{text}»",
            output.status
        );
        Ok(())
    };
    let refused = as_nobody(&["block", BLOCKED.name])
        .and_then(|()| as_nobody(&["block", BLOCKED.name, "--device", PHONE_MAC, "--for", "1h"]))
        .and_then(|()| as_nobody(&["allow", NEWS.name]))
        .and_then(|()| as_nobody(&["forget", VIDEO.name]));
    fs::remove_dir_all(&folder)?;
    refused?;
    all(&lab, &lab.phone, BLOCKED, Outcome::Answered)?;
    all(&lab, &lab.phone, NEWS, Outcome::Refused)?;
    all(&lab, &lab.phone, VIDEO, Outcome::Refused)?;
    ensure!(said(&lab, &sensor)? == [VIDEO.name]);
    Ok(())
}
