//! `vit serve`: serves a model or runs over HTTP.

use std::fs;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::sync::Arc;

use vit_run::{CONFIG, METRICS};
use vit_serve::{Limits, Load, Model, Server, Subject};

use crate::args::path;
use crate::failure::{Exit, Failure, Result};
use crate::served::{self, Served};
use crate::{interrupt, output};

/// A listening address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Listen(pub(crate) SocketAddr);

impl Default for Listen {
    /// Loopback, with a free port.
    fn default() -> Self {
        Self(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
    }
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let local = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let text = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
        let of_name = || text.strip_prefix("localhost:").or_else(|| text.strip_prefix(':'));
        let port = |text: &str| text.parse::<u16>().ok().map(|port| SocketAddr::new(local, port));
        let address = text.parse::<SocketAddr>().ok();
        let address = address.or_else(|| Some(SocketAddr::new(text.parse::<IpAddr>().ok()?, 0)));
        address.or_else(|| port(text)).or_else(|| port(of_name()?)).map(Self).ok_or_else(|| {
            "expected an address such as 127.0.0.1:8080, a port, or 0.0.0.0:8080 for the network".to_owned()
        })
    }
}

/// The variable that a token may be in.
pub(crate) const TOKEN: &str = "VIT_TOKEN";

/// Access control.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Access {
    /// Require this token as `Authorization: Bearer TOKEN`; open the page as /?token=TOKEN
    #[arg(long, value_name = "TOKEN", env = TOKEN, hide_env_values = true, value_parser = token)]
    pub(crate) token: Option<String>,
}

/// Serves a model or runs over HTTP, with a page to draw and watch
#[derive(Debug, clap::Args)]
#[command(after_help = SERVED)]
pub(crate) struct Args {
    /// A run directory, a folder of runs, or a safetensors file from vit
    #[arg(value_name = "MODEL|RUNS", value_parser = path())]
    pub(crate) model: PathBuf,
    /// ADDRESS:PORT, or a port of 127.0.0.1 [default: 127.0.0.1 and a free port]
    #[arg(long, value_name = "ADDR")]
    pub(crate) listen: Option<Listen>,
    /// Open the page in the browser
    #[arg(long)]
    pub(crate) open: bool,
    #[command(flatten)]
    pub(crate) access: Access,
}

const SERVED: &str = "\
It prints the address on stdout. POST a picture to /v1/predict for the output of `vit predict`, or to /v1/explain for the \
attention too: curl --data-binary @digit.png ADDRESS/v1/predict. On Ctrl-C the server answers open requests, then exits; a second Ctrl-C exits at once.";

/// A token that headers and cookies can hold.
fn token(text: &str) -> std::result::Result<String, String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-._~".contains(c);
    if text.len() >= 8 && text.chars().all(is_plain) {
        return Ok(text.to_owned());
    }
    Err("expected at least 8 characters: letters, digits, or any of -._~".to_owned())
}

pub(super) fn run(args: &Args) -> Result<()> {
    let subject = subject(&args.model)?;
    let load: Load = match &subject {
        // Opened here, so that an error ends the command. Its bytes are copied, because the file may be replaced.
        Subject::Model(path) => {
            let model: Arc<dyn Model> = Arc::new(Served::open(path)?);
            Box::new(move |_| Ok(Arc::clone(&model)))
        }
        _ => served::load(),
    };
    let listener = bind(args.listen.unwrap_or_default(), &args.access)?;
    let server = server(listener, (subject, load), &args.access, Limits::default())?;
    server.open().map_err(|problem| Failure::new(Exit::File, problem.detail()))?;
    let address = address(&server);
    let stop = server.stop();
    interrupt::serves(move || stop.stop());
    output::line(&address)?;
    if args.open {
        open(&address);
    }
    server.run().map_err(|error| Failure::new(Exit::Internal, format!("cannot serve: {error}")))
}

/// Listens, and warns if other machines can connect.
///
/// # Errors
/// If the address cannot be used.
pub(crate) fn bind(Listen(address): Listen, access: &Access) -> Result<TcpListener> {
    let listener = TcpListener::bind(address).map_err(|error| unusable(address, &error))?;
    if access.token.is_none() && !address.ip().to_canonical().is_loopback() {
        tracing::warn!(
            "everyone who can reach {address} can use this server: pass --token to require a token"
        );
    }
    Ok(listener)
}

/// A server on this listener.
///
/// # Errors
/// If the system refuses.
pub(crate) fn server(
    listener: TcpListener,
    served: (Subject, Load),
    access: &Access,
    limits: Limits,
) -> Result<Server> {
    let server = Server::on(listener, served, access.token.clone(), limits);
    server.map_err(|error| Failure::new(Exit::Internal, format!("cannot serve: {error}")))
}

/// The page's address.
pub(crate) fn address(server: &Server) -> String {
    format!("http://{}/", server.address())
}

fn unusable(address: SocketAddr, error: &io::Error) -> Failure {
    let hint = match error.kind() {
        ErrorKind::AddrInUse => {
            "another program listens there: pass another port, or leave out --listen for a free one"
        }
        ErrorKind::PermissionDenied => "pass a port from 1024 on",
        _ => "pass an address of this machine, or leave out --listen",
    };
    Failure::new(Exit::Usage, format!("cannot listen on {address}: {error}")).hint(hint)
}

fn subject(path: &Path) -> Result<Subject> {
    let is_run = |path: &Path| path.join(CONFIG).is_file() && path.join(METRICS).is_file();
    let path = path.to_owned();
    if is_run(&path) {
        return Ok(Subject::Run(path));
    }
    let entries = fs::read_dir(&path).into_iter().flatten().flatten();
    if entries.map(|entry| entry.path()).any(|path| is_run(&path)) {
        return Ok(Subject::Runs(path));
    }
    let is_empty = path.is_dir()
        && !fs::read_dir(&path).into_iter().flatten().flatten().any(|entry| entry.path().is_file());
    if is_empty {
        let message = format!("{} contains neither runs nor a model", path.display());
        return Err(Failure::new(Exit::File, message)
            .hint("train one first: `vit train`, or `vit train --serve` to watch it"));
    }
    Ok(Subject::Model(path))
}

/// Opens a browser, if there is one; the address is printed anyway.
fn open(address: &str) {
    let (program, before): (&str, &[&str]) = match std::env::consts::OS {
        "macos" => ("open", &[]),
        "windows" => ("cmd", &["/c", "start", ""]),
        _ => ("xdg-open", &[]),
    };
    let mut command = Command::new(program);
    command
        .args(before)
        .arg(address)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    if let Err(error) = command.spawn() {
        tracing::warn!("cannot open a browser with {program}: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usual_forms_of_an_address_are_accepted() {
        for (text, address) in [
            ("127.0.0.1:80", "127.0.0.1:80"),
            ("8080", "127.0.0.1:8080"),
            (":8080", "127.0.0.1:8080"),
            ("localhost:1", "127.0.0.1:1"),
            ("0.0.0.0", "0.0.0.0:0"),
            ("[::1]:9", "[::1]:9"),
            ("http://127.0.0.1:7/", "127.0.0.1:7"),
        ] {
            assert_eq!(text.parse(), Ok(Listen(address.parse().expect("an address"))), "{text}");
        }
        for wrong in ["", "here", "1.2.3", "127.0.0.1:99999", "host:80"] {
            assert!(wrong.parse::<Listen>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn tokens_must_fit_a_cookie() {
        assert!(token("a-long_t0ken").is_ok() && token("a-long.t0ken~").is_ok());
        assert!(token("short").is_err() && token("with; a semicolon").is_err());
    }
}
