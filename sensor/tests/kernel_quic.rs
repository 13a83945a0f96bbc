//! Ring 2: names in the Initials of QUIC, judged in the kernel. By `BPF_PROG_TEST_RUN`; needs root.

#[allow(dead_code, reason = "the other rings' half")]
mod programs;

use anyhow::{Context as _, Result, ensure};
use programs::{
    Programs, SocketBufferContext, Tables,
    household::{XDP_PASS, XDP_TX, flow_of, frame, hello_with, household},
    initial::{Client, V2, crypto, varint},
};
use sensor_ebpf::{assembly::Unassembled, flow::Judgement};

const BLOCKED: &str = "www.blocked.example";
const ALLOWED: &str = "allowed.example";

/// Numbers that look random (Marsaglia's xorshift, 2003).
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.below(256) as u8).collect()
    }
}

/// A hello's handshake message, without the header of a record: the name before so many bytes, or behind them.
fn hello(name: &str, share: usize, is_last: bool) -> Vec<u8> {
    let hello = match is_last {
        true => hello_with(name, share, None),
        false => hello_with(name, 7, Some(share)),
    };
    hello[5..].to_vec()
}

/// Where a device's datagrams go.
#[derive(Clone, Copy, Debug)]
struct Ends {
    v6: bool,
    local: u16,
    remote: u16,
}

impl Ends {
    const fn new(local: u16) -> Self {
        Self {
            v6: false,
            local,
            remote: 443,
        }
    }
}

/// The household, whose clock runs.
fn home() -> Result<Programs> {
    let mut programs = household(Tables::default())?;
    let mut settings = programs.settings()?;
    settings.hz = 1_000;
    programs.set("SETTINGS", 0, settings)?;
    Ok(programs)
}

/// Fills all budgets up, and has answers be given again.
fn rest(programs: &mut Programs) -> Result<()> {
    programs.forget_answers()?;
    programs.fill_budgets()
}

/// Sends a datagram, and gives the verdict.
fn send(programs: &mut Programs, ends: Ends, datagram: &[u8]) -> Result<u32> {
    rest(programs)?;
    let datagram = frame(ends.v6, 17, (ends.local, ends.remote), 0, datagram);
    Ok(programs.run_xdp("upload", &datagram, 1)?.verdict)
}

fn judgement(programs: &Programs, ends: Ends) -> Result<Judgement> {
    Ok(Judgement::unpack(flow_of(programs, ends.local)?.judgement))
}

/// The same hello in CRYPTO frames of random lengths, shuffled, with frames of other types between them.
fn shuffled(chance: &mut Chance, range: std::ops::Range<usize>, hello: &[u8]) -> Vec<u8> {
    let mut frames = Vec::new();
    let mut at = range.start;
    let most = 1 + (range.end - range.start) / (1 + chance.below(12));
    while at < range.end {
        let len = (1 + chance.below(most)).min(range.end - at);
        frames.push(crypto(at, &hello[at..at + len]));
        at += len;
    }
    for place in (1..frames.len()).rev() {
        frames.swap(place, chance.below(place + 1));
    }
    let mut all = Vec::new();
    for frame in frames {
        match chance.below(5) {
            0 => all.push(1),
            1 => all.extend(vec![0; chance.below(20)]),
            2 => all.extend([2, 5, 0x41, 0x10, 1, 2, 0, 1]),
            3 => all.extend([3, 5, 9, 0, 3, 1, 2, 3]),
            _ => {}
        }
        all.extend(frame);
    }
    all
}

#[test]
fn a_hello_in_one_initial_is_refused() -> Result<()> {
    programs::enter_own_namespace()?;
    let mut programs = home()?;
    let mut local = 20_000;
    for (version, v6, remote) in [
        (1, false, 443),
        (V2, false, 443),
        (1, true, 443),
        (1, false, 8_443),
        (V2, true, 5_555),
    ] {
        for (name, expected) in [(BLOCKED, XDP_TX), (ALLOWED, XDP_PASS)] {
            local += 1;
            let ends = Ends { v6, local, remote };
            let client = Client {
                version,
                ..Client::new(local.into())
            };
            let packet = client.seal(0, &crypto(0, &hello(name, 32, false)), 1_200);
            let verdict = send(&mut programs, ends, &packet)?;
            let judgement = judgement(&programs, ends)?;
            let what = format!("version {version:#x}, {ends:?}, {name}: {verdict}, {judgement:?}");
            ensure!(verdict == expected && judgement.named, "{what}");
            // Whatever comes behind it.
            let verdict = send(&mut programs, ends, &packet)?;
            ensure!(verdict == expected, "{what}, again: {verdict}");
        }
    }
    Ok(())
}

/// Of 1,000 packets of all shapes each is judged, at XDP and at TC.
#[test]
fn packets_of_all_shapes_are_judged() -> Result<()> {
    programs::enter_own_namespace()?;
    let mut programs = home()?;
    let mut chance = Chance(0x2545_f491_4f6c_dd1d);
    for round in 0..1_000 {
        let ends = Ends::new(20_000 + round);
        let is_blocked = chance.below(2) == 0;
        let name = match (is_blocked, chance.below(3)) {
            (true, 0) => "A.b-c.Blocked.EXAMPLE".to_owned(),
            (true, _) => format!("{}.blocked.example", "x".repeat(1 + chance.below(60))),
            (false, 0) => "blocked.example.org".to_owned(),
            (false, _) => format!("{}.example", "y".repeat(1 + chance.below(60))),
        };
        let first = {
            let len = 8 + chance.below(13);
            chance.bytes(len)
        };
        let source = {
            let len = chance.below(21);
            chance.bytes(len)
        };
        let token = {
            let len = [0, chance.below(120)][chance.below(2)];
            chance.bytes(len)
        };
        let client = Client {
            version: [1, V2][chance.below(2)],
            destination: first.clone(),
            first,
            source,
            token,
            number_len: 1 + chance.below(4),
        };
        let share = chance.below(500);
        let hello = hello(&name, share, chance.below(2) == 0);
        let frames = shuffled(&mut chance, 0..hello.len(), &hello);
        let number = chance.below(1 << (8 * client.number_len - 1).min(24)) as u32;
        let packet = client.seal(number, &frames, 1_200);
        let what = format!("{round}: {name}, {client:?}");
        let verdict = send(&mut programs, ends, &packet)?;
        let expected = if is_blocked { XDP_TX } else { XDP_PASS };
        ensure!(verdict == expected, "{what}: {verdict}");
        ensure!(judgement(&programs, ends)?.named, "{what}");

        let ends = Ends::new(ends.local + 2_000);
        rest(&mut programs)?;
        let frame = frame(false, 17, (ends.local, 443), 0, &packet);
        programs.run_tc("upload_tc", &frame)?;
        let after = judgement(&programs, ends)?;
        ensure!(after.named, "{what}, at TC: {after:?}");
        ensure!(
            after.decision.verdict.refuses() == is_blocked,
            "{what}, at TC: {after:?}"
        );
    }
    Ok(())
}

/// A server does not read it, so nothing in it is believed.
#[test]
fn a_packet_whose_tag_is_wrong_says_nothing() -> Result<()> {
    programs::enter_own_namespace()?;
    let mut programs = home()?;
    let mut chance = Chance(0x9e37_79b9_7f4a_7c15);
    for round in 0..300 {
        let ends = Ends::new(20_000 + round);
        let client = Client::new(round.into());
        let mut packet = client.seal(0, &crypto(0, &hello(BLOCKED, 32, false)), 1_200);
        // Any bit behind the connection IDs, but those of the token's and the packet's length.
        let place = 22 + chance.below(packet.len() - 22);
        packet[place] ^= 1 << chance.below(8);
        let verdict = send(&mut programs, ends, &packet)?;
        let judgement = judgement(&programs, ends)?;
        ensure!(
            verdict == XDP_PASS && !judgement.named,
            "{place}: {judgement:?}"
        );
        // The next packet of the connection is read.
        let whole = client.seal(1, &crypto(0, &hello(BLOCKED, 32, false)), 1_200);
        ensure!(send(&mut programs, ends, &whole)? == XDP_TX, "{place}");
    }
    Ok(())
}

/// The server never has a whole hello: the datagram that completes it does not leave.
#[test]
fn a_hello_in_two_initials_is_refused_with_the_one_that_completes_it() -> Result<()> {
    programs::enter_own_namespace()?;
    let mut programs = home()?;
    let mut chance = Chance(0xbf58_476d_1ce4_e5b9);
    for round in 0..400 {
        let ends = Ends::new(20_000 + round);
        let is_blocked = round % 2 == 0;
        let name = if is_blocked { BLOCKED } else { ALLOWED };
        let hello = hello(name, 1_700, round % 3 == 0);
        let cut = 1 + chance.below(hello.len() - 1);
        let client = Client::new(round.into());
        let mut after = client.clone();
        if round % 5 == 0 {
            // The server has answered the first.
            after.destination = vec![0xab; [0, 4, 8, 20][chance.below(4)]];
        }
        let halves = match round % 7 {
            0 => [crypto(0, &hello[..cut]), crypto(cut, &hello[cut..])],
            _ => [
                shuffled(&mut chance, 0..cut, &hello),
                shuffled(&mut chance, cut..hello.len(), &hello),
            ],
        };
        let [first, second] = match chance.below(2) {
            0 => [&halves[0], &halves[1]],
            _ => [&halves[1], &halves[0]],
        };
        if first.len() > 1_700 || second.len() > 1_700 {
            continue;
        }
        let verdicts = [
            send(&mut programs, ends, &client.seal(0, first, 1_200))?,
            send(&mut programs, ends, &after.seal(1, second, 1_200))?,
        ];
        let judgement = judgement(&programs, ends)?;
        let what = format!("{round}: {name}, cut at {cut}: {verdicts:?}, {judgement:?}");
        ensure!(judgement.named, "{what}");
        ensure!(verdicts.contains(&XDP_TX) == is_blocked, "{what}");
    }
    ensure!(programs.losses()?.unassembled == [0; Unassembled::COUNT]);
    Ok(())
}

/// Packets in one datagram (RFC 9000, section 12.2), and datagrams in one packet (GSO).
#[test]
fn packets_and_datagrams_in_one_are_read_each() -> Result<()> {
    programs::enter_own_namespace()?;
    let mut programs = home()?;
    let mut local = 20_000;
    for (name, expected) in [(BLOCKED, XDP_TX), (ALLOWED, XDP_PASS)] {
        let hello = hello(name, 600, true);
        let whole = crypto(0, &hello);
        let (first, second) = (crypto(0, &hello[..300]), crypto(300, &hello[300..]));
        let client = Client::new(7);
        let mut early = client.seal(0, &whole, 100);
        early[0] = early[0] & 0xcf | 0x10;
        let packets = [
            // 0-RTT has no token: what would be its length is that of the packet.
            vec![zero_rtt(&client, 200), client.seal(0, &whole, 1_000)],
            vec![client.seal(0, &whole, 700), zero_rtt(&client, 600)],
            vec![client.seal(0, &first, 400), client.seal(1, &second, 800)],
            vec![
                client.seal(1, &second, 700),
                zero_rtt(&client, 90),
                client.seal(0, &first, 500),
            ],
        ];
        for (number, packets) in packets.into_iter().enumerate() {
            local += 1;
            let ends = Ends::new(local);
            let datagram = packets.concat();
            let verdict = send(&mut programs, ends, &datagram)?;
            let judgement = judgement(&programs, ends)?;
            ensure!(
                verdict == expected && judgement.named,
                "{name}, {number}: {verdict}, {judgement:?}"
            );
        }
        // Two datagrams that are not split yet, of which the second has the rest.
        local += 1;
        let ends = Ends::new(local);
        let datagrams = [
            client.seal(0, &first, 1_250),
            client.seal(1, &second, 1_250),
        ];
        ensure!(datagrams[0].len() == 1_250 && datagrams[1].len() == 1_250);
        let packet = frame(false, 17, (ends.local, 443), 0, &datagrams.concat());
        let merged = SocketBufferContext::merged(1_250, 2, 0);
        rest(&mut programs)?;
        programs.run_tc_in("upload_tc", &packet, merged)?;
        let judgement = judgement(&programs, ends)?;
        ensure!(judgement.named, "{name}, in one packet: {judgement:?}");
        ensure!(judgement.decision.verdict.refuses() == (expected == XDP_TX));
    }
    Ok(())
}

/// A packet of 0-RTT that is not decrypted: by its length the next is found.
fn zero_rtt(client: &Client, len: usize) -> Vec<u8> {
    let mut packet = vec![0xd0];
    packet.extend(client.version.to_be_bytes());
    packet.push(client.destination.len() as u8);
    packet.extend(&client.destination);
    packet.push(client.source.len() as u8);
    packet.extend(&client.source);
    packet.extend((0x4000 | len as u16).to_be_bytes());
    packet.extend(vec![0x5a; len]);
    packet
}

/// Whatever went before in the flow: another connection, the same one, or no QUIC at all.
#[test]
fn every_initial_of_a_flow_is_judged() -> Result<()> {
    programs::enter_own_namespace()?;
    let mut programs = home()?;
    let blocked = |client: &Client| client.seal(9, &crypto(0, &hello(BLOCKED, 32, false)), 1_200);
    let allowed = |client: &Client| client.seal(0, &crypto(0, &hello(ALLOWED, 32, false)), 1_200);
    let mut local = 20_000;
    for remote in [443, 8_443] {
        let client = Client::new(1);
        let another = Client::new(2);
        let noise: Vec<_> = (0..20).map(|_| vec![0x40; 1_200]).collect();
        let forged: Vec<_> = (0..20)
            .map(|number| {
                let mut packet = allowed(&Client::new(100 + number));
                packet[1_100] ^= 1;
                packet
            })
            .collect();
        for (what, before) in [
            ("another connection", vec![allowed(&another); 12]),
            ("the same connection", vec![allowed(&client); 12]),
            ("no QUIC", noise),
            ("forged packets", forged),
        ] {
            local += 1;
            let ends = Ends {
                v6: false,
                local,
                remote,
            };
            for datagram in before {
                ensure!(send(&mut programs, ends, &datagram)? == XDP_PASS, "{what}");
            }
            let verdict = send(&mut programs, ends, &blocked(&client))?;
            ensure!(verdict == XDP_TX, "behind {what}, at {remote}: {verdict}");
        }
    }
    Ok(())
}

/// Nobody knows which of two different bytes the server takes.
#[test]
fn bytes_that_are_said_twice_and_differ_are_left_to_the_daemon() -> Result<()> {
    programs::enter_own_namespace()?;
    let mut programs = home()?;
    let ends = Ends::new(20_000);
    let client = Client::new(1);
    let (one, other) = (
        hello("aaaa.example", 600, true),
        hello("bbbb.example", 600, true),
    );
    let cut = one.len() - 8;
    for (number, frames) in [
        crypto(0, &one[..cut]),
        crypto(100, &other[100..cut]),
        crypto(cut, &one[cut..]),
    ]
    .iter()
    .enumerate()
    {
        let packet = client.seal(number as u32, frames, 1_200);
        ensure!(send(&mut programs, ends, &packet)? == XDP_PASS);
    }
    ensure!(!judgement(&programs, ends)?.named);
    // A hello that is whole in one packet is judged as ever.
    let whole = client.seal(7, &crypto(0, &hello(BLOCKED, 600, true)), 1_200);
    ensure!(send(&mut programs, ends, &whole)? == XDP_TX);
    // Also one that is itself what differs.
    let ends = Ends::new(20_001);
    let first = client.seal(0, &crypto(0, &one[..cut]), 1_200);
    ensure!(send(&mut programs, ends, &first)? == XDP_PASS);
    ensure!(send(&mut programs, ends, &whole)? == XDP_TX);
    Ok(())
}

#[test]
fn what_no_server_reads_and_what_the_budgets_do_not_admit_is_left_alone() -> Result<()> {
    programs::enter_own_namespace()?;
    let mut programs = home()?;
    let frames = crypto(0, &hello(BLOCKED, 32, false));
    // A server discards the Initials of shorter datagrams.
    let short = Client::new(1).seal(0, &frames, 1_199);
    ensure!(short.len() == 1_199);
    ensure!(send(&mut programs, Ends::new(20_000), &short)? == XDP_PASS);

    rest(&mut programs)?;
    let mut judged = 0;
    for number in 0..80 {
        let local = 21_000 + number;
        let packet = Client::new(local.into()).seal(0, &frames, 1_200);
        programs.forget_answers()?;
        let packet = frame(false, 17, (local, 443), 0, &packet);
        judged += u64::from(programs.run_xdp("upload", &packet, 1)?.verdict == XDP_TX);
    }
    // One more for each 20 ms that this took.
    ensure!((64..78).contains(&judged), "{judged}");
    let unassembled = programs.losses()?.unassembled;
    ensure!(
        unassembled[Unassembled::Initials as usize] == 80 - judged,
        "{unassembled:?}"
    );

    let mut settings = programs.settings()?;
    settings.opens_initials = 0;
    programs.set("SETTINGS", 0, settings)?;
    let packet = Client::new(9).seal(0, &frames, 1_200);
    ensure!(send(&mut programs, Ends::new(22_000), &packet)? == XDP_PASS);
    Ok(())
}

/// Frames of nonsense in packets that are sealed well: each comes to an end, and what was said before holds.
#[test]
fn nonsense_that_is_sealed_well_harms_nothing() -> Result<()> {
    programs::enter_own_namespace()?;
    let mut programs = home()?;
    let mut chance = Chance(0x94d0_49bb_1331_11eb);
    for round in 0..2_000_u16 {
        let ends = Ends::new(20_000 + round);
        let mut frames = Vec::new();
        while frames.len() < 900 {
            match chance.below(6) {
                0 => frames.extend(crypto(chance.below(70_000), &[7; 30])),
                1 => frames.extend([2, 1, 1, chance.below(64) as u8, 1, 1, 1]),
                2 => {
                    let len = chance.below(64);
                    frames.extend(chance.bytes(len));
                }
                3 => frames.extend(vec![0; chance.below(300)]),
                4 => frames.extend(
                    [
                        &[6][..],
                        &varint(chance.below(9_000)),
                        &varint(chance.below(9_000)),
                    ]
                    .concat(),
                ),
                _ => frames.push(chance.below(32) as u8),
            }
        }
        let packet = Client::new(round.into()).seal(0, &frames, 1_200);
        send(&mut programs, ends, &packet).with_context(|| format!("round {round}"))?;
    }
    let ends = Ends::new(40_000);
    let packet = Client::new(1).seal(0, &crypto(0, &hello(BLOCKED, 32, false)), 1_200);
    ensure!(send(&mut programs, ends, &packet)? == XDP_TX);
    Ok(())
}
