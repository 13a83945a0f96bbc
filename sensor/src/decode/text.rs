//! Text for people, from octets that anybody may have sent.

/// The octets as text of at most `most` octets: as UTF-8, or as Latin-1 where they are none.
///
/// Control characters and those that only steer how others are shown (Unicode's format characters)
/// are left out, and the white space around it. Empty if nothing else is there.
pub(super) fn readable(octets: &[u8], most: usize) -> String {
    let mut text = String::new();
    match str::from_utf8(octets) {
        Ok(characters) => keep(characters.chars(), most, &mut text),
        Err(_) => keep(octets.iter().copied().map(char::from), most, &mut text),
    }
    text.truncate(text.trim_end().len());
    text
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
fn is_format(character: char) -> bool {
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
