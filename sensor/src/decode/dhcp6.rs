//! DHCP for IPv6 (RFC 8415).
