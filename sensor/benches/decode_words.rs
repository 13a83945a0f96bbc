//! How many DNS messages, HTTP requests and DHCP messages a core decodes in a second.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use sensor::decode::{dhcp4, dns, http};

/// The answer for `sa.api.intl.miui.com`: two aliases and an address.
const ALIASED: &[u8] = b"\x12\x34\x81\x80\0\x01\0\x03\0\0\0\x01\
    \x02sa\x03api\x04intl\x04miui\x03com\0\0\x01\0\x01\
    \xc0\x0c\0\x05\0\x01\0\0\x01\x2c\0\x11\x06sa-sgp\x04intl\x02mi\xc0\x1d\
    \xc0\x32\0\x05\0\x01\0\0\0\x3c\0\x17\x07awssgp0\x05stats\x06xiaomi\xc0\x1d\
    \xc0\x4f\0\x01\0\x01\0\0\0\x3c\0\x04\x2f\x58\x0c\x17\
    \0\0\x29\x04\xd0\0\0\0\0\0\0";

/// One name with six addresses.
const SIX: &[u8] = b"\x12\x34\x81\x80\0\x01\0\x06\0\0\0\0\
    \x03www\x06google\x03com\0\0\x01\0\x01\
    \xc0\x0c\0\x01\0\x01\0\0\0\x40\0\x04\x4a\x7d\x44\x63\
    \xc0\x0c\0\x01\0\x01\0\0\0\x40\0\x04\x4a\x7d\x44\x67\
    \xc0\x0c\0\x01\0\x01\0\0\0\x40\0\x04\x4a\x7d\x44\x68\
    \xc0\x0c\0\x01\0\x01\0\0\0\x40\0\x04\x4a\x7d\x44\x69\
    \xc0\x0c\0\x01\0\x01\0\0\0\x40\0\x04\x4a\x7d\x44\x6a\
    \xc0\x0c\0\x01\0\x01\0\0\0\x40\0\x04\x4a\x7d\x44\x93";

/// An HTTPS record with `alpn`, hints and `ech`.
const HTTPS: &[u8] = b"\x12\x34\x81\x80\0\x01\0\x01\0\0\0\0\
    \x06crypto\x0acloudflare\x03com\0\0\x41\0\x01\
    \xc0\x0c\0\x41\0\x01\0\0\x01\x2c\0\x35\0\x01\0\
    \0\x01\0\x06\x02h3\x02h2\0\x04\0\x08\xa2\x9f\x87\x4f\xa2\x9f\x88\x4f\
    \0\x05\0\x04\xfe\x0d\0\0\0\x06\0\x10\x26\x06\x47\0\0\x07\0\0\0\0\0\0\xa2\x9f\x87\x4f";

/// A question.
const QUESTION: &[u8] = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\x01\
    \x08tracking\x04intl\x04miui\x03com\0\0\x1c\0\x01\0\0\x29\x04\xd0\0\0\0\0\0\0";

const REQUEST: &[u8] = b"GET /generate_204?t=1700000000 HTTP/1.1\r\n\
    Connection: keep-alive\r\nAccept: */*\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko)\r\n\
    Accept-Encoding: gzip, deflate\r\nHost: connect.rom.miui.com\r\n\r\n";

fn discover() -> Vec<u8> {
    let mut octets = vec![0; 236];
    octets[..3].copy_from_slice(&[1, 1, 6]);
    octets.extend_from_slice(b"\x63\x82\x53\x63\x35\x01\x01\x3d\x07\x01\x4c\x6a\xf6\x9f\xf6\x27");
    octets.extend_from_slice(b"\x39\x02\x05\xdc\x3c\x0fandroid-dhcp-13\x0c\x0cRedmi-Note-8");
    octets.extend_from_slice(b"\x37\x0a\x01\x03\x06\x0f\x1a\x1c\x33\x3a\x3b\x2b\xff");
    octets
}

fn decode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decode");
    group.throughput(Throughput::Elements(1));
    for (name, octets, addresses) in [
        ("dns/answer, two aliases", ALIASED, 1),
        ("dns/answer, six addresses", SIX, 6),
        ("dns/answer, HTTPS", HTTPS, 3),
        ("dns/question", QUESTION, 0),
    ] {
        let message = dns::message(octets).expect("the message is right");
        assert_eq!(
            (message.addresses.len(), message.partial),
            (addresses, None)
        );
        group.bench_function(name, |bencher| {
            bencher.iter(|| dns::message(black_box(octets)));
        });
    }
    group.bench_function("http/request", |bencher| {
        bencher.iter(|| http::request(black_box(REQUEST)));
    });
    let discover = discover();
    group.bench_function("dhcp4/discover", |bencher| {
        bencher.iter(|| dhcp4::message(black_box(&discover)));
    });
    group.finish();
}

criterion_group!(benches, decode);
criterion_main!(benches);
