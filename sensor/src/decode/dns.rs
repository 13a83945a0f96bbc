//! DNS messages (RFC 1035) and multicast DNS (RFC 6762).
//!
//! [`message`] reads a datagram, [`framed`] cuts a TCP stream into messages. Sections and names are
//! walked by the crate `domain`, which follows a compression pointer only backwards and gives up on
//! a name of more than 255 octets, so a message of loops or bombs costs no more than its records.
//! The text of names and data is made here, in one pass: it has to be lower case and free of
//! anything that is no host-name character, and a household asks often.

use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use domain::{
    base::{
        Message as Wire, ParseRecordData, ParsedName, ParsedRecord, RecordSection, Rtype,
        iana::{Class, Opcode, SvcParamKey},
        name::{Label, ToLabelIter, ToName},
        rdata::RecordData,
        wire::ParseError,
    },
    dep::octseq::Parser,
    rdata::{
        A, Aaaa, Cname, Dname, Mx, Ns, Ptr, Soa, Srv, Txt,
        svcb::{Https, Svcb, SvcbRdata},
    },
};

use super::{Failure, text::readable};

/// The most questions a message may have. Multicast DNS asks for some dozens at once.
pub const MAX_QUESTIONS: usize = 128;

/// The most records of a message that are read; further ones are left, and [`Message::partial`]
/// says so.
pub const MAX_RECORDS: usize = 512;

/// The most steps from one name to another (CNAME, HTTPS, SRV, …) that a message may tell of and
/// are followed.
pub const MAX_ALIASES: usize = 32;

/// The most text that is made of one message, in octets. Compression lets few octets stand for
/// many names.
pub const MAX_TEXT: usize = 1 << 16;

/// The most services that are read of one message, and the most TXT items of each.
pub const MAX_SERVICES: usize = 32;

/// The most octets of a text for people. A character of Latin-1 has two in UTF-8.
const MAX_STRING: usize = 512;

/// The most answers for which room is made before they are there.
const USUAL: usize = 16;

/// The most octets of data without a text form that are shown in an answer.
const MAX_SHOWN: usize = 32;

/// The content of a message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// The identifier that matches an answer to its question; 0 in multicast DNS.
    pub id: u16,
    /// Whether it is an answer, not a question.
    pub response: bool,
    /// The operation: 0 a query, 4 a notification, 5 a dynamic update (RFC 2136).
    pub opcode: u8,
    /// The result, 0 to 15, without the upper bits that EDNS may add.
    pub rcode: u8,
    /// Whether the message was truncated: the client asks again over TCP.
    pub truncated: bool,
    /// The questions, in order; in a dynamic update, the zone.
    pub questions: Vec<Question>,
    /// The addresses a response gives, in order. Empty in a query.
    pub addresses: Vec<AddressRecord>,
    /// The further names that a response leads to from a name that was asked, in order: targets of CNAME records
    /// and of HTTPS records. Empty in a query.
    pub aliases: Vec<AliasRecord>,
    /// The data of each record in the answer section of a response, as text for people: an
    /// address, a name, otherwise the fields in the order of a zone file. Names are escaped as in
    /// [`Question::name`], texts likewise but for spaces.
    pub answers: Vec<String>,
    /// Whether an HTTPS or SVCB record for a name that was asked has the parameter `ech` (RFC 9848): the host
    /// name of the connection that follows may then be hidden.
    pub ech: bool,
    /// The records that a dynamic update sets or removes. A device registers its own name in this way.
    pub updates: Vec<Update>,
    /// The names of hosts under `.local` to which a response gives addresses (RFC 6762, section 3), as text
    /// for people and as their owners wrote them, without `.local`; at most [`MAX_SERVICES`].
    pub hosts: Vec<String>,
    /// The services a response tells of under `.local` (RFC 6763), at most [`MAX_SERVICES`].
    pub services: Vec<Service>,
    /// The reason why not all records were read, or some of them gave nothing: the message ends early
    /// ([`Failure::Truncated`]), a record contradicts its format ([`Failure::Malformed`]), or a bound was
    /// reached ([`Failure::Limit`]). Records read before and after are right.
    pub partial: Option<Failure>,
}

/// A question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The name in presentation form: lower case, without a dot at its end, `.` for the root.
    /// Letters, digits, hyphens and underscores stand for themselves; every other octet, dots
    /// within labels among them, is written `\DDD` (RFC 1035, section 5.1).
    pub name: String,
    /// The type (`QTYPE`); [`kind_name`] has its name.
    pub kind: u16,
}

/// An address and the name that leads to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressRecord {
    /// The name that was asked: CNAME records, and the targets of HTTPS records, are followed back
    /// to it. Where services lie between (PTR, SRV, SVCB), it is the name of the host that serves.
    /// In a response without a question (multicast DNS), it is the name the record stands under.
    pub name: String,
    /// The address: an A or AAAA record, or a hint in an HTTPS or SVCB record (RFC 9460, section
    /// 7.3).
    pub address: IpAddr,
    /// How long it may be used, in seconds (RFC 2181, section 8: 0 if the upper bit is set).
    pub ttl: u32,
}

/// A name that an answer leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AliasRecord {
    /// The name that was asked, as in [`Question::name`].
    pub name: String,
    /// The name that the answer leads to from there.
    pub target: String,
}

/// A record that a dynamic update sets or removes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Update {
    /// The name, as in [`Question::name`].
    pub name: String,
    /// The type of the record.
    pub kind: u16,
    /// The address it is set to; none if it is removed or no address.
    pub address: Option<IpAddr>,
}

/// A service instance (RFC 6763).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// The name that its owner gave it, as text for people, for example `Anna’s phone`. Empty where
    /// only the kind is told (RFC 6763, section 9).
    pub instance: String,
    /// The service type, for example `_airplay._tcp`.
    pub kind: String,
    /// The host that serves it (SRV), as in [`Question::name`].
    pub host: Option<String>,
    /// The items of its TXT record in order: the key in lower case, and the value, empty if there
    /// is none; as text for people like the instance. At most [`MAX_SERVICES`].
    pub text: Vec<(String, String)>,
}

/// The mnemonic of a record type, for example `HTTPS`; `TYPE65280` for one that has none (RFC 3597,
/// section 5).
pub fn kind_name(kind: u16) -> String {
    Rtype::from_int(kind).to_string()
}

/// Reads a message from a datagram, or one that [`framed`] has cut out of a stream.
///
/// Of a query, only the questions are read, because its other records are the sender's own guesses.
///
/// # Errors
///
/// [`Failure::Truncated`] where the header or the questions are not whole, [`Failure::Malformed`]
/// where a question contradicts the format or a compression pointer does not point backwards,
/// [`Failure::Limit`] for more than [`MAX_QUESTIONS`], [`Failure::Unsupported`] for opcodes other
/// than query, notify and update.
pub fn message(octets: &[u8]) -> Result<Message, Failure> {
    let wire = Wire::from_slice(octets).map_err(|_| Failure::Truncated)?;
    let header = wire.header();
    if !matches!(
        header.opcode(),
        Opcode::QUERY | Opcode::NOTIFY | Opcode::UPDATE
    ) {
        return Err(Failure::Unsupported);
    }
    let counts = wire.header_counts();
    if usize::from(counts.qdcount()) > MAX_QUESTIONS {
        return Err(Failure::Limit);
    }
    let records =
        u32::from(counts.ancount()) + u32::from(counts.nscount()) + u32::from(counts.arcount());
    if !header.qr() && counts.qdcount() == 0 && records == 0 {
        // It asks nothing and says nothing: more likely no DNS at all.
        return Err(Failure::Malformed);
    }

    let mut reader = Reader {
        message: Message {
            id: header.id(),
            response: header.qr(),
            opcode: header.opcode().to_int(),
            rcode: header.rcode().to_int(),
            truncated: header.tc(),
            ..Message::default()
        },
        text_left: MAX_TEXT,
        asked: Vec::new(),
        aliases: Vec::new(),
        pending: Vec::new(),
    };
    if header.qr() {
        // As many as a usual answer has, and no more on the word of the sender.
        let expected = usize::from(counts.ancount()).min(USUAL);
        reader.message.answers.reserve_exact(expected);
        reader.pending.reserve_exact(expected);
    }
    let mut section = wire.question();
    for question in section.by_ref() {
        let question = question.map_err(failure)?;
        if !is_class(question.qclass()) {
            return Err(Failure::Malformed);
        }
        reader.question(*question.qname(), question.qtype())?;
    }
    if reader.message.response || header.opcode() == Opcode::UPDATE {
        let answers = section.answer().map_err(failure)?;
        reader.records(answers)?;
        reader.resolve();
    }
    Ok(reader.message)
}

/// Cuts the start of a TCP stream into the messages it carries (RFC 1035, section 4.2.2: each with
/// its length in two octets before it).
pub fn framed(stream: &[u8]) -> Framed<'_> {
    Framed { rest: stream }
}

/// The whole messages at the start of a stream: see [`framed`].
///
/// An item is [`Failure::Malformed`], and the last, where a length is too small for a header: the
/// stream is no DNS.
#[derive(Clone, Debug)]
pub struct Framed<'a> {
    rest: &'a [u8],
}

impl<'a> Framed<'a> {
    /// The bytes left after the last whole message: the start of a frame, with its length.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

impl<'a> Iterator for Framed<'a> {
    type Item = Result<&'a [u8], Failure>;

    fn next(&mut self) -> Option<Self::Item> {
        let (length, behind) = self.rest.split_first_chunk()?;
        let length = usize::from(u16::from_be_bytes(*length));
        if length < HEADER {
            self.rest = &[];
            return Some(Err(Failure::Malformed));
        }
        let (message, rest) = behind.split_at_checked(length)?;
        self.rest = rest;
        Some(Ok(message))
    }
}

/// The length of a message's header, in octets.
const HEADER: usize = 12;

type Name<'m> = ParsedName<&'m [u8]>;
type Record<'m> = ParsedRecord<'m, [u8]>;

/// A record that leads from one name to another.
struct Alias<'m> {
    owner: Name<'m>,
    target: Name<'m>,
    /// Whether the target is shown by its own name, not by the name that was asked.
    own_name: bool,
}

/// The fact of a record about its owner, until it is known which question asked for that name.
struct Pending<'m> {
    owner: Name<'m>,
    fact: Fact,
}

enum Fact {
    Address(IpAddr, u32),
    Ech,
}

/// A name that a question leads to, and the one it is shown by.
struct Asked<'m> {
    name: Name<'m>,
    shown: Name<'m>,
}

struct Reader<'m> {
    message: Message,
    text_left: usize,
    asked: Vec<Asked<'m>>,
    aliases: Vec<Alias<'m>>,
    pending: Vec<Pending<'m>>,
}

impl<'m> Reader<'m> {
    fn question(&mut self, name: Name<'m>, kind: Rtype) -> Result<(), Failure> {
        let question = Question {
            name: self.name(&name)?,
            kind: kind.to_int(),
        };
        self.message.questions.push(question);
        if self.asked.len() < MAX_ALIASES {
            self.asked.push(Asked { name, shown: name });
        }
        Ok(())
    }

    /// Reads the records from the answer section on.
    fn records(&mut self, answers: RecordSection<'m, [u8]>) -> Result<(), Failure> {
        let update = self.message.opcode == Opcode::UPDATE.to_int();
        let mut left = MAX_RECORDS;
        let mut next = Some((Section::Answer, answers));
        while let Some((kind, mut section)) = next {
            for record in section.by_ref() {
                let record = match record {
                    Ok(record) => record,
                    Err(ParseError::ShortInput) => {
                        self.note(Failure::Truncated);
                        return Ok(());
                    }
                    Err(error) => return Err(failure(error)),
                };
                if left == 0 {
                    self.note(Failure::Limit);
                    return Ok(());
                }
                left -= 1;
                let read = if update {
                    self.update(&record, kind)
                } else {
                    self.record(&record, kind)
                };
                match read {
                    Ok(()) => {}
                    Err(Failure::Limit) => {
                        self.note(Failure::Limit);
                        return Ok(());
                    }
                    Err(failure) => self.note(failure),
                }
            }
            next = match (kind.next(), section.next_section()) {
                (Some(kind), Ok(Some(section))) => Some((kind, section)),
                _ => None,
            };
        }
        Ok(())
    }

    fn note(&mut self, failure: Failure) {
        self.message.partial.get_or_insert(failure);
    }

    /// RFC 2136: the answer section holds what must be true before, the authority section what
    /// changes.
    fn update(&mut self, record: &Record<'m>, section: Section) -> Result<(), Failure> {
        if section != Section::Authority {
            return Ok(());
        }
        let set = record.class() == Class::IN;
        let address = match record.rtype() {
            Rtype::A if set => Some(data::<A>(record)?.addr().into()),
            Rtype::AAAA if set => Some(data::<Aaaa>(record)?.addr().into()),
            _ => None,
        };
        let update = Update {
            name: self.name(&record.owner())?,
            kind: record.rtype().to_int(),
            address,
        };
        self.message.updates.push(update);
        Ok(())
    }

    fn record(&mut self, record: &Record<'m>, section: Section) -> Result<(), Failure> {
        let owner = record.owner();
        let internet = class(record.class()) == Class::IN;
        // Only the answer section is shown as text; the rest is read where it may give a fact.
        let shown = section == Section::Answer;
        let answer = match record.rtype() {
            Rtype::A if internet => {
                let address = data::<A>(record)?.addr();
                self.address(record, address.into());
                shown.then(|| address.to_string())
            }
            Rtype::AAAA if internet => {
                let address = data::<Aaaa>(record)?.addr();
                self.address(record, address.into());
                shown.then(|| address.to_string())
            }
            Rtype::CNAME => {
                let target = data::<Cname<Name<'m>>>(record)?.into_cname();
                self.alias(owner, target, false);
                shown.then(|| self.name(&target)).transpose()?
            }
            Rtype::HTTPS if internet => {
                let binding = data::<Https<&'m [u8], Name<'m>>>(record)?;
                if !binding.target().is_root() {
                    self.alias(owner, *binding.target(), false);
                }
                self.hints(record, owner, &binding);
                shown.then(|| self.binding(&binding)).transpose()?
            }
            Rtype::SVCB if internet => {
                let binding = data::<Svcb<&'m [u8], Name<'m>>>(record)?;
                let mut host = owner;
                if !binding.target().is_root() {
                    host = *binding.target();
                    self.alias(owner, host, true);
                }
                self.hints(record, host, &binding);
                shown.then(|| self.binding(&binding)).transpose()?
            }
            Rtype::SRV if internet => {
                let srv = data::<Srv<Name<'m>>>(record)?;
                self.alias(owner, *srv.target(), true);
                let host = self.name(srv.target())?;
                let answer = shown
                    .then(|| format!("{} {} {} {host}", srv.priority(), srv.weight(), srv.port()));
                if let Some(service) = self.service(&owner, Kind::Instance) {
                    service.host = Some(host);
                }
                answer
            }
            Rtype::PTR => {
                let target = data::<Ptr<Name<'m>>>(record)?.into_ptrdname();
                self.alias(owner, target, true);
                self.service(&target, Kind::Any);
                shown.then(|| self.name(&target)).transpose()?
            }
            Rtype::TXT => {
                let txt = data::<Txt<&'m [u8]>>(record)?;
                if let Some(service) = self.service(&owner, Kind::Instance) {
                    let known = service.text.len();
                    let items = txt.iter().filter(|item| !item.is_empty());
                    service
                        .text
                        .extend(items.take(MAX_SERVICES - known).map(item));
                }
                shown.then(|| self.texts(&txt)).transpose()?
            }
            _ if shown => Some(self.other(record)?),
            _ => None,
        };
        if let Some(answer) = answer {
            self.spend(answer.len())?;
            self.message.answers.push(answer);
        }
        Ok(())
    }

    /// The text of an answer that gives no fact.
    fn other(&mut self, record: &Record<'m>) -> Result<String, Failure> {
        Ok(match record.rtype() {
            Rtype::NS => self.name(data::<Ns<Name<'m>>>(record)?.nsdname())?,
            Rtype::DNAME => self.name(data::<Dname<Name<'m>>>(record)?.dname())?,
            Rtype::MX => {
                let mx = data::<Mx<Name<'m>>>(record)?;
                format!("{} {}", mx.preference(), self.name(mx.exchange())?)
            }
            Rtype::SOA => {
                let soa = data::<Soa<Name<'m>>>(record)?;
                format!(
                    "{} {} {} {} {} {} {}",
                    self.name(soa.mname())?,
                    self.name(soa.rname())?,
                    soa.serial(),
                    soa.refresh().as_secs(),
                    soa.retry().as_secs(),
                    soa.expire().as_secs(),
                    soa.minimum().as_secs(),
                )
            }
            // RFC 3597, section 5.
            _ => {
                let Opaque { octets, .. } = data(record)?;
                let mut text = format!("\\# {} ", octets.len());
                for octet in octets.iter().take(MAX_SHOWN) {
                    // Writing to a string does not fail.
                    let _ = write!(text, "{octet:02x}");
                }
                if octets.len() > MAX_SHOWN {
                    text.push('…');
                }
                text
            }
        })
    }

    fn address(&mut self, record: &Record<'m>, address: IpAddr) {
        self.pending.push(Pending {
            owner: record.owner(),
            fact: Fact::Address(address, ttl(record)),
        });
    }

    fn alias(&mut self, owner: Name<'m>, target: Name<'m>, own_name: bool) {
        if self.asked.is_empty() {
            return;
        }
        if self.aliases.len() == MAX_ALIASES {
            self.note(Failure::Limit);
            return;
        }
        self.aliases.push(Alias {
            owner,
            target,
            own_name,
        });
    }

    fn hints<V>(
        &mut self,
        record: &Record<'m>,
        owner: Name<'m>,
        binding: &SvcbRdata<V, &'m [u8], Name<'m>>,
    ) {
        for parameter in binding.params().iter_raw() {
            let value: &[u8] = parameter.value();
            match parameter.key() {
                SvcParamKey::ECH => self.pending.push(Pending {
                    owner: record.owner(),
                    fact: Fact::Ech,
                }),
                SvcParamKey::IPV4HINT | SvcParamKey::IPV6HINT => {
                    let addresses = hinted(parameter.key(), value);
                    self.pending.extend(addresses.map(|address| Pending {
                        owner,
                        fact: Fact::Address(address, ttl(record)),
                    }));
                }
                _ => {}
            }
        }
    }

    /// An HTTPS or SVCB record as text: priority, target, parameters.
    fn binding<V>(
        &mut self,
        binding: &SvcbRdata<V, &'m [u8], Name<'m>>,
    ) -> Result<String, Failure> {
        let mut text = format!("{} {}", binding.priority(), self.name(binding.target())?);
        for parameter in binding.params().iter_raw() {
            let value: &[u8] = parameter.value();
            // Writing to a string does not fail.
            let _ = write!(text, " {}", parameter.key());
            match parameter.key() {
                SvcParamKey::IPV4HINT | SvcParamKey::IPV6HINT => {
                    let mut separator = '=';
                    for address in hinted(parameter.key(), value) {
                        let _ = write!(text, "{separator}{address}");
                        separator = ',';
                    }
                }
                SvcParamKey::ALPN => {
                    let mut separator = '=';
                    for protocol in character_strings(value) {
                        text.push(separator);
                        escape(protocol, b"/", &mut text);
                        separator = ',';
                    }
                }
                SvcParamKey::PORT => {
                    if let Ok(port) = value.try_into() {
                        let _ = write!(text, "={}", u16::from_be_bytes(port));
                    }
                }
                _ => {}
            }
        }
        Ok(text)
    }

    fn texts(&mut self, txt: &Txt<&'m [u8]>) -> Result<String, Failure> {
        let mut text = String::new();
        for string in txt.iter() {
            if !text.is_empty() {
                text.push(' ');
            }
            text.push('"');
            escape(string, b" .,:;=/+@", &mut text);
            text.push('"');
            if text.len() > self.text_left {
                return Err(Failure::Limit);
            }
        }
        Ok(text)
    }

    /// The service that a name under `.local` stands for.
    fn service(&mut self, name: &Name<'m>, wanted: Kind) -> Option<&mut Service> {
        let (instance, kind) = service_name(name)?;
        if instance.is_none() && wanted == Kind::Instance {
            return None;
        }
        let instance =
            instance.map_or_else(String::new, |label| readable(label.as_slice(), MAX_STRING));
        let services = &mut self.message.services;
        let known = services
            .iter()
            .position(|service| service.kind == kind && service.instance == instance);
        let place = match known {
            Some(place) => place,
            None if services.len() < MAX_SERVICES => {
                services.push(Service {
                    instance,
                    kind,
                    ..Service::default()
                });
                services.len() - 1
            }
            None => {
                self.note(Failure::Limit);
                return None;
            }
        };
        self.message.services.get_mut(place)
    }

    /// Gives each pending fact the name that was asked for it.
    fn resolve(&mut self) {
        let unasked = self.asked.is_empty();
        let mut grew = !unasked;
        // A pass is enough for a chain in order; each further one finds at least one more name.
        while grew {
            grew = false;
            for alias in &self.aliases {
                if find(&self.asked, &alias.target).is_none()
                    && let Some(asked) = find(&self.asked, &alias.owner)
                {
                    let shown = if alias.own_name {
                        alias.target
                    } else {
                        asked.shown
                    };
                    self.asked.push(Asked {
                        name: alias.target,
                        shown,
                    });
                    grew = true;
                }
            }
        }
        if let Err(failure) = self.tell_aliases() {
            self.note(failure);
            return;
        }
        // The name of the address before: mostly it is the same again.
        let mut last: Option<Name<'m>> = None;
        let pending = std::mem::take(&mut self.pending);
        self.message.addresses.reserve_exact(pending.len());
        for Pending { owner, fact } in pending {
            let shown = match find(&self.asked, &owner) {
                Some(asked) => asked.shown,
                None if unasked => owner,
                // Nobody asked for it, and the client does not take it.
                None => continue,
            };
            let Fact::Address(address, ttl) = fact else {
                self.message.ech = true;
                continue;
            };
            let before = last.filter(|last| is_same(last, &shown));
            if before.is_none() {
                self.host(&shown);
            }
            let name = match (before, self.message.addresses.last()) {
                (Some(_), Some(record)) => {
                    let name = record.name.clone();
                    self.spend(name.len()).map(|()| name)
                }
                _ => self.name(&shown),
            };
            let name = match name {
                Ok(name) => name,
                Err(failure) => {
                    self.note(failure);
                    return;
                }
            };
            last = Some(shown);
            let record = AddressRecord { name, address, ttl };
            self.message.addresses.push(record);
        }
    }

    /// Tells which names the asked ones lead to, where no service lies between.
    fn tell_aliases(&mut self) -> Result<(), Failure> {
        for place in 0..self.asked.len() {
            let Asked { name, shown } = self.asked[place];
            if is_same(&name, &shown) {
                continue;
            }
            let (name, target) = (self.name(&shown)?, self.name(&name)?);
            self.message.aliases.push(AliasRecord { name, target });
        }
        Ok(())
    }

    /// Keeps the name of a host under `.local` as text.
    fn host(&mut self, name: &Name<'m>) {
        let Some(label) = host_label(name) else {
            return;
        };
        let host = readable(label.as_slice(), MAX_STRING);
        let hosts = &mut self.message.hosts;
        if host.is_empty() || hosts.contains(&host) {
            return;
        }
        match hosts.len() < MAX_SERVICES {
            true => hosts.push(host),
            false => self.note(Failure::Limit),
        }
    }

    /// The text of a name, as in [`Question::name`].
    fn name(&mut self, name: &Name<'_>) -> Result<String, Failure> {
        let mut text = String::with_capacity(usize::from(name.compose_len()));
        for label in name.iter().filter(|label| !label.is_root()) {
            if !text.is_empty() {
                text.push('.');
            }
            escape(label.as_slice(), b"", &mut text);
        }
        if text.is_empty() {
            text.push('.');
        }
        text.make_ascii_lowercase();
        self.spend(text.len())?;
        Ok(text)
    }

    fn spend(&mut self, octets: usize) -> Result<(), Failure> {
        self.text_left = self.text_left.checked_sub(octets).ok_or(Failure::Limit)?;
        Ok(())
    }
}

/// Which names are taken for a service.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Those of instances.
    Instance,
    /// Those of service types too.
    Any,
}

/// The sections with records, in the order of the message.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Section {
    Answer,
    Authority,
    Additional,
}

impl Section {
    fn next(self) -> Option<Self> {
        match self {
            Self::Answer => Some(Self::Authority),
            Self::Authority => Some(Self::Additional),
            Self::Additional => None,
        }
    }
}

fn failure(error: ParseError) -> Failure {
    match error {
        ParseError::ShortInput => Failure::Truncated,
        ParseError::Form(_) => Failure::Malformed,
    }
}

/// The class without the bit that multicast DNS adds: "answer to me alone" in a question, "forget
/// what you knew" in a record (RFC 6762, sections 5.4 and 10.2).
fn class(class: Class) -> Class {
    Class::from_int(class.to_int() & 0x7fff)
}

fn is_class(asked: Class) -> bool {
    matches!(
        class(asked),
        Class::IN | Class::CH | Class::HS | Class::NONE | Class::ANY
    )
}

fn ttl(record: &Record<'_>) -> u32 {
    let ttl = record.ttl().as_secs();
    if ttl > i32::MAX.unsigned_abs() {
        0
    } else {
        ttl
    }
}

fn data<'m, D: ParseRecordData<'m, [u8]>>(record: &Record<'m>) -> Result<D, Failure> {
    match record.to_record::<D>() {
        Ok(Some(record)) => Ok(record.into_data()),
        // The record is whole, its data is not: that is no matter of what may still come.
        Ok(None) | Err(_) => Err(Failure::Malformed),
    }
}

/// The data of a record of any type, as it is.
struct Opaque<'m> {
    kind: Rtype,
    octets: &'m [u8],
}

impl RecordData for Opaque<'_> {
    fn rtype(&self) -> Rtype {
        self.kind
    }
}

impl<'m> ParseRecordData<'m, [u8]> for Opaque<'m> {
    fn parse_rdata(kind: Rtype, parser: &mut Parser<'m, [u8]>) -> Result<Option<Self>, ParseError> {
        let octets = parser.parse_octets(parser.remaining())?;
        Ok(Some(Self { kind, octets }))
    }
}

fn find<'a, 'm>(asked: &'a [Asked<'m>], name: &Name<'m>) -> Option<&'a Asked<'m>> {
    asked.iter().find(|asked| is_same(&asked.name, name))
}

/// Whether two names of one message are the same, which is told at once where they stand at the
/// same place.
fn is_same(one: &Name<'_>, other: &Name<'_>) -> bool {
    one.compose_len() == other.compose_len()
        && (matches!(
            (one.as_flat_slice(), other.as_flat_slice()),
            (Some(one), Some(other)) if std::ptr::eq(one, other)
        ) || one.name_eq(other))
}

/// The addresses in a hint; none if its length is no multiple of theirs.
fn hinted(key: SvcParamKey, value: &[u8]) -> impl Iterator<Item = IpAddr> {
    let (four, six) = if key == SvcParamKey::IPV4HINT {
        (value, &[][..])
    } else {
        (&[][..], value)
    };
    let four = four.as_chunks::<4>().0.iter();
    let six = six.as_chunks::<16>().0.iter();
    four.map(|octets| Ipv4Addr::from(*octets).into())
        .chain(six.map(|octets| Ipv6Addr::from(*octets).into()))
}

/// Strings that each have their length in an octet before them.
fn character_strings(mut octets: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (length, behind) = octets.split_first()?;
        let (string, rest) = behind.split_at_checked(usize::from(*length))?;
        octets = rest;
        Some(string)
    })
}

/// The instance and the type that a name under `.local` consists of: `Instance._type._tcp.local`.
fn service_name<'n>(name: &'n Name<'_>) -> Option<(Option<&'n Label>, String)> {
    let mut labels = name.iter();
    let first = labels.next()?;
    let second = labels.next()?;
    let (instance, kind, protocol) = if is_protocol(second) {
        (None, first, second)
    } else {
        (Some(first), second, labels.next()?)
    };
    let local = labels.next()?.as_slice().eq_ignore_ascii_case(b"local");
    if !local || !labels.next()?.is_root() || !is_protocol(protocol) {
        return None;
    }
    let kind = kind.as_slice().strip_prefix(b"_")?;
    let mut text = "_".to_owned();
    escape(kind, b"", &mut text);
    text.push('.');
    escape(protocol.as_slice(), b"", &mut text);
    text.make_ascii_lowercase();
    Some((instance, text))
}

/// The one label that a host's name under `.local` has before it.
fn host_label<'n>(name: &'n Name<'_>) -> Option<&'n Label> {
    let mut labels = name.iter();
    let host = labels.next().filter(|label| !label.is_root())?;
    let local = labels.next()?.as_slice().eq_ignore_ascii_case(b"local");
    (local && labels.next()?.is_root()).then_some(host)
}

fn is_protocol(label: &Label) -> bool {
    let label = label.as_slice();
    label.eq_ignore_ascii_case(b"_tcp") || label.eq_ignore_ascii_case(b"_udp")
}

/// An item of a TXT record: `key=value`, `key` (RFC 6763, section 6.4).
fn item(octets: &[u8]) -> (String, String) {
    let (key, value) = match octets.iter().position(|octet| *octet == b'=') {
        Some(place) => (&octets[..place], &octets[place + 1..]),
        None => (octets, &[][..]),
    };
    (
        readable(key, MAX_STRING).to_ascii_lowercase(),
        readable(value, MAX_STRING),
    )
}

/// Writes octets as they are if they are host-name characters or among `also`, `\DDD` otherwise.
fn escape(octets: &[u8], also: &[u8], text: &mut String) {
    let plain = |octet: &u8| {
        octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_') || also.contains(octet)
    };
    if octets.iter().all(plain)
        && let Ok(whole) = str::from_utf8(octets)
    {
        text.push_str(whole);
        return;
    }
    for octet in octets {
        if plain(octet) {
            text.push(char::from(*octet));
        } else {
            // Writing to a string does not fail.
            let _ = write!(text, "\\{octet:03}");
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ANSWER: u16 = 0x8180;
    const A: u16 = 1;
    const CNAME: u16 = 5;
    const SOA: u16 = 6;
    const PTR: u16 = 12;
    const MX: u16 = 15;
    const TXT: u16 = 16;
    const AAAA: u16 = 28;
    const SRV: u16 = 33;
    const OPT: u16 = 41;
    const SVCB: u16 = 64;
    const HTTPS: u16 = 65;
    const ANY: u16 = 255;

    /// A message in the making.
    #[derive(Clone)]
    struct Packet(Vec<u8>);

    impl Packet {
        fn new(flags: u16) -> Self {
            Self([&[0x12, 0x34][..], &flags.to_be_bytes(), &[0; 8]].concat())
        }

        /// One more in the section: 0 questions, 1 answers, 2 authority, 3 additional.
        fn count(&mut self, section: usize) {
            let place = 4 + 2 * section;
            let count = u16::from_be_bytes([self.0[place], self.0[place + 1]]) + 1;
            self.0[place..place + 2].copy_from_slice(&count.to_be_bytes());
        }

        fn question(mut self, name: &[u8], kind: u16) -> Self {
            self.count(0);
            self.0.extend_from_slice(name);
            self.0.extend_from_slice(&kind.to_be_bytes());
            self.0.extend_from_slice(&[0, 1]);
            self
        }

        fn record(self, section: usize, owner: &[u8], kind: u16, data: &[u8]) -> Self {
            self.record_of_class(section, owner, kind, 1, data)
        }

        fn record_of_class(
            mut self,
            section: usize,
            owner: &[u8],
            kind: u16,
            class: u16,
            data: &[u8],
        ) -> Self {
            self.count(section);
            self.0.extend_from_slice(owner);
            self.0.extend_from_slice(&kind.to_be_bytes());
            self.0.extend_from_slice(&class.to_be_bytes());
            self.0.extend_from_slice(&[0, 0, 1, 44]);
            let length = u16::try_from(data.len()).expect("the data is short");
            self.0.extend_from_slice(&length.to_be_bytes());
            self.0.extend_from_slice(data);
            self
        }
    }

    /// A name of labels without dots in them.
    fn name(text: &str) -> Vec<u8> {
        let mut octets = Vec::new();
        for label in text.split('.').filter(|label| !label.is_empty()) {
            octets.push(u8::try_from(label.len()).expect("a label is short"));
            octets.extend_from_slice(label.as_bytes());
        }
        octets.push(0);
        octets
    }

    fn pointer(place: usize) -> Vec<u8> {
        let place = u16::try_from(place).expect("the message is short");
        (0xc000 | place).to_be_bytes().to_vec()
    }

    const ASKED: [u8; 2] = [0xc0, 12];

    fn read(packet: &Packet) -> Message {
        message(&packet.0).expect("the message is right")
    }

    /// The addresses as `name address`.
    fn aliases(message: &Message) -> Vec<String> {
        let aliases = message.aliases.iter();
        aliases
            .map(|alias| format!("{} {}", alias.name, alias.target))
            .collect()
    }

    fn addresses(message: &Message) -> Vec<String> {
        let records = message.addresses.iter();
        records
            .map(|record| format!("{} {}", record.name, record.address))
            .collect()
    }

    #[test]
    fn a_question_as_a_phone_asks_it() {
        let packet = Packet::new(0x0100)
            .question(&name("Tracking.Intl.MIUI.com"), AAAA)
            .record(3, &[0], OPT, &[]);
        let message = read(&packet);
        assert_eq!(message.id, 0x1234);
        assert!(!message.response);
        assert_eq!(
            message.questions,
            [Question {
                name: "tracking.intl.miui.com".to_owned(),
                kind: AAAA
            }]
        );
        assert_eq!(message.partial, None);
    }

    #[test]
    fn the_flags_come_out() {
        let packet = Packet::new(0x8180 | 0x0200 | 3).question(&name("a.example"), A);
        let message = read(&packet);
        assert!(message.response && message.truncated);
        assert_eq!(message.rcode, 3);
        assert_eq!(read(&Packet::new(0x8181)).rcode, 1, "a header alone");
    }

    #[test]
    fn an_alias_leads_back_to_the_name_that_was_asked() {
        let packet = Packet::new(ANSWER).question(&name("www.example.com"), A);
        let target = packet.0.len() + 12;
        let packet = packet
            .record(1, &ASKED, CNAME, &name("Edge.CDN.example"))
            .record(1, &pointer(target), A, &[192, 0, 2, 1])
            .record(
                1,
                &pointer(target),
                AAAA,
                &[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
            );
        let message = read(&packet);
        assert_eq!(
            addresses(&message),
            ["www.example.com 192.0.2.1", "www.example.com 2001:db8::1"]
        );
        assert_eq!(aliases(&message), ["www.example.com edge.cdn.example"]);
        assert_eq!(message.addresses[0].ttl, 300);
        assert_eq!(
            message.answers,
            ["edge.cdn.example", "192.0.2.1", "2001:db8::1"]
        );
    }

    #[test]
    fn a_chain_of_eight_in_any_order() {
        let host = |number: usize| name(&format!("H{number}.example"));
        for reversed in [false, true] {
            let mut packet = Packet::new(ANSWER).question(&name("h0.example"), A).record(
                1,
                &host(8),
                A,
                &[192, 0, 2, 8],
            );
            for step in 0..8 {
                let step = if reversed { 7 - step } else { (step * 3) % 8 };
                packet = packet.record(1, &host(step), CNAME, &host(step + 1));
            }
            let message = read(&packet);
            assert_eq!(addresses(&message), ["h0.example 192.0.2.8"]);
            let chain = [1, 2, 3, 4, 5, 6, 7, 8].map(|step| format!("h0.example h{step}.example"));
            assert_eq!(aliases(&message), chain);
        }
    }

    #[test]
    fn a_ring_of_aliases_ends() {
        let packet = Packet::new(ANSWER)
            .question(&name("a.example"), A)
            .record(1, &name("a.example"), CNAME, &name("b.example"))
            .record(1, &name("b.example"), CNAME, &name("a.example"))
            .record(1, &name("b.example"), A, &[192, 0, 2, 1]);
        assert_eq!(addresses(&read(&packet)), ["a.example 192.0.2.1"]);
    }

    #[test]
    fn what_was_not_asked_gives_no_address() {
        let packet = Packet::new(ANSWER)
            .question(&name("a.example"), A)
            .record(1, &name("bank.example"), A, &[192, 0, 2, 66])
            .record(3, &name("ns.example"), A, &[192, 0, 2, 53])
            .record_of_class(1, &ASKED, A, 3, &[192, 0, 2, 3]);
        let packet = packet.record(1, &name("bank.example"), CNAME, &name("pay.example"));
        let message = read(&packet);
        assert_eq!(addresses(&message), [""; 0]);
        assert_eq!(aliases(&message), [""; 0]);
        assert_eq!(message.answers[0], "192.0.2.66");
    }

    #[test]
    fn a_query_that_brings_answers_gives_none() {
        let packet = Packet::new(0x0100).question(&name("a.example"), A).record(
            1,
            &ASKED,
            A,
            &[192, 0, 2, 1],
        );
        let message = read(&packet);
        assert_eq!((message.addresses.len(), message.answers.len()), (0, 0));
    }

    #[test]
    fn https_records_give_hints_aliases_and_ech() {
        let parameters = [
            &[0, 1, 0, 6, 2, b'h', b'3', 2, b'h', b'2'][..], // alpn
            &[0, 3, 0, 2, 0x20, 0xfb],                       // port
            &[0, 4, 0, 8, 192, 0, 2, 1, 192, 0, 2, 2],       // ipv4hint
            &[0, 5, 0, 4, 0xfe, 0x0d, 0, 0],                 // ech
            &[
                0, 6, 0, 16, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9,
            ], // ipv6hint
        ]
        .concat();
        let service = [&[0, 1, 0][..], &parameters].concat();
        let packet = Packet::new(ANSWER)
            .question(&name("ech.example"), HTTPS)
            .record(1, &ASKED, HTTPS, &service);
        let message = read(&packet);
        assert!(message.ech);
        assert_eq!(
            addresses(&message),
            [
                "ech.example 192.0.2.1",
                "ech.example 192.0.2.2",
                "ech.example 2001:db8::9"
            ]
        );
        assert_eq!(
            message.answers,
            ["1 . alpn=h3,h2 port=8443 ipv4hint=192.0.2.1,192.0.2.2 ech ipv6hint=2001:db8::9"]
        );

        let alias = [&[0, 0][..], &name("pool.example")].concat();
        let packet = Packet::new(ANSWER)
            .question(&name("www.example"), HTTPS)
            .record(1, &ASKED, HTTPS, &alias)
            .record(3, &name("pool.example"), A, &[192, 0, 2, 7]);
        let message = read(&packet);
        assert!(!message.ech);
        assert_eq!(addresses(&message), ["www.example 192.0.2.7"]);

        // A service of another name tells nothing of the name that was asked.
        let packet = Packet::new(ANSWER)
            .question(&name("www.example"), HTTPS)
            .record(1, &name("other.example"), HTTPS, &service);
        let message = read(&packet);
        assert_eq!((message.ech, message.addresses.len()), (false, 0));
    }

    #[test]
    fn services_are_shown_by_the_host_that_serves() {
        // A resolver that tells of its encrypted siblings (RFC 9462).
        let service = [
            &[0, 1][..],
            &name("dns.example"),
            &[0, 4, 0, 4, 192, 0, 2, 53],
        ]
        .concat();
        let packet = Packet::new(ANSWER)
            .question(&name("_dns.resolver.arpa"), SVCB)
            .record(1, &ASKED, SVCB, &service);
        assert_eq!(addresses(&read(&packet)), ["dns.example 192.0.2.53"]);

        let srv = [&[0, 5, 0, 0, 0x14, 0x66][..], &name("xmpp.example")].concat();
        let packet = Packet::new(ANSWER)
            .question(&name("_xmpp-client._tcp.example"), SRV)
            .record(1, &ASKED, SRV, &srv)
            .record(3, &name("xmpp.example"), A, &[192, 0, 2, 22]);
        let message = read(&packet);
        assert_eq!(addresses(&message), ["xmpp.example 192.0.2.22"]);
        assert_eq!(message.answers, ["5 0 5222 xmpp.example"]);
        assert_eq!(message.services, []);
    }

    #[test]
    fn the_text_of_answers() {
        let numbers = [1u32, 2, 3, 4, 5].map(u32::to_be_bytes).concat();
        for (kind, data, text) in [
            (2, name("NS.example"), "ns.example"),
            (39, name("d.example"), "d.example"),
            (PTR, name("p.example"), "p.example"),
            (
                MX,
                [vec![0, 10], name("mx.example")].concat(),
                "10 mx.example",
            ),
            (
                TXT,
                b"\x0av=spf1 all\x04a\"\x07\\".to_vec(),
                "\"v=spf1 all\" \"a\\034\\007\\092\"",
            ),
            (
                SOA,
                [name("ns.example"), name("admin.example"), numbers].concat(),
                "ns.example admin.example 1 2 3 4 5",
            ),
            (99, vec![0xab; 2], "\\# 2 abab"),
            (65_280, vec![], "\\# 0 "),
        ] {
            let packet = Packet::new(ANSWER)
                .question(&name("a.example"), ANY)
                .record(1, &ASKED, kind, &data);
            assert_eq!(read(&packet).answers, [text], "{kind}");
        }
    }

    #[test]
    fn names_are_escaped() {
        for (wire, text) in [
            (&b"\x04a b.\x01\xff\x00"[..], "a\\032b\\046.\\255"),
            (b"\x03\x01\x02\x03\x02cn\x00", "\\001\\002\\003.cn"),
            (b"\x01*\x05MiXeD\x00", "\\042.mixed"),
            (b"\x04_dns\x00", "_dns"),
            (b"\x00", "."),
        ] {
            let packet = Packet::new(0x0100).question(wire, A);
            assert_eq!(read(&packet).questions[0].name, text);
        }
    }

    #[test]
    fn kinds_have_names() {
        for (kind, name) in [
            (A, "A"),
            (HTTPS, "HTTPS"),
            (ANY, "ANY"),
            (65_280, "TYPE65280"),
        ] {
            assert_eq!(kind_name(kind), name);
        }
    }

    #[test]
    fn a_name_has_at_most_255_octets() {
        let label = "x".repeat(63);
        let longest = format!("{label}.{label}.{label}.{}", "y".repeat(61));
        let packet = Packet::new(0x0100).question(&name(&longest), A);
        assert_eq!(read(&packet).questions[0].name, longest);
        let packet = Packet::new(0x0100).question(&name(&format!("{longest}y")), A);
        assert_eq!(message(&packet.0), Err(Failure::Malformed));
    }

    #[test]
    fn pointers_lead_backwards_or_the_message_is_refused() {
        let asked = Packet::new(ANSWER).question(&name("a.example"), A);
        let here = asked.0.len();
        for owner in [
            pointer(here),                             // itself
            pointer(here + 2),                         // forward
            pointer(0x3fff),                           // beyond the end
            [&[1, b'a'][..], &pointer(here)].concat(), // round and round
        ] {
            let packet = asked.clone().record(1, &owner, A, &[192, 0, 2, 1]);
            assert_eq!(message(&packet.0), Err(Failure::Malformed), "{owner:?}");
        }
        for question in [pointer(12), pointer(14), vec![0x40, 0], vec![0x80, 0]] {
            let packet = Packet::new(0x0100).question(&question, A);
            assert_eq!(message(&packet.0), Err(Failure::Malformed), "{question:?}");
        }
        // In the data of a record, only that record is lost.
        let packet =
            asked
                .record(1, &ASKED, CNAME, &pointer(0x3fff))
                .record(1, &ASKED, A, &[192, 0, 2, 1]);
        let message = read(&packet);
        assert_eq!(message.partial, Some(Failure::Malformed));
        assert_eq!(addresses(&message), ["a.example 192.0.2.1"]);
    }

    #[test]
    fn a_bomb_costs_no_more_than_its_bounds() {
        // Each name is the one before with a label more, all told by two octets and a pointer.
        let mut packet = Packet::new(ANSWER).question(&name("x"), A);
        let mut target = 12;
        for _ in 0..200 {
            let place = packet.0.len();
            packet = packet.record(1, &[&[1, b'x'][..], &pointer(target)].concat(), PTR, &ASKED);
            target = place;
        }
        assert_eq!(
            message(&packet.0),
            Err(Failure::Malformed),
            "127 labels are all"
        );

        // Many names of 253 octets, each escaped to four times that.
        let label = [&[63][..], &[0xff; 63]].concat();
        let long = [&label[..], &label, &label, &[59], &[0xff; 59], &[0]].concat();
        let mut packet = Packet::new(ANSWER).question(&long, PTR);
        for _ in 0..400 {
            packet = packet.record(1, &ASKED, PTR, &ASKED);
        }
        let message = read(&packet);
        assert_eq!(message.partial, Some(Failure::Limit));
        let text: usize = message.answers.iter().map(String::len).sum();
        assert!(text <= MAX_TEXT);
    }

    #[test]
    fn counts_are_only_claims() {
        let mut packet = Packet::new(ANSWER).question(&name("a.example"), A).record(
            1,
            &ASKED,
            A,
            &[192, 0, 2, 1],
        );
        packet.0[6..8].copy_from_slice(&10_000u16.to_be_bytes());
        let message = read(&packet);
        assert_eq!(message.partial, Some(Failure::Truncated));
        assert_eq!(addresses(&message), ["a.example 192.0.2.1"]);

        let mut packet = Packet::new(0x0100).question(&name("a.example"), A);
        packet.0[4..6].copy_from_slice(&10_000u16.to_be_bytes());
        assert_eq!(super::message(&packet.0), Err(Failure::Limit));

        let mut packet = Packet::new(ANSWER).question(&name("a.example"), A);
        for _ in 0..MAX_RECORDS + 5 {
            packet = packet.record(1, &ASKED, A, &[192, 0, 2, 1]);
        }
        let message = read(&packet);
        assert_eq!(message.partial, Some(Failure::Limit));
        assert_eq!(message.addresses.len(), MAX_RECORDS);
    }

    #[test]
    fn a_bad_record_does_not_hide_the_others() {
        let packet = Packet::new(ANSWER)
            .question(&name("a.example"), A)
            .record(1, &ASKED, A, &[192, 0, 2])
            .record(1, &ASKED, A, &[192, 0, 2, 1]);
        let message = read(&packet);
        assert_eq!(message.partial, Some(Failure::Malformed));
        assert_eq!(addresses(&message), ["a.example 192.0.2.1"]);
    }

    #[test]
    fn what_is_no_dns_is_refused() {
        let mut class = Packet::new(0x0100).question(&name("a.example"), A);
        let end = class.0.len();
        class.0[end - 1] = 9;
        for (octets, failure) in [
            (&b""[..], Failure::Truncated),
            (&[0; 11], Failure::Truncated),
            (&[0; 12], Failure::Malformed),
            (&[0xff; 64], Failure::Unsupported),
            (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", Failure::Unsupported),
            (&class.0, Failure::Malformed),
        ] {
            assert_eq!(message(octets), Err(failure), "{octets:?}");
        }
    }

    #[test]
    fn a_dynamic_update_names_what_it_sets() {
        let packet = Packet::new(0x2800).question(&name("home.example"), SOA);
        let device = name("PC.home.example");
        let packet = packet
            .record_of_class(1, &device, CNAME, 254, &[])
            .record_of_class(2, &device, A, 255, &[])
            .record(2, &device, A, &[192, 168, 1, 106]);
        let message = read(&packet);
        assert_eq!(message.opcode, 5);
        assert_eq!(message.questions[0].name, "home.example");
        assert_eq!(
            message.updates,
            [None, Some("192.168.1.106")].map(|address| Update {
                name: "pc.home.example".to_owned(),
                kind: A,
                address: address.map(|address| address.parse().expect("an address")),
            })
        );
        assert_eq!(message.addresses, []);
        assert_eq!(message.partial, None);
    }

    #[test]
    fn multicast_answers_tell_hosts_and_services() {
        const FLUSH: u16 = 0x8001;
        let instance = [&[11][..], b"Living Room", &name("_AirPlay._tcp.local")].concat();
        let host = name("Apple-TV.local");
        let srv = [&[0, 0, 0, 0, 0x1b, 0x58][..], &host].concat();
        let packet = Packet::new(0x8400)
            .record(
                1,
                &name("_services._dns-sd._udp.local"),
                PTR,
                &name("_raop._tcp.local"),
            )
            .record(1, &name("_airplay._tcp.local"), PTR, &instance)
            .record_of_class(3, &instance, SRV, FLUSH, &srv)
            .record_of_class(
                3,
                &instance,
                TXT,
                FLUSH,
                b"\x10Model=AppleTV5,3\x02pk\x04x=\x1b\xff\x00",
            )
            .record_of_class(3, &host, A, FLUSH, &[192, 168, 1, 20]);
        let message = read(&packet);
        assert_eq!(addresses(&message), ["apple-tv.local 192.168.1.20"]);
        assert_eq!(
            message.services,
            [
                Service {
                    kind: "_raop._tcp".to_owned(),
                    ..Service::default()
                },
                Service {
                    instance: "Living Room".to_owned(),
                    kind: "_airplay._tcp".to_owned(),
                    host: Some("apple-tv.local".to_owned()),
                    text: [("model", "AppleTV5,3"), ("pk", ""), ("x", "ÿ")]
                        .map(|(key, value)| (key.to_owned(), value.to_owned()))
                        .into(),
                },
            ]
        );
        assert_eq!(
            message.answers,
            ["_raop._tcp.local", "living\\032room._airplay._tcp.local"]
        );
    }

    #[test]
    fn a_multicast_question_may_ask_for_an_answer_to_itself_alone() {
        let mut packet = Packet::new(0).question(&name("Annas-iPhone.local"), ANY);
        let end = packet.0.len();
        packet.0[end - 2] = 0x80;
        assert_eq!(read(&packet).questions[0].name, "annas-iphone.local");
    }

    #[test]
    fn services_are_bounded() {
        let mut packet = Packet::new(0x8400);
        for number in 0..MAX_SERVICES + 1 {
            let target = name(&format!("i{number}._x._tcp.local"));
            packet = packet.record(1, &name("_x._tcp.local"), PTR, &target);
        }
        let message = read(&packet);
        assert_eq!(message.services.len(), MAX_SERVICES);
        assert_eq!(message.answers.len(), MAX_SERVICES + 1);
        assert_eq!(message.partial, Some(Failure::Limit));
    }

    #[test]
    fn a_stream_is_cut_into_messages() {
        let message = Packet::new(0x0100).question(&name("a.example"), A).0;
        let length = u16::try_from(message.len()).expect("it is short");
        let frame = [&length.to_be_bytes()[..], &message].concat();
        let stream = [&frame[..], &frame, &frame[..frame.len() - 1]].concat();
        let mut frames = framed(&stream);
        assert_eq!(frames.next(), Some(Ok(&message[..])));
        assert_eq!(frames.next(), Some(Ok(&message[..])));
        assert_eq!(frames.next(), None);
        assert_eq!(frames.rest(), &frame[..frame.len() - 1]);

        let mut frames = framed(&[0, 11, 1, 2]);
        assert_eq!(frames.next(), Some(Err(Failure::Malformed)));
        assert_eq!(frames.next(), None);
        for length in 0..frame.len() {
            assert_eq!(framed(&frame[..length]).next(), None, "{length}");
        }
    }

    /// Messages with all that is read, to be cut and changed.
    fn samples() -> Vec<Vec<u8>> {
        let instance = name("i._x._tcp.local");
        let srv = [&[0, 0, 0, 0, 0, 80][..], &name("h.local")].concat();
        let service = [
            &[0, 1, 0][..],
            &[0, 1, 0, 3, 2, b'h', b'2', 0, 4, 0, 4, 192, 0, 2, 1],
        ]
        .concat();
        vec![
            Packet::new(ANSWER)
                .question(&name("www.example.com"), A)
                .record(1, &ASKED, CNAME, &name("cdn.example"))
                .record(1, &pointer(45), A, &[192, 0, 2, 1])
                .record(1, &ASKED, HTTPS, &service)
                .record(3, &[0], OPT, &[])
                .0,
            Packet::new(0x8400)
                .record(1, &name("_x._tcp.local"), PTR, &instance)
                .record(1, &instance, SRV, &srv)
                .record(3, &instance, TXT, b"\x03a=b")
                .record(3, &name("h.local"), A, &[192, 0, 2, 1])
                .0,
            Packet::new(0x2800)
                .question(&name("example"), SOA)
                .record(2, &name("h.example"), A, &[192, 0, 2, 1])
                .0,
        ]
    }

    #[test]
    fn the_start_of_a_message_gives_no_more_than_the_whole() {
        for sample in samples() {
            let whole = message(&sample).expect("the samples are right");
            for length in 0..sample.len() {
                if let Ok(part) = message(&sample[..length]) {
                    assert_eq!(part.questions, whole.questions);
                    assert!(part.answers.len() <= whole.answers.len());
                    assert!(
                        part.addresses
                            .iter()
                            .all(|record| whole.addresses.contains(record))
                    );
                }
            }
        }
    }

    fn is_safe(message: &Message) -> bool {
        let names = message.questions.iter().map(|question| &question.name);
        let names = names.chain(message.addresses.iter().map(|record| &record.name));
        let names = names.chain(message.updates.iter().map(|update| &update.name));
        let plain = |octet: u8| octet.is_ascii_graphic() && !octet.is_ascii_uppercase();
        names
            .into_iter()
            .all(|name| !name.is_empty() && name.len() <= 4 * 255 && name.bytes().all(plain))
            && !message.answers.concat().chars().any(char::is_control)
            && message.services.len() <= MAX_SERVICES
    }

    proptest! {
        #[test]
        fn any_octets_are_safe(octets in prop::collection::vec(any::<u8>(), 0..600)) {
            if let Ok(message) = message(&octets) {
                prop_assert!(is_safe(&message));
            }
        }

        #[test]
        fn changed_messages_are_safe(
            sample in prop::sample::select(samples()),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        ) {
            let mut octets = sample;
            for (place, octet) in changes {
                let place = place.index(octets.len());
                octets[place] = octet;
            }
            if let Ok(message) = message(&octets) {
                prop_assert!(is_safe(&message));
            }
        }
    }
}
