//! Attempts by the hundred at the lab's sites, in one process: each says whether it was answered,
//! refused, or met with silence, and how long that took. A line of JSON for each goes to standard
//! output.
//!
//! Every attempt is a connection of its own, from a port of its own, to an address that is given:
//! no name is asked for on the way.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use bytes::Buf;
use clap::{Parser, ValueEnum};
use http::{Method, Request};
use quinn::{
    ClientConfig, Endpoint, EndpointConfig, TokioRuntime, TransportConfig,
    crypto::rustls::QuicClientConfig,
};
use rustls::{
    ClientConnection, RootCertStore,
    client::Resumption,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use serde::Serialize;
use serde_json::json;

#[derive(Parser)]
struct Arguments {
    /// By which way
    #[arg(long, value_enum)]
    path: Way,
    /// How many at each target
    #[arg(long)]
    count: u64,
    /// How many at a time
    #[arg(long, default_value_t = 4)]
    parallel: usize,
    /// How long one may take before it counts as met with silence, milliseconds
    #[arg(long, default_value_t = 2_000)]
    limit: u64,
    /// How the hello of HTTP/3 is said, and when
    #[arg(long, value_enum, default_value_t = Quic::Plain)]
    quic: Quic,
    /// The seed of the random numbers
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The certificate to trust, PEM
    #[arg(long)]
    authority: PathBuf,
    /// Milliseconds from the begin of one attempt to the next at least
    #[arg(long, default_value_t = 0)]
    pace: u64,
    /// NAME@ADDRESS, or @ADDRESS for an attempt that tells no name; tried in turn. HTTP/3 takes
    /// ADDRESS:PORT too
    #[arg(required = true)]
    targets: Vec<Target>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Way {
    /// A question to the name server at the address: A, AAAA, HTTPS, in mixed case, with EDNS
    Dns,
    /// A TLS hello in one segment
    Tls,
    /// A TLS hello with a post-quantum key share, in two writes, split anywhere
    TlsSplit,
    /// The same in three writes
    TlsThrice,
    /// HTTP/3
    Quic,
    /// HTTP/3, with a post-quantum key share, so that the hello takes two Initials
    QuicSplit,
    /// HTTP
    Http,
    /// HTTP; the request in two writes, split before its host or in it
    HttpLate,
    /// HTTP; a request for an address before the one for the name, in the same write
    HttpBehind,
    /// A question to the name server at the address over TCP, in two writes
    DnsTcp,
}

/// How the name is hidden from readers of Initials.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Quic {
    /// Nothing
    Plain,
    /// A hello of four Initials
    Long,
    /// A visit, and another with early data (0-RTT) after a line on standard input
    Early,
    /// A visit that goes on by another port after a line on standard input
    Migrate,
}

#[derive(Clone)]
struct Target {
    /// Empty: none is told.
    name: String,
    address: IpAddr,
    /// Where HTTP/3 is asked for.
    port: u16,
}

impl FromStr for Target {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, address) = text
            .split_once('@')
            .context("no @ between name and address")?;
        let at = match address.parse::<SocketAddr>() {
            Ok(at) => at,
            Err(_) => SocketAddr::new(address.parse()?, 443),
        };
        Ok(Self {
            name: name.to_owned(),
            address: at.ip(),
            port: at.port(),
        })
    }
}

impl Target {
    /// The value of `Host`.
    fn host(&self) -> String {
        match (self.name.as_str(), self.address) {
            ("", IpAddr::V4(address)) => address.to_string(),
            ("", IpAddr::V6(address)) => format!("[{address}]"),
            (name, _) => name.to_owned(),
        }
    }
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Outcome {
    /// With the reply that it asked for.
    Answered,
    /// By RST, ICMP, NXDOMAIN or an address of zeros.
    Refused,
    /// By the limit.
    Silent,
    /// By anything else.
    Failed,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let clients = Clients::new(&arguments)?;
    let next = AtomicU64::new(0);
    let all = arguments.count * arguments.targets.len() as u64;
    let begin = Instant::now();
    thread::scope(|scope| {
        let workers: Vec<_> = (0..arguments.parallel)
            .map(|_| {
                scope.spawn(|| -> Result<()> {
                    let runtime = tokio::runtime::Builder::new_current_thread()
                        .enable_all()
                        .build()?;
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= all {
                            return Ok(());
                        }
                        let due = Duration::from_millis(number * arguments.pace);
                        thread::sleep(due.saturating_sub(begin.elapsed()));
                        let place = number as usize % arguments.targets.len();
                        let target = &arguments.targets[place];
                        let begun = Instant::now();
                        let ended = clients.attempt(target, number, &runtime);
                        let (outcome, detail) = judged(ended);
                        let line = json!({
                            "target": place,
                            "number": number,
                            "outcome": outcome,
                            "ms": begun.elapsed().as_secs_f64() * 1e3,
                            "detail": detail,
                        });
                        writeln!(io::stdout(), "{line}")?;
                    }
                })
            })
            .collect();
        for worker in workers {
            match worker.join() {
                Ok(done) => done?,
                Err(_) => bail!("an attempt panicked"),
            }
        }
        Ok(())
    })
}

/// A server said no; as an error, because that is how refusals come otherwise.
#[derive(Debug)]
struct Refusal(&'static str);

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Refusal {}

/// The limit has passed.
#[derive(Debug)]
struct Late;

impl std::fmt::Display for Late {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the limit has passed")
    }
}

impl std::error::Error for Late {}

fn judged(ended: Result<()>) -> (Outcome, String) {
    let Err(error) = ended else {
        return (Outcome::Answered, String::new());
    };
    let outcome = error
        .chain()
        .find_map(|cause| {
            if cause.is::<Refusal>() {
                return Some(Outcome::Refused);
            }
            if cause.is::<Late>() {
                return Some(Outcome::Silent);
            }
            match cause.downcast_ref::<io::Error>()?.kind() {
                ErrorKind::ConnectionReset
                | ErrorKind::ConnectionRefused
                | ErrorKind::BrokenPipe
                | ErrorKind::HostUnreachable
                | ErrorKind::NetworkUnreachable => Some(Outcome::Refused),
                ErrorKind::TimedOut | ErrorKind::WouldBlock => Some(Outcome::Silent),
                _ => None,
            }
        })
        .unwrap_or(Outcome::Failed);
    (outcome, format!("{error:#}"))
}

struct Clients {
    way: Way,
    seed: u64,
    limit: Duration,
    tls: Arc<rustls::ClientConfig>,
    quic: ClientConfig,
    hiding: Quic,
}

impl Clients {
    fn new(arguments: &Arguments) -> Result<Self> {
        // Only aws-lc-rs has the post-quantum exchange; with ring a hello fits into one segment.
        let provider = match arguments.path {
            Way::TlsSplit | Way::TlsThrice => rustls::crypto::aws_lc_rs::default_provider(),
            _ => rustls::crypto::ring::default_provider(),
        };
        let tls = Arc::new(tls_configuration(provider, &arguments.authority)?);
        let provider = match arguments.path {
            Way::QuicSplit => rustls::crypto::aws_lc_rs::default_provider(),
            _ => rustls::crypto::ring::default_provider(),
        };
        let mut quic = tls_configuration(provider, &arguments.authority)?;
        quic.alpn_protocols = vec![b"h3".to_vec()];
        match arguments.quic {
            Quic::Plain | Quic::Migrate => {}
            // The server takes the first that it knows.
            Quic::Long => quic
                .alpn_protocols
                .extend((0..20).map(|number| format!("{number:0200}").into_bytes())),
            Quic::Early => {
                quic.resumption = Resumption::in_memory_sessions(8);
                quic.enable_early_data = true;
            }
        }
        let mut quic = ClientConfig::new(Arc::new(QuicClientConfig::try_from(quic)?));
        let mut transport = TransportConfig::default();
        // Lost packets are sent again several times within the limit.
        transport.initial_rtt(Duration::from_millis(20));
        quic.transport_config(Arc::new(transport));
        Ok(Self {
            way: arguments.path,
            seed: arguments.seed,
            limit: Duration::from_millis(arguments.limit),
            tls,
            quic,
            hiding: arguments.quic,
        })
    }

    fn attempt(
        &self,
        target: &Target,
        number: u64,
        runtime: &tokio::runtime::Runtime,
    ) -> Result<()> {
        let chance = &mut Chance(self.seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        match self.way {
            Way::Dns => self.dns(target, number, chance),
            Way::DnsTcp => self.dns_over_tcp(target, number, chance),
            Way::Http => self.http(target, &[&request(target, number)]),
            Way::HttpLate => {
                let request = request(target, number);
                let host = request.find("Host: ").context("no host")?;
                let end = host + "Host: ".len() + target.host().len();
                let (first, rest) = request.split_at(1 + chance.below(end - 1));
                self.http(target, &[first, rest])
            }
            Way::HttpBehind => {
                let address = Target {
                    name: String::new(),
                    ..target.clone()
                };
                let first = format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", address.host());
                self.http(target, &[&(first + &request(target, number))])
            }
            Way::Tls => self.tls(target, number, 1, chance),
            Way::TlsSplit => self.tls(target, number, 2, chance),
            Way::TlsThrice => self.tls(target, number, 3, chance),
            Way::Quic | Way::QuicSplit => {
                let limit = match self.hiding {
                    Quic::Plain | Quic::Long => self.limit,
                    // Somebody else's line comes in between.
                    Quic::Early | Quic::Migrate => Duration::from_mins(1),
                };
                runtime.block_on(async {
                    let socket = quic_socket(target)?;
                    let errors = socket.try_clone()?;
                    tokio::select! {
                        ended = self.quic(socket, target, number) => ended,
                        told = told(&errors) => Err(told),
                        () = tokio::time::sleep(limit) => Err(Late.into()),
                    }
                })
            }
        }
    }

    fn connect(&self, target: &Target, port: u16) -> Result<TcpStream> {
        let address = SocketAddr::new(target.address, port);
        let stream = TcpStream::connect_timeout(&address, self.limit)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(self.limit))?;
        stream.set_write_timeout(Some(self.limit))?;
        Ok(stream)
    }

    fn http(&self, target: &Target, writes: &[&str]) -> Result<()> {
        let mut stream = self.connect(target, 80)?;
        for text in writes {
            stream.write_all(text.as_bytes())?;
        }
        let mut page = Vec::new();
        stream.read_to_end(&mut page)?;
        is_page(&page, target, "TCP")
    }

    /// With the hello in so many writes.
    fn tls(&self, target: &Target, number: u64, writes: usize, chance: &mut Chance) -> Result<()> {
        let name = if target.name.is_empty() {
            ServerName::IpAddress(target.address.into())
        } else {
            ServerName::try_from(target.name.clone())?
        };
        let mut client = ClientConnection::new(Arc::clone(&self.tls), name)?;
        let mut stream = self.connect(target, 443)?;
        let mut hello = Vec::new();
        client.write_tls(&mut hello)?;
        ensure!(
            writes == 1 || hello.len() > 1_216,
            "no post-quantum share in a hello of {}",
            hello.len()
        );
        let mut rest = &hello[..];
        for left in (1..writes).rev() {
            // A byte at least for each of those that follow.
            let (first, behind) = rest.split_at(1 + chance.below(rest.len() - left));
            stream.write_all(first)?;
            rest = behind;
        }
        stream.write_all(rest)?;
        let mut tls = rustls::Stream::new(&mut client, &mut stream);
        tls.write_all(request(target, number).as_bytes())?;
        let mut page = Vec::new();
        tls.read_to_end(&mut page)?;
        is_page(&page, target, "TCP")
    }

    async fn quic(&self, socket: UdpSocket, target: &Target, number: u64) -> Result<()> {
        let endpoint = Endpoint::new(
            EndpointConfig::default(),
            None,
            socket,
            Arc::new(TokioRuntime),
        )?;
        let connecting = || {
            let address = SocketAddr::new(target.address, target.port);
            endpoint.connect_with(self.quic.clone(), address, &target.host())
        };
        let mut pages = Pages::new(connecting()?.await?).await?;
        pages.fetch(target, number).await?;
        let begun = match self.hiding {
            Quic::Plain | Quic::Long => return Ok(()),
            Quic::Early | Quic::Migrate => {
                println!("visited");
                io::stdin().read_line(&mut String::new())?;
                Instant::now()
            }
        };
        let again = async {
            if self.hiding == Quic::Migrate {
                endpoint.rebind(quic_socket(target)?)?;
                return pages.fetch(target, number + 1).await;
            }
            // A port of its own, or it would be the flow of before.
            endpoint.rebind(quic_socket(target)?)?;
            let Ok((connection, _)) = connecting()?.into_0rtt() else {
                bail!("there is no session to begin with");
            };
            Pages::new(connection)
                .await?
                .fetch(target, number + 1)
                .await
        };
        let again = tokio::time::timeout(self.limit, again).await;
        eprintln!("again after {:?}", begun.elapsed());
        again.map_err(|_| Late)?
    }

    /// Sends one question in a stream, in two writes, and looks whether it is answered.
    fn dns_over_tcp(&self, target: &Target, number: u64, chance: &mut Chance) -> Result<()> {
        let mut message = (number as u16).to_be_bytes().to_vec();
        message.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        message.extend(question(&target.name, 1, None));
        let framed = [&(message.len() as u16).to_be_bytes()[..], &message].concat();
        let mut stream = self.connect(target, 53)?;
        let (first, rest) = framed.split_at(1 + chance.below(framed.len() - 1));
        stream.write_all(first)?;
        stream.write_all(rest)?;
        let mut answer = [0; 14];
        stream.read_exact(&mut answer)?;
        let code = answer[5] & 0x0f;
        ensure!(code == 0, "code {code}");
        Ok(())
    }

    /// Sends one question in a datagram, and checks the answer.
    fn dns(&self, target: &Target, number: u64, chance: &mut Chance) -> Result<()> {
        const TYPES: [u16; 3] = [1, 28, 65];
        // All combinations come in turn, whatever the number of targets is.
        let kind = TYPES[chance.below(TYPES.len())];
        let edns = chance.below(2) == 1;
        let mixed = chance.below(2) == 1;
        let question = question(&target.name, kind, mixed.then_some(&mut *chance));
        let id = (number as u16 ^ self.seed as u16).to_be_bytes();
        let mut message = [
            &id[..],
            &[1, 0, 0, 1, 0, 0, 0, 0, 0, edns.into()],
            &question,
        ]
        .concat();
        if edns {
            // A payload of 1,232 octets, DO clear.
            message.extend([0, 0, 41, 4, 0xd0, 0, 0, 0, 0, 0, 0]);
        }
        let any = if target.address.is_ipv4() {
            "0.0.0.0:0"
        } else {
            "[::]:0"
        };
        let socket = UdpSocket::bind(any)?;
        socket.connect(SocketAddr::new(target.address, 53))?;
        socket.set_read_timeout(Some(self.limit))?;
        socket.send(&message)?;
        let mut answer = [0; 2_048];
        let length = socket.recv(&mut answer)?;
        let answer = &answer[..length];
        ensure!(
            answer.len() >= 12 + question.len(),
            "a short answer: {answer:02x?}"
        );
        let (header, rest) = answer.split_at(12);
        ensure!(header[..2] == id, "the answer to another question");
        ensure!(
            header[2] & 0xfe == 0x80 | (header[2] & 4),
            "flags: {header:02x?}"
        );
        // dnsmasq, asked twice at a time, answers both in the words of one of them; a refusal is to
        // be in our own.
        let echoed = &rest[..question.len()];
        ensure!(
            echoed == question || header[3] & 0x0f == 0 && echoed.eq_ignore_ascii_case(&question),
            "the question is not as it was: {echoed:02x?}"
        );
        let additional = u16::from_be_bytes([header[10], header[11]]);
        ensure!(
            edns == (additional > 0),
            "EDNS was asked: {edns}; {header:02x?}"
        );
        let answers = u16::from_be_bytes([header[6], header[7]]);
        match header[3] & 0x0f {
            3 => bail!(Refusal("NXDOMAIN")),
            0 if kind == 65 => Ok(()),
            0 if answers > 0 && is_zero(&rest[question.len()..]) => bail!(Refusal("zero")),
            0 if answers > 0 => Ok(()),
            code => bail!("code {code} with {answers} answers"),
        }
    }
}

/// A socket for a target alone: only a connected one hears of an ICMP message. quinn passes over
/// such messages, so that they are kept for [`told`].
///
/// A phone takes days for as many ports as are tried here in seconds, so none is taken twice: at the
/// ports of a connection that was just refused there is no other.
fn quic_socket(target: &Target) -> Result<UdpSocket> {
    const FIRST: u64 = 20_000;
    static TAKEN: AtomicU64 = AtomicU64::new(0);

    let (any, level, option) = if target.address.is_ipv4() {
        (IpAddr::from([0; 4]), libc::IPPROTO_IP, libc::IP_RECVERR)
    } else {
        (
            IpAddr::from([0; 16]),
            libc::IPPROTO_IPV6,
            libc::IPV6_RECVERR,
        )
    };
    let socket = loop {
        // Another process of this lab begins elsewhere.
        let number = u64::from(std::process::id()) * 64 + TAKEN.fetch_add(1, Ordering::Relaxed);
        let port = (FIRST + number % 40_000) as u16;
        match UdpSocket::bind((any, port)) {
            Err(error) if error.kind() == ErrorKind::AddrInUse => {}
            bound => break bound?,
        }
    };
    socket.connect(SocketAddr::new(target.address, target.port))?;
    let on: libc::c_int = 1;
    // SAFETY: the value is an int that lives through the call.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const on).cast(),
            size_of_val(&on) as u32,
        )
    };
    ensure!(set == 0, "{}", io::Error::last_os_error());
    Ok(socket)
}

/// Waits until ICMP tells the socket that no server is there.
async fn told(socket: &UdpSocket) -> anyhow::Error {
    loop {
        let mut octet = 0_u8;
        // SAFETY: the kernel writes one octet at most, and drops the rest.
        let told = unsafe {
            libc::recv(
                socket.as_raw_fd(),
                (&raw mut octet).cast(),
                1,
                libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT,
            )
        };
        if told >= 0 {
            return Refusal("ICMP").into();
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// An HTTP/3 connection.
struct Pages {
    sender: h3::client::SendRequest<h3_quinn::OpenStreams, bytes::Bytes>,
}

impl Pages {
    async fn new(connection: quinn::Connection) -> Result<Self> {
        let connection = h3_quinn::Connection::new(connection);
        let (mut driver, sender) = h3::client::new(connection).await?;
        // It moves while it is asked, and ends when the sender is let go.
        tokio::spawn(async move { driver.wait_idle().await });
        Ok(Self { sender })
    }

    async fn fetch(&mut self, target: &Target, number: u64) -> Result<()> {
        let url = format!("https://{}/attempts/{number}", target.host());
        let request = Request::builder().method(Method::GET).uri(url).body(())?;
        let mut stream = self.sender.send_request(request).await?;
        stream.finish().await?;
        let status = stream.recv_response().await?.status();
        ensure!(status.is_success(), "the server answered {status}");
        let mut page = Vec::new();
        while let Some(mut part) = stream.recv_data().await? {
            page.extend_from_slice(&part.copy_to_bytes(part.remaining()));
        }
        let page = String::from_utf8_lossy(&page);
        let expected = format!("the page of {} over HTTP/3", target.host());
        ensure!(page.contains(&expected), "another page: {page}");
        Ok(())
    }
}

/// Whether the first record is an address of zeros; its name is a pointer (two octets).
fn is_zero(record: &[u8]) -> bool {
    record.get(12..).is_some_and(|data| match record.get(2..4) {
        Some([0, 1]) => data.starts_with(&[0; 4]),
        Some([0, 28]) => data.starts_with(&[0; 16]),
        _ => false,
    })
}

fn question(name: &str, kind: u16, mut mixed: Option<&mut Chance>) -> Vec<u8> {
    let mut octets = Vec::new();
    for label in name.split('.') {
        octets.push(label.len() as u8);
        octets.extend(label.bytes().map(|octet| {
            let upper = mixed.as_mut().is_some_and(|chance| chance.below(2) == 1);
            if upper {
                octet.to_ascii_uppercase()
            } else {
                octet
            }
        }));
    }
    octets.push(0);
    octets.extend(kind.to_be_bytes());
    octets.extend([0, 1]);
    octets
}

fn request(target: &Target, number: u64) -> String {
    format!(
        "GET /attempts/{number} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
        target.host()
    )
}

/// That this is the page of the target; of one without a name, that it is one at all.
fn is_page(page: &[u8], target: &Target, over: &str) -> Result<()> {
    let text = String::from_utf8_lossy(page);
    if target.name.is_empty() {
        ensure!(text.starts_with("HTTP/1.1 "), "no answer: {text}");
    } else {
        let expected = format!("the page of {} over {over}", target.name);
        ensure!(text.contains(&expected), "another page: {text}");
    }
    Ok(())
}

fn tls_configuration(provider: CryptoProvider, authority: &Path) -> Result<rustls::ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(
        CertificateDer::from_pem_file(authority)
            .with_context(|| format!("no certificate in {}", authority.display()))?,
    )?;
    let mut tls = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    // Each attempt is as if it were the first.
    tls.resumption = Resumption::disabled();
    Ok(tls)
}

/// Numbers as if by chance, the same for the same seed (SplitMix64).
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// One of the numbers below `bound`, which is not 0.
    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}
