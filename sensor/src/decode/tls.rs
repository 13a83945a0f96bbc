//! TLS ClientHello (RFC 8446, section 4.1.2).
