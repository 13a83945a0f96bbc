//! DNS messages (RFC 1035) and multicast DNS (RFC 6762).
