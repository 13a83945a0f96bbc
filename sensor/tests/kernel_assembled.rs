//! Ring 2: names that stand in several segments, judged in the kernel before the last of them goes on. By
//! `BPF_PROG_TEST_RUN`; needs root.

#[allow(dead_code, reason = "the other rings' half")]
mod programs;

use anyhow::{Result, ensure};
use programs::{
    Programs, Tables,
    household::{XDP_PASS, XDP_TX, flow_of, frame, hello_with, household, numbered},
};
use sensor_ebpf::{
    assembly::{Assembly, Unassembled},
    flow::Judgement,
};

/// A hello of two segments, with the name before the key share or behind it.
fn long_hello(name: &str, is_last: bool) -> Vec<u8> {
    match is_last {
        true => hello_with(name, 1_700, None),
        false => hello_with(name, 7, Some(1_700)),
    }
}

const SYN: u8 = 0x02;
const ACK: u8 = 0x18;
/// The number of the SYN in these frames.
const FIRST: u32 = 1_000;

/// A connection of a device, of which the segments are sent by hand.
struct Connection<'a> {
    programs: &'a mut Programs,
    port: u16,
    remote: u16,
}

impl<'a> Connection<'a> {
    fn open(programs: &'a mut Programs, port: u16, remote: u16) -> Result<Self> {
        let syn = numbered(frame(false, 6, (port, remote), SYN, b""), FIRST, 0);
        ensure!(programs.run_xdp("upload", &syn, 1)?.verdict == XDP_PASS);
        Ok(Self {
            programs,
            port,
            remote,
        })
    }

    /// Sends bytes of the stream from a place on, and gives the verdict.
    fn send(&mut self, at: usize, bytes: &[u8]) -> Result<u32> {
        self.programs.forget_answers()?;
        let ends = (self.port, self.remote);
        let sequence = FIRST + 1 + at as u32;
        let segment = numbered(frame(false, 6, ends, ACK, bytes), sequence, 1);
        Ok(self.programs.run_xdp("upload", &segment, 1)?.verdict)
    }

    fn judgement(&self) -> Result<Judgement> {
        Ok(Judgement::unpack(
            flow_of(self.programs, self.port)?.judgement,
        ))
    }
}

/// The places at which a stream is cut: many, and all around the name.
fn cuts(stream: &[u8], name: &str) -> Vec<usize> {
    let at = stream
        .windows(name.len())
        .position(|window| window == name.as_bytes())
        .expect("the name is there");
    let around = at.saturating_sub(20)..at + name.len() + 4;
    let mut cuts: Vec<_> = (1..stream.len())
        .filter(|cut| cut % 97 == 0 || *cut < 60 || around.contains(cut))
        .collect();
    cuts.retain(|cut| *cut < stream.len());
    cuts
}

/// The server never has a whole hello: of its segments the last one to come does not leave.
#[test]
fn a_hello_in_two_segments_is_refused_with_the_one_that_completes_it() -> Result<()> {
    programs::enter_own_namespace()?;
    let mut programs = household(Tables::default())?;
    let mut port = 20_000;
    for is_last in [false, true] {
        for (name, refused) in [("www.blocked.example", true), ("allowed.example", false)] {
            let stream = long_hello(name, is_last);
            for cut in cuts(&stream, name) {
                for reversed in [false, true] {
                    port += 1;
                    let mut connection = Connection::open(&mut programs, port, 443)?;
                    let (first, second) = stream.split_at(cut);
                    let verdicts = match reversed {
                        false => [connection.send(0, first)?, connection.send(cut, second)?],
                        true => [connection.send(cut, second)?, connection.send(0, first)?],
                    };
                    let what = format!("{name}, {is_last}, cut at {cut}, {reversed}: {verdicts:?}");
                    let judgement = connection.judgement()?;
                    ensure!(judgement.named, "{what}: {judgement:?}");
                    let expected = if refused { XDP_TX } else { XDP_PASS };
                    ensure!(verdicts.contains(&XDP_TX) == refused, "{what}");
                    // Later segments are refused too.
                    let more = connection.send(stream.len(), b"more")?;
                    ensure!(more == expected, "{what}: {more}");
                }
            }
        }
    }
    Ok(())
}

/// As one would see it who has all segments before him, whatever their order: one is refused, and nothing behind it.
#[test]
fn a_hello_in_many_segments_is_refused_in_whatever_order_they_come() -> Result<()> {
    programs::enter_own_namespace()?;
    let mut programs = household(Tables::default())?;
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let mut below = |bound: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed % bound as u64) as usize
    };
    for port in 20_000..20_200 {
        let name = if port % 2 == 0 {
            "www.blocked.example"
        } else {
            "allowed.example"
        };
        let stream = long_hello(name, port % 3 == 0);
        // In pieces of random lengths, some of them longer than they need be: they overlap.
        let mut pieces = Vec::new();
        let mut at = 0;
        while at < stream.len() {
            let most = [20, 200, 1_500][below(3)];
            let len = 1 + below(most);
            let end = (at + len).min(stream.len());
            pieces.push((at, (end + below(30)).min(stream.len())));
            at = end;
        }
        for place in (1..pieces.len()).rev() {
            pieces.swap(place, below(place + 1));
        }
        let mut connection = Connection::open(&mut programs, port, 443)?;
        let mut verdicts = Vec::new();
        let mut passed = vec![false; stream.len()];
        for (at, end) in pieces.iter().copied() {
            let verdict = connection.send(at, &stream[at..end])?;
            verdicts.push(verdict);
            if verdict == XDP_PASS {
                passed[at..end].fill(true);
            }
        }
        let judgement = connection.judgement()?;
        let what = format!("{name}: {pieces:?}: {verdicts:?} {judgement:?}");
        let refused = port % 2 == 0;
        ensure!(verdicts.contains(&XDP_TX) == refused, "{what}");
        ensure!(passed.iter().all(|passed| *passed) != refused, "{what}");
    }
    Ok(())
}

/// Where a byte is said twice and differs, no reader knows which of the two the server takes.
#[test]
fn what_is_said_twice_and_differs_is_left_to_user_space() -> Result<()> {
    programs::enter_own_namespace()?;
    let mut programs = household(Tables::default())?;
    let refused = long_hello("www.blocked.example", true);
    let decoy = long_hello("www.allowed.example", true);
    let cut = refused.len() - 30;
    let mut connection = Connection::open(&mut programs, 20_000, 443)?;
    // The decoy's end does not reach the server.
    ensure!(connection.send(cut, &decoy[cut..])? == XDP_PASS);
    ensure!(connection.send(cut, &refused[cut..])? == XDP_PASS);
    ensure!(connection.send(0, &refused[..cut])? == XDP_PASS);
    ensure!(!connection.judgement()?.named);
    // Another connection is judged as ever.
    let mut connection = Connection::open(&mut programs, 20_001, 443)?;
    ensure!(connection.send(0, &refused[..cut])? == XDP_PASS);
    ensure!(connection.send(cut, &refused[cut..])? == XDP_TX);
    Ok(())
}

/// A device has at most 16 hellos open at a time that are put together; one more is left to user space.
#[test]
fn a_device_has_its_share_of_what_is_put_together() -> Result<()> {
    programs::enter_own_namespace()?;
    let mut programs = household(Tables::default())?;
    let stream = long_hello("www.blocked.example", true);
    let (first, rest) = stream.split_at(700);
    for port in 20_000..20_017 {
        let mut connection = Connection::open(&mut programs, port, 443)?;
        ensure!(connection.send(0, first)? == XDP_PASS);
    }
    ensure!(programs.losses()?.unassembled[Unassembled::OfDevice as usize] == 1);
    for port in 20_000..20_017 {
        let mut connection = Connection {
            programs: &mut programs,
            port,
            remote: 443,
        };
        let verdict = connection.send(700, rest)?;
        let expected = if port == 20_016 { XDP_PASS } else { XDP_TX };
        ensure!(verdict == expected, "{port}: {verdict}");
    }
    // Those that are judged make room.
    let mut connection = Connection::open(&mut programs, 20_100, 443)?;
    ensure!(connection.send(0, first)? == XDP_PASS);
    ensure!(connection.send(700, rest)? == XDP_TX);
    Ok(())
}

/// How many assemblies wait for more.
fn open_assemblies(programs: &Programs) -> Result<usize> {
    let mut open = 0;
    for number in 0..Tables::default().assemblies {
        let one: Assembly = programs.get("ASSEMBLIES", number)?;
        open += usize::from(one.owner != 0 && one.judged_to == 0);
    }
    Ok(open)
}

/// A request whose host comes in a later segment, and a question to a resolver over TCP.
#[test]
fn requests_and_questions_in_several_segments_are_refused() -> Result<()> {
    programs::enter_own_namespace()?;
    let mut programs = household(Tables::default())?;
    let mut port = 20_000;
    for (name, refused) in [("blocked.example", true), ("allowed.example", false)] {
        let request = format!(
            "GET /index.html HTTP/1.1\r\nAccept: */*\r\nHost: {name}\r\nAccept-Language: en\r\n\r\n"
        );
        let mut question = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0".to_vec();
        for label in name.split('.') {
            question.push(label.len() as u8);
            question.extend(label.as_bytes());
        }
        question.extend(b"\0\0\x01\0\x01");
        let mut framed = (question.len() as u16).to_be_bytes().to_vec();
        framed.extend(question);
        for (stream, remote) in [(request.into_bytes(), 80), (framed, 53)] {
            for cut in 1..stream.len() {
                for reversed in [false, true] {
                    port += 1;
                    let mut connection = Connection::open(&mut programs, port, remote)?;
                    let (first, second) = stream.split_at(cut);
                    let verdicts = match reversed {
                        false => [connection.send(0, first)?, connection.send(cut, second)?],
                        true => [connection.send(cut, second)?, connection.send(0, first)?],
                    };
                    let judgement = connection.judgement()?;
                    let what = format!(
                        "{name}, cut at {cut} of {}, {reversed}: {verdicts:?} {judgement:?}",
                        stream.len()
                    );
                    ensure!(verdicts.contains(&XDP_TX) == refused, "{what}");
                    ensure!(judgement.named, "{what}");
                    ensure!(open_assemblies(&programs)? == 0, "{what}: one is left");
                }
            }
        }
    }
    Ok(())
}

/// Behind what clients send before TLS or a request, in segments of its own or in the message's.
#[test]
fn names_behind_a_beginning_are_refused() -> Result<()> {
    programs::enter_own_namespace()?;
    let mut programs = household(Tables::default())?;
    let socks = b"\x05\x01\x00\x03\x09a.example\x01\xbb";
    let beginnings: [&[&[u8]]; 9] = [
        &[b"\r\n\r\n"],
        &[b"EHLO phone.example\r\n", b"STARTTLS\r\n"],
        &[
            b"a1 CAPABILITY\r\n",
            b"a2 ID (\"name\" \"mail\")\r\n",
            b"a3 STARTTLS\r\n",
        ],
        &[b"AUTH TLS\r\n"],
        &[b"\x05\x01\x00", socks],
        &[b"\x05\x02\x00\x02", b"\x01\x04user\x04word", socks],
        &[b"PROXY TCP4 192.0.2.1 198.51.100.1 50000 443\r\n"],
        &[b"PROXY TCP6 2001:db8:1111:2222:3333:4444:5555:6666 2001:db8::1 50000 443\r\n"],
        &[b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x01\xc6\x33\x64\x01\xc3\x50\x01\xbb"],
    ];
    let mut port = 20_000;
    for (name, refused) in [("www.blocked.example", true), ("allowed.example", false)] {
        let request = format!("GET / HTTP/1.1\r\nAccept: */*\r\nHost: {name}\r\n\r\n");
        for message in [long_hello(name, true), request.into_bytes()] {
            for beginning in beginnings {
                let before: usize = beginning.iter().map(|part| part.len()).sum();
                for cut in cuts(&message, name).into_iter().step_by(5) {
                    for joined in [false, true] {
                        port += 1;
                        let mut connection = Connection::open(&mut programs, port, 587)?;
                        let (first, second) = message.split_at(cut);
                        let mut at = 0;
                        let mut verdicts = Vec::new();
                        if joined {
                            let whole = [&beginning.concat(), first].concat();
                            verdicts.push(connection.send(0, &whole)?);
                        } else {
                            for part in beginning {
                                verdicts.push(connection.send(at, part)?);
                                at += part.len();
                            }
                            verdicts.push(connection.send(at, first)?);
                        }
                        verdicts.push(connection.send(before + cut, second)?);
                        let judgement = connection.judgement()?;
                        let what = format!(
                            "{name} behind {:?}, {joined}, cut at {cut}: {verdicts:?} {judgement:?}",
                            beginning.concat().escape_ascii().to_string()
                        );
                        ensure!(verdicts.contains(&XDP_TX) == refused, "{what}");
                        ensure!(judgement.named, "{what}");
                    }
                }
            }
        }
    }
    Ok(())
}

/// A hello may be cut into records wherever its sender likes (RFC 8446, section 5.1), and into segments anywhere else.
#[test]
fn a_hello_in_several_records_is_refused() -> Result<()> {
    programs::enter_own_namespace()?;
    let mut programs = household(Tables::default())?;
    let mut port = 20_000;
    for (name, refused) in [("www.blocked.example", true), ("allowed.example", false)] {
        let whole = long_hello(name, port == 20_000);
        let handshake = &whole[5..];
        let at = whole
            .windows(name.len())
            .position(|window| window == name.as_bytes());
        let at = at.unwrap_or_default() - 5;
        for lens in [
            vec![1],
            vec![4],
            vec![3, 1, 2],
            vec![at + 3],
            vec![at - 4, 4, 3, 3],
            vec![30, 30, 30, 30, 30, 30, 30],
        ] {
            let mut stream = Vec::new();
            let mut rest = handshake;
            for len in lens.iter().copied().chain([usize::MAX]) {
                let (record, behind) = rest.split_at(len.min(rest.len()));
                stream.extend([22, 3, 1]);
                stream.extend((record.len() as u16).to_be_bytes());
                stream.extend(record);
                rest = behind;
            }
            for cut in [stream.len(), 1, 3, 7, 12, at, at + 20, 700, 1_500] {
                for reversed in [false, true] {
                    port += 1;
                    let mut connection = Connection::open(&mut programs, port, 443)?;
                    let (first, second) = stream.split_at(cut.min(stream.len()));
                    let mut verdicts = Vec::new();
                    let mut parts = vec![(0, first), (first.len(), second)];
                    parts.retain(|(_, part)| !part.is_empty());
                    if reversed {
                        parts.reverse();
                    }
                    for (at, part) in parts {
                        verdicts.push(connection.send(at, part)?);
                    }
                    let judgement = connection.judgement()?;
                    let what = format!(
                        "{name} in records {lens:?}, cut at {cut}, {reversed}: {verdicts:?} {judgement:?}"
                    );
                    ensure!(verdicts.contains(&XDP_TX) == refused, "{what}");
                    ensure!(judgement.named, "{what}");
                }
            }
        }
    }
    Ok(())
}

/// Requests without a body, one behind the other in one stream: each is judged, wherever the stream is cut.
#[test]
fn a_request_behind_another_is_refused() -> Result<()> {
    programs::enter_own_namespace()?;
    let mut programs = household(Tables::default())?;
    let request = |host: &str| format!("GET /a HTTP/1.1\r\nHost: {host}\r\nAccept: */*\r\n\r\n");
    let mut port = 20_000;
    for (name, refused) in [("www.blocked.example", true), ("allowed.example", false)] {
        for (between, second) in [
            ("", "two.example"),
            ("\r\n", "two.example"),
            ("", "2001:db8::1"),
        ] {
            let first = [&request("one.example")[..], &request(second)].concat();
            let stream = [&first[..], between, &request(name)].concat().into_bytes();
            let last = first.len() + between.len();
            for cut in (1..=stream.len()).filter(|cut| cut % 3 == 0 || *cut + 60 > last) {
                port += 1;
                let mut connection = Connection::open(&mut programs, port, 80)?;
                let (head, tail) = stream.split_at(cut);
                let mut verdicts = vec![connection.send(0, head)?];
                if !tail.is_empty() {
                    verdicts.push(connection.send(cut, tail)?);
                }
                // And one more in a segment of its own.
                let more = connection.send(stream.len(), request(name).as_bytes())?;
                let judgement = connection.judgement()?;
                let what = format!(
                    "{name} behind {last}, cut at {cut}: {verdicts:?} {more} {judgement:?}"
                );
                ensure!(verdicts.contains(&XDP_TX) == refused, "{what}");
                ensure!((more == XDP_TX) == refused, "{what}");
            }
        }
    }
    Ok(())
}

/// Where bytes were said twice, a message that is whole in a packet is judged as ever.
#[test]
fn a_conflict_opens_nothing_that_is_whole_in_a_packet() -> Result<()> {
    programs::enter_own_namespace()?;
    let mut programs = household(Tables::default())?;
    let request = |host: &str| format!("GET /a HTTP/1.1\r\nHost: {host}\r\n\r\n").into_bytes();
    let mut connection = Connection::open(&mut programs, 20_000, 80)?;
    let allowed = request("allowed.example");
    ensure!(connection.send(30, &allowed[30..])? == XDP_PASS);
    ensure!(connection.send(30, &request("another.example")[30..])? == XDP_PASS);
    ensure!(connection.send(0, &allowed[..30])? == XDP_PASS);
    ensure!(connection.send(allowed.len(), &request("blocked.example"))? == XDP_TX);
    // A decoy in two segments, then the hello whole at its place.
    let mut connection = Connection::open(&mut programs, 20_001, 443)?;
    let decoy = long_hello("www.allowed.example", false);
    ensure!(connection.send(0, &decoy[..500])? == XDP_PASS);
    ensure!(connection.send(500, &decoy[500..])? == XDP_PASS);
    ensure!(connection.send(0, &long_hello("www.blocked.example", false))? == XDP_TX);
    Ok(())
}
