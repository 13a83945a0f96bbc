//! Programs that another tool takes off, each in its way: the kernel is looked at, not remembered.

use std::{
    fs, io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use xtask::lab::{Host, Lab, pass};

use crate::{
    daemon::{Daemon, LIMIT, Metrics, Probe, Settings, run},
    lab, wire,
};

/// A daemon on the interface `one` that has counted five packets.
fn watched<'a>(lab: &'a Lab, hook: &'static str) -> Daemon<'a> {
    wire::lay(&lab.gateway, "one");
    let mut daemon = Daemon::start(lab, &Settings::new(lab, &["one"]).hook(hook));
    wire::upload(&lab.gateway, "one", 5);
    daemon.counts("one", 5);
    daemon
}

/// Waits until both programs are there again, and that they count; what the log says has this in it.
#[track_caller]
fn put_back(lab: &Lab, daemon: &mut Daemon<'_>, said: &str) {
    let begun = Instant::now();
    log_says(daemon, said);
    daemon.wait_until("put back", |_| programs(&lab.gateway, "one") == 2);
    eprintln!("{said}: there again after {:?}", begun.elapsed());
    daemon.wait_until("ready", |daemon| daemon.get("readyz").is_some());
    // Readiness is told at once, the metrics are those of the last tick.
    daemon.wait_until("in the metrics", |daemon| {
        daemon.scrape().is_some_and(|metrics| {
            let is_none = |direction| metrics.hook("one", direction) == "none";
            !is_none("upload") && !is_none("download")
        })
    });
    wire::upload(&lab.gateway, "one", 7);
    daemon.counts("one", 12);
}

/// Waits until the log says something.
#[track_caller]
pub(crate) fn log_says(daemon: &Daemon<'_>, said: &str) {
    let begun = Instant::now();
    while !daemon.log().contains(said) {
        let log = daemon.log();
        assert!(begun.elapsed() < LIMIT, "«{said}» is not in\n{log}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// How many programs are on an interface, at whichever hook.
fn programs(host: &Host, name: &str) -> usize {
    let at_xdp = wire::xdp(host, name).is_some();
    let at_tc = wire::tc(host, name);
    // Beside the program at XDP there is the one that answers what it refuses.
    if at_xdp && at_tc == 2 { 2 } else { at_tc }
}

#[test]
fn clsact_that_was_deleted_is_made_again() {
    let Some(lab) = lab() else { return };
    let mut daemon = watched(&lab, "clsact");
    assert_eq!(daemon.scrape().hook("one", "upload"), "clsact");
    lab.gateway
        .run("tc qdisc del dev one clsact")
        .expect("deleted");
    put_back(
        &lab,
        &mut daemon,
        "the queueing discipline clsact was deleted",
    );
}

#[test]
fn filters_that_were_deleted_are_put_back_first() {
    let Some(lab) = lab() else { return };
    let mut daemon = watched(&lab, "clsact");
    for side in ["ingress", "egress"] {
        let filters = lab.gateway.run(&format!("tc filter show dev one {side}"));
        let filters = filters.expect("filters");
        assert!(filters.contains("pref 1 bpf"), "{filters}");
        lab.gateway
            .run(&format!("tc filter del dev one {side}"))
            .expect("deleted");
    }
    put_back(&lab, &mut daemon, "its filter was deleted");
}

#[test]
fn an_ingress_discipline_in_the_place_of_clsact_is_said_and_left() {
    let Some(lab) = lab() else { return };
    let mut daemon = watched(&lab, "clsact");
    lab.gateway
        .run("tc qdisc del dev one clsact")
        .expect("deleted");
    lab.gateway
        .run("tc qdisc add dev one ingress")
        .expect("added");
    let none = |daemon: &Probe<'_>| {
        let metrics = daemon.scrape();
        metrics.is_some_and(|metrics| metrics.hook("one", "download") == "none")
            && daemon.get("readyz").is_none()
    };
    // Unless the daemon was in between, and has clsact again.
    let discipline = lab.gateway.run("tc qdisc show dev one").expect("shown");
    assert!(discipline.contains("qdisc ingress"), "{discipline}");
    daemon.wait_until("without downloads", none);
    let log = daemon.log();
    assert!(log.contains("tc qdisc del dev one ingress"), "{log}");
    // Uploads are read by a filter of the discipline that is there.
    wire::upload(&lab.gateway, "one", 3);
    daemon.counts("one", 8);
    lab.gateway
        .run("tc qdisc del dev one ingress")
        .expect("deleted");
    daemon.wait_until("ready", |daemon| daemon.get("readyz").is_some());
    wire::upload(&lab.gateway, "one", 4);
    daemon.counts("one", 12);
}

#[test]
fn a_change_to_filters_that_is_half_done_is_not_whole() {
    let Some(lab) = lab() else { return };
    let mut daemon = watched(&lab, "tc");
    if daemon.scrape().hook("one", "upload") != "tcx" {
        return;
    }
    lab.gateway
        .run("tc qdisc add dev one ingress")
        .expect("added");
    let settings = Settings::new(&lab, &["one"]).hook("clsact");
    fs::write(&daemon.file, settings.text()).expect("written");
    log_says(&daemon, "an ingress queueing discipline stands where");
    let hooks = |metrics: &Metrics| {
        ["upload", "download"].map(|direction| metrics.hook("one", direction).to_owned())
    };
    // Several looks.
    thread::sleep(Duration::from_secs(2));
    assert_eq!(hooks(&daemon.scrape()), ["clsact", "tcx"]);
    let asked = format!("curl -fsS http://127.0.0.1:{}/readyz", settings.port);
    let ready = lab.gateway.run(&asked);
    assert!(ready.is_err(), "{}", daemon.log());
    wire::upload(&lab.gateway, "one", 3);
    daemon.counts("one", 8);
    lab.gateway
        .run("tc qdisc del dev one ingress")
        .expect("deleted");
    daemon.wait_until("ready", |daemon| daemon.get("readyz").is_some());
    // The metrics are those of the last tick.
    daemon.wait_until("held by filters", |daemon| {
        daemon
            .scrape()
            .is_some_and(|metrics| hooks(&metrics) == ["clsact", "clsact"])
    });
    daemon.end();
}

#[test]
fn a_place_that_another_took_is_had_again_or_it_is_said_who_has_it() {
    let Some(lab) = lab() else { return };
    let mut daemon = watched(&lab, "clsact");
    // In the place of the filter.
    let replaced = replace_filter(&lab.gateway);
    assert!(replaced.contains("handle 0x5e"), "{replaced}");
    put_back(&lab, &mut daemon, "has its place");
    daemon.end();

    // Before the link.
    let mut daemon = Daemon::start(&lab, &Settings::new(&lab, &["one"]).hook("tc"));
    if daemon.scrape().hook("one", "upload") == "tcx" {
        let foreign = lab.gateway.enter(|| before_all("one"));
        let foreign = foreign.expect("entered").expect("attached");
        daemon.wait_until("first again", |_| wire::tc(&lab.gateway, "one") == 3);
        log_says(&daemon, "was put first again");
        wire::upload(&lab.gateway, "one", 6);
        daemon.counts("one", 18);
        // A second one is said, and left where it is.
        let second = lab.gateway.enter(|| before_all("one"));
        let second = second.expect("entered").expect("attached");
        log_says(&daemon, "stands before the upload program");
        drop((foreign, second));
    }
    daemon.end();
}

/// Puts a classic filter that does nothing where the sensor's is, and shows what is there then.
fn replace_filter(host: &Host) -> String {
    let words = [
        "filter",
        "replace",
        "dev",
        "one",
        "ingress",
        "protocol",
        "all",
        "pref",
        "1",
        "handle",
        "0x5e",
        "bpf",
        "bytecode",
        "1,6 0 0 0",
    ];
    xtask::command::capture(&mut host.command("tc", words)).expect("replaced");
    host.run("tc filter show dev one ingress").expect("filters")
}

#[test]
fn links_that_were_detached_are_made_again() {
    let Some(lab) = lab() else { return };
    let mut daemon = watched(&lab, "auto");
    assert_eq!(daemon.scrape().hook("one", "upload"), "xdp-native");
    detach(&lab.gateway, "one");
    put_back(
        &lab,
        &mut daemon,
        "the upload program was missing (its link was detached)",
    );
    let log = daemon.end();
    if log.contains("downloads at tcx") {
        let said = "the download program was missing (its link was detached)";
        assert!(log.contains(said), "{log}");
    }
}

#[test]
fn an_xdp_place_that_another_took_is_given_up_for_tc_or_said() {
    let Some(lab) = lab() else { return };
    for (hook, is_had) in [("auto", true), ("xdp-native", false)] {
        wire::lay(&lab.gateway, hook);
        let mut daemon = Daemon::start(&lab, &Settings::new(&lab, &[hook]).hook(hook));
        // Another tool is quicker than the daemon, or tries again.
        let foreign = loop {
            detach(&lab.gateway, hook);
            let foreign = lab.gateway.enter(|| pass::attach(hook, pass::Mode::Native));
            if let Ok(foreign) = foreign.expect("entered") {
                break foreign;
            }
        };
        match is_had {
            true => daemon.wait_until("at TC", |daemon| {
                daemon.scrape().is_some_and(|metrics| {
                    ["tcx", "clsact"].contains(&metrics.hook(hook, "upload"))
                })
            }),
            false => {
                daemon.wait_until("without uploads", |daemon| {
                    daemon.scrape().is_some_and(|metrics| {
                        metrics.hook(hook, "upload") == "none"
                            && metrics.hook(hook, "download") != "none"
                    }) && daemon.get("readyz").is_none()
                });
                let taken = "already has an XDP program that is not ours";
                assert_eq!(daemon.log().matches(taken).count(), 1, "{}", daemon.log());
            }
        }
        drop(foreign);
        daemon.wait_until("ready", |daemon| daemon.get("readyz").is_some());
        wire::upload(&lab.gateway, hook, 9);
        daemon.counts(hook, 9);
        daemon.end();
    }
}

#[test]
fn pins_that_were_deleted_are_there_again() {
    let Some(lab) = lab() else { return };
    let mut daemon = watched(&lab, "auto");
    let pins = Settings::new(&lab, &["one"]).pins;
    let list = |lab: &Lab| {
        let found = lab.gateway.run(&format!("find {}", pins.display()));
        let found = found.unwrap_or_default();
        let mut names: Vec<_> = found.lines().map(str::to_owned).collect();
        names.sort();
        names
    };
    let before = list(&lab);
    assert!(before.len() > 20, "{before:?}");
    lab.gateway
        .run(&format!("rm -r {}", pins.display()))
        .expect("removed");
    daemon.wait_until("pinned again", |_| list(&lab) == before);
    put_back(&lab, &mut daemon, "pins were missing at");
    // The next start adopts them.
    daemon.end();
    let mut daemon = Daemon::start(&lab, &Settings::new(&lab, &["one"]));
    daemon.counts("one", 12);
}

#[test]
fn no_pin_of_an_earlier_start_stays() {
    let Some(lab) = lab() else { return };
    wire::lay(&lab.gateway, "one");
    let settings = Settings::new(&lab, &["one"]);
    let pins = || {
        let found = lab
            .gateway
            .run(&format!("find {}", settings.pins.display()));
        found.expect("pins").lines().count()
    };
    Daemon::start(&lab, &settings).end();
    let before = pins();
    let mut daemon = Daemon::start(&lab, &settings);
    daemon.wait_until("as many pins as before", |_| pins() == before);
    daemon.end();
}

#[test]
fn a_program_stays_where_its_link_cannot_be_pinned() {
    let Some(lab) = lab() else { return };
    let mut daemon = watched(&lab, "auto");
    let pins = Settings::new(&lab, &["one"]).pins;
    let mount = pins.parent().expect("the file system").display();
    let remount = |how: &str| {
        let words = format!("mount -o remount,{how} {mount}");
        lab.gateway.run(&words).expect("mounted");
    };
    remount("ro");
    detach(&lab.gateway, "one");
    put_back(&lab, &mut daemon, "its link was detached");
    log_says(&daemon, "Read-only file system");
    assert!(!daemon.log().contains("are there again"));
    remount("rw");
    log_says(&daemon, "are there again: link-");
    // The links outlive the daemon, and the next start adopts them.
    daemon.end();
    assert_eq!(programs(&lab.gateway, "one"), 2);
    let mut daemon = Daemon::start(&lab, &Settings::new(&lab, &["one"]));
    daemon.counts("one", 12);
    daemon.end();
}

#[test]
fn an_interface_that_was_made_anew_under_its_number_is_had_again() {
    let Some(lab) = lab() else { return };
    for hook in ["auto", "tc", "clsact"] {
        let name = "one";
        let mut daemon = match hook {
            "auto" => watched(&lab, hook),
            _ => Daemon::start(&lab, &Settings::new(&lab, &[name]).hook(hook)),
        };
        let before = daemon.scrape();
        let index = lab.gateway.run("ip -j link show dev one").expect("a link");
        let links: serde_json::Value = serde_json::from_str(&index).expect("JSON");
        let index = links[0]["ifindex"].as_u64().expect("a number");
        let batch = lab.gateway.folder.join("batch");
        let far = wire::far(name);
        fs::write(
            &batch,
            format!(
                "link del {name}\nlink add {name} index {index} type veth peer name {far}\n\
                 link set {name} arp off up\nlink set {far} arp off up\n"
            ),
        )
        .expect("written");
        lab.gateway
            .set("ipv6/conf/default/disable_ipv6", "1")
            .expect("no IPv6");
        lab.gateway
            .ip(&format!("-batch {}", batch.display()))
            .expect("made anew");
        daemon.wait_until("put back", |_| programs(&lab.gateway, name) == 2);
        daemon.wait_until("ready", |daemon| daemon.get("readyz").is_some());
        let counted = before.value(
            "sensor_interface_packets_total",
            &[("interface", name), ("direction", "upload")],
        );
        wire::upload(&lab.gateway, name, 7);
        let after = daemon.counts(name, counted as u64 + 7);
        after.continue_from(&before);
        daemon.end();
    }
}

#[test]
fn nothing_stays_on_an_interface_that_has_another_name() {
    let Some(lab) = lab() else { return };
    let rename = |from: &str, to: &str| {
        lab.gateway
            .ip(&format!("link set {from} down"))
            .expect("down");
        lab.gateway
            .ip(&format!("link set {from} name {to} up"))
            .expect("renamed");
    };
    for hook in ["clsact", "auto"] {
        let (name, other) = (format!("{hook}1"), format!("{hook}2"));
        wire::lay(&lab.gateway, &name);
        wire::lay(&lab.gateway, "stays");
        let settings = Settings::new(&lab, &[&name, "stays"]).hook(hook);
        let mut daemon = Daemon::start(&lab, &settings);
        rename(&name, &other);
        daemon.wait_until("taken off", |_| programs(&lab.gateway, &other) == 0);
        log_says(&daemon, &format!("{name} is called {other} now"));
        rename(&other, &name);
        daemon.wait_until("put back", |_| programs(&lab.gateway, &name) == 2);
        daemon.end();
        // Without a daemon: the next start of another one, and `unload`.
        rename(&name, &other);
        Daemon::start(&lab, &Settings::new(&lab, &["stays"]).hook(hook)).end();
        assert_eq!(programs(&lab.gateway, &other), 0, "{hook}");
        rename(&other, &name);
        Daemon::start(&lab, &settings).end();
        assert_eq!(programs(&lab.gateway, &name), 2, "{hook}");
        rename(&name, &other);
        run(&lab, &settings, &["unload"]).fine();
        assert_eq!(programs(&lab.gateway, &other), 0, "{hook}");
        wire::cut(&lab.gateway, "stays");
    }
}

#[test]
fn looks_do_not_wait_for_ticks() {
    let Some(lab) = lab() else { return };
    wire::lay(&lab.gateway, "one");
    let settings = Settings {
        tick: "1m",
        ..Settings::new(&lab, &["one"])
    };
    let mut daemon = Daemon::start(&lab, &settings);
    detach(&lab.gateway, "one");
    daemon.wait_until("put back", |_| programs(&lab.gateway, "one") == 2);
    assert!(daemon.log().contains("its link was detached"));
    let ticks = daemon.scrape().value("sensor_ticks_total", &[]);
    assert!(ticks <= 1.0, "{ticks} ticks");
}

#[test]
fn names_with_dots_are_names() {
    let Some(lab) = lab() else { return };
    for hook in ["auto", "tc", "clsact"] {
        let names = [
            format!("{hook}0.2"),
            format!("{hook}.10.1"),
            format!("{hook}02"),
        ];
        let names = names.each_ref().map(String::as_str);
        for name in names {
            wire::lay(&lab.gateway, name);
        }
        let settings = Settings::new(&lab, &names).hook(hook);
        Daemon::start(&lab, &settings).end();
        let mut daemon = Daemon::start(&lab, &settings);
        for (name, packets) in names.iter().zip(3..) {
            wire::upload(&lab.gateway, name, packets);
            daemon.counts(name, packets as u64);
        }
        daemon.end();
        for name in names {
            assert_eq!(programs(&lab.gateway, name), 2, "{name}");
        }
        run(&lab, &settings, &["unload"]).fine();
        for name in names {
            assert_eq!(programs(&lab.gateway, name), 0, "{name}");
        }
    }
}

#[test]
fn who_stands_before_a_filter_of_ours_is_said() {
    let Some(lab) = lab() else { return };
    wire::lay(&lab.gateway, "one");
    for words in [
        "tc qdisc add dev one clsact",
        "tc filter add dev one ingress pref 1 protocol all u32 match ip dst 203.0.113.9/32 \
         flowid 1:1",
    ] {
        lab.gateway.run(words).expect("added");
    }
    let settings = Settings::new(&lab, &["one"]).hook("clsact");
    let mut daemon = Daemon::start(&lab, &settings);
    let said = "the u32 filter with pref 1 stands before the upload program";
    log_says(&daemon, said);
    assert!(run(&lab, &settings, &["status"]).fine().contains(said));
    let log = daemon.log();
    assert!(!log.contains("stands before the download program"), "{log}");
    wire::upload(&lab.gateway, "one", 5);
    daemon.counts("one", 5);
    let said = daemon.end().matches(said).count();
    assert_eq!(said, 1);
    run(&lab, &settings, &["unload"]).fine();
    let left = lab.gateway.run("tc filter show dev one ingress");
    assert!(left.expect("filters").contains("u32"), "somebody else's");
}

#[test]
fn a_daemon_without_descriptors_takes_nothing_off() {
    let Some(lab) = lab() else { return };
    let mut daemon = watched(&lab, "auto");
    let limit = |files: u32| {
        let process = daemon.process.id();
        lab.gateway
            .run(&format!("prlimit --pid {process} --nofile={files}:4096"))
            .expect("limited");
    };
    limit(4096);
    limit(3);
    // Several looks, and a reload.
    daemon.process.signal(Signal::HUP).expect("running");
    thread::sleep(Duration::from_secs(2));
    assert_eq!(programs(&lab.gateway, "one"), 2);
    // The daemon cannot put the program back now, because a link needs a descriptor.
    detach(&lab.gateway, "one");
    log_says(&daemon, "a program cannot be attached: Too many open files");
    assert!(!daemon.log().contains("uploads are read at TC"));
    limit(1024);
    put_back(&lab, &mut daemon, "its link was detached");
    let log = daemon.end();
    assert!(!log.contains("went away"), "{log}");
}

/// Attaches a TC program that passes everything, before all others.
fn before_all(interface: &str) -> io::Result<OwnedFd> {
    const BPF_F_BEFORE: u32 = 1 << 3;
    const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
    // `r0 = TCX_PASS; exit`.
    let instructions = [0x0000_0000_0000_00b7_u64, 0x0000_0000_0000_0095];
    let index = wire::index(interface)?;
    let load = [
        u64::from(BPF_PROG_TYPE_SCHED_CLS) | 2 << 32,
        instructions.as_ptr() as u64,
        c"GPL".as_ptr() as u64,
    ];
    let program = descriptor(bpf(5, &load)?);
    let create = [
        program.as_raw_fd() as u32,
        index,
        wire::BPF_TCX_INGRESS,
        BPF_F_BEFORE,
        0,
        0,
        0,
        0,
    ];
    Ok(descriptor(bpf(28, &create)?))
}

fn descriptor(number: i64) -> OwnedFd {
    // SAFETY: the call has just given it, and nobody else has it.
    unsafe { OwnedFd::from_raw_fd(number as i32) }
}

fn bpf<T>(command: i32, attributes: &T) -> io::Result<i64> {
    // SAFETY: the kernel reads the attributes within their length, and writes only what a query asks
    // for; what they point to lives as long as the call.
    let status = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(attributes),
            size_of::<T>(),
        )
    };
    match status {
        ..0 => Err(io::Error::last_os_error()),
        status => Ok(status),
    }
}

/// Detaches every link that a program of an interface is held by, as `bpftool link detach` does.
pub(crate) fn detach(host: &Host, name: &str) {
    let mut programs = wire::tcx_programs(host, name);
    let xdp = wire::xdp(host, name);
    programs.extend(xdp.and_then(|xdp| Some(xdp["prog"]["id"].as_u64()? as u32)));
    let index = host.enter(|| wire::index(name).expect("the interface"));
    let index = index.expect("entered");
    let mut detached = 0;
    let mut id = 0_u32;
    loop {
        // The kernel writes the next number behind the first.
        let next = [std::sync::atomic::AtomicU32::new(id), 0.into(), 0.into()];
        if bpf(31, &next).is_err() {
            break;
        }
        id = next[1].load(std::sync::atomic::Ordering::Relaxed);
        let Ok(link) = bpf(30, &[id, 0, 0]).map(descriptor) else {
            continue;
        };
        let info: [std::sync::atomic::AtomicU32; 6] = Default::default();
        let get = [
            u64::from(link.as_raw_fd() as u32) | 24 << 32,
            info.as_ptr() as u64,
        ];
        if bpf(15, &get).is_err() {
            continue;
        }
        let [_, _, program, _, ifindex, _] = info.map(std::sync::atomic::AtomicU32::into_inner);
        if ifindex == index && programs.contains(&program) {
            bpf(34, &(link.as_raw_fd() as u32)).expect("detached");
            detached += 1;
        }
    }
    assert!(detached > 0, "no link on {name}: {programs:?}");
}
