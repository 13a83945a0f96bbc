//! What a flow tells of itself: from its early payloads to a name.

use std::sync::Arc;

use sensor_ebpf::{
    flow::Direction,
    parse::protocol,
    sample::{Head, Kind},
};

use crate::decode::{
    Failure, Progress, dns,
    http::{self, Request},
    quic::Initials,
    stream::{MAX_STREAM, Stream, is_padding},
    tls::{self, ClientHello},
    tunnel::{self, Tunnel},
};

/// Where a flow's name is from, the best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The SNI of a TLS ClientHello.
    Tls,
    /// The SNI of a QUIC Initial.
    Quic,
    /// The host of an HTTP request.
    Http,
    /// A DNS answer that the device got.
    Dns,
    /// A DNS answer that another device got.
    DnsOfAnother,
}

impl Source {
    /// Its name in listings.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tls => "tls",
            Self::Quic => "quic",
            Self::Http => "http",
            Self::Dns | Self::DnsOfAnother => "dns",
        }
    }
}

/// What a flow has told.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// The name and where it is from.
    pub name: Option<(Arc<str>, Source)>,
    /// Rarer facts.
    pub details: Option<Box<Details>>,
    /// Some payload was seen.
    pub spoke: bool,
    /// It is a tunnel.
    pub tunnel: Option<Tunnel>,
    /// Nothing more is to be learned of it; which direction told the last of it, by number.
    settled: Option<u8>,
    /// TCP: the sequence numbers of the SYNs by direction, where payloads came; `None` inside where
    /// it was not seen. Another one begins another connection.
    initial: [Option<Option<u32>>; 2],
}

impl Told {
    /// What is told before anything is seen.
    pub const NOTHING: Self = Self {
        name: None,
        details: None,
        spoke: false,
        tunnel: None,
        settled: None,
        initial: [None; 2],
    };

    /// Forgets what a connection told whose ports another one took, and gives whether one did.
    ///
    /// Of the new connection the other direction has not come yet: its first number is no change.
    /// Nor is a new number of the side that answers, where the one that told all has none: its SYN
    /// would have come first.
    fn meet(&mut self, head: &Head) -> bool {
        let at = usize::from(head.direction & 1);
        let known = self.initial[at].replace(initial(head));
        let told_by_other = self.settled.is_some_and(|by| usize::from(by) != at);
        let is_another = !told_by_other && known.is_some_and(|known| known != initial(head));
        if is_another {
            *self = Self {
                spoke: self.spoke,
                ..Self::NOTHING
            };
            self.initial[at] = Some(initial(head));
        }
        is_another
    }
}

/// The number of the SYN before a payload, where it was seen.
fn initial(head: &Head) -> Option<u32> {
    (head.flags & Head::SYN_SEEN != 0).then_some(head.initial_sequence)
}

/// What a hello says beside the name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Details {
    /// The application protocols it offers.
    pub alpn: Vec<String>,
    /// It is encrypted; the name is the one it is wrapped in.
    pub ech: bool,
    /// The version of QUIC.
    pub quic_version: Option<String>,
}

/// What one payload brought, for whom it concerns.
#[derive(Debug, Default)]
pub struct News {
    /// DNS messages.
    pub messages: Vec<dns::Message>,
    /// What the program that speaks calls itself.
    pub user_agent: Option<String>,
    /// Nothing more is to be learned from the flow.
    pub settled: bool,
    /// What could not be decoded, and by which decoder.
    pub failure: Option<(&'static str, Failure)>,
}

/// The readers of a flow, while there is something to read.
#[derive(Debug, Default)]
pub struct Readers {
    sides: [Side; 2],
    quic: Option<Quic>,
}

#[derive(Debug)]
struct Quic {
    client: Direction,
    initials: Initials,
}

/// One direction of a TCP stream.
#[derive(Debug, Default)]
struct Side {
    state: State,
}

#[derive(Debug, Default)]
enum State {
    /// Nothing came yet.
    #[default]
    Fresh,
    /// The start of something, still to be read.
    Reading(Stream),
    /// DNS messages, read up to this octet.
    Messages(Stream, usize),
    /// Something that is not read; TLS may follow it (STARTTLS, CONNECT).
    Other,
    /// All was read.
    Done,
}

impl Readers {
    /// Takes one payload of the flow.
    pub fn sample(&mut self, kind: Kind, head: &Head, octets: &[u8], told: &mut Told) -> News {
        let direction = match head.direction {
            0 => Direction::Upload,
            _ => Direction::Download,
        };
        told.spoke = true;
        if head.key.protocol() == protocol::TCP && told.meet(head) {
            *self = Self::default();
        }
        if told.settled.is_some() {
            // It was told already; who is to know has missed it.
            return News {
                settled: true,
                ..News::default()
            };
        }
        let news = self.news(kind, direction, head, octets, told);
        told.settled = news.settled.then_some(head.direction & 1);
        news
    }

    fn news(
        &mut self,
        kind: Kind,
        direction: Direction,
        head: &Head,
        octets: &[u8],
        told: &mut Told,
    ) -> News {
        match kind {
            Kind::Dns => self.sides[direction as usize].messages(head, octets),
            Kind::Quic => self.quic(direction, octets, told),
            Kind::Tls | Kind::Http | Kind::Stream | Kind::Tunnel
                if head.key.protocol() == protocol::TCP =>
            {
                if kind == Kind::Tunnel && recognise(octets, told) {
                    return News {
                        settled: true,
                        ..News::default()
                    };
                }
                self.sides[direction as usize].stream(kind, head, octets, told)
            }
            Kind::Tunnel => News {
                settled: recognise(octets, told),
                ..News::default()
            },
            _ => News::default(),
        }
    }

    /// Whether nothing came yet.
    pub fn are_fresh(&self) -> bool {
        self.quic.is_none()
            && self
                .sides
                .iter()
                .all(|side| matches!(side.state, State::Fresh))
    }

    /// Whether octets are held that others are to complete.
    pub fn wait(&self) -> bool {
        let waits = |side: &Side| match &side.state {
            State::Reading(_) => true,
            State::Messages(stream, _) => !stream.is_empty(),
            State::Fresh | State::Other | State::Done => false,
        };
        self.sides.iter().any(waits)
            || self
                .quic
                .as_ref()
                .is_some_and(|quic| !quic.initials.are_none())
    }

    /// Whether something was begun and not ended: what decoder waits for it.
    pub fn unfinished(&self) -> Option<&'static str> {
        let reading = |side: &Side| match &side.state {
            State::Reading(stream) if tls::looks_like(stream.contiguous()) => Some("tls"),
            State::Reading(stream) if http::looks_like(stream.contiguous()) => Some("http"),
            State::Messages(stream, _) if !stream.is_empty() => Some("dns"),
            _ => None,
        };
        self.sides.iter().find_map(reading).or_else(|| {
            let quic = self.quic.as_ref()?;
            // What could not be opened was counted when it came.
            (!quic.initials.are_none()).then_some("quic")
        })
    }

    fn quic(&mut self, direction: Direction, octets: &[u8], told: &mut Told) -> News {
        let quic = self.quic.get_or_insert_with(|| Quic {
            client: direction,
            initials: Initials::new(),
        });
        if quic.initials.are_none() {
            // The first one that came may have been the server's.
            quic.client = direction;
        }
        match quic.initials.datagram(direction == quic.client, octets) {
            Ok(Progress::Complete(hello)) => {
                let version = hello.version.label();
                learn(told, hello.hello, Source::Quic, Some(version));
                self.quic = None;
                News {
                    user_agent: hello.user_agent,
                    settled: true,
                    ..News::default()
                }
            }
            Ok(Progress::Incomplete) => News::default(),
            Err(failure) => News {
                failure: Some(("quic", failure)),
                ..News::default()
            },
        }
    }
}

fn recognise(octets: &[u8], told: &mut Told) -> bool {
    told.tunnel = tunnel::recognise(octets);
    told.tunnel.is_some()
}

/// Takes what a hello says.
fn learn(told: &mut Told, hello: ClientHello, source: Source, quic_version: Option<String>) {
    if hello.ech || !hello.alpn.is_empty() || quic_version.is_some() {
        told.details = Some(Box::new(Details {
            alpn: hello.alpn,
            ech: hello.ech,
            quic_version,
        }));
    }
    if let Some(name) = hello.server_name {
        told.name = Some((name.into(), source));
    }
}

/// What the start of a stream is.
enum Start {
    Hello(ClientHello),
    Request(Request),
    /// Not yet enough.
    Incomplete,
    /// Nothing that is read here.
    Unknown,
    Failed(&'static str, Failure),
}

/// The fewest octets by which a stream can be told.
const TELLING: usize = 6;

impl Start {
    fn of(stream: &[u8]) -> Self {
        const SERVER_HELLO: u8 = 2;

        if tls::looks_like(stream) {
            return match tls::client_hello(stream) {
                Ok(Progress::Complete(hello)) => Self::Hello(hello),
                Ok(Progress::Incomplete) => Self::Incomplete,
                Err(_) if stream.get(5) == Some(&SERVER_HELLO) => Self::Unknown,
                Err(failure) => Self::Failed("tls", failure),
            };
        }
        if http::looks_like(stream) {
            return match http::request(stream) {
                Ok(Progress::Complete(request)) => Self::Request(request),
                Ok(Progress::Incomplete) => Self::Incomplete,
                Err(failure) => Self::Failed("http", failure),
            };
        }
        if stream.len() < TELLING {
            return Self::Incomplete;
        }
        Self::Unknown
    }
}

impl Side {
    fn stream(&mut self, kind: Kind, head: &Head, octets: &[u8], told: &mut Told) -> News {
        if matches!(self.state, State::Fresh) && is_padding(octets) {
            return News::default();
        }
        let start = match &mut self.state {
            State::Done | State::Messages(..) => return News::default(),
            // A connection that turns to TLS begins it with a segment.
            State::Other if kind != Kind::Tls => return News::default(),
            State::Other => {
                let mut stream = Stream::new(Some(head.sequence.wrapping_sub(1)));
                let start = Start::of(octets);
                if matches!(start, Start::Incomplete) {
                    stream.segment(head.sequence, octets);
                    self.state = State::Reading(stream);
                    return News::default();
                }
                start
            }
            State::Fresh => {
                // Farther ahead than a stream is held: the SYN was another connection's, and this
                // one's was not seen.
                let syn = initial(head)
                    .filter(|initial| head.sequence.wrapping_sub(*initial) as usize <= MAX_STREAM);
                let mut stream = Stream::new(syn);
                let whole = stream.is_start(head.sequence);
                let start = if whole {
                    Start::of(octets)
                } else {
                    Start::Incomplete
                };
                if matches!(start, Start::Incomplete) {
                    stream.segment(head.sequence, octets);
                    self.state = State::Reading(stream);
                    return News::default();
                }
                start
            }
            State::Reading(stream) => {
                stream.segment(head.sequence, octets);
                if stream.conflict() {
                    let decoder = match http::looks_like(stream.contiguous()) {
                        true => "http",
                        false => "tls",
                    };
                    Start::Failed(decoder, Failure::Conflict)
                } else {
                    Start::of(stream.contiguous())
                }
            }
        };
        self.conclude(start, told)
    }

    fn conclude(&mut self, start: Start, told: &mut Told) -> News {
        let mut news = News::default();
        match start {
            Start::Incomplete => {}
            Start::Unknown => self.state = State::Other,
            Start::Failed(decoder, failure) => {
                self.state = State::Done;
                news.failure = Some((decoder, failure));
            }
            Start::Hello(hello) => {
                self.state = State::Done;
                learn(told, hello, Source::Tls, None);
                news.settled = true;
            }
            Start::Request(request) => {
                // Behind a proxy's name comes the one that is meant.
                let connects = request.method == "CONNECT";
                self.state = if connects { State::Other } else { State::Done };
                if let Some(name) = request.name() {
                    told.name = Some((name.into(), Source::Http));
                    news.settled = !connects;
                }
                news.user_agent = request.user_agent;
            }
        }
        news
    }

    /// DNS: a datagram is a message, a stream is several, each behind its length.
    fn messages(&mut self, head: &Head, octets: &[u8]) -> News {
        let mut news = News::default();
        let mut take = |message: &[u8]| match dns::message(message) {
            Ok(message) => news.messages.push(message),
            Err(failure) => news.failure = Some(("dns", failure)),
        };
        if head.key.protocol() == protocol::UDP {
            take(octets);
            return news;
        }
        if matches!(self.state, State::Fresh) {
            self.state = State::Messages(Stream::new(initial(head)), 0);
        }
        let State::Messages(stream, read) = &mut self.state else {
            return news;
        };
        stream.segment(head.sequence, octets);
        let mut framed = dns::framed(stream.contiguous().get(*read..).unwrap_or_default());
        let mut failed = false;
        for message in framed.by_ref() {
            match message {
                Ok(message) => take(message),
                Err(_) => failed = true,
            }
        }
        *read = stream.contiguous().len() - framed.rest().len();
        // What was read is not kept: a connection may ask for hours.
        if *read == stream.contiguous().len()
            && let Some(behind) = stream.behind()
        {
            self.state = State::Messages(behind, 0);
        }
        if failed {
            news.failure = Some(("dns", Failure::Malformed));
            self.state = State::Done;
        }
        news
    }
}
