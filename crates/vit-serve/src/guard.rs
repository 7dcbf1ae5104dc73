//! Access control: on loopback only loopback names, never other sites' pages, and with a token only clients that have
//! it.

use std::net::IpAddr;

use axum::http::header::{AUTHORIZATION, COOKIE, HOST, ORIGIN};
use axum::http::{HeaderMap, Method, Request};

use crate::Problem;

/// Name of the token's cookie.
pub(crate) const COOKIE_NAME: &str = "vit_token";

/// The access rules.
pub(crate) struct Guard {
    /// Whether the server listens only on loopback.
    pub(crate) is_local: bool,
    pub(crate) token: Option<String>,
}

impl Guard {
    /// # Errors
    /// If the request is not allowed.
    pub(crate) fn check<B>(&self, request: &Request<B>) -> Result<(), Problem> {
        let headers = request.headers();
        let named = headers.get(HOST).and_then(|host| host.to_str().ok());
        let host = request.uri().authority().map_or(named, |authority| Some(authority.as_str()));
        let Some(host) = host.filter(|_| headers.get_all(HOST).iter().count() == 1) else {
            return Err(Problem::new(400, "expected one Host header"));
        };
        // Another site's name may resolve to this address (DNS rebinding); its requests still have that name.
        if self.is_local && !is_loopback(host) {
            let detail = format!("this server answers on loopback only, not as {host:?}");
            return Err(Problem::new(421, detail)
                .hint("use http://127.0.0.1 or http://localhost, or start it with --listen"));
        }
        if is_from_another_site(request.method(), headers, host) {
            return Err(Problem::new(403, "requests from other sites' pages are not allowed"));
        }
        // Health checks do not know the token.
        let is_open = request.uri().path() == "/healthz";
        match &self.token {
            Some(token) if !is_open && !knows(request, token) => {
                Err(Problem::new(401, "this server requires a token").hint(
                    "send it as `Authorization: Bearer TOKEN`, or open the page as /?token=TOKEN",
                ))
            }
            _ => Ok(()),
        }
    }

    /// Whether this is the token.
    pub(crate) fn is_token(&self, given: &str) -> bool {
        self.token.as_deref().is_some_and(|token| same(token.as_bytes(), given.as_bytes()))
    }
}

/// Whether a Host is a loopback name, with any port, which may be a tunnel's.
fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((name, _port)) => name,
        None => host.split(':').next().unwrap_or(host),
    };
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn is_from_another_site(method: &Method, headers: &HeaderMap, host: &str) -> bool {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(origin) = headers.get(ORIGIN) {
        let is_own = origin.to_str().is_ok_and(|origin| {
            origin.split_once("://").is_some_and(|(_, own)| own.eq_ignore_ascii_case(host))
        });
        if !is_own {
            return true;
        }
    }
    match text("sec-fetch-site") {
        None | Some("same-origin" | "none") => false,
        // A followed link: the linking page cannot read the answer.
        Some(_) => {
            !(method == Method::GET
                && text("sec-fetch-mode") == Some("navigate")
                && text("sec-fetch-dest") == Some("document"))
        }
    }
}

fn knows<B>(request: &Request<B>, token: &str) -> bool {
    let (headers, uri) = (request.headers(), request.uri());
    // Only the page's own address may contain the token, and turns it into a cookie.
    let query = uri.query().filter(|_| uri.path() == "/").unwrap_or_default();
    if query
        .split('&')
        .filter_map(|pair| pair.strip_prefix("token="))
        .any(|given| same(token.as_bytes(), given.as_bytes()))
    {
        return true;
    }
    let text = |value: &axum::http::HeaderValue| value.to_str().map(str::to_owned).ok();
    let bearer = headers.get(AUTHORIZATION).and_then(text);
    let bearer = bearer.as_deref().and_then(|value| value.strip_prefix("Bearer "));
    let is_same = |given: &str| same(token.as_bytes(), given.trim().as_bytes());
    bearer.is_some_and(is_same)
        || headers.get_all(COOKIE).iter().filter_map(text).any(|cookies| {
            cookies.split(';').any(|cookie| {
                let pair = cookie.trim().split_once('=');
                pair.is_some_and(|(name, value)| name == COOKIE_NAME && is_same(value))
            })
        })
}

/// Comparison in constant time.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(headers: &[(&str, &str)]) -> Request<()> {
        let request = Request::builder().method("POST").uri("/v1/predict");
        let request =
            headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        request.body(()).unwrap()
    }

    fn status(guard: &Guard, headers: &[(&str, &str)]) -> u16 {
        guard.check(&request(headers)).err().map_or(200, |problem| {
            axum::response::IntoResponse::into_response(problem).status().as_u16()
        })
    }

    #[test]
    fn loopback_accepts_only_its_own_names() {
        let guard = Guard { is_local: true, token: None };
        for host in
            ["localhost", "localhost:8080", "127.0.0.1:1", "[::1]:80", "LOCALHOST", "127.9.9.9"]
        {
            assert_eq!(status(&guard, &[("host", host)]), 200, "{host}");
        }
        for host in [
            "evil.example",
            "localhost.evil.example:80",
            "10.0.0.1",
            "[::2]",
            "",
            "127.0.0.1.nip.io",
        ] {
            assert_eq!(status(&guard, &[("host", host)]), 421, "{host}");
        }
        assert_eq!(status(&guard, &[]), 400);
        assert_eq!(status(&guard, &[("host", "localhost"), ("host", "evil.example")]), 400);
        let open = Guard { is_local: false, token: None };
        assert_eq!(status(&open, &[("host", "box.lan:80")]), 200);
    }

    #[test]
    fn other_sites_are_rejected() {
        let guard = Guard { is_local: true, token: None };
        let with = |name, value| status(&guard, &[("host", "localhost:7"), (name, value)]);
        assert_eq!(with("origin", "http://localhost:7"), 200);
        for origin in ["http://evil.example", "null", "http://localhost:8"] {
            assert_eq!(with("origin", origin), 403, "{origin}");
        }
        assert_eq!(with("sec-fetch-site", "same-origin"), 200);
        for site in ["cross-site", "same-site"] {
            assert_eq!(with("sec-fetch-site", site), 403, "{site}");
        }
        let link = [
            ("host", "localhost"),
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-mode", "navigate"),
            ("sec-fetch-dest", "document"),
        ];
        let mut followed = request(&link);
        assert!(guard.check(&followed).is_err());
        *followed.method_mut() = Method::GET;
        assert!(guard.check(&followed).is_ok());
    }

    #[test]
    fn a_token_is_required() {
        let guard = Guard { is_local: false, token: Some("a secret".to_owned()) };
        let with = |name, value| status(&guard, &[("host", "box"), (name, value)]);
        assert_eq!(with("accept", "*/*"), 401);
        assert_eq!(with("authorization", "Bearer a secret"), 200);
        assert_eq!(with("authorization", "Bearer a secre"), 401);
        assert_eq!(with("cookie", "x=1; vit_token=a secret"), 200);
        assert_eq!(with("cookie", "x=a secret"), 401);
    }
}
