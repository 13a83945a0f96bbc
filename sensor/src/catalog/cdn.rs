//! Domains of networks that deliver the content of other sites.

/// The registrable domains of content delivery networks, and of hosts of scripts and fonts that pages embed. Nobody
/// visits them. Source: the networks' own documentation of the names that they give to customers.
const DOMAINS: [&str; 31] = [
    "akadns.net",
    "akamai.net",
    "akamaiedge.net",
    "akamaihd.net",
    "akamaized.net",
    "amazonaws.com",
    "azureedge.net",
    "azurefd.net",
    "b-cdn.net",
    "bootstrapcdn.com",
    "cdn77.org",
    "cdninstagram.com",
    "cloudflare.net",
    "cloudfront.net",
    "edgecastcdn.net",
    "edgekey.net",
    "edgesuite.net",
    "fastly.net",
    "fastlylb.net",
    "fbcdn.net",
    "footprint.net",
    "googleapis.com",
    "googleusercontent.com",
    "gstatic.com",
    "jsdelivr.net",
    "kxcdn.com",
    "llnwd.net",
    "stackpathcdn.com",
    "trafficmanager.net",
    "twimg.com",
    "unpkg.com",
];

/// Whether a name, in lower case, is that of such a network or below it. Customers' names may be registrable domains
/// of their own, as the public suffix list has them.
pub fn is_cdn(name: &str) -> bool {
    let mut rest = Some(name);
    let mut above = std::iter::from_fn(|| {
        let name = rest?;
        rest = name.split_once('.').map(|(_, above)| above);
        Some(name)
    });
    above.any(|name| DOMAINS.binary_search(&name).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_at_and_below_them_are_those_of_networks() {
        assert!(DOMAINS.is_sorted());
        for name in [
            "gstatic.com",
            "akadns.net",
            "unpkg.com",
            "d111111abcdef8.cloudfront.net",
        ] {
            assert!(is_cdn(name), "{name}");
        }
        for name in ["example.com", "net", "mygstatic.com", ""] {
            assert!(!is_cdn(name), "{name}");
        }
    }
}
