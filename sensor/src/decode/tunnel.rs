//! Tunnels by their first octets: WireGuard, OpenVPN, IKE.
