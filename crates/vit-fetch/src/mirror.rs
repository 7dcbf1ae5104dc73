//! A mirror's address, which may hold a password or token: sent to the mirror, never shown.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use ureq::http::Uri;

use crate::Error;

/// The address of a folder of files, `http://[USER:PASSWORD@]HOST[:PORT]/PATH[?QUERY]`.
///
/// `Display` and `Debug` omit user, password and query.
///
/// ```
/// use vit_fetch::Mirror;
///
/// let mirror: Mirror = "https://user:secret@example.org/mnist?token=1".parse()?;
/// assert_eq!(mirror.to_string(), "https://example.org/mnist/");
/// # Ok::<(), vit_fetch::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Mirror {
    /// With user and password, without a final slash.
    folder: String,
    /// The same without them.
    shown: String,
    /// With the question mark, or empty.
    query: String,
}

impl Mirror {
    /// The address of a file in the folder.
    pub(crate) fn file(&self, name: &str) -> Address {
        let Self { folder, shown, query } = self;
        Address { url: format!("{folder}/{name}{query}"), shown: format!("{shown}/{name}") }
    }
}

impl FromStr for Mirror {
    type Err = Error;

    /// # Errors
    /// [`Error::Mirror`] if this is not an HTTP address.
    fn from_str(text: &str) -> Result<Self, Error> {
        parse(text).ok_or_else(|| {
            if !text.contains(['@', '?', '#']) {
                return Error::Mirror { url: text.to_owned() };
            }
            // In an invalid address, any part may be secret.
            let scheme = text.split_once("://").map(|(scheme, _)| scheme);
            let is_scheme = |scheme: &&str| scheme.chars().all(|it| it.is_ascii_alphanumeric());
            let scheme = scheme.filter(is_scheme).map(|scheme| format!("{scheme}://"));
            Error::Mirror { url: scheme.unwrap_or_default() + "..." }
        })
    }
}

fn parse(text: &str) -> Option<Mirror> {
    let uri: Uri = text.parse().ok()?;
    let scheme = uri.scheme_str().filter(|scheme| ["http", "https"].contains(scheme))?;
    let authority = uri.authority()?.as_str();
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    // A password with a slash ends the authority, and looks like a port.
    let port = uri.port_u16().map(|port| format!(":{port}")).unwrap_or_default();
    if uri.host().is_none_or(|name| name.is_empty() || format!("{name}{port}") != host) {
        return None;
    }
    let path = uri.path().trim_end_matches('/');
    Some(Mirror {
        folder: format!("{scheme}://{authority}{path}"),
        shown: format!("{scheme}://{host}{path}"),
        query: uri.query().map(|query| format!("?{query}")).unwrap_or_default(),
    })
}

impl fmt::Display for Mirror {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/", self.shown)
    }
}

impl fmt::Debug for Mirror {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Mirror").field(&self.to_string()).finish()
    }
}

/// The address of a file at a mirror.
pub(crate) struct Address {
    /// For the request, never shown.
    pub(crate) url: String,
    /// Without user, password and query.
    pub(crate) shown: String,
}

/// Replaces users, passwords and queries of the addresses in a text with `...`.
///
/// Errors and logs of HTTP libraries quote addresses. If a password has characters that are invalid in addresses, more
/// than the password is replaced.
///
/// ```
/// let text = "no answer from http://user:secret@example.org/mnist?token=1 in time";
/// assert_eq!(vit_fetch::redacted(text), "no answer from http://...@example.org/mnist?... in time");
/// ```
#[must_use]
pub fn redacted(text: &str) -> Cow<'_, str> {
    const SCHEME_END: &str = "://";
    if !text.contains(SCHEME_END) {
        return text.into();
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find(SCHEME_END) {
        let (before, from) = rest.split_at(start + SCHEME_END.len());
        let is_behind = |sign: char| sign.is_whitespace() || "\"\\<>`".contains(sign);
        let (address, behind) = from.split_at(from.find(is_behind).unwrap_or(from.len()));
        out += before;
        redact(address, &mut out);
        rest = behind;
    }
    (out + rest).into()
}

/// Appends the public part of an address, given without its scheme.
fn redact(address: &str, out: &mut String) {
    let query = address.find(['?', '#']).unwrap_or(address.len());
    let (place, query) = address.split_at(query);
    match place.rsplit_once('@') {
        // The character that seems to begin a query may belong to a password.
        None if query.contains('@') => *out += "...",
        None => *out += place,
        Some((_, place)) => *out = std::mem::take(out) + "...@" + place,
    }
    // As in `http://...?`, there may be nothing to replace.
    if query.len() > 1 && !out.ends_with("...") {
        *out = std::mem::take(out) + &query[..1] + "...";
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mirror(text: &str) -> Mirror {
        text.parse().unwrap()
    }

    #[test]
    fn a_file_goes_into_the_path_and_the_query_stays_behind_it() {
        for (mirror_text, url, shown) in [
            ("http://host", "http://host/f.gz", "http://host/f.gz"),
            ("http://host/a/", "http://host/a/f.gz", "http://host/a/f.gz"),
            ("http://host:80/a?t=1&u=/", "http://host:80/a/f.gz?t=1&u=/", "http://host:80/a/f.gz"),
            ("https://u:p@host/a/?t#x", "https://u:p@host/a/f.gz?t", "https://host/a/f.gz"),
            ("http://u@[::1]:8000/", "http://u@[::1]:8000/f.gz", "http://[::1]:8000/f.gz"),
        ] {
            let address = mirror(mirror_text).file("f.gz");
            assert_eq!((address.url.as_str(), address.shown.as_str()), (url, shown));
        }
    }

    #[test]
    fn neither_display_nor_debug_shows_a_secret() {
        let mirror = mirror("http://user:SECRET@host/a?token=SECRET");
        assert_eq!(mirror.to_string(), "http://host/a/");
        assert_eq!(format!("{mirror:?}"), "Mirror(\"http://host/a/\")");
    }

    #[test]
    fn no_error_of_a_malformed_mirror_shows_a_secret() {
        for (text, got) in [
            ("mirror.example/mnist", "mirror.example/mnist"),
            ("user:SECRET@host/a?token=SECRET", "..."),
            ("ftp://user:SECRET@host/", "ftp://..."),
            ("http://us er:SEC\"RET@host/", "http://..."),
            ("http://user:SEC/RET@host/", "http://..."),
            ("http://user:SEC?RET@host/", "http://..."),
            ("http://user:SEC#RET@host/", "http://..."),
            ("http://user:SECRET@/", "http://..."),
            ("", ""),
        ] {
            let error = text.parse::<Mirror>().unwrap_err().to_string();
            let expected = format!("expected a mirror as http://... or https://..., got {got:?}");
            assert_eq!(error, expected);
        }
    }

    #[test]
    fn texts_lose_secrets_and_nothing_else() {
        for (text, expected) in [
            ("no address at all", "no address at all"),
            ("as http://... or https://..., got 1", "as http://... or https://..., got 1"),
            ("http://a/b: answered, http://u:p@c", "http://a/b: answered, http://...@c"),
            ("{\"url\":\"http://h/?t=1\"}", "{\"url\":\"http://h/?...\"}"),
            ("http://...@h/?...", "http://...@h/?..."),
        ] {
            assert_eq!(redacted(text), expected);
        }
    }
}
