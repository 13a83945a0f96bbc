//! The report as a file: it names nothing outside of itself, hostile names are text in it, and a browser prints it
//! on three pages.

#![allow(clippy::unwrap_used)] // A test fails by panicking.

use std::{fs, process::Command};

use sensor::{
    cli::print::{print_reports, print_reports_as_markdown},
    model::{
        echo::{Echo, IdleUploads, Reach, Stack},
        report::{Amounts, Change, Day, Gap, Owner, Report},
    },
    sink::web::report::page,
};
use xtask::setup::{self, Need};

const HOSTILE: &str = "<script>alert(1)</script> & \"a\" 'b' \u{202e}\u{1b}[2J | `c` */";

fn time(moment: i64) -> String {
    format!("{moment} s")
}

fn amounts(upload_bytes: u64) -> Amounts {
    Amounts {
        upload_bytes,
        download_bytes: 10 * upload_bytes,
        flows: 3,
        refused: 1,
        retried: 0,
    }
}

fn echo(name: &str) -> Echo {
    Echo {
        name: name.to_owned(),
        is_host: true,
        owner: Some("Xiaomi".to_owned()),
        category: Some("telemetry".to_owned()),
        found: 400.0,
        withdrawn: None,
        visits: 592,
        followed: 486,
        from: 12,
        to: 18,
        lag: 15,
        control: Some(0.04),
        p: 1e-9,
        hypotheses: 61,
        since: 0.0,
        until: 900.0,
        reach: Reach::NearlyEverySite,
        at_least: None,
        stack: Stack::BesideThePage,
        beside: 97,
        told: 100,
    }
}

/// A month of a busy phone.
fn report() -> Report {
    let owner = |number: u64| Owner {
        owner: format!("Owner {number}"),
        category: number.is_multiple_of(3).then(|| "telemetry".to_owned()),
        parties: (0..=number)
            .map(|party| format!("party-{party}.example"))
            .collect(),
        countries: vec!["CN".to_owned(), "RU".to_owned()],
        amounts: amounts(1_000_000 / (number + 1)),
        after_visits: (number == 0).then_some([486, 592]),
        is_no_party: false,
    };
    Report {
        device: "02:00:00:00:00:01".to_owned(),
        name: Some(HOSTILE.to_owned()),
        since: 0,
        made: 1_000,
        days_from_to: ["2026-11-01".to_owned(), "2026-11-30".to_owned()],
        total: amounts(90_000_000),
        before: Some(amounts(80_000_000)),
        sentences: vec![
            format!("{HOSTILE} sends data."),
            "Second.".to_owned(),
            "Third.".to_owned(),
        ],
        days: (1..=30)
            .map(|day| Day {
                day: format!("2026-11-{day:02}"),
                amounts: amounts(3_000_000 / day),
                telemetry_upload_bytes: 1_000_000 / day,
            })
            .collect(),
        owners: (0..40).map(owner).collect(),
        echoes: vec![
            echo("sa.api.intl.miui.com"),
            echo("tracking.intl.miui.com"),
            Echo {
                withdrawn: Some(800.0),
                ..echo("withdrawn.example")
            },
        ],
        visits: Some([592, 640]),
        changes: (0..10)
            .map(|number| Change::NewParty {
                party: format!("{HOSTILE}{number}"),
                category: None,
                first_seen: 5,
            })
            .collect(),
        gaps: vec![Gap {
            start: 1,
            end: 2,
            reason: "no-daemon".to_owned(),
            lost: false,
        }],
        idle: vec![IdleUploads {
            name: HOSTILE.to_owned(),
            is_host: true,
            owner: None,
            category: None,
            count: 93,
            first: 0.0,
            last: 900.0,
            every: Some(270.0),
        }],
        hidden: Some(0.03),
    }
}

#[test]
fn names_are_text_in_every_form_and_the_page_needs_nothing_else() {
    let page = page(&[report(), report()], time);
    assert!(!page.contains("<script"), "a name became an element");
    for outside in [
        "http:", "https:", "src=", "href=", "url(", "@import", "style=\"",
    ] {
        assert!(!page.contains(outside), "the page has {outside}");
    }
    // Identifiers are used once, though there are two reports.
    let ids: Vec<_> = page.split(" id=\"").skip(1).collect();
    let mut names: Vec<_> = ids
        .iter()
        .map(|rest| rest.split('"').next().unwrap())
        .collect();
    let all = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), all);
    assert!(page.contains("486 of 592") && !page.contains("withdrawn.example"));
    assert!(page.contains("got data 93 times, one every 4.5 min."));

    let (mut text, mut markdown) = (Vec::new(), Vec::new());
    print_reports(&mut text, &[report()], time).unwrap();
    print_reports_as_markdown(&mut markdown, &[report()], time).unwrap();
    for printed in [text, markdown] {
        let printed = String::from_utf8(printed).unwrap();
        assert!(!printed.contains(['\u{1b}', '\u{202e}']), "{printed}");
        assert!(printed.contains("486 of 592"), "{printed}");
    }
    let mut markdown = Vec::new();
    print_reports_as_markdown(&mut markdown, &[report()], time).unwrap();
    let markdown = String::from_utf8(markdown).unwrap();
    assert!(
        markdown.contains("\\<script\\>") && markdown.contains("\\|"),
        "{markdown}"
    );
}

#[test]
fn a_browser_prints_a_month_on_three_pages() {
    setup::ensure(&[Need::Browser]).unwrap();
    let folder = std::env::temp_dir().join(format!("report-{}", std::process::id()));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("report.html"), page(&[report()], time)).unwrap();
    // Without a network: what it needs has to be in the file.
    let status = Command::new("unshare")
        .args([
            "--net",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "timeout",
            "60",
            "chromium",
        ])
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
        ])
        .args(["--disable-dev-shm-usage", "--no-pdf-header-footer"])
        .arg(format!(
            "--user-data-dir={}",
            folder.join("profile").display()
        ))
        .arg(format!(
            "--print-to-pdf={}",
            folder.join("report.pdf").display()
        ))
        .arg(format!("file://{}", folder.join("report.html").display()))
        .env("HOME", &folder)
        .env("XDG_CONFIG_HOME", &folder)
        .env("XDG_CACHE_HOME", &folder)
        .output()
        .unwrap();
    let pdf = fs::read(folder.join("report.pdf"));
    let _ = fs::remove_dir_all(&folder);
    let pdf = pdf.unwrap_or_else(|error| panic!("{error}: {status:?}"));
    let pages = pdf
        .windows(b"/Type /Page\n".len())
        .filter(|window| window.starts_with(b"/Type /Page") && !window.ends_with(b"s"))
        .count();
    assert!((1..=3).contains(&pages), "{pages} pages");
}
