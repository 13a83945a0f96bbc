//! Ring 3: what a client may do that its name is not seen, with real servers on the other side. Each
//! line of `evasion.tsv` is refused, or its flow is marked and counted as unread, or it passes and
//! nothing tells of it, where the line says so. Needs root.
//!
//! Each is done with an allowed name first, which has to be answered: what the server would not
//! take proves nothing.

#[path = "evasion/raw.rs"]
mod raw;
#[path = "evasion/words.rs"]
mod words;

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    env,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, UdpSocket},
    path::Path,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use raw::{Client, Connection, Seen, Shape};
use rustix::process::{Signal, geteuid};
use words::{
    compressed_question, hello, over_tcp, place_of, questions, record, request, request_of_several,
};
use xtask::{
    lab::{
        ALLOWED, Again, Attempt, BLOCKED, Device, Lab, NAME_SERVER, Options, Outcome, PHONE_MAC,
        Sensor, TRACKER, Way, wait_until,
    },
    setup::{self, Need},
    verify::times,
};

const TABLE: &str = include_str!("evasion.tsv");
const V4: &str = BLOCKED.addresses[0];
const V6: &str = BLOCKED.addresses[1];

/// Where servers of their own answer in the internet: DNS in the clear, DNS over TLS, HTTP/3.
const DNS_PORT: u16 = 5_300;
const DOT_PORT: u16 = 8_530;
const QUIC_PORT: u16 = 8_443;

/// Where a name server says that the names below this one are aliases (CNAME) of what stands before it.
const ALIAS_PORT: u16 = 5_301;
const ALIAS_OF: &str = ".alias.example";

/// The name of a server for DNS over TLS that no list has.
const RESOLVER: &[u8] = b"dns.nobody.example";

/// Data that is no DNS, and how often it is sent before a question: more often than a flow is watched
/// for.
const NOISE: &[u8] = b"\x7f\0\xffnoise";
const LATE: usize = 12;

/// The time after which a flow that cannot be read is counted, if it is not refused after all.
const COUNTED: Duration = Duration::from_millis(2_000);

/// How long a client waits where the server is to read in between.
const BETWEEN: Duration = Duration::from_millis(50);

/// Sends the traffic of a line, and gives whether the server answered it.
type Try = fn(&Bench, &str) -> Result<bool>;

/// How each line of the table is done.
const LINES: &[(&str, Try)] = &[
    ("QUIC 0-RTT", |bench, name| bench.again(name, Again::Early)),
    ("QUIC connection migration", |bench, name| {
        bench.again(name, Again::Migrate)
    }),
    ("name in the second segment", |bench, name| {
        let hello = hello(name.as_bytes());
        let place = place_of(name.as_bytes(), &hello);
        bench.tls(Shape::V4, &[(0, &hello[..place]), (place, &hello[place..])])
    }),
    ("name across two segments", |bench, name| {
        let hello = hello(name.as_bytes());
        let place = place_of(name.as_bytes(), &hello) + 4;
        bench.tls(Shape::V6, &[(0, &hello[..place]), (place, &hello[place..])])
    }),
    ("one-byte segments", |bench, name| {
        let hello = hello(name.as_bytes());
        let said: Vec<_> = hello.chunks(1).enumerate().collect();
        bench.tls(Shape::V4, &said)
    }),
    ("out of order", |bench, name| {
        let hello = hello(name.as_bytes());
        let place = place_of(name.as_bytes(), &hello) + 4;
        bench.tls(Shape::V4, &[(place, &hello[place..]), (0, &hello[..place])])
    }),
    ("overlap, the first copy counts", |bench, name| {
        let (target, said) = bench.plain(name);
        let place = place_of(name.as_bytes(), &said);
        let end = place + name.len();
        let other = other(name).as_bytes();
        bench.http(
            &target,
            name,
            &[
                (place, &said[place..end]),
                (place, other),
                (end, &said[end..]),
                (0, &said[..place]),
            ],
        )
    }),
    ("overlap, the later copy counts", |bench, name| {
        let (target, said) = bench.plain(name);
        let place = place_of(name.as_bytes(), &said);
        let end = place + name.len();
        let other = other(name).as_bytes();
        // The server's queue forgets what a longer segment holds as well.
        bench.http(
            &target,
            name,
            &[
                (place, other),
                (place, &said[place..=end]),
                (end + 1, &said[end + 1..]),
                (0, &said[..place]),
            ],
        )
    }),
    ("retransmission", |bench, name| {
        let hello = hello(name.as_bytes());
        let place = place_of(name.as_bytes(), &hello) + 4;
        let first = (0, &hello[..place]);
        bench.tls(Shape::V4, &[first, first, first, (place, &hello[place..])])
    }),
    ("fragments, IPv4", |bench, name| {
        let hello = hello(name.as_bytes());
        raw::in_no_piece(20, &hello, name.as_bytes())?;
        bench.tls(Shape::FragmentsV4, &[(0, &hello)])
    }),
    ("fragments, IPv6", |bench, name| {
        let hello = hello(name.as_bytes());
        raw::in_no_piece(20, &hello, name.as_bytes())?;
        bench.tls(Shape::FragmentsV6, &[(0, &hello)])
    }),
    ("fragments of a DNS question", |bench, name| {
        let said = questions(&[name]);
        raw::in_no_piece(8, &said, &name.as_bytes()[..7])?;
        bench.question(Shape::FragmentsV4, &said)
    }),
    ("IP options", |bench, name| {
        bench.tls(Shape::Options, &[(0, &hello(name.as_bytes()))])
    }),
    ("extension headers", |bench, name| {
        bench.tls(Shape::Extensions, &[(0, &hello(name.as_bytes()))])
    }),
    ("VLAN", |bench, name| {
        bench.tls(Shape::Tag, &[(0, &hello(name.as_bytes()))])
    }),
    ("upper case, TLS", |bench, name| {
        bench.tls(Shape::V4, &[(0, &hello(name.to_uppercase().as_bytes()))])
    }),
    ("upper case, HTTP", |bench, name| {
        let (target, said) = bench.plain(&name.to_uppercase());
        bench.http(&target, name, &[(0, &said)])
    }),
    ("trailing dot, TLS", |bench, name| {
        bench.tls(Shape::V4, &[(0, &hello(format!("{name}.").as_bytes()))])
    }),
    ("trailing dot, HTTP", |bench, name| {
        let (target, said) = bench.plain(&format!("{name}."));
        bench.http(&target, name, &[(0, &said)])
    }),
    ("several questions", |bench, name| {
        // dnsmasq answers none such; who does not look would.
        bench.question_to(TRACKER[0], Shape::V4, &questions(&[ALLOWED.name, name]))
    }),
    ("compression in the question", |bench, name| {
        bench.question(Shape::V4, &compressed_question(name))
    }),
    ("fake first record", |bench, name| {
        let said = [record(22, &[]), hello(name.as_bytes())].concat();
        bench.tls(Shape::V4, &[(0, &said)])
    }),
    ("two hellos, the first counts", |bench, name| {
        let said = [hello(name.as_bytes()), hello(other(name).as_bytes())].concat();
        bench.tls(Shape::V4, &[(0, &said)])
    }),
    ("SNI of 255 bytes", |bench, name| {
        let label = format!("{}.", "x".repeat(59));
        let mut long = label.repeat(4);
        long.truncate(255 - name.len() - 1);
        let long = format!("{long}.{name}");
        ensure!(long.len() == 255, "{long}");
        bench.tls(Shape::V4, &[(0, &hello(long.as_bytes()))])
    }),
    ("QUIC version unknown", |bench, _| {
        let mut said = vec![0xc0, 0x1a, 0x2a, 0x3a, 0x4a, 8];
        said.extend([5; 8]);
        said.extend([8, 6, 6, 6, 6, 6, 6, 6, 6]);
        said.resize(1_200, 0);
        let (port, seen) = bench.client.datagram(Shape::V4, V4, 443, &said)?;
        bench.port.set(Some(port));
        // A packet of version negotiation (RFC 9000, section 17.2.1).
        Ok(seen.said.len() > 7 && seen.said[1..5] == [0; 4])
    }),
    ("QUIC hello over four Initials", |bench, name| {
        let attempt = bench
            .lab
            .attempt_by_long_hello(&bench.lab.phone, (name, V4))?;
        bench.attempted(&attempt)
    }),
    ("HTTP with an absolute URI", |bench, name| {
        let path = bench.path();
        let said = request(&format!("http://{name}{path}"), ALLOWED.name);
        bench.http(&path, name, &[(0, &said)])
    }),
    ("HTTP with an absolute URI, the other way", |bench, name| {
        let path = bench.path();
        let said = request(&format!("http://{}{path}", ALLOWED.name), name);
        // The target counts (RFC 9112, section 3.2.2); somebody else's server may think otherwise.
        bench.http(&path, ALLOWED.name, &[(0, &said)])
    }),
    ("Host split", |bench, name| {
        let (target, said) = bench.plain(name);
        let place = place_of(name.as_bytes(), &said) + 4;
        bench.http(
            &target,
            name,
            &[(0, &said[..place]), (place, &said[place..])],
        )
    }),
    ("Host split in its field name", |bench, name| {
        let (target, said) = bench.plain(name);
        let place = place_of(b"Host", &said) + 2;
        bench.http(
            &target,
            name,
            &[(0, &said[..place]), (place, &said[place..])],
        )
    }),
    ("two requests in one segment", |bench, name| {
        let (first, second) = bench.two_requests(name);
        bench.second(name, &[&[first, second].concat()])
    }),
    ("second request split in its method", |bench, name| {
        let (first, second) = bench.two_requests(name);
        bench.second(name, &[&first, &second[..1], &second[1..]])
    }),
    ("second request behind an empty line", |bench, name| {
        let (first, second) = bench.two_requests(name);
        bench.second(name, &[&first, &[b"\r\n", &second[..]].concat()])
    }),
    ("urgent byte in the name", |bench, name| {
        let (target, said) = bench.plain(name);
        let place = place_of(name.as_bytes(), &said) + 4;
        bench.http_by(&target, name, |connection| {
            // The server's reader takes a read that ends at the urgent octet for the last there is,
            // and waits for what comes next.
            connection.say(0, &said[..place]);
            thread::sleep(BETWEEN);
            connection.say_urgently(place, b"x");
            thread::sleep(BETWEEN);
            connection.say(place + 1, &said[place..]);
        })
    }),
    ("fake hello before the hello", |bench, name| {
        bench.disguised(name, 1, |said| said.len())
    }),
    (
        "fake hello before the hello in two segments",
        |bench, name| bench.disguised(name, 1, |said| place_of(name.as_bytes(), said) + 4),
    ),
    ("two fake hellos before the hello", |bench, name| {
        bench.disguised(name, 2, |said| said.len())
    }),
    ("four fake hellos before the hello", |bench, name| {
        bench.disguised(name, 4, |said| said.len())
    }),
    (
        "fake request before the request in two segments",
        |bench, name| {
            let (target, said) = bench.plain(name);
            let fake = request(&target, "fake.example.org");
            let place = place_of(name.as_bytes(), &said) + 4;
            bench.http_by(&target, name, |connection| {
                connection.say_in_vain(0, &fake);
                connection.say(0, &said[..place]);
                connection.say(place, &said[place..]);
            })
        },
    ),
    ("SYN in the midst of a hello", |bench, name| {
        let hello = hello(name.as_bytes());
        let place = place_of(name.as_bytes(), &hello) + 4;
        bench.tls_by(|connection| {
            connection.say(0, &hello[..place]);
            connection.begin_again();
            connection.say(place, &hello[place..]);
        })
    }),
    ("QUIC at another port", |bench, name| {
        let at = format!("{V4}:{QUIC_PORT}");
        let attempts =
            bench
                .lab
                .attempts(&bench.lab.phone, Way::Quic, 1, &[(name, at.as_str())])?;
        bench.attempted(attempts.first().context("no attempt was made")?)
    }),
    ("DNS question at another port", |bench, name| {
        bench.question_at(DNS_PORT, &[&questions(&[name])])
    }),
    ("DNS question late in a flow, port 53", |bench, name| {
        let question = questions(&[name]);
        let mut said = vec![NOISE; LATE];
        said.push(&question);
        bench.question_at(53, &said)
    }),
    (
        "DNS question late in a flow, another port",
        |bench, name| {
            let question = questions(&[name]);
            let mut said = vec![NOISE; LATE];
            said.push(&question);
            bench.question_at(DNS_PORT, &said)
        },
    ),
    (
        "DNS over TLS to a server that no list has",
        |bench, name| {
            // Without the keys, the question cannot be told from any other record.
            let question: Vec<_> = over_tcp(&questions(&[name]))
                .iter()
                .map(|octet| octet ^ 0x5a)
                .collect();
            let question = record(23, &question);
            let hello = hello(RESOLVER);
            let said = [(0, &hello[..]), (hello.len(), &question[..])];
            let seen = bench.talk(Shape::V4, TRACKER[0], DOT_PORT, &said)?;
            Ok(seen.said.starts_with(&[22, 3, 3]))
        },
    ),
    ("neighbour discovery to a routed address", |bench, name| {
        let far = bench.lab.internet.tap("eth0")?;
        bench.client.solicit(V6, name.as_bytes())?;
        // It has no port.
        bench.port.set(Some(0));
        let until = Instant::now() + BETWEEN * 20;
        while let Some(frame) = far.next(until)? {
            let mut windows = frame.windows(name.len());
            if windows.any(|window| window == name.as_bytes()) {
                return Ok(true);
            }
        }
        Ok(false)
    }),
    ("an alias of the name", |bench, name| {
        let alias = format!("{name}{ALIAS_OF}");
        bench.question_at(ALIAS_PORT, &[&questions(&[&alias])])?;
        bench.tls(Shape::V4, &[(0, &hello(alias.as_bytes()))])
    }),
    // Last: a name server that is not told of a connection's end waits for more of it.
    ("DNS over TCP", |bench, name| {
        bench.question_over_tcp(&[(0, &over_tcp(&questions(&[name])))])
    }),
    ("DNS over TCP, split", |bench, name| {
        let said = over_tcp(&questions(&[name]));
        bench.question_over_tcp(&[(0, &said[..2]), (2, &said[2..])])
    }),
];

/// The other of the two names, which are of one length.
fn other(name: &str) -> &'static str {
    if name == BLOCKED.name {
        ALLOWED.name
    } else {
        BLOCKED.name
    }
}

struct Bench {
    lab: Lab,
    sensor: Sensor,
    client: Client,
    numbers: Cell<u32>,
    reloads: Cell<u64>,
    /// The client's port of the last try, where it was the raw client's.
    port: Cell<Option<u16>>,
    /// How the last try ended.
    notes: RefCell<String>,
}

impl Bench {
    fn note(&self, text: &str) {
        text.clone_into(&mut self.notes.borrow_mut());
    }

    fn noted(&self, seen: &Seen) {
        let said = &seen.said[..seen.said.len().min(24)];
        self.note(&format!(
            "{}{}{} octets: {}",
            if seen.reset { "RST " } else { "" },
            if seen.unreachable { "ICMP " } else { "" },
            seen.said.len(),
            said.escape_ascii()
        ));
    }

    /// A path that nobody asked for yet.
    fn path(&self) -> String {
        let number = self.numbers.get();
        self.numbers.set(number + 1);
        format!("/evasion/{number}")
    }

    fn plain(&self, host: &str) -> (String, Vec<u8>) {
        let path = self.path();
        let said = request(&path, host);
        (path, said)
    }

    /// A request for a name that nobody blocks, and one for this name.
    fn two_requests(&self, name: &str) -> (Vec<u8>, Vec<u8>) {
        let first = request_of_several(&self.path(), ALLOWED.name);
        (first, request_of_several(&self.path(), name))
    }

    fn talk(&self, shape: Shape, to: &str, port: u16, said: &[(usize, &[u8])]) -> Result<Seen> {
        self.talk_by(shape, to, port, |connection| {
            for (place, octets) in said {
                connection.say(*place, octets);
            }
        })
    }

    fn talk_by(
        &self,
        shape: Shape,
        to: &str,
        port: u16,
        say: impl FnOnce(&Connection<'_>),
    ) -> Result<Seen> {
        let connection = self.client.connect(shape, to, port)?;
        say(&connection);
        let (port, seen) = connection.end()?;
        self.port.set(Some(port));
        self.noted(&seen);
        Ok(seen)
    }

    /// Whether the server's hello came.
    fn tls(&self, shape: Shape, said: &[(usize, &[u8])]) -> Result<bool> {
        let to = match shape {
            Shape::V6 | Shape::Extensions | Shape::FragmentsV6 => V6,
            _ => V4,
        };
        let seen = self.talk(shape, to, 443, said)?;
        Ok(seen.said.starts_with(&[22, 3, 3]))
    }

    fn tls_by(&self, say: impl FnOnce(&Connection<'_>)) -> Result<bool> {
        let seen = self.talk_by(Shape::V4, V4, 443, say)?;
        Ok(seen.said.starts_with(&[22, 3, 3]))
    }

    /// A hello for this name, behind others at its place that the server does not take. It ends its
    /// first segment there.
    fn disguised(&self, name: &str, fakes: usize, end: impl Fn(&[u8]) -> usize) -> Result<bool> {
        let (said, fake) = (hello(name.as_bytes()), hello(b"fake.example.org"));
        let end = end(&said);
        self.tls_by(|connection| {
            for _ in 0..fakes {
                connection.say_in_vain(0, &fake);
            }
            connection.say(0, &said[..end]);
            if end < said.len() {
                connection.say(end, &said[end..]);
            }
        })
    }

    /// Whether the second page that came is that of this name.
    fn second(&self, name: &str, said: &[&[u8]]) -> Result<bool> {
        let seen = self.talk_by(Shape::V4, V4, 80, |connection| {
            let mut place = 0;
            for octets in said {
                connection.say(place, octets);
                place += octets.len();
            }
        })?;
        let pages = String::from_utf8_lossy(&seen.said).to_lowercase();
        let second = pages.split("the page of ").nth(2);
        Ok(second.is_some_and(|page| page.starts_with(name)))
    }

    /// Whether the page of this name came.
    fn http(&self, path: &str, name: &str, said: &[(usize, &[u8])]) -> Result<bool> {
        self.http_by(path, name, |connection| {
            for (place, octets) in said {
                connection.say(*place, octets);
            }
        })
    }

    fn http_by(&self, path: &str, name: &str, say: impl FnOnce(&Connection<'_>)) -> Result<bool> {
        let seen = self.talk_by(Shape::V4, V4, 80, say)?;
        let page = String::from_utf8_lossy(&seen.said).to_lowercase();
        let answered = page.contains(&format!("the page of {name}"));
        let asked = self.lab.all_requests()?.iter().any(|one| one.path == path);
        if asked && !answered {
            let notes = self.notes.borrow().clone();
            self.note(&format!("{notes} (the server was asked)"));
        }
        Ok(answered)
    }

    /// Whether an address came.
    fn question(&self, shape: Shape, message: &[u8]) -> Result<bool> {
        self.question_to(NAME_SERVER, shape, message)
    }

    fn question_to(&self, server: &str, shape: Shape, message: &[u8]) -> Result<bool> {
        let (port, seen) = self.client.datagram(shape, server, 53, message)?;
        self.port.set(Some(port));
        self.noted(&seen);
        Ok(has_address(&seen.said))
    }

    /// Whether an address came to the last of these datagrams, all of one flow.
    fn question_at(&self, port: u16, said: &[&[u8]]) -> Result<bool> {
        let (port, seen) = self.client.datagrams(Shape::V4, TRACKER[0], port, said)?;
        self.port.set(Some(port));
        self.noted(&seen);
        Ok(has_address(&seen.said))
    }

    fn question_over_tcp(&self, said: &[(usize, &[u8])]) -> Result<bool> {
        let seen = self.talk(Shape::V4, NAME_SERVER, 53, said)?;
        Ok(seen.said.get(2..).is_some_and(has_address))
    }

    /// A visit before the policy, and one of the same client behind it.
    fn again(&self, name: &str, again: Again) -> Result<bool> {
        self.apply("")?;
        let attempt = self
            .lab
            .attempt_again(&self.lab.phone, (name, V4), again, || self.apply(&policy()))?;
        self.attempted(&attempt)
    }

    /// An attempt of the phone's own stack.
    fn attempted(&self, attempt: &Attempt) -> Result<bool> {
        let unreachables = self.client.unreachables()?;
        self.note(&format!(
            "{:?} {}, {unreachables} ICMP",
            attempt.outcome, attempt.detail
        ));
        self.port.set(None);
        Ok(attempt.outcome == Outcome::Answered)
    }

    fn apply(&self, policies: &str) -> Result<()> {
        self.sensor.rewrite(&self.lab.configuration(policies))?;
        self.sensor.process.signal(Signal::HUP)?;
        // The daemon sees the file change, and hears the signal: it may read it twice.
        let count = || self.metric("sensor_policy_reloads_total", "outcome=\"applied\"");
        let (since, seen) = (Cell::new(Instant::now()), Cell::new(false));
        wait_until("reloaded", Duration::from_secs(10), || {
            let Ok(now) = count() else { return false };
            if now != self.reloads.replace(now) {
                since.set(Instant::now());
                seen.set(true);
            }
            seen.get() && since.get().elapsed() > Duration::from_millis(300)
        })?;
        Ok(())
    }

    /// The sum of the samples of a metric that have this label.
    fn metric(&self, name: &str, label: &str) -> Result<u64> {
        let text = self.sensor.scrape(&self.lab)?;
        Ok(text
            .lines()
            .filter(|line| line.starts_with(name) && line.contains(label))
            .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
            .sum::<f64>() as u64)
    }

    /// The reasons for which flows are counted as unread, and how many.
    fn unread(&self) -> Result<BTreeMap<String, u64>> {
        let mut reasons = BTreeMap::new();
        for line in self.sensor.scrape(&self.lab)?.lines() {
            if line.starts_with("sensor_unread_flows_total{")
                && let Some((_, rest)) = line.split_once("reason=\"")
                && let Some((reason, rest)) = rest.split_once('"')
                && let Some((_, count)) = rest.rsplit_once(' ')
            {
                *reasons.entry(reason.to_owned()).or_insert(0) += count.parse::<f64>()? as u64;
            }
        }
        Ok(reasons)
    }

    /// The outcome of a line with the blocked name, in the words of the table.
    fn outcome(&self, attempt: Try) -> Result<String> {
        let before = self.unread()?;
        if !attempt(self, BLOCKED.name)? {
            return Ok("refused".to_owned());
        }
        let mut reason = None;
        // A tick or two.
        let marked = wait_until("marked", Duration::from_secs(4), || {
            reason = self.reason().ok().flatten();
            reason.is_some()
        });
        let Some(reason) = reason.filter(|_| marked.is_ok()) else {
            return Ok("unseen".to_owned());
        };
        wait_until("counted", Duration::from_secs(4), || {
            self.unread()
                .is_ok_and(|now| now.get(&reason) > before.get(&reason))
        })
        .with_context(|| format!("unread {reason}"))?;
        Ok(format!("unread {reason}"))
    }

    /// For what reason the last try's flow is marked as unread.
    fn reason(&self) -> Result<Option<String>> {
        let flows = self.sensor.json(&self.lab, "flows")?;
        let flows = flows.as_array().into_iter().flatten();
        let own = |local: &str| match self.port.get() {
            Some(port) => local.ends_with(&format!(":{port}")),
            // One of the phone's own stack.
            None => local.starts_with("192.168.77.11:"),
        };
        Ok(flows
            .filter(|flow| flow["device"] == PHONE_MAC)
            .filter(|flow| flow["local"].as_str().is_some_and(own))
            .find_map(|flow| flow["unread"].as_str().map(str::to_owned)))
    }
}

/// A name server that answers any question with an address, at one of the internet's addresses. Its
/// thread ends with the process.
fn answer_everything(lab: &Lab, port: u16) -> Result<()> {
    /// A header, the root, a type and a class.
    const SHORTEST: usize = 17;
    let socket = lab
        .internet
        .enter(|| UdpSocket::bind((TRACKER[0], port)))?
        .context("no name server")?;
    thread::spawn(move || {
        let mut message = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut message) {
            if length < SHORTEST {
                continue;
            }
            let mut answer = message[..length].to_vec();
            answer[2] |= 0x80;
            answer[7] = 1;
            // The name of the first question, A, IN, a minute, 192.0.2.99.
            answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 99]);
            // A client that has gone needs no answer.
            let _ = socket.send_to(&answer, from);
        }
    });
    Ok(())
}

/// A name server that answers any question with an alias of what stands before [`ALIAS_OF`], and an address of
/// that. Its thread ends with the process.
fn answer_with_aliases(lab: &Lab) -> Result<()> {
    /// A header, and a type and a class behind the name.
    const HEADER: usize = 12;
    const BEHIND: usize = 4;
    let socket = lab
        .internet
        .enter(|| UdpSocket::bind((TRACKER[0], ALIAS_PORT)))?
        .context("no name server")?;
    // The labels have their lengths where the text has dots.
    let labels = ALIAS_OF.len() + 1;
    thread::spawn(move || {
        let mut message = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut message) {
            let Some(end) = length.checked_sub(BEHIND + labels) else {
                continue;
            };
            if end <= HEADER {
                continue;
            }
            let mut answer = message[..length].to_vec();
            answer[2] |= 0x80;
            answer[7] = 2;
            let target = [&message[HEADER..end], &[0]].concat();
            // The name of the question, CNAME, IN, a minute.
            answer.extend([0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 60]);
            answer.extend((target.len() as u16).to_be_bytes());
            let place = 0xc000 | answer.len() as u16;
            answer.extend(&target);
            answer.extend(place.to_be_bytes());
            answer.extend([0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 99]);
            // A client that has gone needs no answer.
            let _ = socket.send_to(&answer, from);
        }
    });
    Ok(())
}

/// A server that answers any data with a hello, at one of the internet's addresses. Its threads end
/// with the process.
fn say_hello_to_everybody(lab: &Lab) -> Result<()> {
    let listener = lab
        .internet
        .enter(|| TcpListener::bind((TRACKER[0], DOT_PORT)))?
        .context("no server of TLS")?;
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                let mut stream = stream;
                let mut said = [0; 2_048];
                while let Ok(1..) = stream.read(&mut said) {
                    // A server's hello, as far as anybody here looks.
                    if stream.write_all(&[22, 3, 3, 0, 4, 2, 0, 0, 0]).is_err() {
                        return;
                    }
                }
            });
        }
    });
    Ok(())
}

/// HTTP/3 at another port of the site's: what comes there goes on to the usual one. Its threads end with
/// the process.
fn relay_quic(lab: &Lab) -> Result<()> {
    /// One for each client, more than there are tries.
    const CLIENTS: usize = 8;
    let bind = |port| -> Result<UdpSocket> {
        let socket = lab.internet.enter(move || UdpSocket::bind((V4, port)))?;
        socket.context("no relay")
    };
    let near = Arc::new(bind(QUIC_PORT)?);
    let far: Vec<_> = (0..CLIENTS)
        .map(|_| bind(0).map(Arc::new))
        .collect::<Result<_>>()?;
    thread::spawn(move || {
        let mut clients: Vec<SocketAddr> = Vec::new();
        let mut datagram = [0; 2_048];
        while let Ok((length, from)) = near.recv_from(&mut datagram) {
            let known = clients.iter().position(|client| *client == from);
            let place = known.unwrap_or(clients.len());
            let Some(socket) = far.get(place).cloned() else {
                continue;
            };
            if known.is_none() {
                clients.push(from);
                let (near, socket) = (Arc::clone(&near), Arc::clone(&socket));
                thread::spawn(move || {
                    let mut datagram = [0; 2_048];
                    while let Ok((length, _)) = socket.recv_from(&mut datagram) {
                        // A client that has gone needs no answer.
                        let _ = near.send_to(&datagram[..length], from);
                    }
                });
            }
            let _ = socket.send_to(&datagram[..length], (V4, 443));
        }
    });
    Ok(())
}

fn has_address(message: &[u8]) -> bool {
    message.get(3).is_some_and(|code| code & 15 == 0) && message.get(6..8) > Some(&[0, 0][..])
}

fn policy() -> String {
    format!(
        "[[policy]]\nname = \"blocked\"\ndomains = [\"{}\"]\naction = \"reject\"\n",
        BLOCKED.name
    )
}

/// The table's lines and what is expected of each.
fn table() -> impl Iterator<Item = (&'static str, &'static str)> {
    TABLE
        .lines()
        .filter(|line| !line.starts_with('#'))
        .skip(1)
        .filter_map(|line| {
            let (name, rest) = line.split_once('\t')?;
            Some((name, rest.rsplit_once('\t')?.1))
        })
}

#[test]
fn every_line_of_the_table_is_done_and_the_other_way_round() {
    let mut told: Vec<_> = table().map(|(name, _)| name).collect();
    let mut done: Vec<_> = LINES.iter().map(|(name, _)| *name).collect();
    told.sort_unstable();
    done.sort_unstable();
    assert_eq!(told, done);
}

#[test]
fn the_document_has_the_table() {
    const DOCUMENT: &str = include_str!("../../deploy/docs/filter.md");
    for line in TABLE.lines().filter(|line| !line.starts_with('#')).skip(1) {
        let row = format!("| {} |", line.replace('\t', " | "));
        assert!(
            DOCUMENT.contains(&row),
            "deploy/docs/filter.md lacks: {row}"
        );
    }
}

#[test]
fn each_comes_to_what_the_table_says() -> Result<()> {
    if !geteuid().is_root() && env::var_os("CI").is_none() {
        eprintln!("not run: namespaces and programs in the kernel take root");
        return Ok(());
    }
    setup::ensure(&[Need::Lab])?;
    (0..times(1, 3)).try_for_each(|_| come_to_what_the_table_says())
}

/// Does every line of the table in a lab.
fn come_to_what_the_table_says() -> Result<()> {
    let mut lab = Lab::start(Options {
        sites: true,
        // As far as the nearest real server is.
        delay: Some(Duration::from_millis(5)),
        ..Options::default()
    })?;
    let binary = Path::new(env!("CARGO_BIN_EXE_sensor"));
    let sensor = lab.sensor(binary, &lab.configuration(""))?;
    lab.plug(Device::Phone)?;
    answer_everything(&lab, 53)?;
    answer_everything(&lab, DNS_PORT)?;
    answer_with_aliases(&lab)?;
    say_hello_to_everybody(&lab)?;
    relay_quic(&lab)?;
    let bench = Bench {
        client: Client::new(&lab)?,
        lab,
        sensor,
        numbers: Cell::new(0),
        reloads: Cell::new(0),
        port: Cell::new(None),
        notes: RefCell::default(),
    };
    let expected: BTreeMap<_, _> = table().collect();
    let only = env::var("EVASION").ok();
    let mut odd = Vec::new();
    bench.apply(&policy())?;
    for (name, attempt) in LINES {
        if only
            .as_ref()
            .is_some_and(|only| !name.contains(only.as_str()))
        {
            continue;
        }
        let control = attempt(&bench, ALLOWED.name).with_context(|| (*name).to_owned())?;
        let (control, noted) = (
            if control { "answered" } else { "not answered" },
            bench.notes.take(),
        );
        let expected = expected.get(name).context("a line of the table")?;
        if expected.starts_with("unread") {
            // The control attempt is counted before the attempt itself.
            thread::sleep(COUNTED);
        }
        let outcome = bench.outcome(*attempt);
        let outcome = outcome.unwrap_or_else(|error| format!("{error:#}"));
        println!(
            "{name}: {outcome} ({}); allowed: {control} ({noted})",
            bench.notes.take()
        );
        if outcome != *expected || control != "answered" {
            odd.push(format!(
                "{name}: {outcome}, not {expected}; allowed: {control}"
            ));
        }
    }
    ensure!(odd.is_empty(), "{odd:#?}");
    bench.lab.balanced_books(&bench.sensor)?;
    Ok(())
}
