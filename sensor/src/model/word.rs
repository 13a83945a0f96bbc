//! Words of data: kinds, reasons and verdicts, of which there are few and which the program has in its text.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, PoisonError},
};

use serde::{Deserialize, Deserializer, de::Error};

/// A word of the program. Its name hides the reference from serde, which would borrow it from the input.
pub type Word = &'static str;

/// The longest word, in bytes.
const LONGEST: usize = 64;

/// The most words that can be read. The program has some hundred of its own.
const MOST: usize = 1_024;

/// The word of this text. A word that was read stays in memory until the process ends, so their number is
/// limited.
fn word<E: Error>(text: &str) -> Result<Word, E> {
    static WORDS: Mutex<BTreeSet<Word>> = Mutex::new(BTreeSet::new());

    let mut words = WORDS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = words.get(text) {
        return Ok(known);
    }
    if text.len() > LONGEST || words.len() >= MOST {
        return Err(E::custom(format_args!(
            "{text:?} is no word: words have at most {LONGEST} bytes, and there are at most {MOST}"
        )));
    }
    let new: Word = Box::leak(text.into());
    words.insert(new);
    Ok(new)
}

/// Has enums read and written by the words that they have everywhere else.
macro_rules! serde_by_word {
    ($($words:ty),*) => { $(
        impl serde::Serialize for $words {
            fn serialize<S: serde::Serializer>(&self, into: S) -> Result<S::Ok, S::Error> {
                into.serialize_str(self.into())
            }
        }

        impl<'de> serde::Deserialize<'de> for $words {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let text = String::deserialize(from)?;
                text.parse().map_err(|_| {
                    serde::de::Error::custom(format_args!(
                        "{text:?} is no {}",
                        stringify!($words)
                    ))
                })
            }
        }
    )* };
}
pub(crate) use serde_by_word;

/// Reads a word.
///
/// # Errors
/// The text is too long for a word, or there are too many words.
pub(crate) fn one<'de, D: Deserializer<'de>>(from: D) -> Result<Word, D::Error> {
    word(&String::deserialize(from)?)
}

/// Reads a word, or none.
///
/// # Errors
/// As [`one`].
pub(crate) fn maybe<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Word>, D::Error> {
    let text = Option::<String>::deserialize(from)?;
    text.as_deref().map(word).transpose()
}

/// Reads several words.
///
/// # Errors
/// As [`one`].
pub(crate) fn several<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Word>, D::Error> {
    let texts = Vec::<String>::deserialize(from)?;
    texts.iter().map(|text| word(text)).collect()
}

/// Reads values by words.
///
/// # Errors
/// As [`one`], or a value cannot be read.
pub(crate) fn keys<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    from: D,
) -> Result<BTreeMap<Word, T>, D::Error> {
    let values = BTreeMap::<String, T>::deserialize(from)?;
    let values = values.into_iter();
    values
        .map(|(text, value)| Ok((word(&text)?, value)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_kept_once_and_only_a_word() -> serde_json::Result<()> {
        let read = |text: &str| one(&mut serde_json::Deserializer::from_str(text));
        let first = read("\"telemetry\"")?;
        assert_eq!(first, "telemetry");
        assert!(std::ptr::eq(first, read("\"telemetry\"")?));
        let long = |bytes| format!("\"{}\"", "w".repeat(bytes));
        assert!(read(&long(LONGEST)).is_ok());
        assert!(read(&long(LONGEST + 1)).is_err());
        Ok(())
    }
}
