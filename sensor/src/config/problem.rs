//! The problems of a configuration, each with its place and its remedy.

use std::{
    error::Error,
    fmt::{self, Write as _},
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use annotate_snippets::{AnnotationKind, Level as Title, Origin, Renderer, Snippet};

/// How many problems are shown; a list of 100,000 prefixes can have as many.
const MOST_SHOWN: usize = 20;

/// How grave a problem is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// The configuration cannot be used.
    Error,
    /// The configuration can be used, but likely does not do what was meant.
    Warning,
}

/// One problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// How grave it is.
    pub level: Level,
    /// The problem, in a sentence without a full stop.
    pub message: String,
    /// The bytes of the file that are wrong; `None` where it is about the whole file.
    pub span: Option<Range<usize>>,
    /// The problem with these bytes.
    pub label: String,
    /// Another place of the file that belongs to the problem, and its label.
    pub related: Option<(Range<usize>, &'static str)>,
    /// The remedy: a text to write, or something to do.
    pub help: String,
}

/// All problems of a file, in the order of their places. As text: one report for each, the way
/// `rustc` prints them, without colours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems {
    file: PathBuf,
    text: Arc<str>,
    list: Vec<Problem>,
}

impl Problems {
    pub(super) fn new(file: &Path, text: &str, mut list: Vec<Problem>) -> Self {
        list.sort_by_key(|problem| problem.span.as_ref().map_or(0, |span| span.start));
        Self {
            file: file.to_owned(),
            text: text.into(),
            list,
        }
    }

    /// Adds a problem of the whole file: its message and its remedy.
    pub fn add(&mut self, level: Level, message: String, help: String) {
        let problem = Problem {
            level,
            message,
            span: None,
            label: String::new(),
            related: None,
            help,
        };
        self.list.insert(0, problem);
    }

    /// The problems, in the order of their places.
    pub fn list(&self) -> &[Problem] {
        &self.list
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// How many there are of a level.
    pub fn count(&self, level: Level) -> usize {
        self.list.iter().filter(|p| p.level == level).count()
    }

    /// The reports, with colours for a terminal or without.
    ///
    /// The first 20 are shown, errors before warnings where there are more; then how many are not.
    pub fn render(&self, colours: bool) -> String {
        let renderer = if colours {
            Renderer::styled()
        } else {
            Renderer::plain()
        };
        let mut shown: Vec<&Problem> = self.list.iter().collect();
        if shown.len() > MOST_SHOWN {
            shown.sort_by_key(|problem| problem.level != Level::Error);
            shown.truncate(MOST_SHOWN);
        }
        let mut text = String::new();
        for (number, problem) in shown.iter().enumerate() {
            if number > 0 {
                text.push_str("\n\n");
            }
            text.push_str(&self.report(&renderer, problem));
        }
        let hidden = self.list.len() - shown.len();
        if hidden > 0 {
            let _ = write!(text, "\n\nand {hidden} more, not shown");
        }
        text
    }

    fn report(&self, renderer: &Renderer, problem: &Problem) -> String {
        let file = self.file.to_string_lossy();
        let level = match problem.level {
            Level::Error => Title::ERROR,
            Level::Warning => Title::WARNING,
        };
        let title = level.primary_title(problem.message.as_str());
        let help = Title::HELP.message(problem.help.as_str());
        let Some(span) = &problem.span else {
            let group = title.element(Origin::path(file)).element(help);
            return renderer.render(&[group]);
        };
        let line = Line::of(&self.text, span);
        let mut group = title.element(
            Snippet::source(line.text)
                .line_start(line.number)
                .path(file.as_ref())
                .annotation(
                    AnnotationKind::Primary
                        .span(line.span)
                        .label(problem.label.as_str()),
                ),
        );
        if let Some((span, label)) = &problem.related {
            let line = Line::of(&self.text, span);
            group = group.element(
                Snippet::source(line.text)
                    .line_start(line.number)
                    .path(file.as_ref())
                    .annotation(AnnotationKind::Context.span(line.span).label(*label)),
            );
        }
        renderer.render(&[group.element(help)])
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl Error for Problems {}

/// The line in which a span begins, and the part of the span within it. The renderer gets this
/// line alone: it would otherwise walk a whole list for every report.
struct Line<'a> {
    number: usize,
    text: &'a str,
    span: Range<usize>,
}

impl<'a> Line<'a> {
    fn of(text: &'a str, span: &Range<usize>) -> Self {
        let start = text.floor_char_boundary(span.start);
        let line_start = text[..start].rfind('\n').map_or(0, |at| at + 1);
        let line_end = text[start..]
            .find('\n')
            .map_or(text.len(), |length| start + length);
        let line = text[line_start..line_end].trim_end_matches('\r');
        let within = |offset: usize| {
            line.floor_char_boundary(offset.saturating_sub(line_start).min(line.len()))
        };
        let start_within = within(start);
        Self {
            number: text[..line_start].matches('\n').count() + 1,
            text: line,
            span: start_within..within(span.end).max(start_within),
        }
    }
}
