//! The payloads: TLS hellos, HTTP requests and DNS questions, octet for octet.

/// A TLS record with a hello for this name, which OpenSSL answers with its own.
pub(crate) fn hello(name: &[u8]) -> Vec<u8> {
    let mut extensions = Vec::new();
    let mut extension = |number: u16, body: &[u8]| {
        extensions.extend(number.to_be_bytes());
        extensions.extend(prefixed(body));
    };
    // server_name (RFC 6066, section 3).
    let entry = [&[0][..], &prefixed(name)].concat();
    extension(0, &prefixed(&entry));
    // supported_groups: x25519, secp256r1.
    extension(10, &[0, 4, 0, 0x1d, 0, 0x17]);
    // signature_algorithms.
    extension(13, &[0, 8, 4, 3, 8, 4, 4, 1, 8, 5]);
    // supported_versions: TLS 1.3.
    extension(43, &[2, 3, 4]);
    // key_share: a point of x25519, of which any octets are one.
    let share = [&[0, 0x1d][..], &prefixed(&[9; 32])].concat();
    extension(51, &prefixed(&share));

    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.push(0);
    body.extend([0, 4, 0x13, 1, 0x13, 3]);
    body.extend([1, 0]);
    body.extend(prefixed(&extensions));
    let mut message = vec![1, 0];
    message.extend(prefixed(&body));
    record(22, &message)
}

/// A TLS record (RFC 8446, section 5.1).
pub(crate) fn record(kind: u8, inner: &[u8]) -> Vec<u8> {
    [&[kind, 3, 1][..], &prefixed(inner)].concat()
}

/// With its length before it, in two octets.
fn prefixed(octets: &[u8]) -> Vec<u8> {
    [&(octets.len() as u16).to_be_bytes()[..], octets].concat()
}

/// An HTTP request.
pub(crate) fn request(target: &str, host: &str) -> Vec<u8> {
    format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").into_bytes()
}

/// An HTTP request that others follow.
pub(crate) fn request_of_several(target: &str, host: &str) -> Vec<u8> {
    format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n").into_bytes()
}

/// A DNS message with these questions for A records.
pub(crate) fn questions(names: &[&str]) -> Vec<u8> {
    let mut message = vec![0x4e, 0x57, 1, 0, 0, names.len() as u8, 0, 0, 0, 0, 0, 0];
    for name in names {
        message.extend(labels(name));
        message.extend([0, 0, 1, 0, 1]);
    }
    message
}

/// As [`questions`] with one, all of whose name but the first label stands in a record behind it.
pub(crate) fn compressed_question(name: &str) -> Vec<u8> {
    let (first, rest) = name.split_once('.').unwrap_or((name, ""));
    let mut message = vec![0x4e, 0x57, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1];
    message.extend(labels(first));
    // The pointer, the type and the class have six octets.
    let place = message.len() as u16 + 6;
    message.extend((0xc000 | place).to_be_bytes());
    message.extend([0, 1, 0, 1]);
    message.extend(labels(rest));
    // An A record, of 0.0.0.0.
    message.extend([0, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0]);
    message
}

/// A DNS message as TCP has it: its length before it.
pub(crate) fn over_tcp(message: &[u8]) -> Vec<u8> {
    prefixed(message)
}

fn labels(name: &str) -> Vec<u8> {
    let mut octets = Vec::new();
    for label in name.split('.').filter(|label| !label.is_empty()) {
        octets.push(label.len() as u8);
        octets.extend(label.bytes());
    }
    octets
}

/// Where a name begins in what is said.
pub(crate) fn place_of(name: &[u8], said: &[u8]) -> usize {
    said.windows(name.len())
        .position(|window| window == name)
        .expect("the name is there")
}
