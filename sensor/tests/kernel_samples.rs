//! Ring 2: what the kernel programs copy into the ring, by `BPF_PROG_TEST_RUN`: whose payload, how
//! much of it, how often, and what is left out when the ring fills up.

#[path = "../../sensor-ebpf/tests/frames/mod.rs"]
#[allow(dead_code, reason = "ring 1 uses the rest")]
mod frames;
#[allow(dead_code, reason = "the bench uses the rest")]
mod programs;

use anyhow::{Context as _, Result, ensure};
use aya::maps::RingBuf;
use frames::build::{ACK, Builder, GATEWAY, PHONE, SYN, ethernet, ethernet_between};
use programs::{Programs, Tables};
use sensor_ebpf::{
    flow::{Direction, Judgement, Ruling, Wants},
    policy::Decision,
    sample::{Head, Judged, Kind, MAX_PAYLOAD, NO_SLOT, Watch},
};

const TABLES: Tables = Tables {
    flows: 4_096,
    devices: 64,
    assemblies: 64,
};

/// Payloads that a new flow is watched for, as `programs` sets it.
const WATCHED: usize = 4;

/// Octets of Ethernet, IPv4 and TCP or UDP before the payload.
const BEFORE_TCP: usize = 54;
const BEFORE_UDP: usize = 42;
/// Where the ports lie in a frame with IPv4.
const PORTS: usize = 34;

struct Entry {
    head: Head,
    octets: Vec<u8>,
}

/// All payloads that wait in the ring, the pieces of each put together.
fn drain(programs: &mut Programs) -> Result<Vec<Entry>> {
    let mut ring = RingBuf::try_from(programs.map_mut("SAMPLES")?)?;
    let mut entries = Vec::new();
    while let Some(entry) = ring.next() {
        if entry.len() == size_of::<Judged>() {
            continue;
        }
        let head = entry
            .get(..size_of::<Head>())
            .context("an entry is shorter than its head")?;
        // SAFETY: as long as the type, every bit pattern of which is a value.
        let head = unsafe { head.as_ptr().cast::<Head>().read_unaligned() };
        let octets = entry[size_of::<Head>()..].to_vec();
        ensure!(
            octets.len() == head.captured as usize,
            "{} octets follow a head that says {}",
            octets.len(),
            head.captured
        );
        if head.piece == 0 {
            entries.push(Entry { head, octets });
            continue;
        }
        let whole: &mut Entry = entries.last_mut().context("no piece before it")?;
        ensure!(whole.head.flags & Head::MORE != 0);
        ensure!(whole.octets.len() == usize::from(head.piece) * MAX_PAYLOAD);
        whole.octets.extend_from_slice(&octets);
        whole.head = head;
    }
    Ok(entries)
}

/// Octets that differ from place to place, so that one that is out of place shows.
fn pattern(len: usize) -> Vec<u8> {
    (0..len)
        .map(|place| (place * 7 + place / 251) as u8)
        .collect()
}

/// A TCP segment of the phone's with these octets.
fn segment(port: u16, flags: u8, sequence: u32, octets: &[u8]) -> Vec<u8> {
    ethernet()
        .ipv4()
        .tcp_at(flags, sequence, 1, 0)
        .payload(octets.len())
        .patch(PORTS, &port.to_be_bytes())
        .patch(BEFORE_TCP, octets)
        .build()
}

fn datagram(ports: (u16, u16), octets: &[u8]) -> Vec<u8> {
    with_ports(ethernet().ipv4().udp().payload(octets.len()), ports)
        .patch(BEFORE_UDP, octets)
        .build()
}

/// A payload of so many bytes that may be a DNS message: a header of a question, and a label's
/// length.
fn question(len: usize) -> Vec<u8> {
    let mut octets = pattern(len);
    octets[..13].copy_from_slice(&[0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1]);
    octets
}

fn with_ports(builder: Builder, (source, destination): (u16, u16)) -> Builder {
    builder
        .patch(PORTS, &source.to_be_bytes())
        .patch(PORTS + 2, &destination.to_be_bytes())
}

#[test]
fn a_payload_is_copied_as_it_is_whatever_its_length() -> Result<()> {
    programs::enter_own_namespace()?;
    let mut programs = Programs::load(TABLES)?;
    let mut port = 1_000;
    let lens = [255, 256, 1_199, 1_460, 2_047, 2_048, 2_049, 2_900];
    for len in (1..80)
        .chain(lens)
        .chain([4_095, 4_096, 4_097, 9_000, 16_384])
    {
        let octets = pattern(len);
        for program in ["upload", "upload_frags", "upload_tc", "download"] {
            if len > 2_900 && program != "upload_frags" {
                // More than these are run over.
                continue;
            }
            port += 1;
            let mut frame = segment(port, ACK, 77, &octets);
            if program == "download" {
                frame[..6].copy_from_slice(&PHONE);
                frame[6..12].copy_from_slice(&GATEWAY);
            }
            match program {
                "upload" | "upload_frags" => {
                    programs.run_xdp(program, &frame, 1)?;
                }
                _ => {
                    programs.run_tc(program, &frame)?;
                }
            }
            let entries = drain(&mut programs)?;
            let [entry] = &entries[..] else {
                anyhow::bail!("{program}, {len} octets: {} samples", entries.len());
            };
            ensure!(
                entry.octets == octets,
                "{program}, {len} octets: others came"
            );
            ensure!(entry.head.payload as usize == len);
            ensure!(entry.head.sequence == 77);
            ensure!(entry.head.flags & Head::SYN_SEEN == 0);
            let direction = match program {
                "download" => Direction::Download,
                _ => Direction::Upload,
            };
            ensure!(entry.head.direction == direction as u8);
        }
    }
    Ok(())
}

#[test]
fn padding_behind_a_packet_is_no_payload() -> Result<()> {
    programs::enter_own_namespace()?;
    let mut programs = Programs::load(TABLES)?;
    let mut frame = datagram((4_000, 53), &question(13));
    frame.resize(60, 0xee);
    programs.run_xdp("upload", &frame, 1)?;
    let mut nothing = segment(4_001, ACK, 1, b"");
    nothing.resize(60, 0xee);
    programs.run_xdp("upload", &nothing, 1)?;
    let entries = drain(&mut programs)?;
    ensure!(entries.len() == 1 && entries[0].octets == question(13));
    Ok(())
}

#[test]
fn a_flow_is_copied_until_its_budget_is_spent_and_a_steady_one_not_at_all() -> Result<()> {
    programs::enter_own_namespace()?;
    let mut programs = Programs::load(TABLES)?;
    for number in 0..20 {
        programs.run_xdp("upload", &segment(4_000, ACK, number, b"SSH-2.0-x"), 1)?;
    }
    ensure!(drain(&mut programs)?.len() == WATCHED);
    // The other direction has a budget of its own, and a steady packet does not ask for it.
    let mut answer = segment(4_000, ACK, 1, b"SSH-2.0-y");
    let (source, destination) = (answer[34..36].to_vec(), answer[36..38].to_vec());
    answer[..6].copy_from_slice(&PHONE);
    answer[6..12].copy_from_slice(&GATEWAY);
    answer[34..36].copy_from_slice(&destination);
    answer[36..38].copy_from_slice(&source);
    let (local, remote) = (answer[26..30].to_vec(), answer[30..34].to_vec());
    answer[26..30].copy_from_slice(&remote);
    answer[30..34].copy_from_slice(&local);
    for _ in 0..20 {
        programs.run_tc("download", &answer)?;
    }
    let entries = drain(&mut programs)?;
    ensure!(entries.len() == WATCHED, "{} samples", entries.len());
    let flows = programs.flows()?;
    ensure!(flows.len() == 1 && flows[0].watch() == Watch::NONE);
    ensure!(flows[0].upload_packets == 20 && flows[0].download_packets == 20);
    Ok(())
}

#[test]
fn a_flow_whose_watch_was_ended_is_copied_no_more() -> Result<()> {
    programs::enter_own_namespace()?;
    let mut programs = Programs::load(TABLES)?;
    let frame = segment(4_000, ACK, 1, b"\x16\x03\x01\x00\x05hello");
    programs.run_xdp("upload", &frame, 1)?;
    let entries = drain(&mut programs)?;
    ensure!(entries.len() == 1 && entries[0].head.kind == Kind::Tls as u8);
    let slot = entries[0].head.slot;
    let flows = programs.live_flows()?;
    let (number, record) = flows.first().context("no flow")?;
    ensure!(*number == slot && record.key == entries[0].head.key);
    let mut line = programs.line(slot)?;
    let judgement = Judgement::unpack(line.judgement);
    ensure!(entries[0].head.epoch == u64::from(judgement.epoch));
    let ruling = Ruling {
        generation: judgement.generation,
        epoch: judgement.epoch,
        version: 1,
        decision: Decision::PASS,
        named: true,
        again: false,
        wants: Wants::Settled,
    };
    line.ruling = ruling.pack();
    // Settled TCP has three payloads more; they are used up here.
    line.watch = Watch::NONE.bits();
    programs.set_line(slot, line)?;
    programs.run_xdp("upload", &frame, 1)?;
    ensure!(drain(&mut programs)?.is_empty());
    Ok(())
}

#[test]
fn a_new_connection_on_old_ports_is_watched_anew_from_its_own_start() -> Result<()> {
    programs::enter_own_namespace()?;
    let mut programs = Programs::load(TABLES)?;
    for (initial, expected) in [(1_000_u32, WATCHED), (u32::MAX, WATCHED)] {
        programs.run_xdp("upload", &segment(4_000, SYN, initial, b""), 1)?;
        for _ in 0..10 {
            // Longer than what may stand before TLS, which is not counted.
            let request = [&b"GET / HTTP/1.1\r\n"[..], &[b'x'; 600]].concat();
            let frame = segment(4_000, ACK, initial.wrapping_add(1), &request);
            programs.run_xdp("upload", &frame, 1)?;
        }
        let entries = drain(&mut programs)?;
        ensure!(entries.len() == expected, "{} samples", entries.len());
        for entry in entries {
            ensure!(entry.head.flags & Head::SYN_SEEN != 0);
            ensure!(entry.head.initial_sequence == initial);
            ensure!(entry.head.sequence == initial.wrapping_add(1));
            ensure!(entry.head.kind == Kind::Http as u8);
        }
    }
    // Data on the SYN itself (RFC 7413) stands behind the SYN's own number.
    programs.run_xdp("upload", &segment(4_001, SYN, 5, b"GET / HTTP/1.1\r\n"), 1)?;
    let entries = drain(&mut programs)?;
    ensure!(entries.len() == 1 && entries[0].head.sequence == 6);
    ensure!(entries[0].head.initial_sequence == 5);
    Ok(())
}

#[test]
fn datagrams_are_copied_by_what_they_are() -> Result<()> {
    programs::enter_own_namespace()?;
    let mut programs = Programs::load(TABLES)?;
    let mut quic = vec![0; 1_200];
    quic[..6].copy_from_slice(b"\xc3\0\0\0\x01\x08");
    // Nobody reads a video.
    for _ in 0..5 {
        programs.run_xdp("upload", &datagram((5_000, 9_999), &pattern(1_000)), 1)?;
    }
    ensure!(drain(&mut programs)?.is_empty());
    // QUIC on any port, twice as often as segments; DNS as long as it lives.
    for _ in 0..40 {
        programs.run_xdp("upload", &datagram((5_001, 9_999), &quic), 1)?;
        programs.run_xdp("upload", &datagram((5_002, 53), &question(40)), 1)?;
        // Payloads at port 53 that are no DNS are not told to user space, however many come.
        programs.run_xdp("upload", &datagram((5_003, 53), &pattern(40)), 1)?;
    }
    let entries = drain(&mut programs)?;
    let count = |kind| {
        let of_kind = entries.iter().filter(|entry| entry.head.kind == kind as u8);
        of_kind.count()
    };
    ensure!(count(Kind::Quic) == 2 * WATCHED);
    ensure!(count(Kind::Dns) == 40);
    ensure!(entries.len() == 2 * WATCHED + 40);
    Ok(())
}

#[test]
fn who_has_no_place_for_a_flow_still_asks_for_names() -> Result<()> {
    programs::enter_own_namespace()?;
    let mut programs = Programs::load(Tables {
        flows: 64,
        devices: 4,
        ..Tables::default()
    })?;
    for port in 0..200 {
        programs.run_xdp("upload", &segment(port, ACK, 1, b""), 1)?;
    }
    programs.run_xdp("upload", &datagram((5_000, 53), &question(40)), 1)?;
    programs.run_xdp("upload", &segment(5_000, ACK, 1, b"GET / HTTP/1.1\r\n"), 1)?;
    let entries = drain(&mut programs)?;
    ensure!(entries.len() == 1, "{} samples", entries.len());
    ensure!(entries[0].head.kind == Kind::Dns as u8 && entries[0].head.slot == NO_SLOT);
    ensure!(entries[0].octets == question(40));
    Ok(())
}

/// The ring is filled and never drained: HTTP is left out when it is half full, TLS and QUIC when
/// it is three quarters full, DNS when nothing fits any more.
#[test]
fn under_pressure_http_goes_first_and_dns_last() -> Result<()> {
    programs::enter_own_namespace()?;
    let mut programs = Programs::load(Tables::default())?;
    let mut http = pattern(1_400);
    http[..5].copy_from_slice(b"GET /");
    let mut tls = pattern(1_400);
    tls[..3].copy_from_slice(b"\x16\x03\x01");
    let mut quic = pattern(1_400);
    quic[..5].copy_from_slice(b"\xc3\0\0\0\x01");
    let dns = question(1_400);
    for port in 0..1_000 {
        programs.run_xdp("upload", &segment(10_000 + port, ACK, 1, &http), 1)?;
        programs.run_xdp("upload", &segment(20_000 + port, ACK, 1, &tls), 1)?;
        programs.run_xdp("upload", &datagram((30_000 + port, 443), &quic), 1)?;
        programs.run_xdp("upload", &datagram((40_000 + port, 53), &dns), 1)?;
    }
    let losses = programs.losses()?;
    let of = |kind: Kind| {
        let kind = kind as usize;
        (
            losses.samples[kind],
            losses.samples_shed[kind],
            losses.samples_lost[kind],
        )
    };
    let (http, tls, quic, dns) = (of(Kind::Http), of(Kind::Tls), of(Kind::Quic), of(Kind::Dns));
    let all = format!("{http:?} {tls:?} {quic:?} {dns:?}");
    for (taken, shed, lost) in [http, tls, quic, dns] {
        ensure!(taken + shed + lost == 1_000, "{all}");
    }
    ensure!(http.1 == 1_000 - http.0 && tls.1 == 1_000 - tls.0, "{all}");
    ensure!(dns.1 == 0 && dns.2 > 0, "{all}");
    // Each has what was free when those before it had to stop: a quarter of the ring is about 175.
    ensure!(
        http.0 < tls.0 && tls.0.abs_diff(quic.0) <= 1 && quic.0 < dns.0,
        "{all}"
    );
    let entries = drain(&mut programs)?;
    ensure!(entries.len() as u64 == http.0 + tls.0 + quic.0 + dns.0);
    Ok(())
}

/// A dialogue before TLS is copied line for line, and the hello has room for all of its segments; what
/// is no dialogue is counted.
#[test]
fn payloads_are_counted_from_where_tls_begins() -> Result<()> {
    programs::enter_own_namespace()?;
    let mut programs = Programs::load(Tables::default())?;
    programs.run_xdp("upload", &segment(4_000, SYN, 999, b""), 1)?;
    let mut sequence = 1_000;
    let mut say = |programs: &mut Programs, octets: &[u8]| -> Result<()> {
        programs.run_xdp("upload", &segment(4_000, ACK, sequence, octets), 1)?;
        sequence += octets.len() as u32;
        Ok(())
    };
    for _ in 0..3 * WATCHED {
        say(&mut programs, b"EHLO a.example\r\n")?;
    }
    // Three that are no text: one more is wanted.
    for _ in 1..WATCHED {
        say(&mut programs, &[0xfe; 20])?;
    }
    let mut hello = pattern(1_400);
    hello[..6].copy_from_slice(b"\x16\x03\x01\x07\xd0\x01");
    say(&mut programs, &hello)?;
    for _ in 0..10 {
        say(&mut programs, &pattern(700))?;
    }
    let entries = drain(&mut programs)?;
    ensure!(entries.len() == 3 * WATCHED + WATCHED - 1 + WATCHED);
    let last: Vec<_> = entries
        .iter()
        .filter(|entry| entry.head.flags & Head::LAST != 0)
        .collect();
    ensure!(last.len() == 1 && last[0].head.sequence == entries[entries.len() - 1].head.sequence);
    Ok(())
}

/// A question is known by its bytes at any port, and all that follow it are read.
#[test]
fn dns_is_read_at_any_port_from_its_first_question_on() -> Result<()> {
    programs::enter_own_namespace()?;
    let mut programs = Programs::load(TABLES)?;
    for _ in 0..WATCHED {
        programs.run_xdp("upload", &datagram((5_000, 5_300), &[0xfe; 40]), 1)?;
    }
    for _ in 0..40 {
        programs.run_xdp("upload", &datagram((5_000, 5_300), &question(40)), 1)?;
    }
    let entries = drain(&mut programs)?;
    ensure!(entries.len() == 40, "{} samples", entries.len());
    ensure!(
        entries
            .iter()
            .all(|entry| entry.head.kind == Kind::Dns as u8)
    );
    ensure!(
        entries
            .iter()
            .all(|entry| entry.head.flags & Head::LAST == 0)
    );
    Ok(())
}

/// Only the first fragment is copied: it has the start of the payload, a later one its middle.
#[test]
fn of_a_packet_in_pieces_the_first_is_copied() -> Result<()> {
    programs::enter_own_namespace()?;
    let mut programs = Programs::load(TABLES)?;
    let first = with_ports(
        ethernet().ipv4_piece(7, 0, true).udp().payload(64),
        (5_000, 53),
    )
    .patch(BEFORE_UDP, &question(64))
    .build();
    let later = ethernet()
        .ipv4_piece(7, 9, false)
        .payload(64)
        .of(17)
        .build();
    programs.run_xdp("upload", &first, 1)?;
    programs.run_xdp("upload", &later, 1)?;
    let entries = drain(&mut programs)?;
    ensure!(entries.len() == 1 && entries[0].octets.len() == 64);
    // From the gateway to the phone as well.
    let mut answer = first;
    let swapped = ethernet_between(PHONE, GATEWAY).ipv4().build();
    answer[..12].copy_from_slice(&swapped[..12]);
    programs.run_tc("download", &answer)?;
    ensure!(drain(&mut programs)?.len() == 1);
    Ok(())
}

/// Where much waits in the ring, a device that says much takes its share and no more, and those that are not
/// settled take theirs together: there is room for others.
#[test]
fn no_device_takes_more_of_a_ring_in_which_much_waits_than_its_share() -> Result<()> {
    const SHARE: u64 = 16 * 1024;
    const QUARTER: u64 = 256 * 1024;
    const OF_UNSETTLED: u64 = 2 * SHARE;

    programs::enter_own_namespace()?;
    let mut programs = Programs::load(Tables::default())?;
    let mut settings = programs.settings()?;
    settings.first_sample_bytes = SHARE;
    programs.set("SETTINGS", 0, settings)?;
    let mut losses = programs.losses()?;
    losses.unsettled_sample_bytes = OF_UNSETTLED;
    programs.set("LOSSES", 0, losses)?;
    programs.add_settled(phone(9))?;
    let number = programs.device_of(phone(9))?;
    let mut record = programs.device(number)?;
    record.sample_bytes = SHARE;
    programs.set("DEVICES", number, record)?;
    let mut tls = pattern(1_400);
    tls[..3].copy_from_slice(b"\x16\x03\x01");
    let kind = Kind::Tls as usize;
    let flood = |programs: &Programs, last: u8, count: u16| -> Result<u64> {
        let before = programs.losses()?.samples[kind];
        for port in 0..count {
            let mut frame = segment(10_000 + port, ACK, 1, &tls);
            frame[6..12].copy_from_slice(&phone(last));
            programs.run_xdp("upload", &frame, 1)?;
        }
        Ok((programs.losses()?.samples[kind] - before) * (size_of::<Head>() as u64 + 1_400))
    };
    let is_about = |told: u64, share: u64| told <= share && told + 2_000 > share;
    // Of a ring that is read it takes whatever it wants, and that counts: nothing is left for later.
    let told = flood(&programs, 1, 1_000)?;
    ensure!(told + 8_000 > QUARTER && told < QUARTER + 2_000, "{told}");
    let told = [2, 3, 4]
        .into_iter()
        .map(|last| flood(&programs, last, 100))
        .collect::<Result<Vec<_>>>()?;
    ensure!(
        is_about(told[0], SHARE) && is_about(told[1], SHARE) && told[2] < 2_000,
        "{told:?}"
    );
    // One that is settled has its own share whatever those take.
    let told = flood(&programs, 9, 100)?;
    ensure!(is_about(told, SHARE), "{told}");
    let losses = programs.losses()?;
    ensure!(losses.samples_lost[kind] == 0);
    ensure!(losses.samples[kind] + losses.samples_shed[kind] == 1_000 + 400);
    Ok(())
}

/// The phone's address with another last octet.
fn phone(last: u8) -> [u8; 6] {
    let mut mac = PHONE;
    mac[5] = last;
    mac
}

/// Of frames to groups, a router advertisement is copied, where this machine sends it.
#[test]
fn a_router_advertisement_of_this_machine_is_copied() -> Result<()> {
    programs::enter_own_namespace()?;
    let mut programs = Programs::load(TABLES)?;
    let mut message = vec![134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0];
    message.extend([25, 3, 0, 0, 0, 0, 1, 0]);
    message.extend([0xfd; 16]);
    let frame = |message: &[u8], next: u8| {
        let mut frame = vec![0x33, 0x33, 0, 0, 0, 1];
        frame.extend(GATEWAY);
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, message.len() as u8, next, 255]);
        frame.extend([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        frame.extend([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        frame.extend(message);
        frame
    };
    programs.run_tc("download", &frame(&message, 58))?;
    let copied = drain(&mut programs)?;
    ensure!(copied.len() == 1, "{} copies", copied.len());
    let Entry { head, octets } = &copied[0];
    ensure!(head.kind == Kind::RouterAdvertisement as u8 && *octets == message);
    ensure!(head.slot == NO_SLOT && head.direction == Direction::Download as u8);
    ensure!(head.key.remote().octets()[..2] == [0xfe, 0x80]);
    // A solicitation, another protocol, and one that a device sends.
    let mut other = message.clone();
    other[0] = 133;
    programs.run_tc("download", &frame(&other, 58))?;
    programs.run_tc("download", &frame(&message, 17))?;
    let mut up = frame(&message, 58);
    up[6..12].copy_from_slice(&PHONE);
    programs.run_tc("upload_tc", &up)?;
    programs.run_xdp("upload", &up, 1)?;
    ensure!(drain(&mut programs)?.is_empty());
    Ok(())
}
