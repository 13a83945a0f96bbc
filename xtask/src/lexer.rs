//! Divides Rust sources into words, signs, texts and comments.

/// The kind of a piece of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A comment, with its slashes.
    Comment,
    /// A literal of a text or a character, with its quotes.
    Text,
    /// An identifier, a keyword, or a lifetime without its quote.
    Word,
    /// `::`, or one character that is none of the others.
    Sign,
}

/// A piece of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece<'a> {
    pub(crate) kind: Kind,
    pub(crate) text: &'a str,
    /// The line on which it begins, from 1.
    pub(crate) line: usize,
}

/// The pieces of a source in their order, without white space.
pub(crate) fn pieces(source: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let mut rest = source;
    let mut line = 1;
    while let Some(first) = rest.chars().next() {
        let (kind, length) = if rest.starts_with("//") {
            (Kind::Comment, rest.find('\n').unwrap_or(rest.len()))
        } else if rest.starts_with("/*") {
            let end = rest.find("*/").map_or(rest.len(), |end| end + 2);
            (Kind::Comment, end)
        } else if rest.starts_with("r\"") || rest.starts_with("r#\"") {
            (Kind::Text, raw_string(rest))
        } else if first == '"' {
            (Kind::Text, string(rest))
        } else if first == '\'' {
            match character(rest) {
                1 => (Kind::Sign, 1),
                length => (Kind::Text, length),
            }
        } else if rest.starts_with("::") {
            (Kind::Sign, 2)
        } else if first.is_alphanumeric() || first == '_' {
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_');
            (Kind::Word, end.unwrap_or(rest.len()))
        } else {
            (Kind::Sign, first.len_utf8())
        };
        let text = &rest[..length];
        if !first.is_whitespace() {
            pieces.push(Piece { kind, text, line });
        }
        line += text.matches('\n').count();
        rest = &rest[length..];
    }
    pieces
}

/// A source without its tests in the module `tests` at its end.
pub(crate) fn without_tests(source: &str) -> &str {
    let end = source.find("#[cfg(test)]\nmod tests {");
    &source[..end.unwrap_or(source.len())]
}

fn string(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

fn raw_string(text: &str) -> usize {
    let end = if text.starts_with("r#") { "\"#" } else { "\"" };
    let body = end.len() + 1;
    text[body..]
        .find(end)
        .map_or(text.len(), |at| body + at + end.len())
}

/// A character literal, or only the quote where a lifetime follows it.
fn character(text: &str) -> usize {
    let mut inside = text.char_indices().skip(1);
    match inside.next() {
        Some((_, '\\')) => text[2..].find('\'').map_or(1, |at| {
            // The escaped character may be the quote itself.
            if at == 0 { 4 } else { at + 3 }
        }),
        Some(_) => match inside.next() {
            Some((at, '\'')) => at + 1,
            _ => 1,
        },
        None => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_each_kind() {
        let check = |source: &str, expected: &[(Kind, &str, usize)]| {
            let pieces = pieces(source).into_iter();
            let found: Vec<_> = pieces
                .map(|piece| (piece.kind, piece.text, piece.line))
                .collect();
            assert_eq!(found, expected, "{source}");
        };
        check(
            "a::b // \"c\"\n'd' \"e\\\"\"",
            &[
                (Kind::Word, "a", 1),
                (Kind::Sign, "::", 1),
                (Kind::Word, "b", 1),
                (Kind::Comment, "// \"c\"", 1),
                (Kind::Text, "'d'", 2),
                (Kind::Text, "\"e\\\"\"", 2),
            ],
        );
        check(
            "&'a 4_u8 r#\"\"\n\"# /* b\n*/ c",
            &[
                (Kind::Sign, "&", 1),
                (Kind::Sign, "'", 1),
                (Kind::Word, "a", 1),
                (Kind::Word, "4_u8", 1),
                (Kind::Text, "r#\"\"\n\"#", 1),
                (Kind::Comment, "/* b\n*/", 2),
                (Kind::Word, "c", 3),
            ],
        );
    }

    #[test]
    fn tests_at_the_end_are_left_away() {
        assert_eq!(without_tests("a\n#[cfg(test)]\nmod tests {\nb\n}\n"), "a\n");
        assert_eq!(without_tests("a\n"), "a\n");
    }
}
