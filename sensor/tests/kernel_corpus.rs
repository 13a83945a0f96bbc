//! Ring 2: the hellos of captures, and odd ones, read by the programs and by the host: both say the same. By
//! `BPF_PROG_TEST_RUN`; needs root.

#[allow(dead_code, reason = "the other rings' half")]
mod capture;
#[allow(dead_code, reason = "the other rings' half")]
mod programs;

use std::{collections::HashMap, env, fs, path::Path};

use anyhow::{Context as _, Result, ensure};
use aya::{
    Pod,
    maps::{PerCpuArray, PerCpuValues},
    util::nr_cpus,
};
use capture::CORPUS;
use programs::{
    Programs, Tables,
    household::{flow_of, frame, hello_with, household, numbered},
    initial::{Client, V2, crypto},
};
use sensor::{
    decode::{
        Progress, name,
        quic::{Initials, Version},
        tls,
    },
    record::Record,
    source::replay::{Engine, Options, replay},
};
use sensor_ebpf::{
    assembly::Assembly,
    flow::{Direction, FlowKey},
    judgement::Judgement,
    name::Suffixes,
    quic::{Opening, Reader, header::LEAST_DATAGRAM},
    said::{Found, Text, hello},
    sample::{Kind, MAX_PAYLOAD},
    watch::Early,
};
use xtask::verify::times;

/// The buffer of each CPU for a name.
#[derive(Clone, Copy)]
#[repr(C)]
struct Said {
    text: Text,
    suffixes: Suffixes,
}

// SAFETY: plain integers, every bit pattern of which is a value.
unsafe impl Pod for Said {}

/// The programs, of which the last name that they read can be had.
struct Kernel {
    programs: Programs,
    port: u16,
}

impl Kernel {
    /// Room for so many flows: few, because all are looked through for one.
    const FLOWS: u32 = 4_096;

    fn load() -> Result<Self> {
        programs::enter_own_namespace()?;
        Ok(Self {
            programs: household(Tables {
                flows: Self::FLOWS,
                ..Tables::default()
            })?,
            port: 10_000,
        })
    }

    /// Begins a flow: nothing was read.
    fn begin(&mut self) -> Result<u16> {
        self.port += 1;
        if u32::from(self.port - 10_000) > Self::FLOWS / 2 {
            *self = Self::load()?;
        }
        let none = Said {
            text: Text::default(),
            suffixes: Suffixes::default(),
        };
        let cpus = nr_cpus().map_err(|(_, error)| error)?;
        let mut said = PerCpuArray::try_from(self.programs.map_mut("SAID")?)?;
        said.set(0, PerCpuValues::try_from(vec![none; cpus])?, 0)?;
        Ok(self.port)
    }

    fn send(&mut self, frame: &[u8]) -> Result<()> {
        self.programs.fill_budgets()?;
        self.programs.run_xdp("upload", frame, 1)?;
        Ok(())
    }

    /// The name that was read in a flow; `None` where none was judged.
    fn name(&self, port: u16) -> Result<Option<String>> {
        let flow = flow_of(&self.programs, port)?;
        if !Judgement::unpack(flow.judgement).named {
            return Ok(None);
        }
        let said: PerCpuArray<_, Said> = PerCpuArray::try_from(self.programs.map("SAID")?)?;
        let said = said.get(&0, 0)?;
        let read = said.iter().find(|said| said.text.len != 0);
        Ok(Some(read.map_or_else(String::new, |said| {
            String::from_utf8_lossy(said.text.as_octets()).into_owned()
        })))
    }
}

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    assert!(
        root || env::var_os("CI").is_none(),
        "programs in the kernel take root"
    );
    root
}

/// The first payloads of a device's side of a flow.
type Payloads = Vec<(u32, Vec<u8>)>;

/// The flows of a capture of which a hello may be read, with their uploads.
fn flows(path: &Path) -> Result<HashMap<(FlowKey, u64), (Kind, Payloads)>> {
    let mut flows: HashMap<(FlowKey, u64), (Kind, Payloads)> = HashMap::new();
    let options = Options {
        payloads: 14,
        ..Options::default()
    };
    replay(
        fs::File::open(path)?,
        &options,
        &mut Engine::Host,
        |record, _| {
            let Record::Sample(sample) = record else {
                return;
            };
            let head = &sample.head;
            let kind = Kind::from_number(head.kind);
            let is_new = !flows.contains_key(&(head.key, head.epoch));
            let is_wanted = match kind {
                Some(Kind::Tls | Kind::Quic) => true,
                // The further segments of a hello look like no message.
                Some(Kind::Stream) => !is_new,
                _ => false,
            };
            if head.direction != Direction::Upload as u8 || !is_wanted {
                return;
            }
            let place = head
                .place()
                .wrapping_add(u32::from(head.piece) * MAX_PAYLOAD as u32);
            let flow = flows.entry((head.key, head.epoch));
            let (_, payloads) = flow.or_insert((kind.expect("as just compared"), Vec::new()));
            payloads.push((place, sample.octets.to_vec()));
        },
    )?;
    Ok(flows)
}

/// The name in the Initials of a flow, as the daemon reads it.
fn name_in_initials(payloads: &Payloads) -> Option<String> {
    let mut initials = Initials::new();
    payloads.iter().find_map(|(_, payload)| {
        let is_opened = payload.len() >= LEAST_DATAGRAM && payload.len() <= MAX_PAYLOAD;
        match initials.datagram(true, payload) {
            Ok(Progress::Complete(hello))
                if is_opened && matches!(hello.version, Version::V1 | Version::V2) =>
            {
                hello.hello.server_name
            }
            _ => None,
        }
    })
}

/// The same of the hello at the beginning of a stream, whose segments came in whatever order.
fn name_in_hello(payloads: &Payloads) -> Option<String> {
    let mut sorted = payloads.clone();
    sorted.sort();
    let mut stream = Vec::new();
    for (place, payload) in sorted {
        let at = place as usize;
        if at > stream.len() || at + payload.len() < stream.len() {
            break;
        }
        let known = stream.len() - at;
        if stream[at..] != payload[..known] {
            return None;
        }
        stream.extend(&payload[known..]);
    }
    match tls::client_hello(&stream) {
        Ok(Progress::Complete(hello)) if stream.len() <= 4_096 => hello.server_name,
        _ => None,
    }
}

#[test]
fn the_programs_read_the_names_that_the_daemon_reads_in_the_captures() -> Result<()> {
    const SYN: u8 = 0x02;
    const ACK: u8 = 0x18;

    if !is_root() {
        return Ok(());
    }
    let mut kernel = Kernel::load()?;
    let (mut quic, mut tls) = (0, 0);
    for path in capture::files(Path::new(CORPUS)).context("the captures are part of the test")? {
        for ((key, _), (kind, payloads)) in flows(&path)? {
            let what = format!(
                "{}, {kind:?} from port {}",
                path.display(),
                key.local_port()
            );
            if kind == Kind::Quic {
                let Some(expected) = name_in_initials(&payloads) else {
                    continue;
                };
                let port = kernel.begin()?;
                for (_, payload) in &payloads {
                    kernel.send(&frame(false, 17, (port, 443), 0, payload))?;
                    if let Some(found) = kernel.name(port)? {
                        ensure!(found == expected, "{what}: {found:?}, not {expected:?}");
                        break;
                    }
                }
                ensure!(
                    kernel.name(port)?.is_some(),
                    "{what}: {expected:?} was not read"
                );
                quic += 1;
            } else if payloads.iter().all(|(place, _)| *place != Early::SOMEWHERE) {
                let Some(expected) = name_in_hello(&payloads) else {
                    continue;
                };
                let port = kernel.begin()?;
                kernel.send(&numbered(frame(false, 6, (port, 443), SYN, b""), 99, 0))?;
                for (place, payload) in &payloads {
                    let segment = frame(false, 6, (port, 443), ACK, payload);
                    kernel.send(&numbered(segment, 100 + place, 1))?;
                    if let Some(found) = kernel.name(port)? {
                        ensure!(found == expected, "{what}: {found:?}, not {expected:?}");
                        break;
                    }
                }
                ensure!(
                    kernel.name(port)?.is_some(),
                    "{what}: {expected:?} was not read"
                );
                tls += 1;
            }
        }
    }
    // The captures have more of QUIC, of older versions.
    println!("{quic} names in QUIC, {tls} in TLS");
    ensure!(
        quic >= 5 && tls >= 150,
        "{quic} names in QUIC, {tls} in TLS"
    );
    Ok(())
}

/// Hellos with odd bytes, in frames that are odd too, sealed well or not: the programs and the host say the same.
#[test]
fn the_programs_and_the_host_say_the_same_of_odd_initials() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let count = times(1_000, 100_000);
    let mut kernel = Kernel::load()?;
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let mut below = |bound: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed % bound as u64) as usize
    };
    let mut opening = Box::new(Opening::EMPTY);
    let (mut named, mut forged) = (0, 0);
    for number in 0..count {
        let said = hello_with("www.some-name.example", below(300), Some(below(300)));
        let mut message = said[5..].to_vec();
        for _ in 0..below(3) {
            let place = below(message.len());
            message[place] = [0, 1, 0xff, below(256) as u8][below(4)];
        }
        let mut frames = Vec::new();
        let mut at = 0;
        while at < message.len() {
            let len = (1 + below(200)).min(message.len() - at);
            frames.extend(crypto(at, &message[at..at + len]));
            frames.extend(vec![[0, 1][below(2)]; below(9)]);
            at += len;
        }
        for _ in 0..below(2) {
            let place = below(frames.len());
            frames[place] ^= 1 << below(8);
        }
        let client = Client {
            version: [1, V2][below(2)],
            ..Client::new(number)
        };
        let mut packet = client.seal(0, &frames, 1_200);
        let is_forged = below(4) == 0;
        if is_forged {
            let place = below(packet.len());
            packet[place] ^= 1 << below(8);
        }

        let mut assembly = Box::new(Assembly::EMPTY);
        let mut datagram = packet.clone();
        Reader::new(&mut opening, &mut datagram, &mut assembly).read();
        let mut text = Text::default();
        let message = assembly.message();
        let found = match assembly.flags {
            0 => hello::name(message, hello::names(message), &mut text),
            _ => Found::Unread,
        };
        let expected = match found {
            Found::Name => Some(String::from_utf8_lossy(text.as_octets()).into_owned()),
            Found::Nameless => Some(String::new()),
            Found::Unread | Found::NoHostName => None,
        };

        let port = kernel.begin()?;
        kernel.send(&frame(false, 17, (port, 443), 0, &packet))?;
        let read = kernel.name(port)?;
        let is_same = match (&read, &expected) {
            // A name that was copied, of which no host name is made, stays in the buffer.
            (Some(_), Some(name)) if name.is_empty() => true,
            (read, expected) => read == expected,
        };
        ensure!(
            is_same,
            "{number}: {read:?}, on the host {expected:?} ({found:?})"
        );
        if is_forged {
            forged += u32::from(read.is_none());
        }
        named += u32::from(read.is_some_and(|read| !read.is_empty()));
        if let Some(name) = expected.filter(|name| !name.is_empty()) {
            // The daemon, where it reads one, reads the same.
            if let Ok(Progress::Complete(hello)) = Initials::new().datagram(true, &packet) {
                ensure!(
                    hello.hello.server_name == name::host(name.as_bytes()),
                    "{number}"
                );
            }
        }
    }
    println!("{named} names, {forged} forged packets of which nothing was believed");
    ensure!(u64::from(named) > count / 4 && u64::from(forged) > count / 8);
    Ok(())
}
