//! Ring 3: a name that is refused, whatever path it takes, with real clients and the servers' own
//! logs. Needs root.
//!
//! `cargo xtask bench` makes a thousand attempts by each way; here it is [`ATTEMPTS`].

#[path = "filter/commands.rs"]
mod commands;
#[path = "filter/paths.rs"]
#[allow(
    dead_code,
    reason = "a race here needs a machine that is not kept busy"
)]
mod paths;

use std::{
    env,
    fmt::Write as _,
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream, UdpSocket},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Signal, geteuid};
use xtask::{
    lab::{
        ALLOWED, BLOCKED, Device, GATEWAY, Host, LAPTOP_MAC, LISTED, Lab, ONLY_BLOCKED, Options,
        Outcome, PHONE_MAC, Sensor, Way, wait_until,
    },
    setup::{self, Need},
    verify::times,
};

/// Attempts by each way at the blocked name, and as many at the allowed one.
const ATTEMPTS: usize = 60;
/// The distance at which a verdict of user space has to be there before the server's answer.
const DELAY: Duration = Duration::from_millis(5);
/// Swaps under traffic: in the test command, and in `cargo xtask verify swaps`.
const SWAPS: [u64; 2] = [25, 100];
/// Kills in the middle of a swap: in the test command, and in `cargo xtask verify kills`.
const KILLS: [u64; 2] = [40, 200];

fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_sensor"))
}

/// Whether there can be a lab; where nobody insists, there need not be.
fn can_be() -> Result<bool> {
    if !geteuid().is_root() && env::var_os("CI").is_none() {
        eprintln!("not run: namespaces and programs in the kernel take root");
        return Ok(false);
    }
    setup::ensure(&[Need::Lab, Need::Browser])?;
    Ok(true)
}

/// A lab with sites, both devices, and a sensor with these policies.
fn household(delay: Option<Duration>, policies: &str) -> Result<(Lab, Sensor)> {
    let mut lab = lab(delay)?;
    let sensor = inhabit(&mut lab, policies)?;
    Ok((lab, sensor))
}

/// A lab with sites, and nobody in it.
fn lab(delay: Option<Duration>) -> Result<Lab> {
    Lab::start(Options {
        sites: true,
        delay,
        ..Options::default()
    })
}

/// Starts a sensor with these policies, and plugs both devices in.
fn inhabit(lab: &mut Lab, policies: &str) -> Result<Sensor> {
    let sensor = lab.sensor(binary(), &lab.configuration(policies))?;
    lab.plug(Device::Phone)?;
    lab.plug(Device::Laptop)?;
    Ok(sensor)
}

/// A policy about the blocked name, of all devices.
fn blocking(more: &str) -> String {
    format!(
        "[[policy]]\nname = \"blocked\"\ndomains = [\"{}\"]\naction = \"reject\"\n{more}\n",
        BLOCKED.name
    )
}

fn by_every_way(delay: Option<Duration>, more: &str) -> Result<()> {
    if !can_be()? {
        return Ok(());
    }
    let (lab, sensor) = household(delay, &blocking(more))?;
    for way in Way::ALL {
        let figures = paths::attempt(&lab, way, ATTEMPTS)?;
        println!(
            "{:9} {} refused, {} silent, median {:.1} ms; {} allowed, median {:.1} ms",
            way.name(),
            figures.refused,
            figures.silent,
            figures.refused_ms_median,
            figures.allowed,
            figures.allowed_ms_median
        );
        figures.check(way.name())?;
    }
    lab.balanced_books(&sensor)?;
    Ok(())
}

#[test]
fn no_request_by_any_way_at_five_milliseconds() -> Result<()> {
    by_every_way(Some(DELAY), "")
}

#[test]
fn no_request_by_any_way_without_distance_where_it_is_strict() -> Result<()> {
    by_every_way(None, "strict = true")
}

/// A datagram from a device that nobody has.
fn made_up(device: u32, to: [u8; 4], port: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 6, 0];
    frame.extend(device.to_be_bytes());
    frame.extend([8, 0, 0x45, 0]);
    frame.extend((payload.len() as u16 + 28).to_be_bytes());
    frame.extend([0, 0, 0x40, 0, 64, 17, 0, 0, 192, 168, 77, 250]);
    frame.extend(to);
    let header = frame[14..34].as_chunks::<2>().0.iter();
    let sum: u32 = header
        .map(|pair| u32::from(u16::from_be_bytes(*pair)))
        .sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    frame[24..26].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    for word in [40_000, port, payload.len() as u16 + 8, 0] {
        frame.extend(word.to_be_bytes());
    }
    frame.extend(payload);
    frame
}

/// MAC addresses that somebody makes up take what is there for those that are not settled, and nothing of it
/// for long: a phone that comes a second later has flows, names and verdicts.
#[test]
fn a_second_after_a_flood_of_made_up_devices_a_new_phone_has_all_that_it_needs() -> Result<()> {
    const MADE_UP: u32 = 10_000;
    const FLOWS_OF_EACH: u8 = 8;
    if !can_be()? {
        return Ok(());
    }
    let mut lab = lab(None)?;
    let policies = blocking("strict = true") + "[device_table]\nretire_after = \"4s\"\n";
    let sensor = lab.sensor(binary(), &lab.configuration(&policies))?;
    lab.plug(Device::Phone)?;
    let wire = lab.phone.wire("eth0")?;
    let question = question(BLOCKED.name, 7);
    for device in 0..MADE_UP {
        for flow in 0..FLOWS_OF_EACH {
            wire.send(&made_up(device, [198, 51, 100, flow], 4_433, b"nothing"))?;
        }
        wire.send(&made_up(device, [192, 168, 77, 1], 53, &question))?;
        if device % 8 == 7 {
            thread::sleep(Duration::from_micros(300));
        }
    }
    thread::sleep(Duration::from_secs(1));
    lab.plug(Device::Laptop)?;
    let figures = paths::attempt_from(&lab, &lab.laptop, Way::Tls, ATTEMPTS)?;
    figures.check("tls")?;
    let devices = sensor.json(&lab, "devices")?;
    let laptop = devices
        .as_array()
        .into_iter()
        .flatten()
        .find(|device| device["device"] == LAPTOP_MAC)
        .context("the laptop has no record of its own")?;
    let parties = laptop["parties"].to_string();
    ensure!(
        parties.contains("\"lab.example\""),
        "the laptop's parties: {parties}"
    );
    // Of the flood nothing is left but in the sums.
    wait_until("rid of the flood", Duration::from_secs(30), || {
        sensor.json(&lab, "status").is_ok_and(|status| {
            status["device_table"]["size"].as_u64() <= Some(4)
                && status["policy_hits"].as_array().is_some_and(|hits| {
                    hits.iter().all(|hit| {
                        hit["device"]
                            .as_str()
                            .is_some_and(|mac| !mac.starts_with("06:00"))
                    })
                })
        })
    })?;
    lab.balanced_books(&sensor)?;
    Ok(())
}

/// The checksum of a socket buffer is left to the device that sends it on, for packets of virtual
/// machines and for merged segments. The answer that the program at TC makes of such a buffer has a
/// checksum that a phone accepts.
#[test]
fn a_refusal_is_believed_where_checksums_are_left_to_the_sender() -> Result<()> {
    if !can_be()? {
        return Ok(());
    }
    let mut lab = Lab::start(Options {
        sites: true,
        offloads: true,
        ..Options::default()
    })?;
    // The packets on a phone's link have finished checksums: the gateway computes them.
    lab.gateway.run("ethtool -K lan0 tx off")?;
    let configuration = lab.configuration(&blocking("strict = true"));
    let configuration = configuration.replace("hook = \"auto\"", "hook = \"tc\"");
    let _sensor = lab.sensor(binary(), &configuration)?;
    lab.plug(Device::Phone)?;
    for way in Way::ALL {
        let figures = paths::attempt(&lab, way, ATTEMPTS)?;
        figures.check(way.name())?;
        // A client that does not believe a refusal waits in silence.
        ensure!(figures.silent == 0, "{}: {figures:#?}", way.name());
    }
    Ok(())
}

#[test]
fn an_address_is_refused_where_no_allowed_name_shares_it() -> Result<()> {
    if !can_be()? {
        return Ok(());
    }
    let policies = format!(
        "[[policy]]\nname = \"blocked\"\ndevices = [\"{PHONE_MAC}\"]\n\
         domains = [\"{}\", \"{}\"]\naction = \"reject\"\n",
        BLOCKED.name, ONLY_BLOCKED.name
    );
    let (lab, sensor) = household(Some(DELAY), &policies)?;
    let take = |policies: &str| -> Result<()> {
        let before = reloads(&sensor.scrape(&lab)?);
        sensor.rewrite(&lab.configuration(policies))?;
        wait_until("the policy is taken", Duration::from_secs(10), || {
            let metrics = sensor.scrape(&lab);
            metrics.is_ok_and(|metrics| reloads(&metrics) > before)
        })
    };
    let explained = |address: &str| {
        let words = ["explain", PHONE_MAC, address];
        xtask::command::capture(&mut sensor.command(&lab, &words))
    };
    let refused = "without a name            is refused, and the device is told: policy `blocked`";
    let only = ONLY_BLOCKED.addresses[0];
    let reaches = || -> Result<bool> {
        let targets = ONLY_BLOCKED.addresses.map(|address| ("", address));
        let attempts = lab.attempts(&lab.phone, Way::Tls, 4, &targets)?;
        Ok(attempts.iter().all(|one| one.outcome == Outcome::Answered))
    };
    // The answers to the laptop, whatever they say, do not apply to the phone. The laptop's last question
    // is learned last.
    for name in [BLOCKED.name, ALLOWED.name, ONLY_BLOCKED.name] {
        lab.laptop.run(&format!("getent ahosts {name}"))?;
    }
    let is_shown = || -> Result<bool> {
        let flows = xtask::command::capture(&mut sensor.command(&lab, &["flows", "--json"]))?;
        Ok(flows.contains(&format!("\"{only}:443\"")) && flows.contains(ONLY_BLOCKED.name))
    };
    ensure!(reaches()?, "the laptop's questions refuse the phone");
    wait_until("the answers are learned", Duration::from_secs(10), || {
        is_shown().is_ok_and(|is_shown| is_shown)
    })?;
    ensure!(reaches()?, "the laptop's answers refuse the phone");
    ensure!(!explained(only)?.contains(refused));
    // The phone's own are, from before the policy came in force.
    take("")?;
    for name in [BLOCKED.name, ALLOWED.name, ONLY_BLOCKED.name] {
        lab.phone.run(&format!("getent ahosts {name}"))?;
    }
    take(&policies)?;
    wait_until("the addresses are learned", Duration::from_secs(10), || {
        explained(only).is_ok_and(|told| told.contains(refused))
    })?;
    for way in [Way::Tls, Way::TlsSplit, Way::Http] {
        let figures = paths::attempt_without_name(&lab, way, ATTEMPTS)?;
        figures.check(&format!("{}, without a name", way.name()))?;
    }
    // It is explained as it is; the address of an allowed name is not refused.
    for (site, is_refused) in [(ONLY_BLOCKED, true), (BLOCKED, false)] {
        let told = explained(site.addresses[0])?;
        ensure!(
            told.contains(refused) == is_refused,
            "{}: {told}",
            site.name
        );
    }
    lab.balanced_books(&sensor)?;
    // Whether an allowed name has come to the address is known to nobody now.
    sensor.process.kill()?;
    wait_until("the address is reached", Duration::from_secs(10), || {
        reaches().is_ok_and(|reaches| reaches)
    })?;
    Ok(())
}

#[test]
fn what_observe_would_refuse_is_counted_in_a_stream_of_questions() -> Result<()> {
    const LIMIT: Duration = Duration::from_secs(10);
    if !can_be()? {
        return Ok(());
    }
    let policies = format!(
        "[[policy]]\nname = \"observed\"\ndomains = [\"{}\"]\n",
        BLOCKED.name
    );
    let (lab, sensor) = household(None, &policies)?;
    let decided = || -> Result<u64> {
        let metrics = sensor.scrape(&lab)?;
        let of_policy = metrics.lines().filter(|line| {
            line.starts_with("sensor_policy_decisions_total{")
                && ["policy=\"observed\"", "layer=\"dns\"", "action=\"observe\""]
                    .iter()
                    .all(|label| line.contains(label))
        });
        let values = of_policy.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok());
        Ok(values.sum())
    };
    // The kernel reads a question that begins a segment. These do not: behind another one, and behind
    // its length.
    let message = |name: &str, id| {
        let question = question(name, id);
        let length = (question.len() as u16).to_be_bytes();
        [&length[..], &question].concat()
    };
    let (allowed, blocked) = (message(ALLOWED.name, 1), message(BLOCKED.name, 2));
    let behind = [&allowed[..], &blocked].concat();
    for segments in [
        vec![&behind[..]],
        vec![&allowed, &blocked[..2], &blocked[2..]],
    ] {
        lab.phone.enter(|| -> Result<()> {
            let server = SocketAddr::new(GATEWAY[0].parse()?, 53);
            let mut stream = TcpStream::connect_timeout(&server, LIMIT)?;
            stream.set_read_timeout(Some(LIMIT))?;
            stream.set_nodelay(true)?;
            for segment in segments {
                stream.write_all(segment)?;
                thread::sleep(Duration::from_millis(20));
            }
            for _ in 0..2 {
                let mut length = [0; 2];
                stream.read_exact(&mut length)?;
                let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
                stream.read_exact(&mut answer)?;
                ensure!(answer[3] & 15 == 0, "{answer:?}");
            }
            Ok(())
        })??;
    }
    wait_until("counted", LIMIT, || decided().is_ok_and(|count| count == 2))?;
    lab.balanced_books(&sensor)?;
    Ok(())
}

#[test]
fn a_refusal_is_quick() -> Result<()> {
    const RUNS: usize = 30;
    if !can_be()? {
        return Ok(());
    }
    let (lab, _sensor) = household(Some(DELAY), &blocking(""))?;
    let authority = lab.authority().display();
    let curl = |name: &str, more: &str| -> Result<(bool, f64)> {
        let words = format!(
            "curl -sS -o /dev/null -w %{{time_total}} --max-time 10 --cacert {authority} {more} {name}"
        );
        let mut words = words.split(' ').filter(|word| !word.is_empty());
        let program = words.next().context("a program")?;
        let output = lab.phone.command(program, words).output()?;
        let seconds: f64 = String::from_utf8_lossy(&output.stdout).parse()?;
        Ok((output.status.success(), seconds * 1e3))
    };
    // By the question, and by the hello of one who knows the address already.
    let [address, _] = BLOCKED.addresses;
    let known = format!(
        "--resolve {}:443:{address} --resolve {}:80:{address}",
        BLOCKED.name, BLOCKED.name
    );
    for (scheme, more) in [("https", ""), ("https", &*known), ("http", &*known)] {
        let mut times = Vec::new();
        for _ in 0..RUNS {
            let (reached, ms) = curl(&format!("{scheme}://{}/", BLOCKED.name), more)?;
            ensure!(!reached, "curl {more} {scheme}: it has a page");
            times.push(ms);
        }
        times.sort_by(f64::total_cmp);
        println!("curl {scheme} {more}: median {:.1} ms", times[RUNS / 2]);
        ensure!(times[RUNS / 2] <= 50.0, "{scheme} {more}: {times:?}");
        let (reached, _) = curl(&format!("{scheme}://{}/", ALLOWED.name), "")?;
        ensure!(reached, "{scheme} does not reach the allowed name");
    }
    let taken = lab.time_in_browser(&lab.phone, &format!("https://{}/", ALLOWED.name))?;
    println!("Chromium, allowed: {taken:?}");
    for scheme in ["https", "http"] {
        let url = format!("{scheme}://{}/", BLOCKED.name);
        let taken = lab.time_in_browser(&lab.phone, &url)?;
        println!("Chromium, {scheme}, refused: {taken:?}");
        ensure!(taken <= Duration::from_secs(1), "{taken:?}");
    }
    let document = lab.browse(&lab.phone, &format!("https://{}/", BLOCKED.name));
    // The browser's own page says what it met with; it has none of the site's words.
    if let Ok(document) = document {
        ensure!(!document.contains(&BLOCKED.page(false)), "{document}");
    }
    let requests = lab.all_requests()?;
    // Both names are at one address and in one certificate, and the browser was told the addresses: it
    // may ask for one host in a connection that it has for the other (RFC 9113, section 9.1.1). No
    // filter of names sees that; a DNS question of its own would have been refused.
    let leaked = requests
        .iter()
        .any(|one| one.host == BLOCKED.name && one.sni != ALLOWED.name);
    ensure!(!leaked, "{requests:#?}");
    Ok(())
}

/// How a name server, or the filter before it, answers a question for an A record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// It exists.
    Exists,
    /// NXDOMAIN.
    Refused,
}

/// A question for an A record.
fn question(name: &str, id: u16) -> Vec<u8> {
    let mut question = [&id.to_be_bytes()[..], &[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]].concat();
    for label in name.split('.') {
        question.push(label.len() as u8);
        question.extend(label.bytes());
    }
    question.extend([0, 0, 1, 0, 1]);
    question
}

/// Asks the gateway's name server. None: no answer within a second.
fn ask(socket: &UdpSocket, name: &str, id: u16) -> Result<Option<Answer>> {
    socket.send(&question(name, id))?;
    let mut answer = [0; 512];
    loop {
        match socket.recv(&mut answer) {
            Ok(length) if length >= 12 && answer[..2] == id.to_be_bytes() => {
                return match answer[3] & 15 {
                    0 => Ok(Some(Answer::Exists)),
                    3 => Ok(Some(Answer::Refused)),
                    code => bail!("{name}: the answer has code {code}"),
                };
            }
            // Late, to a question that was given up.
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Between questions that are refused: a device gets 500 answers a second, and asks for less here.
const PACE: Duration = Duration::from_millis(3);

fn resolver(host: &Host) -> Result<UdpSocket> {
    host.enter(|| -> Result<UdpSocket> {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect(SocketAddr::new(GATEWAY[0].parse()?, 53))?;
        socket.set_read_timeout(Some(Duration::from_secs(1)))?;
        Ok(socket)
    })?
}

/// A list of names that all exist, and that differ by `letter`, and the blocked one.
fn list(lab: &Lab, letter: char, names: usize) -> Result<std::path::PathBuf> {
    let file = lab.gateway.folder.join(format!("{letter}.list"));
    let mut text = String::new();
    writeln!(text, "{}", BLOCKED.name)?;
    for number in 0..names {
        writeln!(text, "{letter}{number}.{LISTED}")?;
    }
    fs::write(&file, text)?;
    Ok(file)
}

fn by_list(file: &Path) -> String {
    format!(
        "[[policy]]\nname = \"list\"\nlists = [\"{}\"]\naction = \"reject\"\n",
        file.display()
    )
}

#[test]
fn swaps_under_traffic_without_a_wrong_verdict() -> Result<()> {
    let swaps = times(SWAPS[0], SWAPS[1]);
    if !can_be()? {
        return Ok(());
    }
    let (lab, sensor) = household(None, "")?;
    let lists = [list(&lab, 'a', 20_000)?, list(&lab, 'b', 20_000)?];
    let running = AtomicBool::new(true);
    let swap = |number: u64| -> Result<()> {
        let file = &lists[(number % 2) as usize];
        sensor.rewrite(&lab.configuration(&by_list(file)))?;
        sensor.process.signal(Signal::HUP)?;
        wait_until("swapped", Duration::from_secs(20), || {
            sensor
                .scrape(&lab)
                .is_ok_and(|text| reloads(&text) > number)
        })
    };
    swap(0)?;
    let wrong = thread::scope(|scope| {
        let asking = scope.spawn(|| -> Result<[u64; 3]> {
            let socket = resolver(&lab.phone)?;
            let [mut asked, mut wrong, mut silent] = [0; 3];
            while running.load(Ordering::Relaxed) {
                // On both lists, and on none.
                for (name, expected) in [
                    (BLOCKED.name, Answer::Refused),
                    (ALLOWED.name, Answer::Exists),
                ] {
                    asked += 1;
                    match ask(&socket, name, asked as u16)? {
                        Some(answer) => wrong += u64::from(answer != expected),
                        None => silent += 1,
                    }
                }
                thread::sleep(PACE);
            }
            Ok([asked, wrong, silent])
        });
        let visiting = scope.spawn(|| -> Result<usize> {
            let mut leaked = 0;
            while running.load(Ordering::Relaxed) {
                let figures = paths::attempt(&lab, Way::Tls, 40)?;
                let wrong = figures.answered + figures.leaked + figures.attempts - figures.allowed;
                if wrong > 0 {
                    println!("{figures:#?}");
                }
                leaked += wrong;
            }
            Ok(leaked)
        });
        let swapped = (1..=swaps).try_for_each(swap);
        running.store(false, Ordering::Relaxed);
        let asked = asking.join().expect("it does not panic")?;
        let leaked = visiting.join().expect("it does not panic")?;
        swapped?;
        println!("{asked:?} questions, wrong answers, no answers; {leaked} wrong connections");
        Ok::<_, anyhow::Error>((asked, leaked))
    })?;
    let ([asked, wrong, silent], leaked) = wrong;
    ensure!(asked > 20 * swaps, "only {asked} questions");
    ensure!(
        wrong == 0 && silent == 0 && leaked == 0,
        "{wrong} wrong, {silent} silent, {leaked} leaked"
    );
    Ok(())
}

fn reloads(metrics: &str) -> u64 {
    metrics
        .lines()
        .find_map(|line| line.strip_prefix("sensor_policy_reloads_total{outcome=\"applied\"} "))
        .and_then(|count| count.parse().ok())
        .unwrap_or_default()
}

#[test]
fn killed_in_the_middle_of_a_swap_the_policy_is_one_of_both() -> Result<()> {
    /// Of each list; every one of them is asked for after a kill by chance.
    const NAMES: usize = 5_000;
    const PROBES: usize = 40;
    let kills = times(KILLS[0], KILLS[1]);
    if !can_be()? {
        return Ok(());
    }
    let (lab, sensor) = household(None, "")?;
    let lists = [list(&lab, 'a', NAMES)?, list(&lab, 'b', NAMES)?];
    let configurations = lists.map(|file| lab.configuration(&by_list(&file)));
    sensor.rewrite(&configurations[0])?;
    sensor.process.signal(Signal::HUP)?;
    wait_until("swapped", Duration::from_secs(20), || {
        sensor.scrape(&lab).is_ok_and(|text| reloads(&text) >= 1)
    })?;
    let socket = resolver(&lab.phone)?;
    let mut sensor = Some(sensor);
    let mut in_force = [0_u64; 2];
    // How long a swap takes here, so that kills fall on all of it.
    let mut longest = Duration::from_millis(60);
    for kill in 0..kills {
        let running = sensor.take().context("a sensor")?;
        let to = &configurations[((kill + 1) % 2) as usize];
        let begun = Instant::now();
        running.rewrite(to)?;
        running.process.signal(Signal::HUP)?;
        // The golden ratio spreads the moments evenly.
        let moment = longest.mul_f64((kill as f64 * 0.618_034).fract());
        thread::sleep(moment.saturating_sub(begun.elapsed()));
        running.process.kill()?;

        // Nobody is there: what is in the kernel answers alone.
        let mut seen = Vec::new();
        for probe in 0..PROBES {
            let number = (probe * 7_919 + kill as usize * 31) % NAMES;
            for (side, letter) in ["a", "b"].into_iter().enumerate() {
                let name = format!("{letter}{number}.{LISTED}");
                let answer = ask(&socket, &name, seen.len() as u16)?;
                let answer = answer.with_context(|| format!("{name} is not answered"))?;
                seen.push((side, answer == Answer::Refused));
            }
        }
        let side = seen
            .iter()
            .find(|(_, refused)| *refused)
            .map(|(side, _)| *side)
            .with_context(|| format!("kill {kill} after {moment:?}: there is no policy"))?;
        ensure!(
            seen.iter().all(|(of, refused)| *refused == (*of == side)),
            "kill {kill} after {moment:?}: a mixture: {seen:?}"
        );
        in_force[side] += 1;
        let blocked = ask(&socket, BLOCKED.name, kill as u16)?;
        ensure!(blocked == Some(Answer::Refused), "{blocked:?}");
        let begun = Instant::now();
        sensor = Some(lab.sensor(binary(), &configurations[(kill % 2) as usize])?);
        longest = longest.max(begun.elapsed() / 8);
    }
    println!("after {kills} kills: {in_force:?} old and new lists in force");
    ensure!(in_force.iter().all(|count| *count > 0), "{in_force:?}");
    Ok(())
}
