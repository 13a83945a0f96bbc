//! `[[list]]`.

use strum::VariantArray as _;

use crate::{
    catalog::{List, lists::Category},
    config::{
        problem::{Level, Problem},
        reader::{Reader, Section, Unique},
        value,
    },
};

/// The most `[[list]]`.
const MOST_LISTS: usize = 256;

/// Words that other lists use for a category.
pub(super) const CATEGORIES_ELSEWHERE: [(&str, &str); 13] = [
    ("analytics", "telemetry"),
    ("privacy", "telemetry"),
    ("tracker", "telemetry"),
    ("trackers", "telemetry"),
    ("tracking", "telemetry"),
    ("ad", "advertising"),
    ("ads", "advertising"),
    ("adware", "advertising"),
    ("dns", "dns-bypass"),
    ("doh", "dns-bypass"),
    ("allow", "never-block"),
    ("allowlist", "never-block"),
    ("whitelist", "never-block"),
];

impl Reader {
    pub(super) fn lists(&mut self, root: &Section<'_, '_>) -> Vec<List> {
        let mut lists = Vec::new();
        let mut files = Unique::default();
        let sections = self.sections(root, "list", "[[list]]").unwrap_or_default();
        if let Some(first_too_many) = sections.get(MOST_LISTS) {
            self.problems.push(Problem {
                level: Level::Error,
                message: format!(
                    "{} lists are configured; at most {MOST_LISTS} can be used",
                    sections.len()
                ),
                span: Some(first_too_many.span.clone()),
                label: format!("list {}", MOST_LISTS + 1),
                related: None,
                help: "put the names of lists with the same category and owner into one file"
                    .to_owned(),
            });
        }
        for section in &sections {
            const EXAMPLE: &str = "file = \"/etc/gateway-sensor/lists/mine.txt\"";
            self.know_keys(section, &["file", "category", "owner"]);
            let category = self.choice(
                section,
                "category",
                Category::VARIANTS,
                &CATEGORIES_ELSEWHERE,
            );
            let owner = self.label(section, "owner", "owner = \"Xiaomi\"");
            let Some((file, span)) = self.required_text(section, "file", EXAMPLE, |text| {
                value::absolute_path(text, || format!("write for example `{EXAMPLE}`"))
            }) else {
                continue;
            };
            if let Some(first) = files.add(file.clone(), &span) {
                self.problems.push(Problem {
                    level: Level::Error,
                    message: "two lists are the same file".to_owned(),
                    span: Some(span),
                    label: "again".to_owned(),
                    related: Some((first, "first here")),
                    help: "remove one of the two; lines `# category: …` and `# owner: …` in the \
                           file divide it"
                        .to_owned(),
                });
                continue;
            }
            self.places.lists.push(span);
            lists.push(List {
                file,
                category,
                owner,
            });
        }
        lists
    }
}
