//! The readers of a flow: from its early payloads to a name.

use std::{mem, sync::Arc};

use sensor_ebpf::{
    flow::Direction,
    kind::{Kind, is_service},
    parse::protocol,
    said::{Found, Text, question},
    sample::Head,
};

use super::{
    Details, Observation, Outcome, Source,
    http_requests::Requests,
    overlap::Kept,
    start::{Start, decoder, may_begin, may_go_on, stands_before},
};
use crate::decode::{
    Failure, Progress, dns, http,
    quic::Initials,
    stream::{MAX_STREAM, Stream, is_padding},
    tls::ClientHello,
    tunnel,
};

/// The state that outlives the readers of a flow, in few bytes: most flows have no readers any more.
#[derive(Debug, Default)]
pub(super) struct FlowMemory {
    /// TCP: the sequence numbers of the SYNs by direction, where [`seen`](Self::SEEN) says that they were seen.
    /// Another number begins another connection.
    initial: [u32; 2],
    /// TCP uploads: the sequence number after the part of the hello that was read, where one was.
    read_to: u32,
    marks: u8,
}

impl FlowMemory {
    /// Nothing more can be learned; the next bit is the number of the direction that told the last fact.
    const SETTLED: u8 = 1;
    const SETTLED_BY: u32 = 1;
    /// Whether payloads came, by direction.
    const CAME: [u8; 2] = [1 << 2, 1 << 3];
    /// Whether the SYN before them was seen, by direction.
    const SEEN: [u8; 2] = [1 << 4, 1 << 5];
    /// Whether a part of a hello was read.
    const READ: u8 = 1 << 6;

    /// Forgets the facts of a connection if another one took its ports, and returns whether one did.
    ///
    /// The other direction of the new connection has not come yet: its first number is no change. Nor is a new
    /// number of the side that answers, while the side that told all has no new one: its SYN would have come
    /// first.
    fn meet(&mut self, head: &Head) -> bool {
        let at = usize::from(head.direction & 1);
        let known = self.initial(at);
        let told_by_other = self.settled().is_some_and(|by| usize::from(by) != at);
        let is_another = !told_by_other && known.is_some_and(|known| known != initial(head));
        if is_another {
            *self = Self::default();
        }
        self.marks = self.marks & !Self::SEEN[at] | Self::CAME[at];
        if let Some(number) = initial(head) {
            self.initial[at] = number;
            self.marks |= Self::SEEN[at];
        }
        is_another
    }

    /// The number of the SYN of a direction, if payloads came; `None` inside if it was not seen.
    fn initial(&self, at: usize) -> Option<Option<u32>> {
        let seen = (self.marks & Self::SEEN[at] != 0).then_some(self.initial[at]);
        (self.marks & Self::CAME[at] != 0).then_some(seen)
    }

    /// The number of the upload's SYN before what was told, where it was seen.
    pub(super) fn began(&self) -> Option<u32> {
        self.initial(Direction::Upload as usize).flatten()
    }

    /// The number of the direction that told the last fact, once nothing more can be learned.
    fn settled(&self) -> Option<u8> {
        let by = self.marks >> Self::SETTLED_BY & 1;
        (self.marks & Self::SETTLED != 0).then_some(by)
    }

    fn settle(&mut self, by: Option<u8>) {
        self.marks &= !(Self::SETTLED | 1 << Self::SETTLED_BY);
        if let Some(by) = by {
            self.marks |= Self::SETTLED | (by & 1) << Self::SETTLED_BY;
        }
    }

    /// The sequence number after the part of the hello that was read.
    fn read_to(&self) -> Option<u32> {
        (self.marks & Self::READ != 0).then_some(self.read_to)
    }

    fn set_read_to(&mut self, end: u32) {
        self.read_to = end;
        self.marks |= Self::READ;
    }
}

/// The number of the SYN before a payload, where it was seen.
fn initial(head: &Head) -> Option<u32> {
    (head.flags & Head::SYN_SEEN != 0).then_some(head.initial_sequence)
}

/// The readers of a flow, while there is something to read.
#[derive(Debug, Default)]
pub(super) struct Readers {
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
    /// A hello that was read, as long as it is kept; whether something was said behind it.
    Hello(Kept, bool),
    /// The requests of an HTTP connection.
    Requests(Box<Requests>),
    /// Something that is not read; TLS may follow it (STARTTLS, CONNECT). Whether it was messages of SOCKS,
    /// which may go on.
    Other(bool),
    /// All was read.
    Done,
}

impl Readers {
    /// Takes one payload of the flow, and puts its facts into the observation. `known` is the name that the
    /// flow has told.
    pub(super) fn sample(
        &mut self,
        told: &mut FlowMemory,
        known: Option<&str>,
        octets: &[u8],
        heard: &mut Observation,
    ) {
        let direction = Direction::from_number(heard.head.direction);
        if heard.head.key.protocol() == protocol::TCP && told.meet(&heard.head) {
            *self = Self::default();
            heard.another = true;
        }
        if told.settled().is_some() {
            if self.another_quic(direction, known, octets, heard) {
                return;
            }
            heard.settled = true;
            heard.told_before = true;
            if direction == Direction::Upload && heard.head.key.protocol() == protocol::TCP {
                self.sides[direction as usize].go_on(told, octets, heard);
            }
            return;
        }
        self.read(direction, octets, heard);
        told.settle(heard.settled.then_some(heard.head.direction));
        if heard.settled
            && let State::Hello(kept, _) = &self.sides[direction as usize].state
        {
            told.set_read_to(kept.end());
        }
    }

    /// Reads a QUIC packet of a flow that has told its name: another connection may begin at the same
    /// ports. Gives whether one has.
    fn another_quic(
        &mut self,
        direction: Direction,
        known: Option<&str>,
        octets: &[u8],
        heard: &mut Observation,
    ) -> bool {
        if heard.kind != Kind::Quic || direction != Direction::Upload {
            return false;
        }
        let mut another = Observation::new(heard.head, heard.kind);
        self.quic(direction, octets, &mut another);
        let says = match &another.outcome {
            Outcome::Name(name, _) => Some(&**name),
            _ => None,
        };
        // The same name again is the same connection, in another version.
        if another.settled && says != known {
            another.another = true;
            *heard = another;
        }
        heard.another
    }

    fn read(&mut self, direction: Direction, octets: &[u8], heard: &mut Observation) {
        let side = &mut self.sides[direction as usize];
        let is_stream = heard.head.key.protocol() == protocol::TCP;
        if heard.kind == Kind::Tunnel && recognise(octets, heard) {
            return;
        }
        match heard.kind {
            _ if is_stream => side.stream(octets, heard),
            Kind::Dns => message(octets, heard),
            Kind::Quic => self.quic(direction, octets, heard),
            _ => {}
        }
    }

    /// Whether nothing came yet.
    pub(super) fn are_fresh(&self) -> bool {
        self.quic.is_none()
            && self
                .sides
                .iter()
                .all(|side| matches!(side.state, State::Fresh))
    }

    /// Whether octets are held that others are to complete, and at which place of the stream, where
    /// there are several.
    pub(super) fn wait(&self) -> Option<u32> {
        let waits = |side: &Side| match &side.state {
            State::Reading(_) => Some(0),
            State::Messages(stream, _) => (!stream.is_empty()).then_some(0),
            State::Requests(requests) => requests.waits_at(),
            State::Fresh | State::Other(_) | State::Done | State::Hello(..) => None,
        };
        self.sides.iter().find_map(waits).or_else(|| {
            let quic = self.quic.as_ref()?;
            (!quic.initials.are_none()).then_some(0)
        })
    }

    /// Whether later payload of a flow is compared with the bytes read.
    pub(super) fn go_on(&self) -> bool {
        let state = &self.sides[Direction::Upload as usize].state;
        matches!(state, State::Hello(..) | State::Requests(_))
    }

    /// Drops the bytes read that were kept.
    pub(super) fn forget_kept(&mut self) {
        let state = &mut self.sides[Direction::Upload as usize].state;
        match state {
            State::Requests(requests) => requests.forget_kept(),
            State::Hello(..) => *state = State::Done,
            _ => {}
        }
    }

    /// The decoder that waits for the rest of a payload, if one does.
    pub(super) fn unfinished(&self) -> Option<&'static str> {
        let reading = |side: &Side| match &side.state {
            State::Reading(stream) => decoder(stream.contiguous()),
            State::Messages(stream, _) if !stream.is_empty() => Some("dns"),
            State::Requests(requests) => requests.waits_at().map(|_| "http"),
            _ => None,
        };
        self.sides.iter().find_map(reading).or_else(|| {
            let quic = self.quic.as_ref()?;
            // Packets that could not be decrypted were counted when they came.
            (!quic.initials.are_none()).then_some("quic")
        })
    }

    /// Stops waiting for the stream after a prelude: it may still begin with a later segment. Returns whether
    /// there was such a wait.
    pub(super) fn stop_waiting(&mut self) -> bool {
        let mut stops = false;
        for side in &mut self.sides {
            if let State::Reading(stream) = &side.state
                && stands_before(stream.contiguous())
            {
                side.state = State::Other(true);
                stops = true;
            }
        }
        stops
    }

    fn quic(&mut self, direction: Direction, octets: &[u8], heard: &mut Observation) {
        let quic = self.quic.get_or_insert_with(|| Quic {
            client: direction,
            initials: Initials::new(),
        });
        if direction == Direction::Upload && quic.initials.are_none() && is_short(octets) {
            heard.outcome = Outcome::NoHello;
            return;
        }
        if quic.initials.are_none() {
            // The first one that came may have been the server's.
            quic.client = direction;
        }
        match quic.initials.datagram(direction == quic.client, octets) {
            Ok(Progress::Complete(hello)) => {
                let version = hello.version.label();
                learn(hello.hello, Source::Quic, Some(version), heard);
                self.quic = None;
                heard.user_agent = hello.user_agent;
                heard.settled = true;
            }
            Ok(Progress::Incomplete) => heard.outcome = Outcome::Waiting,
            Err(failure) => fail("quic", failure, heard),
        }
    }
}

/// Whether a QUIC packet has a short header (RFC 8999, section 5.2): it is of a connection that began
/// before. gQUIC's had two of these bits clear.
fn is_short(octets: &[u8]) -> bool {
    octets.first().is_some_and(|first| first & 0xc0 == 0x40)
}

/// Whether it is a tunnel, of which nothing more is to be learned.
fn recognise(octets: &[u8], heard: &mut Observation) -> bool {
    heard.tunnel = tunnel::recognise(octets);
    heard.settled = heard.tunnel.is_some();
    if heard.settled {
        heard.outcome = Outcome::Nameless;
    }
    heard.settled
}

/// Reads DNS in a datagram: any payload at its port; elsewhere responses, and questions that are whole to the
/// last byte.
fn message(octets: &[u8], heard: &mut Observation) {
    match dns::message(octets) {
        Ok(message) if is_service(&heard.head.key) || message.response || is_question(octets) => {
            heard.is_dns = true;
            heard.messages.push(message);
        }
        Err(failure) if is_service(&heard.head.key) => {
            heard.is_dns = true;
            heard.failure = Some(("dns", failure));
        }
        _ => {}
    }
}

/// Whether a datagram is a question and nothing else.
fn is_question(octets: &[u8]) -> bool {
    let mut text = Text::default();
    question::read(octets, 0, &mut text) == Found::Name
        && question::is_exact(octets, text.len as usize, octets.len())
}

/// Takes the facts of a hello.
fn learn(
    hello: ClientHello,
    source: Source,
    quic_version: Option<String>,
    heard: &mut Observation,
) {
    if hello.ja4.is_some() || quic_version.is_some() {
        heard.details = Some(Box::new(Details {
            alpn: hello.alpn,
            ech: hello.ech,
            quic_version,
            ja4: hello.ja4,
        }));
    }
    match hello.server_name {
        Some(name) => heard.outcome = Outcome::Name(name.into(), source),
        None if hello.no_host_name => fail(source.name(), Failure::NoHostName, heard),
        None => heard.outcome = Outcome::Nameless,
    }
}

fn fail(decoder: &'static str, failure: Failure, heard: &mut Observation) {
    heard.failure = Some((decoder, failure));
    heard.outcome = Outcome::Unread(failure);
}

impl Side {
    fn stream(&mut self, octets: &[u8], heard: &mut Observation) {
        let head = &heard.head;
        // The length before a DNS message may begin with zeros.
        let may_be_padding = is_padding(octets) && !is_service(&head.key);
        if matches!(self.state, State::Fresh) && may_be_padding {
            return;
        }
        let key = &head.key;
        let start = match &mut self.state {
            State::Requests(_) => {
                self.further_requests(octets, heard);
                if !heard.hosts.is_empty() || heard.doubt.is_some() {
                    self.first_host(heard);
                }
                return;
            }
            State::Messages(..) => return self.messages(octets, heard),
            State::Done | State::Hello(..) => return,
            State::Other(goes_on) => {
                let goes_on = *goes_on;
                let Some(start) = self.begin(octets, goes_on, heard) else {
                    return;
                };
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
                    Start::of(key, octets)
                } else {
                    Start::Incomplete(true)
                };
                if start.is_read_on() {
                    stream.segment(head.sequence, octets);
                    self.state = State::Reading(stream);
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
                    match Start::of(key, stream.contiguous()) {
                        Start::Unknown => {
                            self.state = State::Other(false);
                            self.begin(octets, false, heard).unwrap_or(Start::Unknown)
                        }
                        start => start,
                    }
                }
            }
        };
        let is_cut = heard.head.payload as usize > octets.len();
        let is_last = heard.head.flags & Head::LAST != 0;
        match start {
            // The hello behind the prelude was not copied, or will not be.
            Start::Before if is_cut || is_last => {
                self.conclude(Start::Failed("tls", Failure::Limit), heard);
            }
            start => self.conclude(start, heard),
        }
    }

    /// Begins to read with a segment in the midst of a stream, as a connection does that turns to TLS or
    /// to HTTP; `None` where it begins nothing. Messages of SOCKS are known only where some were before:
    /// too much begins with bytes like theirs.
    fn begin(&mut self, octets: &[u8], goes_on: bool, heard: &Observation) -> Option<Start> {
        let head = &heard.head;
        let start = Start::of(&head.key, octets);
        let is_begun = matches!(start, Start::Incomplete(_) | Start::Before);
        let may_begin = may_begin(octets) || goes_on && may_go_on(octets);
        if !start.is_read_on() || is_begun && !may_begin {
            return None;
        }
        let mut stream = Stream::new(Some(head.sequence.wrapping_sub(1)));
        stream.segment(head.sequence, octets);
        self.state = State::Reading(stream);
        Some(start)
    }

    /// Takes payload after the name of a flow.
    fn go_on(&mut self, told: &FlowMemory, octets: &[u8], heard: &mut Observation) {
        let head = heard.head;
        let is_last = head.flags & Head::LAST != 0;
        match &mut self.state {
            State::Requests(_) => {
                self.further_requests(octets, heard);
                if is_last {
                    // Nobody wants the requests of this device.
                    self.state = State::Done;
                }
            }
            State::Hello(kept, is_followed) => {
                if kept.contradicts(head.sequence, octets) {
                    heard.doubt = Some(Failure::Conflict);
                }
                *is_followed |= kept.is_behind(head.sequence, head.payload);
                if is_last {
                    // The same again and again, and then no more is copied.
                    if !*is_followed && heard.doubt.is_none() {
                        heard.doubt = Some(Failure::Limit);
                    }
                    self.state = State::Done;
                }
            }
            _ if is_padding(octets) => {}
            // The bytes read were not kept.
            _ => {
                let again = |end: u32| (head.sequence.wrapping_sub(end) as i32) < 0;
                heard.doubt = told
                    .read_to()
                    .filter(|end| again(*end))
                    .map(|_| Failure::Conflict);
            }
        }
    }

    /// Takes payload after the first request.
    fn further_requests(&mut self, octets: &[u8], heard: &mut Observation) {
        let head = heard.head;
        self.requests(heard, |requests| {
            requests.segment(head.sequence, octets, head.payload)
        });
    }

    /// Reads requests.
    fn requests(
        &mut self,
        heard: &mut Observation,
        read: impl FnOnce(&mut Requests) -> (Vec<Arc<str>>, Option<Failure>),
    ) {
        let State::Requests(requests) = &mut self.state else {
            return;
        };
        heard.requests = true;
        let (hosts, failure) = read(requests);
        heard.hosts = hosts;
        heard.user_agent = requests.take_user_agent().or(heard.user_agent.take());
        if requests.take_odd() {
            heard.doubt = Some(Failure::NoHostName);
        }
        if failure.is_some() {
            heard.doubt = failure;
            self.state = State::Done;
        }
    }

    /// Puts the first host of the requests into the observation, as the name of a flow that has told none.
    fn first_host(&self, heard: &mut Observation) {
        match (heard.hosts.first(), heard.doubt) {
            (Some(host), _) => {
                heard.outcome = Outcome::Name(Arc::clone(host), Source::Http);
                heard.settled = true;
            }
            (None, Some(failure)) => fail("http", failure, heard),
            (None, None) => heard.outcome = Outcome::Waiting,
        }
    }

    /// The stream that was read, of an upload.
    fn take_upload(&mut self, head: &Head) -> Option<Stream> {
        match mem::take(&mut self.state) {
            State::Reading(stream) if head.direction == Direction::Upload as u8 => Some(stream),
            _ => None,
        }
    }

    fn conclude(&mut self, start: Start, heard: &mut Observation) {
        match start {
            Start::Incomplete(true) => heard.outcome = Outcome::Waiting,
            Start::Incomplete(false) | Start::Before => heard.outcome = Outcome::Nameless,
            Start::Unknown => {
                self.state = State::Other(false);
                heard.outcome = Outcome::Nameless;
            }
            Start::Messages => {
                if let State::Reading(stream) = mem::take(&mut self.state) {
                    self.state = State::Messages(stream, 0);
                    self.messages(&[], heard);
                }
            }
            Start::Failed(decoder, failure) => {
                self.state = State::Done;
                fail(decoder, failure, heard);
            }
            Start::Hello(hello) => {
                self.state = match self.take_upload(&heard.head) {
                    Some(stream) => State::Hello(Kept::of(&stream), false),
                    None => State::Done,
                };
                learn(hello, Source::Tls, None, heard);
                heard.settled = true;
            }
            Start::Request(request, behind) => {
                // Behind a proxy's name comes the one that is meant.
                let connects = request.method == "CONNECT";
                let stream = self.take_upload(&heard.head);
                heard.requests = !connects;
                self.state = match stream {
                    _ if connects => State::Other(false),
                    Some(stream) => State::Requests(Box::new(Requests::new(stream, behind))),
                    None => State::Done,
                };
                // The first may not be alone.
                self.first_requests(heard);
                match request.name() {
                    Some(name) => {
                        heard.settled = !connects;
                        heard.outcome = Outcome::Name(name.into(), Source::Http);
                    }
                    None if request.no_host_name => fail("http", Failure::NoHostName, heard),
                    None => heard.outcome = Outcome::Nameless,
                }
                heard.user_agent = request.user_agent;
            }
            Start::Frames(behind) => match self.take_upload(&heard.head) {
                Some(stream) => {
                    self.state = State::Requests(Box::new(Requests::new(stream, behind)));
                    self.first_requests(heard);
                    self.first_host(heard);
                }
                None => self.state = State::Done,
            },
        }
    }

    /// Reads the requests that are held, of which the last segment has brought some.
    fn first_requests(&mut self, heard: &mut Observation) {
        let head = heard.head;
        self.requests(heard, |requests| {
            requests.read(head.sequence, head.captured, head.payload)
        });
    }

    /// DNS messages of a stream, each behind its length.
    fn messages(&mut self, octets: &[u8], heard: &mut Observation) {
        let head = heard.head;
        heard.is_dns = true;
        let State::Messages(stream, read) = &mut self.state else {
            return;
        };
        stream.segment(head.sequence, octets);
        let mut framed = dns::framed(stream.contiguous().get(*read..).unwrap_or_default());
        let mut failed = false;
        for message in framed.by_ref() {
            match message.map(dns::message) {
                Ok(Ok(message)) => heard.messages.push(message),
                Ok(Err(failure)) => heard.failure = Some(("dns", failure)),
                Err(_) => failed = true,
            }
        }
        *read = stream.contiguous().len() - framed.rest().len();
        // Bytes read are not kept, because a connection may ask for hours.
        if *read == stream.contiguous().len()
            && let Some(behind) = stream.behind()
        {
            self.state = State::Messages(behind, 0);
        }
        if failed {
            heard.failure = Some(("dns", Failure::Malformed));
            self.state = State::Done;
        }
    }
}
