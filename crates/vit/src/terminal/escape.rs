//! Escaping characters that a terminal interprets or hides.

use std::borrow::Cow;
use std::fmt::Write;

/// Whether a terminal interprets this character or shows nothing for it: control characters, direction marks, line and
/// paragraph separators, joiners and other zero-width characters, and the replacement character for invalid UTF-8.
pub(crate) fn is_hidden(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{ad}'
                | '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{fffd}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

/// The text on one line, with hidden characters escaped as `\n`, `\u{1b}` or the like.
pub(crate) fn escaped(text: &str) -> Cow<'_, str> {
    replaced(text, is_hidden, |out, character| out.extend(character.escape_default()))
}

/// The same for a line of JSON, whose meaning does not change: hidden characters occur only in its strings.
pub(crate) fn escaped_in_json(line: &str) -> Cow<'_, str> {
    let is_hidden = |character| character != '\n' && is_hidden(character);
    replaced(line, is_hidden, |out, character| {
        for unit in character.encode_utf16(&mut [0; 2]) {
            write!(out, "\\u{unit:04x}").expect("a string takes all text");
        }
    })
}

fn replaced(
    text: &str,
    is_replaced: impl Fn(char) -> bool,
    replace: impl Fn(&mut String, char),
) -> Cow<'_, str> {
    if !text.contains(&is_replaced) {
        return text.into();
    }
    let mut out = String::with_capacity(2 * text.len());
    for character in text.chars() {
        if is_replaced(character) {
            replace(&mut out, character);
        } else {
            out.push(character);
        }
    }
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn hidden_characters_are_escaped() {
        for (text, expected) in [
            ("x\nhint: run\r", "x\\nhint: run\\r"),
            ("\u{1b}]0;PWNED\u{7}\u{9b}31m\u{7f}", "\\u{1b}]0;PWNED\\u{7}\\u{9b}31m\\u{7f}"),
            (
                "gnp.\u{202e}exe\u{2066}\u{200b}\u{feff}",
                "gnp.\\u{202e}exe\\u{2066}\\u{200b}\\u{feff}",
            ),
            ("a\u{2028}b\u{fffd}\u{e0041}", "a\\u{2028}b\\u{fffd}\\u{e0041}"),
        ] {
            assert_eq!(escaped(text), expected);
        }
    }

    #[test]
    fn visible_characters_are_unchanged() {
        for text in ["", "runs/ünïcode-模型/c:\\x 'y' \"z\"", "–·✓é\u{301}"] {
            assert!(matches!(escaped(text), Cow::Borrowed(same) if same == text));
        }
    }

    proptest! {
        #[test]
        fn escaped_text_is_one_line_without_hidden_characters(text in any::<String>()) {
            let once = escaped(&text);
            prop_assert!(!once.contains(is_hidden));
            prop_assert_eq!(escaped(&once), once.as_ref());
        }

        #[test]
        fn escaped_json_has_the_same_meaning(text in any::<String>(), marks in "[\u{7f}-\u{9f}\u{200b}-\u{206f}\u{e0041}]*") {
            let value = serde_json::json!({ "name": text + &marks });
            let line = escaped_in_json(&value.to_string()).into_owned();
            prop_assert!(!line.contains(is_hidden));
            prop_assert_eq!(serde_json::from_str::<serde_json::Value>(&line).expect("JSON"), value);
        }
    }
}
