//! Escaping for HTML and SVG.

use std::borrow::Cow;

/// Escapes text for element content and quoted attributes. Names may come from strangers, so control characters, which
/// HTML forbids, and characters that change the text direction are spelled out, such as `\u{1b}`.
pub(crate) fn escape(text: &str) -> Cow<'_, str> {
    let is_markup = |letter| matches!(letter, '&' | '<' | '>' | '"' | '\'');
    if !text.contains(|letter| is_markup(letter) || is_written_out(letter)) {
        return Cow::Borrowed(text);
    }
    let escaped = text.chars().fold(String::new(), |mut escaped, letter| {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other if is_written_out(other) => escaped.extend(other.escape_default()),
            other => escaped.push(other),
        }
        escaped
    });
    Cow::Owned(escaped)
}

fn is_written_out(letter: char) -> bool {
    let turns = matches!(letter, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    turns || (letter.is_control() && !matches!(letter, '\n' | '\t'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_names_are_escaped() {
        assert_eq!(escape("a <b> & \"c'"), "a &lt;b&gt; &amp; &quot;c&#39;");
        assert_eq!(escape("\u{1b}]0;x\u{7}\u{202e}y"), "\\u{1b}]0;x\\u{7}\\u{202e}y");
        assert!(matches!(escape("two\n\tlines, ä"), Cow::Borrowed(_)));
    }
}
