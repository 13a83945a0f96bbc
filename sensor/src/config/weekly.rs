//! Spans of the week: `mon-fri 21:00-07:00`.

use super::value::{Complaint, complaint, excerpt};
use crate::policy::Span;

const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

const DAILY: u8 = 0b111_1111;

/// Other words for days.
const DAYS_ELSEWHERE: [(&str, &str); 25] = [
    ("mo", "mon"),
    ("tu", "tue"),
    ("we", "wed"),
    ("th", "thu"),
    ("fr", "fri"),
    ("sa", "sat"),
    ("su", "sun"),
    ("tues", "tue"),
    ("thur", "thu"),
    ("thurs", "thu"),
    ("monday", "mon"),
    ("tuesday", "tue"),
    ("wednesday", "wed"),
    ("thursday", "thu"),
    ("friday", "fri"),
    ("saturday", "sat"),
    ("sunday", "sun"),
    ("day", "daily"),
    ("everyday", "daily"),
    ("always", "daily"),
    ("weekday", "mon-fri"),
    ("weekdays", "mon-fri"),
    ("workdays", "mon-fri"),
    ("weekend", "sat,sun"),
    ("weekends", "sat,sun"),
];

const MINUTES_OF_DAY: u16 = 24 * 60;

const EXAMPLE: &str = "write days and hours, for example `\"mon-fri 21:00-07:00\"`, \
                       `\"sat,sun 22:00-24:00\"` or `\"daily 20:00-06:00\"`";

/// Days and hours: `mon-fri 21:00-07:00`, `sat,sun 22:00-24:00`, `daily 20:00-06:00`. Ranges of
/// days may go past Sunday; a span that ends before it begins, ends on the next day.
pub(super) fn span(text: &str) -> Result<Span, Complaint> {
    let refused = |label: String, help: String| {
        Err(complaint(
            format!("`{}` is not a time of the week", excerpt(text)),
            label,
            help,
        ))
    };
    let or_better = || match better(text) {
        Some(better) => format!("write `\"{better}\"`"),
        None => EXAMPLE.to_owned(),
    };
    let words: Vec<&str> = text.split_whitespace().collect();
    let (day_words, hours_text) = match words.as_slice() {
        [days, hours] => (*days, *hours),
        [hours] if hours_of(hours).is_some() => {
            return refused("has no days".to_owned(), or_better());
        }
        [days] if days_of(days).is_ok() => {
            return refused(
                "has no hours".to_owned(),
                format!("write `\"{days} 00:00-24:00\"` for whole days"),
            );
        }
        _ => return refused("not days, a space, and hours".to_owned(), or_better()),
    };
    let days = match days_of(day_words) {
        Ok(days) => days,
        Err(word) => return refused(format!("`{}` is not a day", excerpt(word)), or_better()),
    };
    let Some((from, to)) = hours_of(hours_text) else {
        let label = format!("`{}` is not a span of hours", excerpt(hours_text));
        return refused(label, or_better());
    };
    if from == MINUTES_OF_DAY {
        return refused(
            "begins where the day ends".to_owned(),
            format!("write the day that follows, and `00:00-{}`", clock_text(to)),
        );
    }
    if from == to {
        return refused(
            "ends when it begins".to_owned(),
            format!("write `\"{day_words} 00:00-24:00\"` for whole days"),
        );
    }
    // Midnight at the end is that of the same day.
    let to = if to == 0 { MINUTES_OF_DAY } else { to };
    Ok(Span { days, from, to })
}

/// The span that was likely meant, as it is to be written.
fn better(text: &str) -> Option<String> {
    let text = text.to_ascii_lowercase().replace(['–', '—'], "-");
    let (days, hours) = text.split_at(text.find(|c: char| c.is_ascii_digit())?);
    let days: String = days.split_whitespace().collect();
    let ranges = days.split(',').map(|range| {
        let days: Vec<&str> = range.split('-').map(day_word).collect();
        days.join("-")
    });
    let days = ranges.collect::<Vec<_>>().join(",");
    let days = if days.is_empty() { "daily" } else { &days };
    let hours: String = hours.split_whitespace().collect();
    let (from, to) = hours.split_once('-')?;
    let (from, to) = (loose_clock(from)?, loose_clock(to)?);
    let is_good = days_of(days).is_ok() && from != to && from < MINUTES_OF_DAY;
    is_good.then(|| format!("{days} {}-{}", clock_text(from), clock_text(to)))
}

fn day_word(word: &str) -> &str {
    let meant = DAYS_ELSEWHERE.iter().find(|(other, _)| *other == word);
    meant.map_or(word, |(_, meant)| meant)
}

/// `7`, `7:30`, `7pm`, `12am`.
fn loose_clock(text: &str) -> Option<u16> {
    const NOON: u16 = 12 * 60;
    let half = |text: &str| clock(text).filter(|minutes| *minutes < NOON + 60);
    let whole = |digits: &str| match digits.contains(':') {
        true => digits.to_owned(),
        false => format!("{digits}:00"),
    };
    if let Some(digits) = text.strip_suffix("am") {
        half(&whole(digits)).map(|minutes| minutes % NOON)
    } else if let Some(digits) = text.strip_suffix("pm") {
        half(&whole(digits)).map(|minutes| minutes % NOON + NOON)
    } else {
        clock(&whole(text))
    }
}

/// The set of days, or the word that is none.
fn days_of(text: &str) -> Result<u8, &str> {
    if text.eq_ignore_ascii_case("daily") {
        return Ok(DAILY);
    }
    let day = |word| number_of(word).ok_or(word);
    let mut days = 0;
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (day(first)?, day(last)?);
        let mut number = first;
        loop {
            days |= 1 << number;
            if number == last {
                break;
            }
            number = (number + 1) % DAYS.len();
        }
    }
    Ok(days)
}

fn number_of(word: &str) -> Option<usize> {
    DAYS.iter().position(|day| day.eq_ignore_ascii_case(word))
}

fn hours_of(text: &str) -> Option<(u16, u16)> {
    let (from, to) = text.split_once('-')?;
    Some((clock(from)?, clock(to)?))
}

/// `07:00` and `7:00` to minutes after midnight, 0 to 1,440.
fn clock(text: &str) -> Option<u16> {
    let (hours, minutes) = text.split_once(':')?;
    let number = |digits: &str| {
        let is_number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        is_number.then(|| digits.parse::<u16>().ok()).flatten()
    };
    if hours.len() > 2 || minutes.len() != 2 {
        return None;
    }
    let (hours, minutes) = (number(hours)?, number(minutes)?);
    let total = hours * 60 + minutes;
    (minutes < 60 && total <= MINUTES_OF_DAY).then_some(total)
}

fn clock_text(minutes: u16) -> String {
    format!("{:02}:{:02}", minutes / 60, minutes % 60)
}

const MINUTES_OF_WEEK: usize = 7 * MINUTES_OF_DAY as usize;

/// A set of the week's minutes, as clocks show them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Week([u64; MINUTES_OF_WEEK.div_ceil(64)]);

impl Week {
    /// The minutes in which one of these spans applies; all, where there is none.
    pub(super) fn of(spans: &[Span]) -> Self {
        let mut week = Self([0; MINUTES_OF_WEEK.div_ceil(64)]);
        if spans.is_empty() {
            week.add(0, MINUTES_OF_WEEK);
        }
        for span in spans {
            let mut length = usize::from(span.to) + usize::from(MINUTES_OF_DAY);
            length -= usize::from(span.from);
            if span.to > span.from {
                length -= usize::from(MINUTES_OF_DAY);
            }
            for day in (0..DAYS.len()).filter(|day| span.days >> day & 1 == 1) {
                let midnight = day * usize::from(MINUTES_OF_DAY);
                week.add(midnight + usize::from(span.from), length);
            }
        }
        week
    }

    fn add(&mut self, first: usize, length: usize) {
        for minute in first..first + length {
            let minute = minute % MINUTES_OF_WEEK;
            if let Some(word) = self.0.get_mut(minute / 64) {
                *word |= 1 << (minute % 64);
            }
        }
    }

    /// Whether each minute of another set is in this one too.
    pub(super) fn has_all_of(&self, other: &Self) -> bool {
        self.0
            .iter()
            .zip(&other.0)
            .all(|(own, other)| other & !own == 0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(text: &str, days: u8, from: u16, to: u16) {
        assert_eq!(span(text), Ok(Span { days, from, to }), "{text}");
    }

    fn help(text: &str) -> String {
        match span(text) {
            Ok(span) => panic!("{text} is {span:?}"),
            Err(complaint) => complaint.help,
        }
    }

    #[test]
    fn days_and_hours() {
        check("mon-fri 21:00-07:00", 0b001_1111, 1_260, 420);
        check("sat,sun 22:00-24:00", 0b110_0000, 1_320, 1_440);
        check("daily 20:00-06:00", 0b111_1111, 1_200, 360);
        check("fri-mon 0:00-0:01", 0b111_0001, 0, 1);
        check("Sun  7:30-00:00", 0b100_0000, 450, 1_440);
        check("mon-tue,tue,sun-sun 00:00-24:00", 0b100_0011, 0, 1_440);
    }

    #[test]
    fn what_to_write_instead() {
        assert_eq!(help("21:00-07:00"), "write `\"daily 21:00-07:00\"`");
        assert_eq!(
            help("sat,sun"),
            "write `\"sat,sun 00:00-24:00\"` for whole days"
        );
        for (text, better) in [
            ("weekend,Friday 8:00-9:00", "sat,sun,fri 08:00-09:00"),
            ("mo-fr 21-7", "mon-fri 21:00-07:00"),
            ("mon, tue 10:00 – 12:00", "mon,tue 10:00-12:00"),
            ("everyday 9pm-6:30am", "daily 21:00-06:30"),
            ("sat 12am-12pm", "sat 00:00-12:00"),
            ("8-9", "daily 08:00-09:00"),
        ] {
            assert_eq!(help(text), format!("write `\"{better}\"`"));
        }
        assert_eq!(
            help("mon 10:00-10:00"),
            "write `\"mon 00:00-24:00\"` for whole days"
        );
        assert_eq!(
            help("mon 24:00-07:00"),
            "write the day that follows, and `00:00-07:00`"
        );
        for text in [
            "",
            "mon",
            "mon 7-8",
            "mon 9:00",
            "mon 9:60-10:00",
            "mon 23:00-24:01",
            "mon 1:00-2:00 3:00",
            "mo 1:00-2:00",
            "mon- 1:00-2:00",
            ", 1:00-2:00",
            "mon +1:00-2:00",
            "mon 9:0-10:00",
            "mon 099:00-10:00",
        ] {
            assert!(help(text).starts_with("write "), "{text}");
        }
    }

    #[test]
    fn sets_of_minutes() {
        let week = |texts: &[&str]| {
            let spans: Result<Vec<_>, _> = texts.iter().map(|text| span(text)).collect();
            Week::of(&spans.expect("good spans"))
        };
        let always = Week::of(&[]);
        assert_eq!(week(&["daily 00:00-24:00"]), always);
        assert_eq!(week(&["daily 20:00-06:00", "daily 06:00-20:00"]), always);
        // Sunday's night ends on Monday.
        assert!(week(&["sun 21:00-07:00"]).has_all_of(&week(&["mon 00:00-07:00"])));
        assert!(!week(&["sun 21:00-07:00"]).has_all_of(&week(&["mon 00:00-07:01"])));
        assert!(!week(&["sun 21:00-07:00"]).has_all_of(&week(&["sun 20:59-22:00"])));
        assert!(always.has_all_of(&week(&["tue 3:00-4:00"])));
        assert!(!week(&["tue 3:00-4:00"]).has_all_of(&always));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_text_is_a_span_or_not(text in "\\PC{0,30}|[a-z,-]{0,8} [0-9:-]{0,12}") {
            if let Ok(span) = span(&text) {
                prop_assert!((1..128).contains(&span.days));
                prop_assert!(span.from < 1_440 && (1..=1_440).contains(&span.to));
                prop_assert!(span.from != span.to);
            }
        }
    }
}
