//! The cost of a hello, the way the product takes: from segments or datagrams to the name.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use sensor::decode::{
    Progress,
    quic::Initials,
    stream::Stream,
    tls::{self, ClientHello},
};

/// Of 1,913 octets: as browsers send it since 2024, in two segments.
const POST_QUANTUM: &[u8] = include_bytes!("../tests/data/hello-suricata-debug-s13.bin");

/// RFC 9001, appendix A.2.
const INITIAL: &[u8] = include_bytes!("../tests/data/initial-rfc9001-a2.bin");

/// The hello in the Initial of the RFC: as small as they get.
fn small_hello() -> Vec<u8> {
    let message = include_bytes!("../tests/data/hello-rfc9001-a2.bin");
    record(message)
}

fn record(message: &[u8]) -> Vec<u8> {
    [
        &[22, 3, 1],
        &(message.len() as u16).to_be_bytes()[..],
        message,
    ]
    .concat()
}

/// The first segment is tried where it lies; only what goes on is put together.
fn name(segments: &[(u32, &[u8])]) -> Option<String> {
    let mut stream = Stream::new(Some(999));
    for (sequence, octets) in segments {
        if stream.is_start(*sequence)
            && let Some(name) = name_in(tls::client_hello(octets))
        {
            return Some(name);
        }
        stream.segment(*sequence, octets);
    }
    if stream.conflict() {
        return None;
    }
    name_in(tls::client_hello(stream.contiguous()))
}

fn name_in<E>(hello: Result<Progress<ClientHello>, E>) -> Option<String> {
    match hello {
        Ok(Progress::Complete(hello)) => hello.server_name,
        _ => None,
    }
}

fn tls_hellos(criterion: &mut Criterion) {
    let small = small_hello();
    let large = record(POST_QUANTUM);
    let (low, high) = large.split_at(1400);
    let cases = [
        ("one segment", vec![(1000, &small[..])]),
        ("two segments", vec![(1000, low), (2400, high)]),
        ("two segments reversed", vec![(2400, high), (1000, low)]),
    ];
    let mut group = criterion.benchmark_group("tls hello");
    group.throughput(Throughput::Elements(1));
    for (case, segments) in cases {
        assert!(name(&segments).is_some());
        group.bench_function(case, |bencher| {
            bencher.iter(|| name(black_box(&segments)));
        });
    }
    group.finish();
}

fn quic_initials(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("quic initial");
    group.throughput(Throughput::Elements(1));
    let read = Initials::new().datagram(true, INITIAL);
    assert!(matches!(read, Ok(Progress::Complete(_))));
    // A new connection each time: its keys are derived anew.
    group.bench_function("1,200 octets", |bencher| {
        bencher.iter_batched_ref(
            Initials::new,
            |initials| initials.datagram(true, black_box(INITIAL)),
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

criterion_group!(decode, tls_hellos, quic_initials);
criterion_main!(decode);
