//! Reports as one HTML file without outside resources: for a browser, and for A4.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::model::{
    echo::{Echo, Reach, Stack},
    report::{Change, Day, Owner, Report},
    text::{bytes, chance, counted, grouped},
};

/// The stylesheet; it names no other resource.
const STYLE: &str = include_str!("report.css");

/// The most rows of owners on the first page, which has one table.
const MOST_OWNERS: usize = 12;

/// Height of the plot and width of a day in it, in units of its view box.
const HEIGHT: u64 = 120;
const DAY_WIDTH: usize = 100;

/// The file of some reports. `time` shows a time in seconds since the Unix epoch.
pub fn page(reports: &[Report], time: impl Fn(i64) -> String) -> String {
    let title = match reports {
        [report] => format!("Report on {}", report.called()),
        _ => format!(
            "Reports on {}",
            counted(reports.len() as u64, "device", "devices")
        ),
    };
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                main {
                    @if reports.is_empty() {
                        article { h1 { "Nothing was recorded of any device in this time" } }
                    }
                    @for (number, report) in reports.iter().enumerate() {
                        (article(report, number, &time))
                    }
                }
            }
        }
    };
    page.into_string()
}

fn article(report: &Report, number: usize, time: &impl Fn(i64) -> String) -> Markup {
    let id = |part: &str| format!("{part}-{number}");
    let [from, to] = &report.days_from_to;
    html! {
        article aria-labelledby=(id("title")) {
            p.meta {
                span { "Report of a home gateway" }
                span { (from) " to " (to) }
                span { "made " (time(report.made)) }
            }
            h1 id=(id("title")) { bdi { (report.called()) } ": what it sent, to whom, when" }
            ol.sentences {
                @for sentence in &report.sentences { li { (sentence) } }
            }
            section aria-labelledby=(id("days")) {
                h2 id=(id("days")) { "Day by day" }
                (plot(report, &id("plot")))
            }
            section aria-labelledby=(id("owners")) {
                h2 id=(id("owners")) { "Who got it" }
                (owners(report, &id("owners")))
            }
            section.evidence aria-labelledby=(id("evidence")) {
                h2 id=(id("evidence")) { "What follows website visits" }
                (echoes(report, &id("echo")))
                (idle(report))
            }
            section aria-labelledby=(id("changes")) {
                h2 id=(id("changes")) { "What changed since the time before" }
                (changes(report, time))
            }
            section aria-labelledby=(id("unseen")) {
                h2 id=(id("unseen")) { "What this cannot see" }
                (unseen(report, time))
            }
            section aria-labelledby=(id("method")) {
                h2 id=(id("method")) { "Method and its numbers" }
                (method(report))
            }
        }
    }
}

/// The upload of each day, and the part of it that is telemetry.
fn plot(report: &Report, id: &str) -> Markup {
    let days = &report.days;
    let most = days.iter().map(|day| day.amounts.upload_bytes).max();
    let most = most.unwrap_or_default().max(1);
    let height = |part: u64| u128::from(part) * u128::from(HEIGHT) / u128::from(most);
    let bar = |place: usize, of: u64, from: usize, to: usize| {
        let (left, right) = (place * DAY_WIDTH + from, place * DAY_WIDTH + to);
        let top = u128::from(HEIGHT) - height(of);
        format!("M{left} {top}H{right}V{HEIGHT}H{left}z")
    };
    let bars = |of: fn(&Day) -> u64, from, to| {
        let bars = days.iter().enumerate();
        bars.map(|(place, day)| bar(place, of(day), from, to))
            .collect::<String>()
    };
    let width = DAY_WIDTH * days.len().max(1);
    let labels = [id, "-title ", id, "-about"].concat();
    html! {
        @if days.is_empty() {
            p { "The history has no hour of this time." }
        } @else {
            figure {
                svg viewBox=(format!("0 0 {width} {HEIGHT}")) preserveAspectRatio="none" role="img"
                    aria-labelledby=(labels) {
                    title id=(format!("{id}-title")) { "Data sent by " (report.called()) ", day by day" }
                    desc id=(format!("{id}-about")) {
                        "A bar for each day: all that was sent, at most " (bytes(most))
                        ", and in front of it the part that is usage reporting. The table beneath has the numbers."
                    }
                    path.all d=(bars(|day| day.amounts.upload_bytes, 20, 80)) {}
                    path.telemetry d=(bars(|day| day.telemetry_upload_bytes, 35, 65)) {}
                    path.base d=(format!("M0 {HEIGHT}H{width}")) {}
                }
                figcaption {
                    span.key.all { "sent" } " "
                    span.key.telemetry { "of it, usage reporting" } ": at most " (bytes(most)) " a day"
                }
            }
            details {
                summary { "The plot as a table" }
                div.over tabindex="0" role="region" aria-label="Sent, received and blocked, by local day" {
                    table {
                        caption { "Sent, received and blocked, by local day" }
                        thead { tr {
                            th scope="col" { "Day" }
                            th.number scope="col" { "Sent" }
                            th.number scope="col" { "Usage reporting" }
                            th.number scope="col" { "Received" }
                            th.number scope="col" { "Connections" }
                            th.number scope="col" { "Blocked" }
                        } }
                        tbody {
                            @for day in days {
                                tr {
                                    th scope="row" { (day.day) }
                                    td.number { (bytes(day.amounts.upload_bytes)) }
                                    td.number { (bytes(day.telemetry_upload_bytes)) }
                                    td.number { (bytes(day.amounts.download_bytes)) }
                                    td.number { (grouped(day.amounts.flows)) }
                                    td.number { (grouped(day.amounts.refused)) }
                                }
                            }
                        }
                        tfoot { tr {
                            th scope="row" { "In all" }
                            td.number { (bytes(report.total.upload_bytes)) }
                            td.number { (bytes(days.iter().map(|day| day.telemetry_upload_bytes).sum())) }
                            td.number { (bytes(report.total.download_bytes)) }
                            td.number { (grouped(report.total.flows)) }
                            td.number { (grouped(report.total.refused)) }
                        } }
                    }
                }
            }
        }
    }
}

fn owners(report: &Report, id: &str) -> Markup {
    let further = report.owners.len().saturating_sub(MOST_OWNERS);
    html! {
        div.over tabindex="0" role="region" aria-labelledby=(id) {
        table aria-labelledby=(id) {
            thead { tr {
                th scope="col" { "Owner" }
                th scope="col" { "For what" }
                th.number scope="col" { "Sent" }
                th.number scope="col" { "Received" }
                th.number scope="col" { "After visits" }
                th.number scope="col" { "Blocked" }
            } }
            tbody {
                @for row in report.owners.iter().take(MOST_OWNERS) { (owner(row, report)) }
            }
        }
        }
        @if further > 0 {
            p.note { "and " (counted(further as u64, "owner", "owners")) " more; the JSON has all." }
        }
    }
}

fn owner(row: &Owner, report: &Report) -> Markup {
    let is_alone = matches!(&*row.parties, [party] if *party == row.owner);
    let places = match row.countries.is_empty() {
        true => String::new(),
        false => format!(" ({})", row.countries.join(", ")),
    };
    html! {
        tr {
            th scope="row" {
                bdi { (row.owner) }
                @if !is_alone && !row.is_no_party || !places.is_empty() {
                    br;
                    small {
                        @match &*row.parties {
                            _ if is_alone => {},
                            [one] => bdi { (one) },
                            [one, others @ ..] => {
                                bdi { (one) } " and " (counted(others.len() as u64, "other", "others"))
                            },
                            [] => {},
                        }
                        (places)
                    }
                }
            }
            td { (purpose(row.category.as_deref(), row.is_no_party)) }
            td.number { (bytes(row.amounts.upload_bytes)) }
            td.number { (bytes(row.amounts.download_bytes)) }
            td.number {
                @match (row.after_visits, report.visits) {
                    (Some([followed, visits]), _) => { (followed) " of " (visits) },
                    (None, Some(_)) if !row.is_no_party => "no link found",
                    _ => "–",
                }
            }
            td.number { (grouped(row.amounts.refused)) }
        }
    }
}

/// A category in the words of people who have not read the documentation.
fn purpose(category: Option<&str>, is_no_party: bool) -> Markup {
    let (class, words) = match category {
        Some("telemetry") => ("telemetry", "Usage reporting"),
        Some("advertising") => ("advertising", "Advertising"),
        Some("dns-bypass") => ("bypass", "Avoids the home's name server"),
        Some("never-block") => ("needed", "Needed; blocking may break things"),
        _ if is_no_party => ("none", "–"),
        _ => ("none", "Purpose unknown"),
    };
    html! { span class=(format!("purpose {class}")) { (words) } }
}

/// Uploads while nobody used the device.
fn idle(report: &Report) -> Markup {
    html! {
        @if !report.idle.is_empty() {
            h3 { "While nobody used it, in the last 24 hours" }
            ul {
                @for uploads in &report.idle {
                    li {
                        bdi { (uploads.name) }
                        @if let Some(owner) = &uploads.owner { " (" (owner) ")" }
                        " got data " (counted(uploads.count.into(), "time", "times"))
                        @match uploads.every {
                            Some(seconds) => { ", one every " (format!("{:.1}", seconds / 60.0)) " min." },
                            None => ", irregularly.",
                        }
                    }
                }
            }
        }
    }
}

fn echoes(report: &Report, id: &str) -> Markup {
    let held: Vec<_> = report
        .echoes
        .iter()
        .filter(|echo| echo.withdrawn.is_none())
        .collect();
    html! {
        @match report.visits {
            None => p { "The daemon finds this out, and none runs." },
            Some([visits, next]) if held.is_empty() => p {
                "No link to browsing found, after " (counted(visits.into(), "website visit", "website visits"))
                "; the next look comes after " (next) "."
            },
            Some(_) => {
                @for (number, echo) in held.iter().enumerate() {
                    (evidence(echo, &format!("{id}-{number}")))
                }
            },
        }
    }
}

/// The figures behind one echo: the share of visits, beside that of other moments.
fn evidence(echo: &Echo, id: &str) -> Markup {
    let share = 100.0 * f64::from(echo.followed) / f64::from(echo.visits.max(1));
    let control = 100.0 * echo.control.unwrap_or_default();
    let labels = format!("{id}-title {id}-about");
    let reach = match echo.reach {
        Reach::NearlyEverySite => "It follows nearly every site.".to_owned(),
        Reach::SomeSites => {
            "It follows some sites, always the same: it may be built into those pages.".to_owned()
        }
        Reach::SomeSessions => {
            "It follows the sites of some sessions only: one of several browsers or apps."
                .to_owned()
        }
        Reach::Unclear => format!(
            "It follows at least {:.0} of 100 sites.",
            100.0 * echo.at_least.unwrap_or_default()
        ),
    };
    let stack = match echo.stack {
        Stack::BesideThePage => "from another network stack than the sites",
        Stack::SameStack => "from the network stack of the sites, which tells nothing",
        Stack::NotTold => "from a network stack that is not told",
    };
    html! {
        h3 { bdi { (echo.name) } @if let Some(owner) = &echo.owner { " (" (owner) ")" } }
        figure {
            svg viewBox="0 0 100 14" preserveAspectRatio="none" role="img" aria-labelledby=(labels) {
                title id=(format!("{id}-title")) { "After visits, beside other moments" }
                desc id=(format!("{id}-about")) {
                    "After " (format!("{share:.0}")) " of 100 visits, and at " (format!("{control:.0}"))
                    " of 100 other moments."
                }
                path.sunk d="M0 0H100V6H0zM0 8H100V14H0z" {}
                path.telemetry d=(format!("M0 0H{share:.1}V6H0z")) {}
                path.all d=(format!("M0 8H{control:.1}V14H0z")) {}
            }
            figcaption {
                span.key.telemetry { "after " (echo.followed) " of " (echo.visits) " visits" } " "
                span.key.all { "at " (format!("{control:.0}")) " of 100 other moments" }
            }
        }
        p {
            (reach) " It comes " (echo.from) " to " (counted(echo.to.into(), "second", "seconds"))
            " after the visit, at the middle " (echo.lag) ", and " (stack)
            @if echo.told > 0 { " (" (echo.beside) " of " (echo.told) " uploads)" }
            ". By chance alone: " (chance(echo.p)) ", counted over "
            (counted(echo.hypotheses.into(), "party", "parties")) "."
        }
    }
}

fn changes(report: &Report, time: &impl Fn(i64) -> String) -> Markup {
    let Some(before) = report.before else {
        return html! { p { "The history does not reach back to the time before." } };
    };
    html! {
        ul {
            li {
                "Sent " (bytes(report.total.upload_bytes)) ", before " (bytes(before.upload_bytes)) "; blocked "
                (grouped(report.total.refused)) ", before " (grouped(before.refused)) "."
            }
            @for change in &report.changes {
                li {
                    @match change {
                        Change::NewParty { party, category, first_seen } => {
                            "New recipient: " b { bdi { (party) } } ", "
                            (purpose(category.as_deref(), false)) ", first seen " (time(*first_seen)) "."
                        },
                        Change::NewCountry { country, party } => {
                            "New country: " b { (country) } ", where " bdi { (party) } " is."
                        },
                        Change::MoreToOwner { owner, upload_bytes, before } => {
                            b { bdi { (owner) } } " got " (bytes(*upload_bytes)) ", before " (bytes(*before)) "."
                        },
                    }
                }
            }
        }
    }
}

fn unseen(report: &Report, time: &impl Fn(i64) -> String) -> Markup {
    html! {
        ul {
            li {
                "What was sent, by which app, and why. A tap that causes both, the visit and the upload, would look alike."
            }
            @if let Some(hidden) = report.hidden {
                li {
                    "For " (format!("{:.0}", 100.0 * hidden))
                    " of 100 bytes the recipient cannot be told: encrypted name service, encrypted greetings, tunnels, \
                     bare addresses."
                }
            }
            li { "Mobile data, and whatever leaves the house another way." }
            @for gap in &report.gaps {
                li {
                    (time(gap.start)) " to " (time(gap.end)) ": "
                    @match &*gap.reason {
                        "no-daemon" => "the sensor's daemon did not run",
                        "reboot" => "the gateway was started anew",
                        "tables-made-anew" => "the counters began anew",
                        "batch-lost" => "the disk took nothing",
                        _ => "the gateway's clock was not set",
                    }
                    @if gap.lost { "; counts of that time are lost" }
                    @else { "; its traffic counts in all, and in no day" }
                    "."
                }
            }
        }
    }
}

fn method(report: &Report) -> Markup {
    html! {
        p {
            "A visit is the first contact with a site; visits less than 3 s apart count once. Lags of 0 to 70 s in 11 \
             bands, both directions; each visit is compared with other moments of its own minute (exact test), before \
             against after (sign test), corrected over all parties (Holm) and looks. The network stack is the second \
             field of JA4."
        }
        p {
            "Counted by the kernel in this time: " (grouped(report.total.upload_bytes)) " bytes sent, "
            (grouped(report.total.download_bytes)) " received, " (grouped(report.total.flows)) " connections."
        }
    }
}
