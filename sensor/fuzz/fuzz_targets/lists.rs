//! Lists: whatever is in a file, names are names, each is found again, and a good line behind it counts.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sensor::catalog::lists::{About, Category, Lists};

fuzz_target!(|text: &[u8]| {
    let about = About {
        name: "fuzzed",
        category: Some(Category::DnsBypass),
        owner: None,
    };
    let mut lists = Lists::default();
    let report = lists.add(about, text).expect("memory can be read");
    let lines = text.split(|octet| *octet == b'\n').count() as u64;
    assert!(report.bad <= lines);
    let entries = lists.len() + lists.addresses().count();
    assert!(entries as u64 <= report.used);
    for entry in lists.names() {
        let name = entry.what;
        let is_of_name =
            |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'-' | b'_' | b'.');
        assert!(name.bytes().all(is_of_name), "{name}");
        assert!(name.split('.').all(|label| !label.is_empty()), "{name}");
        assert!(lists.find(name).is_some(), "{name}");
        assert!(u64::from(entry.listed.line) <= lines);
    }

    let good = [text, b"\ngood.example\n"].concat();
    let mut lists = Lists::default();
    lists.add(about, &good[..]).expect("memory can be read");
    assert!(lists.find("good.example").is_some());
});
