//! Names that systems ask for on their own: to find a captive portal, to set the clock, to fetch
//! what only they use.

use super::clue::{Clue, Hint};
use crate::model::Kind::{Computer, Iot, Phone, Router, Tablet, Tv};

/// The suggestions of a name that the device asked for or connected to; none for almost all names. The name is
/// in lower case, as a rule, and without a dot at its end.
pub(super) fn clue(name: &str) -> Clue {
    let name = name.trim_end_matches('.');
    let is = |pattern: &str| match pattern.strip_prefix('*') {
        Some(end) => name.len() > end.len() && ends_with(name, end),
        None => name.eq_ignore_ascii_case(pattern),
    };
    let found = NAMES.iter().find(|(pattern, _)| is(pattern));
    found.map(|(_, hint)| *hint).unwrap_or_default().into()
}

fn ends_with(name: &str, end: &str) -> bool {
    let tail = name.len().checked_sub(end.len());
    tail.and_then(|at| name.get(at..))
        .is_some_and(|tail| tail.eq_ignore_ascii_case(end))
}

const fn phone(vendor: &'static str, weight: f32) -> Hint {
    Hint::new()
        .kind(Phone, 0.6)
        .vendor(vendor, weight)
        .system("Android", weight)
}

const fn linux(weight: f32) -> Hint {
    Hint::new().kind(Computer, 0.5).system("Linux", weight)
}

/// Names, and zones where a name begins with `*`. Applications ask for their maker's zone on any
/// phone, so a zone is here only where nothing but the device itself asks for it.
#[rustfmt::skip]
const NAMES: &[(&str, Hint)] = &[
    // Is there a captive portal?
    ("connect.rom.miui.com", phone("Xiaomi", 0.9)),
    ("connectivitycheck.platform.hicloud.com", phone("Huawei", 0.85)),
    ("connectivitycheck.cbg-app.huawei.com", phone("Huawei", 0.85)),
    ("connectivitycheck.platform.hihonorcloud.com", phone("Honor", 0.85)),
    ("wifi.vivo.com.cn", phone("vivo", 0.9)),
    ("conn1.coloros.com", phone("OPPO", 0.7)),
    ("conn2.coloros.com", phone("OPPO", 0.7)),
    ("conn3.coloros.com", phone("OPPO", 0.7)),
    ("conn4.coloros.com", phone("OPPO", 0.7)),
    ("conn5.coloros.com", phone("OPPO", 0.7)),
    ("connectivity.samsung.com.cn", phone("Samsung", 0.85)),
    ("connectivitycheck.gstatic.com", Hint::new().kind(Phone, 0.35).system("Android", 0.75)),
    ("connectivitycheck.android.com", Hint::new().kind(Phone, 0.35).system("Android", 0.75)),
    ("captive.apple.com", Hint::new().vendor("Apple", 0.85)),
    ("captive.g.aaplimg.com", Hint::new().vendor("Apple", 0.8)),
    ("www.msftconnecttest.com", Hint::new().kind(Computer, 0.6).system("Windows", 0.85)),
    ("ipv6.msftconnecttest.com", Hint::new().kind(Computer, 0.6).system("Windows", 0.85)),
    ("dns.msftncsi.com", Hint::new().kind(Computer, 0.6).system("Windows", 0.85)),
    ("www.msftncsi.com", Hint::new().kind(Computer, 0.6).system("Windows", 0.85)),
    // A browser: on a phone as on a computer.
    ("detectportal.firefox.com", Hint::new().kind(Computer, 0.2)),
    ("nmcheck.gnome.org", linux(0.8)),
    ("network-test.debian.org", linux(0.85)),
    ("connectivity-check.ubuntu.com", linux(0.85)),
    ("networkcheck.kde.org", linux(0.8)),
    ("ping.archlinux.org", linux(0.85)),
    ("fireoscaptiveportal.com", Hint::new().vendor("Amazon", 0.85).system("Fire OS", 0.85)),
    ("spectrum.s3.amazonaws.com", Hint::new().kind(Tablet, 0.5).vendor("Amazon", 0.8)),
    ("conntest.nintendowifi.net", Hint::new().kind(Iot, 0.9).vendor("Nintendo", 0.9)),
    ("ctest.cdn.nintendo.net", Hint::new().kind(Iot, 0.9).vendor("Nintendo", 0.9)),
    // Time servers.
    ("time-ios.apple.com", Hint::new().kind(Phone, 0.5).vendor("Apple", 0.85).system("iOS", 0.85)),
    ("time-macos.apple.com", Hint::new().kind(Computer, 0.8).vendor("Apple", 0.85).system("macOS", 0.85)),
    ("time.apple.com", Hint::new().vendor("Apple", 0.7)),
    ("time.windows.com", Hint::new().kind(Computer, 0.5).system("Windows", 0.7)),
    ("time.android.com", Hint::new().system("Android", 0.7)),
    ("2.android.pool.ntp.org", Hint::new().system("Android", 0.75)),
    ("ntp.ubuntu.com", linux(0.8)),
    ("*.debian.pool.ntp.org", linux(0.6)),
    ("*.openwrt.pool.ntp.org", Hint::new().kind(Router, 0.8).system("Linux", 0.8)),
    ("*.fedora.pool.ntp.org", linux(0.75)),
    // Names that only television sets ask for.
    ("*.samsungcloudsolution.com", Hint::new().kind(Tv, 0.8).vendor("Samsung", 0.85)),
    ("*.samsungcloudsolution.net", Hint::new().kind(Tv, 0.8).vendor("Samsung", 0.85)),
    ("*.samsungotn.net", Hint::new().kind(Tv, 0.8).vendor("Samsung", 0.85)),
    ("*.lgtvsdp.com", Hint::new().kind(Tv, 0.85).vendor("LG", 0.9).system("webOS", 0.7)),
    ("*.logs.roku.com", Hint::new().kind(Tv, 0.85).vendor("Roku", 0.9)),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let check = |name: &str, vendor: Option<&str>, system: Option<&str>| {
            let hint = clue(name).hint;
            let found = (hint.vendor.map(|(v, _)| v), hint.system.map(|(s, _)| s));
            assert_eq!(found, (vendor, system), "{name}");
        };
        check("connect.rom.miui.com", Some("Xiaomi"), Some("Android"));
        check("Connect.ROM.miui.com.", Some("Xiaomi"), Some("Android"));
        check("captive.apple.com", Some("Apple"), None);
        check("www.msftconnecttest.com", None, Some("Windows"));
        check("a.b.lgtvsdp.com", Some("LG"), Some("webOS"));
        // Part of a name is another name.
        check("xconnect.rom.miui.com", None, None);
        check("connect.rom.miui.com.example", None, None);
        check("lgtvsdp.com", None, None);
        check(".lgtvsdp.com", None, None);
        check("\u{e9}lgtvsdp.com", None, None);
        check("", None, None);
    }
}
