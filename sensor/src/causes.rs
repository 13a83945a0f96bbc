//! An error with its causes, in one line for the log.

use std::error::Error;

/// The text of an error and of the causes behind it, the nearest first, each once: many errors have the text of
/// their cause in their own.
pub fn in_one_line(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn each_cause_is_told_once() {
        let error = anyhow!("no space left").context("map FLOWS cannot be used: no space left");
        let error = error.context("the tables cannot be read");
        assert_eq!(
            in_one_line(error.as_ref()),
            "the tables cannot be read: map FLOWS cannot be used: no space left"
        );
    }
}
