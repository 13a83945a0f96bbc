//! HTTP/3 for the lab, in one binary: a server that writes down each request, and a client.
//!
//! The lab builds it where a lab is to have sites (`Options::sites`); Debian 12's nginx and curl
//! have no QUIC.

use std::{
    fs::File,
    io::Write,
    net::{SocketAddr, ToSocketAddrs},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use bytes::{Buf, Bytes};
use clap::{Parser, Subcommand};
use h3::{quic::BidiStream, server::RequestStream};
use http::{Method, Request, Response, Uri, header};
use quinn::{
    ClientConfig, Endpoint, Incoming, ServerConfig,
    crypto::rustls::{QuicClientConfig, QuicServerConfig},
};
use rustls::{
    RootCertStore,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use serde_json::json;

/// How HTTP/3 is named in TLS (RFC 9114, section 3.1).
const ALPN: &[u8] = b"h3";
/// How long a fetch may take, connecting included.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    side: Side,
}

#[derive(Subcommand)]
enum Side {
    /// Answer until ended; a line of JSON for each request goes to the log
    Serve {
        /// The chain of certificates, PEM
        #[arg(long)]
        certificate: PathBuf,
        /// The key, PEM
        #[arg(long)]
        key: PathBuf,
        /// The file the requests are appended to
        #[arg(long)]
        log: PathBuf,
        /// Where to listen
        #[arg(required = true)]
        addresses: Vec<SocketAddr>,
    },
    /// Fetch a page and write it to standard output
    Get {
        /// The certificate to trust, PEM
        #[arg(long)]
        authority: PathBuf,
        /// By IPv4
        #[arg(short = '4', conflicts_with = "ipv6")]
        ipv4: bool,
        /// By IPv6
        #[arg(short = '6')]
        ipv6: bool,
        /// https://NAME/PATH
        url: Uri,
    },
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    match Arguments::parse().side {
        Side::Serve {
            certificate,
            key,
            log,
            addresses,
        } => {
            let log = File::options().create(true).append(true).open(&log);
            let log = Arc::new(Mutex::new(log.context("cannot write the log")?));
            serve(server_configuration(&certificate, &key)?, &addresses, &log).await
        }
        Side::Get {
            authority,
            ipv4,
            ipv6,
            url,
        } => {
            let wanted =
                |address: &SocketAddr| !(ipv4 && address.is_ipv6() || ipv6 && address.is_ipv4());
            let page = get(client_configuration(&authority)?, url, wanted);
            let page = tokio::time::timeout(PATIENCE, page).await;
            let page = page.with_context(|| format!("no page within {PATIENCE:?}"))??;
            std::io::stdout().write_all(&page)?;
            Ok(())
        }
    }
}

/// Where requests are written down.
type Log = Arc<Mutex<File>>;

/// Of the two providers that the examples are built with, this one.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn server_configuration(certificate: &Path, key: &Path) -> Result<ServerConfig> {
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect)
        .with_context(|| format!("no certificate in {}", certificate.display()))?;
    let key = PrivateKeyDer::from_pem_file(key)
        .with_context(|| format!("no key in {}", key.display()))?;
    let mut tls = rustls::ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    tls.alpn_protocols = vec![ALPN.to_vec()];
    // All or nothing (RFC 9001, section 4.6.1): clients may come again with early data.
    tls.max_early_data_size = u32::MAX;
    let tls = QuicServerConfig::try_from(tls)?;
    Ok(ServerConfig::with_crypto(Arc::new(tls)))
}

fn client_configuration(authority: &Path) -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(
        CertificateDer::from_pem_file(authority)
            .with_context(|| format!("no certificate in {}", authority.display()))?,
    )?;
    let mut tls = rustls::ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let tls = QuicClientConfig::try_from(tls)?;
    Ok(ClientConfig::new(Arc::new(tls)))
}

async fn serve(configuration: ServerConfig, addresses: &[SocketAddr], log: &Log) -> Result<()> {
    let mut listening = Vec::new();
    for &address in addresses {
        let endpoint = Endpoint::server(configuration.clone(), address)
            .with_context(|| format!("cannot listen on {address}"))?;
        listening.push(tokio::spawn(listen(endpoint, address, Arc::clone(log))));
    }
    println!("listening");
    for one in listening {
        one.await?;
    }
    Ok(())
}

async fn listen(endpoint: Endpoint, address: SocketAddr, log: Log) {
    while let Some(incoming) = endpoint.accept().await {
        let log = Arc::clone(&log);
        tokio::spawn(async move {
            // A client that leaves, or that takes us for somebody else, ends its own connection.
            if let Err(error) = converse(incoming, address, log).await {
                eprintln!("{error:#}");
            }
        });
    }
}

async fn converse(incoming: Incoming, address: SocketAddr, log: Log) -> Result<()> {
    let connection = h3_quinn::Connection::new(incoming.await?);
    let mut connection = h3::server::Connection::<_, Bytes>::new(connection).await?;
    while let Some(resolver) = connection.accept().await? {
        let log = Arc::clone(&log);
        tokio::spawn(async move {
            let answered = match resolver.resolve_request().await {
                Ok((request, stream)) => answer(&request, stream, address, &log).await,
                Err(error) => Err(error.into()),
            };
            if let Err(error) = answered {
                eprintln!("{error:#}");
            }
        });
    }
    Ok(())
}

async fn answer<S: BidiStream<Bytes>>(
    request: &Request<()>,
    mut stream: RequestStream<S, Bytes>,
    address: SocketAddr,
    log: &Mutex<File>,
) -> Result<()> {
    let agent = request.headers().get(header::USER_AGENT);
    let host = request.uri().host().unwrap_or_default();
    let line = json!({
        "address": address.ip(),
        "agent": agent.and_then(|agent| agent.to_str().ok()).unwrap_or_default(),
        "host": host,
        "method": request.method().as_str(),
        "path": request.uri().path(),
        "protocol": "HTTP/3.0",
    });
    match log.lock() {
        Ok(mut log) => writeln!(log, "{line}")?,
        Err(_) => bail!("a request before this one was not written down"),
    }
    let response = Response::builder()
        .header(header::CONTENT_TYPE, "text/html")
        .body(())?;
    stream.send_response(response).await?;
    let page = format!("the page of {host} over HTTP/3\n");
    stream.send_data(Bytes::from(page)).await?;
    stream.finish().await?;
    Ok(())
}

async fn get(
    configuration: ClientConfig,
    url: Uri,
    wanted: impl Fn(&SocketAddr) -> bool,
) -> Result<Vec<u8>> {
    let name = url.host().context("the URL has no host")?.to_owned();
    let address = (name.as_str(), url.port_u16().unwrap_or(443))
        .to_socket_addrs()
        .with_context(|| format!("{name} has no address"))?
        .find(wanted)
        .with_context(|| format!("{name} has no address of this family"))?;
    let any = if address.is_ipv4() {
        "0.0.0.0:0"
    } else {
        "[::]:0"
    };
    let mut endpoint = Endpoint::client(any.parse()?)?;
    endpoint.set_default_client_config(configuration);
    let connection = endpoint.connect(address, &name)?.await?;
    let connection = h3_quinn::Connection::new(connection);
    let (mut driver, mut sender) = h3::client::new(connection).await?;
    let fetch = async move {
        let request = Request::builder().method(Method::GET).uri(url).body(())?;
        let mut stream = sender.send_request(request).await?;
        stream.finish().await?;
        let status = stream.recv_response().await?.status();
        ensure!(status.is_success(), "the server answered {status}");
        let mut page = Vec::new();
        while let Some(mut part) = stream.recv_data().await? {
            page.extend_from_slice(&part.copy_to_bytes(part.remaining()));
        }
        Ok(page)
    };
    // The connection moves only while its driver is asked; it ends after the fetch has let go.
    let (page, _) = tokio::join!(fetch, driver.wait_idle());
    endpoint.wait_idle().await;
    page
}
