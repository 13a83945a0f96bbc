//! Seeds for the fuzzers, out of captures: `cargo run --example seeds -- FOLDER CAPTURE…`.
//!
//! The payloads that the kernel would copy of each capture go to a folder for each target, whole frames
//! to `parse`, the lists of names to `lists`. The file names are hashes, so that a seed that comes twice
//! is there once.

use std::{
    env,
    fs::{self, File},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use sensor::{
    record::Record,
    source::replay::{Engine, Options, replay},
};
use sensor_ebpf::sample::Kind;

/// Lists, which are seeds as they are.
const LISTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/lists");

/// The targets that a payload is a seed for: decoders, and the kernel's readers of the same.
const fn targets(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Dns | Kind::Mdns => &["dns", "question"],
        Kind::Dhcp4 => &["dhcp4"],
        Kind::Dhcp6 => &["dhcp6"],
        Kind::Http => &["http", "request", "stream", "prelude"],
        Kind::Tls => &["tls", "hello", "stream", "prelude", "records"],
        Kind::Quic => &["quic", "initial"],
        Kind::Tunnel => &["tunnel"],
        Kind::Stream => &["stream", "tls", "prelude", "http2"],
        Kind::RouterAdvertisement => &["router_advertisement"],
        Kind::Judged => &[],
    }
}

fn main() -> Result<()> {
    let mut arguments = env::args_os().skip(1).map(PathBuf::from);
    let folder = arguments.next().context("name the folder for the seeds")?;
    let options = Options {
        payloads: 15,
        ..Options::default()
    };
    let mut seeds = 0;
    for capture in arguments {
        let file = File::open(&capture).with_context(|| capture.display().to_string())?;
        let mut payloads = Vec::new();
        replay(file, &options, &mut Engine::Host, |record, _| {
            if let Record::Sample(sample) = record {
                payloads.push(sample);
            }
        })?;
        for sample in payloads {
            let kind = Kind::from_number(sample.head.kind).context("a kind of its own")?;
            for target in targets(kind) {
                write(&folder.join(target), &sample.octets)?;
                seeds += 1;
            }
        }
        // The parser reads frames: a capture's own octets have some at every offset.
        let whole = fs::read(&capture)?;
        for frame in whole.chunks(1_024).take(16) {
            write(&folder.join("parse"), frame)?;
            seeds += 1;
        }
    }
    for entry in fs::read_dir(Path::new(LISTS))? {
        write(&folder.join("lists"), &fs::read(entry?.path())?)?;
        seeds += 1;
    }
    println!("{seeds} seeds in {}", folder.display());
    Ok(())
}

fn write(folder: &Path, octets: &[u8]) -> Result<()> {
    let mut hash = DefaultHasher::new();
    octets.hash(&mut hash);
    fs::create_dir_all(folder)?;
    let file = folder.join(format!("{:016x}", hash.finish()));
    fs::write(&file, octets).with_context(|| file.display().to_string())
}
