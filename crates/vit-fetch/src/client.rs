//! Downloads one file over HTTP into a part file: resumed if possible, bounded in size and time.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use ureq::http::{Response, Uri, header};
use ureq::{Agent, Body, Timeout};
use vit_files::open_own_file;

use crate::{Options, Reason, redacted};

/// An HTTP client within the options' limits.
pub(crate) struct Client {
    agent: Agent,
    connect: Duration,
    stall: Duration,
    min_rate: u64,
    rate_window: Duration,
    total: Duration,
    deadline: Instant,
}

/// A mirror's time limit for a file.
#[derive(Clone, Copy)]
struct Turn {
    until: Instant,
    share: Duration,
}

/// Why a download failed, and the state of the part file.
pub(crate) enum Failure {
    /// The part file is intact and can be resumed.
    Stopped(Reason),
    /// The part file holds wrong bytes.
    Spoilt(Reason),
    /// The disk failed, so no other mirror would help.
    Disk(vit_files::Error),
}

impl From<vit_files::Error> for Failure {
    fn from(error: vit_files::Error) -> Self {
        Self::Disk(error)
    }
}

impl Client {
    /// Creates a client. `deadline` ends the whole fetch.
    pub(crate) fn new(options: &Options, deadline: Instant) -> Self {
        // ureq uses the environment's proxies by default.
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .user_agent(concat!("vit-fetch/", env!("CARGO_PKG_VERSION")))
            // A server must not compress the file again: size and digest are the file's.
            .accept_encoding("identity")
            .timeout_resolve(Some(options.connect))
            .timeout_connect(Some(options.connect))
            .timeout_recv_response(Some(options.stall))
            .timeout_per_read(Some(options.stall))
            .timeout_per_write(Some(options.stall))
            .build();
        Self {
            agent: config.new_agent(),
            connect: options.connect,
            stall: options.stall,
            min_rate: options.min_rate,
            rate_window: options.rate_window,
            total: options.total,
            deadline,
        }
    }

    /// Downloads the rest of the file at `url` into `part`, or all of it if the server cannot resume, until the
    /// mirror's turn ends. `on_bytes` receives the bytes so far and the total.
    pub(crate) fn download(
        &self,
        url: &str,
        part: &Path,
        limit: u64,
        until: Instant,
        on_bytes: &mut dyn FnMut(u64, Option<u64>),
    ) -> Result<(), Failure> {
        let turn = Turn { until, share: until.saturating_duration_since(Instant::now()) };
        let (response, start) = self.request(url, len_of(part)?, turn).map_err(Failure::Stopped)?;
        let total = response.body().content_length().map(|rest| start + rest);
        if total.is_some_and(|total| total > limit) {
            return Err(Failure::Stopped(Reason::TooLong { limit }));
        }
        let mut file = open_at(part, start).map_err(vit_files::Error::io("open", part))?;
        let mut body = response.into_body().into_reader();
        let mut received = start;
        let (mut window, mut received_before) = (Instant::now(), start);
        let mut buffer = vec![0; 1 << 16];
        loop {
            on_bytes(received, total);
            let count = match body.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => count,
                Err(error) => {
                    return Err(Failure::Stopped(self.broken_off(error, received, total, turn)));
                }
            };
            received += count as u64;
            if received > limit {
                return Err(Failure::Spoilt(Reason::TooLong { limit }));
            }
            file.write_all(&buffer[..count]).map_err(vit_files::Error::io("write", part))?;
            let over = window.elapsed();
            if over >= self.rate_window {
                let got = ((received - received_before) as f64 / over.as_secs_f64()) as u64;
                if got < self.min_rate {
                    let expected = self.min_rate;
                    return Err(Failure::Stopped(Reason::TooSlow { got, expected, over }));
                }
                (window, received_before) = (Instant::now(), received);
            }
        }
    }

    /// Requests the file from byte `start` on, and returns the byte that the answer starts at.
    fn request(&self, url: &str, start: u64, turn: Turn) -> Result<(Response<Body>, u64), Reason> {
        let response = self.get(url, start, turn).map_err(|error| self.reason(error, turn))?;
        match response.status().as_u16() {
            200 if is_html(&response) => Err(Reason::HtmlPage),
            200 => Ok((response, 0)),
            206 if start > 0 && range_start(&response) == Some(start) => Ok((response, start)),
            // The server has another range or none, so request the whole file.
            206 | 416 if start > 0 => self.request(url, 0, turn),
            status => Err(Reason::Status(status)),
        }
    }

    fn get(&self, url: &str, start: u64, turn: Turn) -> Result<Response<Body>, ureq::Error> {
        let time_left = turn.until.saturating_duration_since(Instant::now());
        let mut request = self.agent.get(url);
        if start > 0 {
            request = request.header(header::RANGE, format!("bytes={start}-"));
        }
        let mut config = request.config().timeout_global(Some(time_left));
        if is_this_machine(url) {
            config = config.proxy(None);
        }
        config.build().call()
    }

    /// Why the body ended early.
    fn broken_off(&self, error: io::Error, got: u64, total: Option<u64>, turn: Turn) -> Reason {
        match (error.kind(), total) {
            (io::ErrorKind::UnexpectedEof, Some(expected)) => Reason::Truncated { expected, got },
            _ => self.reason(error.into(), turn),
        }
    }

    fn reason(&self, error: ureq::Error, turn: Turn) -> Reason {
        match error {
            ureq::Error::Timeout(Timeout::Global) if turn.until < self.deadline => {
                Reason::TurnOver(turn.share)
            }
            ureq::Error::Timeout(Timeout::Global) => Reason::OutOfTime(self.total),
            ureq::Error::Timeout(Timeout::Resolve | Timeout::Connect) => {
                Reason::NoConnection(self.connect)
            }
            ureq::Error::Timeout(_) => Reason::Stalled(self.stall),
            ureq::Error::Io(error) => Reason::Transport(redacted(&error.to_string()).into_owned()),
            error => Reason::Transport(redacted(&error.to_string()).into_owned()),
        }
    }
}

fn len_of(part: &Path) -> Result<u64, vit_files::Error> {
    match fs::symlink_metadata(part) {
        Ok(metadata) if metadata.is_file() => Ok(metadata.len()),
        // Report a wrong kind of file before any mirror is tried.
        Ok(_) => open_at(part, 1).map(|_| 0).map_err(vit_files::Error::io("open", part)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(vit_files::Error::io("look at", part)(error)),
    }
}

fn open_at(part: &Path, start: u64) -> io::Result<File> {
    let mut options = File::options();
    match start {
        0 => options.write(true).create(true).truncate(true),
        _ => options.append(true),
    };
    open_own_file(part, &mut options)
}

/// A captive portal answers everything with its own page and status 200.
fn is_html(response: &Response<Body>) -> bool {
    response.body().mime_type().is_some_and(|mime| mime.eq_ignore_ascii_case("text/html"))
}

/// The 7 in `content-range: bytes 7-99/100`.
fn range_start(response: &Response<Body>) -> Option<u64> {
    let range = response.headers().get(header::CONTENT_RANGE)?.to_str().ok()?;
    range.strip_prefix("bytes ")?.split_once('-')?.0.parse().ok()
}

/// A proxy cannot reach a mirror on the user's machine, whatever `NO_PROXY` is.
fn is_this_machine(url: &str) -> bool {
    let uri = url.parse::<Uri>().ok();
    uri.as_ref().and_then(Uri::host).is_some_and(|host| {
        let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        host == "localhost" || address.is_ok_and(|address| address.is_loopback())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn localhost_is_recognised() {
        for url in ["http://localhost/x", "http://127.0.0.1:8000/", "http://[::1]:80/x"] {
            assert!(is_this_machine(url), "{url}");
        }
        for url in ["http://localhost.example/", "https://10.0.0.1/", "http://[::2]/", "nonsense"] {
            assert!(!is_this_machine(url), "{url}");
        }
    }

    #[test]
    fn content_range_is_parsed_for_its_start() {
        let of = |value: &str| {
            let response = Response::builder().header(header::CONTENT_RANGE, value);
            range_start(&response.body(Body::builder().data(Vec::new())).unwrap())
        };
        assert_eq!(of("bytes 7-99/100"), Some(7));
        assert_eq!(of("bytes */100"), None);
        assert_eq!(of("lines 7-99/100"), None);
    }
}
