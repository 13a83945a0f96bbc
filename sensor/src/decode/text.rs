//! Text for people, from octets that anybody may have sent.

/// A text of fewer bytes was not cut for its length: hosts and options have room for 15 characters at least
/// (the names of NetBIOS).
const SHORTEST_CUT: usize = 15;

/// The octets as text of at most `most` octets: as UTF-8, or as Latin-1 where they are none. Of UTF-8 that
/// was cut inside of a character, the whole characters are kept.
///
/// Control characters and those that only steer how others are shown (Unicode's format characters)
/// are left out, and the white space around it. Empty if nothing else is there.
pub(super) fn readable(octets: &[u8], most: usize) -> String {
    let mut text = String::new();
    if is_utf8(octets) {
        let whole = octets.utf8_chunks().flat_map(|chunk| chunk.valid().chars());
        keep(whole, most, &mut text);
    } else {
        keep(octets.iter().copied().map(char::from), most, &mut text);
    }
    text.truncate(text.trim_end().len());
    text
}

/// Whether the bytes are UTF-8, whole or cut.
fn is_utf8(bytes: &[u8]) -> bool {
    // Some clients fill an option up with zeros.
    let filled = bytes.iter().rev().take_while(|byte| **byte == 0).count();
    let bytes = &bytes[..bytes.len() - filled];
    let Err(error) = str::from_utf8(bytes) else {
        return true;
    };
    // Letters of Latin-1 that make up a character of UTF-8 by chance do not stand in names.
    let has_characters = bytes.utf8_chunks().any(|chunk| !chunk.valid().is_ascii());
    let (before, rest) = bytes.split_at(error.valid_up_to());
    let cut = match error.error_len() {
        None => rest,
        Some(_) => &[],
    };
    let is_cut = match cut {
        [] => false,
        // `Â` to `Þ` are capitals in Latin-1, which do not end a word in small letters.
        [0xc2..=0xde] if before.last().is_some_and(u8::is_ascii_lowercase) => true,
        [_] => bytes.len() >= SHORTEST_CUT,
        _ => true,
    };
    has_characters || is_cut
}

fn keep(characters: impl Iterator<Item = char>, most: usize, text: &mut String) {
    for character in characters {
        if text.len() + character.len_utf8() > most {
            break;
        }
        let leads = text.is_empty() && character.is_whitespace();
        if !leads && !character.is_control() && !is_format(character) {
            text.push(character);
        }
    }
}

/// The format characters that hide or reorder text (Unicode, general category Cf, as far as text
/// in one line can have them), and the separators of lines.
pub fn is_format(character: char) -> bool {
    matches!(
        character,
        '\u{ad}'
            | '\u{61c}'
            | '\u{180e}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}'
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_people_may_read_is_kept() {
        for (octets, text) in [
            (&b"Annas-iPhone"[..], "Annas-iPhone"),
            ("Anna’s 📱".as_bytes(), "Anna’s 📱"),
            (b"M\xfcnchen", "München"),
            (b"\xffa\x80b", "ÿab"),
            (b"Jos\xe9", "José"),
            (b"Gro\xdf", "Groß"),
            (b"Zo\xc3", "Zo"),
            (b"Zo\xc3\0\0", "Zo"),
            (b"Annas Telefon f\xc3", "Annas Telefon f"),
            (b"\xe5\xb0\x8f\xe7\xb1\xb3\xe6\x89", "小米"),
            (b"\xe5\xb0\x8f\xe7\xb1\xb3\xe6", "小米"),
            (b"Anna\xe2\x80\x99s \xf0\x9f\x93", "Anna’s"),
            (b"Zo\xc3\xab\xc3.local", "Zoë.local"),
            (b"Anna \xf0\x9f", "Anna"),
            (b" \t a b\0\0", "a b"),
            (b"\x1b[31mred\x07", "[31mred"),
            ("a\u{202e}b\u{200b}".as_bytes(), "ab"),
            (b"\r\n", ""),
            (b"", ""),
        ] {
            assert_eq!(readable(octets, 255), text, "{octets:?}");
        }
        assert_eq!(readable("äää".as_bytes(), 5), "ää");
    }

    proptest! {
        #[test]
        fn no_octets_become_a_control_character(
            octets in prop::collection::vec(any::<u8>(), 0..300),
            most in 0usize..300,
        ) {
            let text = readable(&octets, most);
            prop_assert!(text.len() <= most);
            prop_assert!(!text.chars().any(char::is_control));
            prop_assert_eq!(readable(text.as_bytes(), most), text.clone());
        }
    }
}
