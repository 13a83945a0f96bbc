//! The output of `explain`.

use std::io::{self, Write};

use serde::Serialize;

use super::{
    overrides::when_set,
    pauses::until,
    text::{json, local_time, printable},
};
use crate::{
    cli::args::Output,
    policy::{
        Zone,
        explain::{Explanation, Judgement, Line, Loss, Match, Reason},
    },
};

/// Prints the policies' judgement on a subject for a device, and the reasons.
///
/// # Errors
///
/// When the output takes no more.
pub fn print_explanation(
    out: &mut impl Write,
    (device, subject): (&str, &str),
    explanation: &Explanation,
    output: Output,
    zone: &Zone,
) -> io::Result<()> {
    #[derive(Serialize)]
    struct Explained<'a> {
        device: &'a str,
        subject: &'a str,
        #[serde(flatten)]
        explanation: &'a Explanation,
    }

    if output.json {
        return json(
            out,
            &Explained {
                device,
                subject,
                explanation,
            },
        );
    }
    let (subject, device) = (printable(subject), printable(device));
    let verdict = begins(explanation, zone);
    writeln!(out, "{verdict}: {subject} for {device}")?;
    for judgement in &explanation.judgements {
        let layers = judgement.layers.join(", ");
        writeln!(out, "  {layers:<26}{}", decides(judgement, zone))?;
    }
    if !explanation.by_address.is_empty() {
        writeln!(
            out,
            "where its address is one of those of {}, that decides before: ask for the address too",
            policies(&explanation.by_address)
        )?;
    }
    if !explanation.lost.is_empty() {
        writeln!(out, "about it too, and without effect:")?;
    }
    for lost in &explanation.lost {
        writeln!(
            out,
            "  {} {}, by {}: {}",
            who(&lost.said),
            wants(lost.said.action),
            reason(&lost.said.reason, zone),
            loss(&lost.because, zone)
        )?;
    }
    Ok(())
}

/// The verdict, and the pause in which a refusal has no effect.
fn begins(explanation: &Explanation, zone: &Zone) -> String {
    let verdict = verdict(explanation);
    match &explanation.paused {
        Some(pause) if verdict.starts_with("BLOCKED") => format!(
            "ALLOWED while policies are paused, until {}; then {verdict}",
            until(pause, zone)
        ),
        _ => verdict,
    }
}

/// The verdict in a few words, and by what.
fn verdict(explanation: &Explanation) -> String {
    let all = || explanation.judgements.iter();
    let refuses = |judgement: &&Judgement| matches!(judgement.verdict, "reject" | "drop");
    let by = |judgements: Vec<&Judgement>| {
        let mut names: Vec<_> = judgements
            .into_iter()
            .filter_map(|judgement| judgement.said.as_ref().map(who))
            .collect();
        names.dedup();
        names.join(" and ")
    };
    let refused: Vec<_> = all().filter(refuses).collect();
    if !refused.is_empty() {
        let is_whole = all().all(|judgement| refuses(&judgement) && !judgement.at_its_addresses);
        let part = if is_whole { "" } else { " in part," };
        return format!("BLOCKED{part} by {}", by(refused));
    }
    let passes: Vec<_> = all().filter(|judgement| judgement.said.is_some()).collect();
    match passes.iter().any(|judgement| judgement.verdict == "allow") {
        _ if passes.is_empty() => "ALLOWED, by no policy".to_owned(),
        true => format!("ALLOWED by {}", by(passes)),
        false => format!("ALLOWED, and counted by {}", by(passes)),
    }
}

fn decides(judgement: &Judgement, zone: &Zone) -> String {
    let Some(said) = &judgement.said else {
        return "passes: no policy is about it".to_owned();
    };
    let what = match judgement.verdict {
        "reject" => "is refused, and the device is told",
        "drop" => "is dropped in silence",
        "allow" => "is allowed",
        _ => "passes, and is counted",
    };
    let place = match (judgement.before_its_name, judgement.at_its_addresses) {
        (true, _) => ", by its address, before it says a name",
        (_, true) => ", at the addresses that the policy names",
        _ => "",
    };
    format!(
        "{what}{place}: {}, by {}",
        who(said),
        reason(&said.reason, zone)
    )
}

fn who(said: &Match) -> String {
    match &said.policy {
        Some(policy) => format!("policy `{policy}`"),
        None => "a command".to_owned(),
    }
}

fn policies(names: &[String]) -> String {
    let quoted: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
    match names.len() {
        1 => format!("policy {}", quoted.join(", ")),
        _ => format!("policies {}", quoted.join(", ")),
    }
}

fn wants(action: &str) -> &'static str {
    match action {
        "reject" => "would refuse it",
        "drop" => "would drop it",
        "allow" => "would allow it",
        _ => "would count it",
    }
}

fn reason(of: &Reason, zone: &Zone) -> String {
    match of {
        Reason::Command {
            name,
            devices,
            since,
            until,
            rest,
        } => format!(
            "what was said of {} for {} on {}, {}",
            printable(name),
            devices
                .as_deref()
                .map_or_else(|| "all devices".to_owned(), printable),
            local_time(zone, *since),
            match (until, rest) {
                (Some(until), _) => format!("until {}", local_time(zone, *until)),
                (None, Some(rest)) => when_set(*rest),
                (None, None) => "until `sensor forget`".to_owned(),
            }
        ),
        Reason::Domain { name } => format!("`domains` with {}", printable(name)),
        Reason::List(at) => line(at),
        Reason::Category { category, at } => format!("category {category}, {}", line(at)),
        Reason::Owner { owner, at } => format!("owner {}, {}", printable(owner), line(at)),
        Reason::Resolver { name } => {
            format!("`encrypted_dns`, as {} is asked for it", printable(name))
        }
        Reason::Remote { prefix } => format!("`remotes` with {prefix}"),
        Reason::Network { prefix } => format!("country or network of {prefix}"),
        Reason::EncryptedDns => "`encrypted_dns`, port 853".to_owned(),
        Reason::Quic => "`quic`, port 443 of UDP".to_owned(),
        Reason::Everything => "what it says of every address".to_owned(),
        Reason::Learned => {
            "DNS, which gave the device this address only for names that it refuses".to_owned()
        }
        Reason::Alias { name, reason: by } => format!(
            "a DNS answer to the device (CNAME), which leads to {}: {}",
            printable(name),
            reason(by, zone)
        ),
    }
}

fn line(at: &Line) -> String {
    format!(
        "{} in line {} of {}",
        printable(&at.name),
        at.line,
        printable(&at.list)
    )
}

fn loss(loss: &Loss, zone: &Zone) -> String {
    match loss {
        Loss::OtherDevices => "it is about other devices".to_owned(),
        Loss::OutOfSchedule { next: Some(next) } => {
            format!("its schedule begins {}", local_time(zone, *next))
        }
        Loss::TimeUnknown => {
            "it has a schedule, and the clock of this machine is not set yet".to_owned()
        }
        Loss::OutOfSchedule { next: None } => "its schedule never applies".to_owned(),
        Loss::NeverBlock(at) => format!("never-block stands above it, {}", line(at)),
        Loss::OtherCategory(at) => format!("a longer name has another category, {}", line(at)),
        Loss::OtherOwner(at) => format!("a longer name has another owner, {}", line(at)),
        Loss::OtherPorts => "it is about other ports".to_owned(),
        Loss::Command => "a command stands above it".to_owned(),
        Loss::LessSpecific => "what decides is about a longer name or prefix".to_owned(),
        Loss::LaterInOrder => "what decides stands before it".to_owned(),
        Loss::KeepsLinkAlive => "that keeps the link alive".to_owned(),
        Loss::RefusedByAddress => "what is refused by its address says no name".to_owned(),
        Loss::WithoutAliases => "it has `cname = false`".to_owned(),
        Loss::NameAllowed => "the name itself is allowed".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Pause;

    #[test]
    fn it_tells_who_decides_and_what_has_no_effect() -> io::Result<()> {
        let at = Line {
            name: "b.example".to_owned(),
            list: "/ads.txt".to_owned(),
            line: 3,
        };
        let said = |action, reason| Match {
            policy: Some("ads".to_owned()),
            action,
            reason,
        };
        let domain = Reason::Domain {
            name: "example".to_owned(),
        };
        let explanation = Explanation {
            judgements: vec![Judgement {
                layers: vec!["dns", "tls"],
                verdict: "reject",
                said: Some(said("reject", Reason::List(at))),
                at_its_addresses: false,
                before_its_name: false,
            }],
            lost: vec![crate::policy::explain::Lost {
                said: said("allow", domain),
                because: Loss::LessSpecific,
            }],
            by_address: vec!["elsewhere".to_owned()],
            paused: None,
        };
        let mut text = Vec::new();
        let (output, zone) = (Output { json: false }, Zone::default());
        let subject = ("Anna's phone", "b.example");
        print_explanation(&mut text, subject, &explanation, output, &zone)?;
        assert_eq!(
            String::from_utf8_lossy(&text),
            "BLOCKED by policy `ads`: b.example for Anna's phone\n  \
             dns, tls                  is refused, and the device is told: policy `ads`, by \
             b.example in line 3 of /ads.txt\n\
             where its address is one of those of policy `elsewhere`, that decides before: ask for the \
             address too\n\
             about it too, and without effect:\n  \
             policy `ads` would allow it, by `domains` with example: what decides is about a \
             longer name or prefix\n"
        );
        let mut text = Vec::new();
        print_explanation(
            &mut text,
            subject,
            &explanation,
            Output { json: true },
            &zone,
        )?;
        let parsed: serde_json::Value = serde_json::from_slice(&text)?;
        assert_eq!(parsed["judgements"][0]["said"]["reason"]["line"], 3);
        assert_eq!(parsed["lost"][0]["because"], "less_specific");
        Ok(())
    }

    #[test]
    fn it_begins_with_the_verdict() {
        let judged = |verdict, policy: Option<&str>, at_its_addresses| Judgement {
            layers: vec!["tls"],
            verdict,
            said: policy.map(|policy| Match {
                policy: Some(policy.to_owned()).filter(|policy| policy != "command"),
                action: verdict,
                reason: Reason::Everything,
            }),
            at_its_addresses,
            before_its_name: false,
        };
        let passes = || judged("pass", None, false);
        for (judgements, begins) in [
            (vec![passes()], "ALLOWED, by no policy"),
            (
                vec![judged("observe", Some("a"), false), passes()],
                "ALLOWED, and counted by policy `a`",
            ),
            (
                vec![judged("allow", Some("command"), false)],
                "ALLOWED by a command",
            ),
            (
                vec![
                    judged("reject", Some("a"), false),
                    judged("drop", Some("b"), false),
                ],
                "BLOCKED by policy `a` and policy `b`",
            ),
            (
                vec![judged("reject", Some("a"), false), passes()],
                "BLOCKED in part, by policy `a`",
            ),
            (
                vec![judged("reject", Some("a"), true)],
                "BLOCKED in part, by policy `a`",
            ),
        ] {
            let explanation = Explanation {
                judgements,
                lost: Vec::new(),
                by_address: Vec::new(),
                paused: None,
            };
            assert_eq!(verdict(&explanation), begins);
            let is_refused = begins.starts_with("BLOCKED");
            let paused = Explanation {
                paused: Some(Pause::default()),
                ..explanation
            };
            let expected = match is_refused {
                true => {
                    format!(
                        "ALLOWED while policies are paused, until `sensor resume`; then {begins}"
                    )
                }
                false => begins.to_owned(),
            };
            assert_eq!(super::begins(&paused, &Zone::default()), expected);
        }
    }
}
