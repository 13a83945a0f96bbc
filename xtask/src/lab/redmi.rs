//! A Xiaomi phone, by its traffic on a network.
//!
//! It reports each page that its owner opens, as researchers have seen a Redmi Note 8 do in 2020
//! (G. Cirlig and A. Tierney, told by Forbes on 30 April 2020).

use anyhow::{Result, ensure};

use super::{
    Device, Lab,
    sites::{ANALYTICS, CAPTIVE, NEWS, SHOP, Site, TRACKING, VIDEO},
};

/// The MAC address of the Redmi. Its first half is Xiaomi's.
pub const REDMI_MAC: &str = "a4:50:46:00:00:11";
/// The name by which it asks for an address (RFC 2132, option 12).
pub const REDMI_HOST_NAME: &str = "Redmi-Note-8";
/// The vendor class that it gives when it asks for an address (RFC 2132, option 60).
pub const REDMI_VENDOR_CLASS: &str = "android-dhcp-10";
/// The parameters that Android 10 asks for along with an address, in its order (RFC 2132, option 55).
pub(super) const PARAMETERS: [u8; 10] = [1, 3, 6, 15, 26, 28, 51, 58, 59, 43];

/// The user agent of its system.
const SYSTEM_AGENT: &str = "Dalvik/2.1.0 (Linux; U; Android 10; Redmi Note 8 MIUI/V12.0.3.0)";

/// How a page is fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// TLS by a real browser: its hello has a post-quantum key share, and fills two segments.
    Browser,
    /// TLS by curl.
    Tls,
    /// HTTP/3 by quinn.
    Quic,
}

/// The pages that the Redmi's owner opens.
pub const VISITS: [(Site, By); 3] = [(NEWS, By::Browser), (SHOP, By::Tls), (VIDEO, By::Quic)];

impl Lab {
    /// Does as the Redmi does once it has addresses: it checks for a captive portal, its owner opens three
    /// pages, and it reports each of them to two servers.
    ///
    /// # Errors
    /// Where the phone is no Redmi, the lab has no sites, or one of them does not answer as it is
    /// to.
    pub fn use_redmi(&self) -> Result<()> {
        ensure!(
            self.mac(Device::Phone) == REDMI_MAC,
            "the phone of this lab is no Redmi"
        );
        let check = format!("http://{}/generate_204", CAPTIVE.name);
        self.fetch(&["-A", SYSTEM_AGENT, &check])?;
        for (site, by) in VISITS {
            let url = format!("https://{}/", site.name);
            let page = match by {
                By::Browser => self.browse(&self.phone, &url)?,
                By::Tls => self.fetch(&[&url])?,
                By::Quic => self.http3(&self.phone, "-4", &url)?,
            };
            let expected = site.page(by == By::Quic);
            ensure!(
                page.contains(&expected),
                "{url} was to say `{expected}`, but said: {page}"
            );
            self.report(&url)?;
        }
        Ok(())
    }

    fn report(&self, visited: &str) -> Result<()> {
        let event = format!("{{\"event\":\"url_visit\",\"url\":\"{visited}\"}}");
        for site in [ANALYTICS, TRACKING] {
            let url = format!("https://{}/track", site.name);
            // The HTTP client of Android's system has no HTTP/2.
            self.fetch(&["--http1.1", "-A", SYSTEM_AGENT, "-d", &event, &url])?;
        }
        Ok(())
    }

    /// The page that curl gets on the phone.
    fn fetch(&self, words: &[&str]) -> Result<String> {
        let mut curl = self
            .phone
            .command("curl", ["-fsS", "--max-time", "10", "--cacert"]);
        curl.arg(self.authority()).args(words);
        crate::command::capture(&mut curl)
    }
}
