//! Prints a listing once, or anew every two seconds (`--watch`).

use std::{
    io::{IsTerminal as _, Write, stdout},
    thread,
    time::Duration,
};

use super::args::Output;

/// The time between two rounds.
const EVERY: Duration = Duration::from_secs(2);

/// Moves to the first place of a terminal, and erases the screen and the lines that went by (ECMA-48: CUP, ED; xterm:
/// ED 3).
const CLEAR: &[u8] = b"\x1b[H\x1b[2J\x1b[3J";

/// How often a listing is printed.
#[derive(Clone, Copy, Debug)]
pub(super) enum Rounds {
    /// Once.
    One,
    /// Until the process is interrupted, or a round fails.
    Many {
        /// Whether the screen is cleared before each.
        clears: bool,
        /// The time between two.
        every: Duration,
    },
}

impl Rounds {
    /// The rounds of a command. Only tables on a terminal are preceded by an empty screen.
    pub(super) fn of(watches: bool, output: Output) -> Self {
        match watches {
            true => Self::Many {
                clears: !output.json && stdout().is_terminal(),
                every: EVERY,
            },
            false => Self::One,
        }
    }

    /// Prints the rounds.
    ///
    /// # Errors
    ///
    /// A round failed, or the output takes no more.
    pub(super) fn print(
        self,
        out: &mut impl Write,
        mut print: impl FnMut(&mut &mut dyn Write) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let mut out: &mut dyn Write = out;
        let Self::Many { clears, every } = self else {
            return print(&mut out);
        };
        loop {
            // Warnings of the round stay on the screen, because it is cleared before them.
            if clears {
                out.write_all(CLEAR)?;
                out.flush()?;
            }
            print(&mut out)?;
            out.flush()?;
            thread::sleep(every);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(rounds: Rounds) -> (String, bool) {
        let (mut text, mut round) = (Vec::new(), 0);
        let ended = rounds.print(&mut text, |out| {
            round += 1;
            anyhow::ensure!(round < 3, "there is no third");
            Ok(writeln!(out, "{round}")?)
        });
        (String::from_utf8_lossy(&text).into_owned(), ended.is_ok())
    }

    #[test]
    fn a_listing_is_printed_once_or_until_a_round_fails() {
        let every = Duration::ZERO;
        let rounds = |clears| printed(Rounds::Many { clears, every });
        assert_eq!(printed(Rounds::One), ("1\n".to_owned(), true));
        assert_eq!(rounds(false), ("1\n2\n".to_owned(), false));
        let clear = String::from_utf8_lossy(CLEAR);
        let expected = format!("{clear}1\n{clear}2\n{clear}");
        assert_eq!(rounds(true), (expected, false));
    }
}
