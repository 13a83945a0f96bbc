//! Ring 3: what the network stack merged, or has not split yet, is judged as its segments would be. Each is
//! sent whole and split, over links that hand over super-packets and over links that do not. Needs root.

use std::{
    env,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsRawFd as _,
    path::Path,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use rustix::process::geteuid;
use xtask::{
    lab::{ALLOWED, BLOCKED, Device, Lab, Options, Sensor, TRACKER},
    setup::{self, Need},
};

/// A port of the server's for anything but DNS.
const PORT: u16 = 7_443;
const DNS_PORT: u16 = 53;

/// Segments of a stream that are read: as many as the longest hello here has where nobody merges them.
const SEGMENTS: usize = 8;

/// Response codes of DNS.
const NO_ERROR: u8 = 0;
const NO_SUCH_NAME: u8 = 3;

/// How long the server waits for the rest, and the client for an answer.
const PATIENCE: Duration = Duration::from_millis(1_500);

/// Between two halves that are sent one after the other: long enough that nobody merges them.
const BETWEEN: Duration = Duration::from_millis(30);

/// A ClientHello with extensions of so many bytes before the name and behind it.
fn hello(name: &str, before: usize, behind: usize) -> Vec<u8> {
    let extension = |kind: u16, data: &[u8]| {
        let len = (data.len() as u16).to_be_bytes();
        [&kind.to_be_bytes()[..], &len, data].concat()
    };
    let len = name.len() as u16;
    let mut list = (len + 3).to_be_bytes().to_vec();
    list.push(0);
    list.extend(len.to_be_bytes());
    list.extend(name.as_bytes());
    let extensions = [
        extension(0xff03, &vec![0; before]),
        extension(0, &list),
        extension(0xff04, &vec![0; behind]),
    ]
    .concat();
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.push(0);
    body.extend([0, 2, 0x13, 1, 1, 0]);
    body.extend((extensions.len() as u16).to_be_bytes());
    body.extend(extensions);
    let mut record = vec![22, 3, 1];
    record.extend((body.len() as u16 + 4).to_be_bytes());
    record.extend([1, 0]);
    record.extend((body.len() as u16).to_be_bytes());
    record.extend(body);
    record
}

fn request(name: &str, cookie: usize) -> Vec<u8> {
    let cookie = "x".repeat(cookie);
    format!("GET / HTTP/1.1\r\nCookie: {cookie}\r\nHost: {name}\r\n\r\n").into_bytes()
}

fn question(name: &str) -> Vec<u8> {
    let mut message = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        message.push(label.len() as u8);
        message.extend(label.as_bytes());
    }
    message.extend([0, 0, 1, 0, 1]);
    message
}

/// Questions in a stream: so many about an allowed name, and one.
fn questions(name: &str, before: usize) -> Vec<u8> {
    let mut messages = vec![question(ALLOWED.name); before];
    messages.push(question(name));
    let framed = messages
        .iter()
        .flat_map(|message| [&(message.len() as u16).to_be_bytes()[..], message].concat());
    framed.collect()
}

/// A server that answers a stream with how long it was, once it has [`END`]. Its thread ends with the process.
fn serve(lab: &Lab, port: u16) -> Result<()> {
    let listener = lab
        .internet
        .enter(|| TcpListener::bind((TRACKER[0], port)))?
        .context("no server")?;
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                let _ = stream.set_read_timeout(Some(PATIENCE));
                let mut len = [0; 4];
                let mut said = Vec::new();
                let mut some = [0; 4_096];
                while let Ok(count @ 1..) = stream.read(&mut some) {
                    said.extend_from_slice(&some[..count]);
                    if said.ends_with(END) {
                        len = (said.len() as u32).to_be_bytes();
                        break;
                    }
                }
                let _ = stream.write_all(&len);
            });
        }
    });
    Ok(())
}

/// Ends what a client says in a stream; behind all that is read.
const END: &[u8] = b"\r\nthe end of it\r\n";

/// Whether the server had all that was said, in pieces of so many bytes, and the client its answer.
fn passes(lab: &Lab, port: u16, said: &[u8], at_once: usize) -> Result<bool> {
    let (phone, _) = lab.device(Device::Phone);
    let said = [said, END].concat();
    phone.enter(|| {
        let server: SocketAddr = format!("{}:{port}", TRACKER[0]).parse()?;
        let mut stream = TcpStream::connect_timeout(&server, PATIENCE).context("no connection")?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        for part in said.chunks(at_once) {
            if stream.write_all(part).is_err() {
                return Ok(false);
            }
            if at_once < said.len() {
                thread::sleep(BETWEEN);
            }
        }
        let mut len = [0; 4];
        let answered = stream.read_exact(&mut len).is_ok();
        Ok(answered && u32::from_be_bytes(len) as usize == said.len())
    })?
}

/// A name server that answers each question with nothing but itself. Its thread ends with the process.
fn serve_datagrams(lab: &Lab) -> Result<()> {
    let socket = lab
        .internet
        .enter(|| UdpSocket::bind((TRACKER[0], DNS_PORT)))?
        .context("no name server")?;
    thread::spawn(move || {
        let mut message = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut message) {
            message[2] |= 0x80;
            let _ = socket.send_to(&message[..length], from);
        }
    });
    Ok(())
}

/// The response code to each question, or `None` where no answer comes. The questions leave as one packet
/// that is still to be split (UDP_SEGMENT of `linux/udp.h`).
fn answers_to_super_packet(lab: &Lab, names: &[&str]) -> Result<Vec<Option<u8>>> {
    const SOL_UDP: libc::c_int = 17;
    const UDP_SEGMENT: libc::c_int = 103;

    let (phone, _) = lab.device(Device::Phone);
    let questions: Vec<_> = (0..)
        .zip(names)
        .map(|(number, name)| {
            let mut question = question(name);
            question[1] = number;
            question
        })
        .collect();
    let segment = questions[0].len() as libc::c_int;
    ensure!(
        questions
            .iter()
            .all(|question| question.len() == segment as usize),
        "each question is a datagram"
    );
    phone.enter(|| {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect((TRACKER[0], DNS_PORT))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        // SAFETY: the kernel reads an integer, which lives as long as the call.
        let set = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                SOL_UDP,
                UDP_SEGMENT,
                (&raw const segment).cast(),
                size_of_val(&segment) as u32,
            )
        };
        ensure!(
            set == 0,
            "no UDP_SEGMENT: {}",
            std::io::Error::last_os_error()
        );
        socket.send(&questions.concat())?;
        let mut answers = vec![None; questions.len()];
        let mut message = [0; 512];
        while let Ok(length) = socket.recv(&mut message) {
            ensure!(length > 12, "an answer of {length} bytes");
            let answer = answers.get_mut(usize::from(message[1]));
            *answer.context("an answer to nothing")? = Some(message[3] & 0xf);
            if answers.iter().all(Option::is_some) {
                break;
            }
        }
        Ok(answers)
    })?
}

/// A lab with a sensor at TC, and servers that answer anything.
fn household(offloads: bool) -> Result<Option<(Lab, Sensor, String)>> {
    if !geteuid().is_root() && env::var_os("CI").is_none() {
        eprintln!("not run: namespaces and programs in the kernel take root");
        return Ok(None);
    }
    setup::ensure(&[Need::Lab])?;
    let mut lab = Lab::start(Options {
        offloads,
        // As far as the nearest real server is.
        delay: Some(Duration::from_millis(5)),
        ..Options::default()
    })?;
    let policy = format!(
        "[[policy]]\nname = \"blocked\"\ndomains = [\"{}\"]\naction = \"reject\"\n\n\
         [names]\nsegments = {SEGMENTS}\n",
        BLOCKED.name
    );
    let configuration = lab
        .configuration(&policy)
        .replace("hook = \"auto\"", "hook = \"tc\"");
    let sensor = lab.sensor(binary(), &configuration)?;
    lab.plug(Device::Phone)?;
    serve(&lab, PORT)?;
    serve(&lab, DNS_PORT)?;
    serve_datagrams(&lab)?;
    Ok(Some((lab, sensor, configuration)))
}

fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_sensor"))
}

fn judged_alike(offloads: bool) -> Result<()> {
    let Some((lab, _sensor, _)) = household(offloads)? else {
        return Ok(());
    };
    let payloads = |name: &str| {
        let mut payloads = vec![
            (PORT, "Cookie 2,100", request(name, 2_100)),
            (PORT, "Cookie 7,000", request(name, 7_000)),
            (DNS_PORT, "behind 60 questions", questions(name, 60)),
        ];
        for size in [2_300, 3_000, 9_000] {
            payloads.push((PORT, "name last", hello(name, size, 0)));
            payloads.push((PORT, "name first", hello(name, 0, size)));
        }
        payloads
    };
    let mut odd = Vec::new();
    for (name, passing) in [(ALLOWED.name, true), (BLOCKED.name, false)] {
        for (port, what, said) in payloads(name) {
            for at_once in [usize::MAX, said.len() / 2 + 1] {
                if passes(&lab, port, &said, at_once)? != passing {
                    odd.push(format!(
                        "{name}: {what}, {} bytes, {at_once} at once",
                        said.len()
                    ));
                }
            }
        }
    }
    ensure!(odd.is_empty(), "otherwise than it should be: {odd:#?}");

    let others = [ALLOWED.name; 3];
    let answers = answers_to_super_packet(&lab, &others)?;
    ensure!(answers == [Some(NO_ERROR); 3], "{answers:?}");
    for refused in 0..3 {
        let mut names = others;
        names[refused] = BLOCKED.name;
        // Questions in the same packet as a refused one are lost with it; in segments of their own they go on.
        let mut expected = match offloads {
            true => [None; 3],
            false => [Some(NO_ERROR); 3],
        };
        expected[refused] = Some(NO_SUCH_NAME);
        let answers = answers_to_super_packet(&lab, &names)?;
        ensure!(answers == expected, "{refused}: {answers:?}");
    }
    Ok(())
}

#[test]
fn what_was_merged_is_judged_as_its_segments_would_be() -> Result<()> {
    judged_alike(true)
}

#[test]
fn what_was_not_merged_is_judged_the_same() -> Result<()> {
    judged_alike(false)
}

/// The programs that read names outlive the daemon with those behind which they stand, and the next
/// daemon's take their place.
#[test]
fn names_are_read_without_the_daemon_and_by_the_next() -> Result<()> {
    let Some((lab, sensor, configuration)) = household(true)? else {
        return Ok(());
    };
    let refused = |when: &str| {
        for (name, passing) in [(ALLOWED.name, true), (BLOCKED.name, false)] {
            let said = hello(name, 3_000, 0);
            ensure!(
                passes(&lab, PORT, &said, usize::MAX)? == passing,
                "{when}: {name}"
            );
        }
        Ok(())
    };
    refused("with the daemon")?;
    sensor.process.kill()?;
    refused("without the daemon")?;
    let sensor = lab.sensor(binary(), &configuration)?;
    refused("with the next daemon")?;
    sensor.process.kill()?;
    refused("without the next daemon")?;
    Ok(())
}
