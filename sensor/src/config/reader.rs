//! Reads tables, lists and single values of a TOML document, and reports the problems of each.
//!
//! Knows nothing of the configuration's sections: these are in [`read`](super::read).

use std::{
    collections::{BTreeSet, HashMap, hash_map::Entry},
    hash::Hash,
    ops::{Range, RangeInclusive},
    time::Duration,
};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    places::Places,
    problem::{Level, Problem},
    value::{self, Complaint, closest},
};

pub(super) type Value<'i> = Spanned<DeValue<'i>>;

/// A table of the configuration with the name it has in messages.
pub(super) struct Section<'a, 'i> {
    pub(super) name: &'static str,
    pub(super) table: &'a DeTable<'i>,
    pub(super) span: Range<usize>,
}

impl<'a, 'i> Section<'a, 'i> {
    pub(super) fn get(&self, key: &str) -> Option<&'a Value<'i>> {
        self.table.get(key)
    }
}

/// A configuration that is being read: its problems and the facts that later values need.
#[derive(Default)]
pub(super) struct Reader {
    pub(super) problems: Vec<Problem>,
    pub(super) places: Places,
    /// Where the pin directory stands, if it can be read.
    pub(super) pin_directory: Option<Range<usize>>,
    /// Where the runtime directory stands, if it can be read.
    pub(super) runtime_directory: Option<Range<usize>>,
    /// The names by which a policy may select devices, also those of devices with a problem.
    pub(super) device_names: BTreeSet<String>,
    pub(super) groups: BTreeSet<String>,
}

impl Reader {
    /// A text that people read.
    pub(super) fn label(
        &mut self,
        section: &Section<'_, '_>,
        key: &str,
        example: &str,
    ) -> Option<String> {
        let label = self.optional_text(Some(section), key, example, |text| {
            value::label(text, key, example)
        });
        label.map(|(text, _)| text)
    }

    pub(super) fn twice(&mut self, what: &str, span: Range<usize>, first: Range<usize>) {
        self.problems.push(Problem {
            level: Level::Warning,
            message: format!("{what} stands twice in this list"),
            span: Some(span),
            label: "again".to_owned(),
            related: Some((first, "first here")),
            help: "remove one of the two".to_owned(),
        });
    }

    /// An item with its place, unless it stands in its list already.
    pub(super) fn once<T, K: Eq + Hash>(
        &mut self,
        item: &Value<'_>,
        read: T,
        key: impl FnOnce(&T) -> K,
        unique: &mut Unique<K>,
    ) -> Option<(T, Range<usize>)> {
        let Some(first) = unique.add(key(&read), &item.span()) else {
            return Some((read, item.span()));
        };
        let what = match item.get_ref() {
            DeValue::String(text) => quoted_excerpt(text),
            _ => "this".to_owned(),
        };
        self.twice(&what, item.span(), first);
        None
    }

    /// The items of a policy's list that could be read. A list that is written and empty is
    /// refused: it reads as "none" and would mean "all".
    pub(super) fn list<'i, K, T>(
        &mut self,
        section: &Section<'_, 'i>,
        key: &str,
        example: &str,
        item: impl FnMut(&mut Self, &Value<'i>, &mut Unique<K>) -> Option<T>,
    ) -> Vec<T>
    where
        Unique<K>: Default,
    {
        if let Some(value) = section.get(key)
            && value
                .get_ref()
                .as_array()
                .is_some_and(|items| items.is_empty())
        {
            self.problems.push(Problem {
                level: Level::Error,
                message: format!("`{key}` is an empty list"),
                span: Some(value.span()),
                label: "none, or all?".to_owned(),
                related: None,
                help: format!(
                    "leave `{key}` out where all are meant; remove the policy where none is"
                ),
            });
        }
        self.items(section, key, example, item).unwrap_or_default()
    }

    /// The items of a policy's list, or the one that stands there without brackets.
    pub(super) fn one_or_list<'i, K, T>(
        &mut self,
        section: &Section<'_, 'i>,
        key: &str,
        example: &str,
        mut item: impl FnMut(&mut Self, &Value<'i>, &mut Unique<K>) -> Option<T>,
    ) -> Vec<T>
    where
        Unique<K>: Default,
    {
        match section.get(key) {
            Some(value) if !value.get_ref().is_array() => {
                let one = item(self, value, &mut Unique::default());
                one.into_iter().collect()
            }
            _ => self.list(section, key, example, item),
        }
    }

    /// The items of a list that could be read; `None` where there is no list.
    pub(super) fn items<'i, K, T>(
        &mut self,
        section: &Section<'_, 'i>,
        key: &str,
        example: &str,
        mut item: impl FnMut(&mut Self, &Value<'i>, &mut Unique<K>) -> Option<T>,
    ) -> Option<Vec<T>>
    where
        Unique<K>: Default,
    {
        let value = section.get(key)?;
        let Some(items) = value.get_ref().as_array() else {
            self.wrong_type(value, key, "a list", example);
            return None;
        };
        let mut unique = Unique::default();
        let read = items
            .iter()
            .filter_map(|value| item(self, value, &mut unique));
        Some(read.collect())
    }

    /// Reports keys that mean nothing.
    pub(super) fn know_keys(&mut self, section: &Section<'_, '_>, known: &[&str]) {
        for key in section.table.keys() {
            let written: &str = key.get_ref();
            if known.contains(&written) {
                continue;
            }
            let help = match closest(written, known.iter().copied()) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => format!("it takes {}", quoted(known.iter().copied())),
            };
            self.problems.push(Problem {
                level: Level::Error,
                message: format!(
                    "`{}` is not a key of {}",
                    value::excerpt(written),
                    section.name
                ),
                span: Some(key.span()),
                label: "unknown key".to_owned(),
                related: None,
                help,
            });
        }
    }

    pub(super) fn know_keys_of(&mut self, section: Option<&Section<'_, '_>>, known: &[&str]) {
        if let Some(section) = section {
            self.know_keys(section, known);
        }
    }

    /// A table that may stand once.
    pub(super) fn section<'a, 'i>(
        &mut self,
        root: &Section<'a, 'i>,
        key: &str,
        name: &'static str,
    ) -> Option<Section<'a, 'i>> {
        let value = root.get(key)?;
        match value.get_ref() {
            DeValue::Table(table) => Some(Section {
                name,
                table,
                span: value.span(),
            }),
            other => {
                let label = if is_list_of_tables(other) {
                    "two brackets".to_owned()
                } else {
                    what_it_is(other)
                };
                self.problems.push(Problem {
                    level: Level::Error,
                    message: format!("`{key}` is to be one table"),
                    span: Some(value.span()),
                    label,
                    related: None,
                    help: format!("write `{name}` in a line of its own, once, and its keys below"),
                });
                None
            }
        }
    }

    /// The tables of a list of tables; `None` where something else stands there.
    pub(super) fn sections<'a, 'i>(
        &mut self,
        root: &Section<'a, 'i>,
        key: &str,
        name: &'static str,
    ) -> Option<Vec<Section<'a, 'i>>> {
        let Some(value) = root.get(key) else {
            return Some(Vec::new());
        };
        let mut problem = |span: Range<usize>, label: String| {
            self.problems.push(Problem {
                level: Level::Error,
                message: format!("`{key}` is to be a list of tables"),
                span: Some(span),
                label,
                related: None,
                help: format!(
                    "write `{name}` with two brackets in a line of its own, and its keys below"
                ),
            });
        };
        match value.get_ref() {
            DeValue::Array(items) => {
                let mut sections = Vec::new();
                for item in items.iter() {
                    match item.get_ref() {
                        DeValue::Table(table) => sections.push(Section {
                            name,
                            table,
                            span: item.span(),
                        }),
                        other => {
                            problem(item.span(), what_it_is(other));
                            return None;
                        }
                    }
                }
                Some(sections)
            }
            DeValue::Table(_) => {
                problem(value.span(), "one table".to_owned());
                None
            }
            other => {
                problem(value.span(), what_it_is(other));
                None
            }
        }
    }

    pub(super) fn required_text<T>(
        &mut self,
        section: &Section<'_, '_>,
        key: &str,
        example: &str,
        check: impl Fn(&str) -> Result<T, Complaint>,
    ) -> Option<(T, Range<usize>)> {
        if section.get(key).is_none() {
            self.problems.push(Problem {
                level: Level::Error,
                message: format!("this {} has no `{key}`", section.name),
                span: Some(section.span.clone()),
                label: format!("`{key}` is missing"),
                related: None,
                help: format!("add a line such as `{example}`"),
            });
            return None;
        }
        self.optional_text(Some(section), key, example, check)
    }

    pub(super) fn optional_text<T>(
        &mut self,
        section: Option<&Section<'_, '_>>,
        key: &str,
        example: &str,
        check: impl Fn(&str) -> Result<T, Complaint>,
    ) -> Option<(T, Range<usize>)> {
        let value = section?.get(key)?;
        Some((self.text(value, key, example, check)?, value.span()))
    }

    pub(super) fn a_text<'v>(
        &mut self,
        value: &'v Value<'_>,
        key: &str,
        example: &str,
    ) -> Option<&'v str> {
        let text = value.get_ref().as_str();
        if text.is_none() {
            self.wrong_type(value, key, "a text in quotes", example);
        }
        text
    }

    pub(super) fn text<T>(
        &mut self,
        value: &Value<'_>,
        key: &str,
        example: &str,
        check: impl Fn(&str) -> Result<T, Complaint>,
    ) -> Option<T> {
        let text = self.a_text(value, key, example)?;
        self.accept(value.span(), check(text))
    }

    /// The value, or its complaint reported.
    pub(super) fn accept<T>(
        &mut self,
        span: Range<usize>,
        result: Result<T, Complaint>,
    ) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(complaint) => {
                self.problems.push(Problem {
                    level: Level::Error,
                    message: complaint.message,
                    span: Some(span),
                    label: complaint.label,
                    related: None,
                    help: complaint.help,
                });
                None
            }
        }
    }

    fn wrong_type(&mut self, value: &Value<'_>, key: &str, wanted: &str, example: &str) {
        self.problems.push(Problem {
            level: Level::Error,
            message: format!("`{key}` takes {wanted}"),
            span: Some(value.span()),
            label: what_it_is(value.get_ref()),
            related: None,
            help: format!("write for example `{example}`"),
        });
    }

    pub(super) fn choice<T: Copy + Into<&'static str>>(
        &mut self,
        section: &Section<'_, '_>,
        key: &str,
        choices: &[T],
        elsewhere: &[(&str, &str)],
    ) -> Option<T> {
        let example = format!("{key} = \"{}\"", (*choices.first()?).into() as &str);
        let written = |name: &str| format!("{key} = \"{name}\"");
        let chosen = self.optional_text(Some(section), key, &example, |text| {
            chosen(text, key, choices, elsewhere, written)
        });
        chosen.map(|(choice, _)| choice)
    }

    pub(super) fn number(
        &mut self,
        section: Option<&Section<'_, '_>>,
        key: &str,
        range: RangeInclusive<u32>,
        default: u32,
    ) -> u32 {
        let Some(value) = section.and_then(|section| section.get(key)) else {
            return default;
        };
        let example = format!("{key} = {default}");
        if !value.get_ref().is_integer() {
            self.wrong_type(value, key, "a whole number", &example);
            return default;
        }
        let number = integer(value.get_ref()).and_then(|number| u32::try_from(number).ok());
        match number.filter(|number| range.contains(number)) {
            Some(number) => number,
            None => {
                let (least, most) = range.into_inner();
                self.out_of_range(value, key, &least.to_string(), &most.to_string(), &example);
                default
            }
        }
    }

    pub(super) fn duration(
        &mut self,
        section: Option<&Section<'_, '_>>,
        key: &str,
        range: RangeInclusive<Duration>,
        default: Duration,
    ) -> Duration {
        let Some(value) = section.and_then(|section| section.get(key)) else {
            return default;
        };
        let example = format!("{key} = \"{}\"", value::duration_text(default));
        if value.get_ref().is_integer() {
            let number = integer(value.get_ref()).unwrap_or(i64::MAX);
            let mut without_unit = value::duration(&number.to_string());
            if *range.end() <= Duration::from_secs(1)
                && let Err(complaint) = &mut without_unit
            {
                complaint.help = format!("write `\"{number}ms\"` for milliseconds");
            }
            self.accept(value.span(), without_unit);
            return default;
        }
        let Some(duration) = self.text(value, key, &example, value::duration) else {
            return default;
        };
        if range.contains(&duration) {
            return duration;
        }
        let least = value::duration_text(*range.start());
        let most = value::duration_text(*range.end());
        self.out_of_range(value, key, &least, &most, &example);
        default
    }

    pub(super) fn boolean(
        &mut self,
        section: Option<&Section<'_, '_>>,
        key: &str,
        default: bool,
    ) -> bool {
        let Some(value) = section.and_then(|section| section.get(key)) else {
            return default;
        };
        if let Some(boolean) = value.get_ref().as_bool() {
            return boolean;
        }
        let example = format!("{key} = {default}");
        self.wrong_type(value, key, "`true` or `false`", &example);
        default
    }

    fn out_of_range(
        &mut self,
        value: &Value<'_>,
        key: &str,
        least: &str,
        most: &str,
        example: &str,
    ) {
        self.problems.push(Problem {
            level: Level::Error,
            message: format!("`{key}` is out of range"),
            span: Some(value.span()),
            label: format!("may be {least} to {most}"),
            related: None,
            help: format!("write for example `{example}`, the default"),
        });
    }
}

/// Where a value stood first.
pub(super) struct Unique<K>(HashMap<K, Range<usize>>);

impl<K> Default for Unique<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Eq + Hash> Unique<K> {
    /// Notes the place of a value; the first place where it had one.
    pub(super) fn add(&mut self, value: K, span: &Range<usize>) -> Option<Range<usize>> {
        match self.0.entry(value) {
            Entry::Occupied(first) => Some(first.get().clone()),
            Entry::Vacant(place) => {
                place.insert(span.clone());
                None
            }
        }
    }
}

pub(super) fn integer(value: &DeValue<'_>) -> Option<i64> {
    let integer = value.as_integer()?;
    i64::from_str_radix(integer.as_str(), integer.radix()).ok()
}

fn is_list_of_tables(value: &DeValue<'_>) -> bool {
    value
        .as_array()
        .is_some_and(|items| !items.is_empty() && items.iter().all(|i| i.get_ref().is_table()))
}

fn what_it_is(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(_) => "this is a text",
        DeValue::Integer(_) => "this is a whole number",
        DeValue::Float(_) => "this is a number with a point",
        DeValue::Boolean(_) => "this is `true` or `false`",
        DeValue::Datetime(_) => "this is a date or a time",
        DeValue::Array(_) => "this is a list",
        DeValue::Table(_) => "this is a table",
    }
    .to_owned()
}

/// The choice with the name that is written; `written` is how a name is to be written there.
pub(super) fn chosen<T: Copy + Into<&'static str>>(
    text: &str,
    key: &str,
    choices: &[T],
    elsewhere: &[(&str, &str)],
    written: impl Fn(&str) -> String,
) -> Result<T, Complaint> {
    let names = || choices.iter().map(|choice| (*choice).into());
    let mut named = choices.iter().zip(names());
    if let Some((choice, _)) = named.find(|(_, name)| *name == text) {
        return Ok(*choice);
    }
    let lower = text.to_ascii_lowercase();
    let meant = elsewhere
        .iter()
        .find(|(word, _)| *word == lower)
        .map(|(_, name)| *name)
        .or_else(|| closest(&lower, names()));
    let help = match meant {
        Some(meant) => format!("write `{}`", written(meant)),
        None => {
            let first = names().next().unwrap_or_default();
            format!("write for example `{}`", written(first))
        }
    };
    Err(Complaint {
        message: format!("`{}` is not a value of `{key}`", value::excerpt(text)),
        label: format!("not one of {}", quoted(names())),
        help,
    })
}

fn quoted<'k>(words: impl Iterator<Item = &'k str>) -> String {
    let words: Vec<String> = words.map(|word| format!("`{word}`")).collect();
    words.join(", ")
}

pub(super) fn quoted_excerpt(text: &str) -> String {
    format!("`{}`", value::excerpt(text))
}
