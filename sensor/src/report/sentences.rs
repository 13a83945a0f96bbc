//! The three sentences of a report's first page: who hears of visits, what went where, and what is blocked.

use crate::{
    decode::text::is_format,
    model::{
        echo::Echo,
        report::{Owner, Report},
        text::{bytes, chance, counted, grouped},
    },
};

/// The most owners that a sentence names.
const MOST_NAMED: usize = 3;

/// The sentences of a report.
pub(super) fn of(report: &Report) -> Vec<String> {
    let sentences = [visits(report), amounts(report), blocked(report)];
    // Names may have anything in them, marks that turn the direction of the text too.
    let plain = |character: char| match character.is_control() || is_format(character) {
        true => char::REPLACEMENT_CHARACTER,
        false => character,
    };
    sentences
        .map(|sentence| sentence.chars().map(plain).collect())
        .into()
}

/// The party that hears of visits, and how surely.
fn visits(report: &Report) -> String {
    let called = report.called();
    let Some([visits, next]) = report.visits else {
        return "Who hears of its website visits is not told: the daemon finds that out, and none runs."
            .to_owned();
    };
    let Some(echo) = strongest(&report.echoes) else {
        return match next <= visits || visits >= FIRST_LOOK {
            true => format!(
                "No link was found between the {} that {called} opened and what it sends.",
                counted(visits.into(), "website", "websites")
            ),
            false => format!(
                "Too few websites were opened yet to tell who hears of it ({visits} of about {next})."
            ),
        };
    };
    let recipient = match &echo.owner {
        Some(owner) => format!("{owner} ({})", echo.name),
        None => echo.name.clone(),
    };
    let lag = match echo.to <= 5 {
        true => format!("within {} seconds", echo.to),
        false => format!(
            "about {}",
            counted(echo.lag.into(), "second later", "seconds later")
        ),
    };
    let control = match echo.control {
        Some(control) => format!(
            "; by comparison, at other moments: {:.0} of 100",
            100.0 * control
        ),
        None => String::new(),
    };
    let by_itself = match echo.is_hardly_of_sites() {
        true => " Most likely the device itself sends it, not the web page.",
        false => "",
    };
    format!(
        "{called} sends data to {recipient} after {} of {} website visits, {lag}{control}. Almost certainly no \
         coincidence ({}).{by_itself}",
        echo.followed,
        echo.visits,
        chance(echo.p)
    )
}

/// The number of visits at which the first look for echoes is.
const FIRST_LOOK: u32 = 20;

/// The echo that is told first: one of which sites are hardly the cause, else the one that followed most.
fn strongest(echoes: &[Echo]) -> Option<&Echo> {
    let echoes = echoes.iter().filter(|echo| echo.withdrawn.is_none());
    echoes.max_by_key(|echo| (echo.is_hardly_of_sites(), echo.followed, echo.is_host))
}

/// How much was sent, and how much of it is usage reporting.
fn amounts(report: &Report) -> String {
    let [from, to] = &report.days_from_to;
    let time = match from == to {
        true => format!("On {to}"),
        false => format!("From {from} to {to}"),
    };
    let telemetry: Vec<&Owner> = report
        .owners
        .iter()
        .filter(|row| row.category.as_deref() == Some("telemetry"))
        .collect();
    let sent = bytes(report.total.upload_bytes);
    let received = bytes(report.total.download_bytes);
    let total: u64 = telemetry.iter().map(|row| row.amounts.upload_bytes).sum();
    let told = match telemetry.is_empty() {
        true => "none of it is known as usage reporting".to_owned(),
        false => {
            let named = telemetry
                .iter()
                .take(MOST_NAMED)
                .map(|row| match &*row.countries {
                    [] => row.owner.clone(),
                    countries => format!("{} ({})", row.owner, countries.join(", ")),
                });
            let named: Vec<_> = named.collect();
            let others = match telemetry.len() - named.len() {
                0 => String::new(),
                count => format!(" and {}", counted(count as u64, "other", "others")),
            };
            format!(
                "{} of it is usage reporting, for {}{others}",
                bytes(total),
                named.join(", ")
            )
        }
    };
    format!("{time} it sent {sent} and received {received}; {told}.")
}

/// The refusals, and the command that would block the rest.
fn blocked(report: &Report) -> String {
    let refused = report.total.refused;
    let retried = report.total.retried;
    let done = match refused {
        0 => "Nothing was blocked.".to_owned(),
        _ => format!(
            "Blocked: {}, {} of them soon after the same was blocked.",
            counted(refused, "attempt", "attempts"),
            grouped(retried)
        ),
    };
    let name = strongest(&report.echoes)
        .map(|echo| echo.name.as_str())
        .or_else(|| {
            let mut telemetry = report.owners.iter();
            let row = telemetry.find(|row| row.category.as_deref() == Some("telemetry"))?;
            row.parties.first().map(String::as_str)
        });
    let row = name.and_then(|name| {
        let has = |row: &&Owner| {
            let mut parties = row.parties.iter();
            !row.is_no_party
                && parties.any(|party| name == party || name.ends_with(&format!(".{party}")))
        };
        report.owners.iter().find(has).map(|row| (name, row))
    });
    match row {
        Some((name, row)) => format!(
            "{done} `sensor block {name} --device {}` blocks that name from now on; {} went to {} in this time.",
            report.device,
            counted(row.amounts.flows, "connection", "connections"),
            row.owner
        ),
        None => done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{
        echo::{Reach, Stack},
        report::Amounts,
    };

    fn echo() -> Echo {
        Echo {
            name: "sa.api.intl.miui.com".to_owned(),
            is_host: true,
            owner: Some("Xiaomi".to_owned()),
            category: Some("telemetry".to_owned()),
            found: 0.0,
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
            until: 0.0,
            reach: Reach::NearlyEverySite,
            at_least: None,
            stack: Stack::BesideThePage,
            beside: 97,
            told: 100,
        }
    }

    fn report(visits: Option<[u32; 2]>, echoes: Vec<Echo>) -> Report {
        Report {
            device: "02:00:00:00:00:01".to_owned(),
            name: Some("Redmi\u{202e}".to_owned()),
            days_from_to: ["2026-11-08".to_owned(), "2026-11-14".to_owned()],
            visits,
            echoes,
            total: Amounts {
                upload_bytes: 3 << 20,
                download_bytes: 9 << 20,
                refused: 12,
                retried: 4,
                ..Amounts::default()
            },
            owners: vec![Owner {
                owner: "Xiaomi".to_owned(),
                category: Some("telemetry".to_owned()),
                parties: vec!["miui.com".to_owned()],
                countries: vec!["SG".to_owned()],
                amounts: Amounts {
                    upload_bytes: 2 << 20,
                    flows: 1_501,
                    ..Amounts::default()
                },
                ..Owner::default()
            }],
            ..Report::default()
        }
    }

    #[test]
    fn who_hears_of_visits_is_said_as_surely_as_it_is_known() {
        let first = |visits, echoes| of(&report(visits, echoes)).swap_remove(0);
        assert_eq!(
            first(Some([592, 640]), vec![echo()]),
            "Redmi\u{fffd} sends data to Xiaomi (sa.api.intl.miui.com) after 486 of 592 website visits, about 15 seconds \
             later; by comparison, at other moments: 4 of 100. Almost certainly no coincidence (less than 1 in a \
             million). Most likely the device itself sends it, not the web page."
        );
        let of_sites = Echo {
            reach: Reach::SomeSites,
            ..echo()
        };
        let said = first(Some([592, 640]), vec![of_sites]);
        assert!(!said.contains("the device itself"), "{said}");
        let withdrawn = Echo {
            withdrawn: Some(1.0),
            ..echo()
        };
        let said = first(Some([592, 640]), vec![withdrawn]);
        assert!(said.starts_with("No link was found"), "{said}");
        let said = first(Some([12, 20]), vec![]);
        assert!(said.contains("12 of about 20"), "{said}");
        let said = first(None, vec![]);
        assert!(said.contains("none runs"), "{said}");
    }

    #[test]
    fn amounts_have_owners_and_places_and_what_is_blocked_has_its_command() {
        let said = of(&report(Some([592, 640]), vec![echo()]));
        assert_eq!(
            said[1],
            "From 2026-11-08 to 2026-11-14 it sent 3.00 MiB and received 9.00 MiB; 2.00 MiB of it is usage reporting, for \
             Xiaomi (SG)."
        );
        assert_eq!(
            said[2],
            "Blocked: 12 attempts, 4 of them soon after the same was blocked. `sensor block \
             sa.api.intl.miui.com --device 02:00:00:00:00:01` blocks that name from now on; 1,501 connections went to \
             Xiaomi in this time."
        );
    }
}
