//! Self-contained HTML pages: style and script are inside, nothing is loaded, and without the script everything but
//! interactive detail is shown.

use crate::chart;
use crate::escape::escape;

/// A complete page, light or dark like the viewer's screen.
pub(crate) fn page(title: &str, body: &str) -> String {
    let title = escape(title);
    let (charts, style) = (chart::STYLE, include_str!("page.css"));
    let script = include_str!("page.js");
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <link rel=\"icon\" href=\"data:,\">\n<title>{title}</title>\n\
         <style>\n{charts}{style}</style>\n</head>\n<body>\n<main>\n{body}</main>\n<script>\n{script}</script>\n</body>\n</html>\n"
    )
}

/// A section with its heading; empty if it has no content.
pub(crate) fn section(heading: &str, content: &str) -> String {
    if content.is_empty() {
        return String::new();
    }
    let id = id_of(heading);
    format!("<section id=\"{id}\">\n<h2>{heading}</h2>\n{content}</section>\n")
}

/// A section's anchor: `confusion-and-classes`.
fn id_of(heading: &str) -> String {
    heading.to_lowercase().replace(' ', "-")
}

/// Links to the sections of a body.
pub(crate) fn jumps(body: &str) -> String {
    let headings = body.split("<h2>").skip(1).filter_map(|rest| rest.split("</h2>").next());
    let link = |heading: &str| format!("<a href=\"#{}\">{heading}</a>\n", id_of(heading));
    format!(
        "<nav class=\"jumps\" aria-label=\"Sections\">\n{}</nav>\n",
        headings.map(link).collect::<String>()
    )
}

/// `41418` as `41,418`.
pub(crate) fn thousands(number: usize) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> = digits
        .as_bytes()
        .rchunks(3)
        .rev()
        .map(|group| std::str::from_utf8(group).expect("digits are ASCII"))
        .collect();
    groups.join(",")
}

/// `0.9753` as `97.53 %`; a dash for NaN.
pub(crate) fn percent(share: f64) -> String {
    if share.is_finite() { format!("{:.2} %", 100.0 * share) } else { "–".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_escaped() {
        assert_eq!(escape("a<b> & 'c' \"d\""), "a&lt;b&gt; &amp; &#39;c&#39; &quot;d&quot;");
        let page = page("</title><script>", "");
        assert!(page.contains("<title>&lt;/title&gt;&lt;script&gt;</title>"), "{page}");
    }

    #[test]
    fn a_page_loads_nothing() {
        let page = page("a run", &section("Curves", "<p>none</p>"));
        for outside in ["http:", "https:", "<script src", "@import", "src=", "import("] {
            assert!(!page.contains(outside), "{outside}");
        }
    }

    #[test]
    fn numbers_are_formatted_for_reading() {
        assert_eq!([0, 999, 1000, 1_234_567].map(thousands), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([0.97531, 1.0, f64::NAN].map(percent), ["97.53 %", "100.00 %", "–"]);
    }
}
