//! A mirror in this process, with every kind of fault.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// A mirror's answer.
#[derive(Clone)]
pub(crate) enum Reply {
    /// The file from the requested byte on.
    Ranged(Vec<u8>),
    /// The whole file, ignoring ranges.
    Whole(Vec<u8>),
    /// The first bytes of the file, then a closed connection.
    Truncated { file: Vec<u8>, sent: usize },
    /// An error.
    Status(u16),
    /// A captive portal's page, with status 200.
    Html,
    /// A few bytes, then silence.
    Stalling,
    /// A byte of the file now and then.
    Dripping(Vec<u8>),
    /// Endless bytes without an announced size.
    Endless,
}

/// A server that lives until the test ends, with a thread per connection.
pub(crate) struct Server {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
    authorizations: Arc<Mutex<Vec<String>>>,
}

impl Server {
    /// Gives every request the same answer.
    pub(crate) fn answering(reply: Reply) -> Self {
        Self::start(move |_| reply.clone())
    }

    /// Gives each path its answer.
    pub(crate) fn start(reply_to: impl Fn(&str) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let authorizations = Arc::new(Mutex::new(Vec::new()));
        let (reply_to, seen) = (Arc::new(reply_to), requests.clone());
        let proven = authorizations.clone();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (reply_to, seen, proven) = (reply_to.clone(), seen.clone(), proven.clone());
                // A client may hang up early, which is an error here but no failure.
                thread::spawn(move || _ = serve(stream, &*reply_to, &seen, &proven));
            }
        });
        Self { address, requests, authorizations }
    }

    /// The address of a stopped server, which refuses connections.
    pub(crate) fn unreachable() -> String {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        format!("http://{address}/data/")
    }

    /// The address of the folder of files.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/data/", self.address)
    }

    /// The requests: paths, with the start of a range if any, and `CONNECT`s.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }

    /// The requests' authorization headers in lower case.
    pub(crate) fn authorizations(&self) -> Vec<String> {
        self.authorizations.lock().unwrap().clone()
    }
}

fn serve(
    stream: TcpStream,
    reply_to: &dyn Fn(&str) -> Reply,
    seen: &Mutex<Vec<String>>,
    proven: &Mutex<Vec<String>>,
) -> io::Result<()> {
    let mut input = BufReader::new(stream.try_clone()?);
    let mut output = stream;
    loop {
        let mut line = String::new();
        if input.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let Headers { start, authorization } = headers(&mut input)?;
        proven.lock().unwrap().extend(authorization);
        let (method, target) = line.split_once(' ').unwrap();
        let target = target.split(' ').next().unwrap();
        if method == "CONNECT" {
            seen.lock().unwrap().push(format!("CONNECT {target}"));
            output.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
            continue;
        }
        let range = start.map(|start| format!(" from {start}")).unwrap_or_default();
        seen.lock().unwrap().push(format!("{target}{range}"));
        return answer(&mut output, reply_to(target), start.unwrap_or(0));
    }
}

/// The used headers of a request.
#[derive(Default)]
struct Headers {
    /// The start of the requested range.
    start: Option<usize>,
    authorization: Option<String>,
}

/// Reads the headers to their end.
fn headers(input: &mut impl BufRead) -> io::Result<Headers> {
    let mut headers = Headers::default();
    loop {
        let mut line = String::new();
        input.read_line(&mut line)?;
        let line = line.trim_end().to_ascii_lowercase();
        if line.is_empty() {
            return Ok(headers);
        }
        if let Some(range) = line.strip_prefix("range: bytes=") {
            headers.start = range.trim_end_matches('-').parse().ok();
        }
        if let Some(proof) = line.strip_prefix("authorization: ") {
            headers.authorization = Some(proof.to_owned());
        }
    }
}

fn answer(output: &mut TcpStream, reply: Reply, start: usize) -> io::Result<()> {
    let head = |output: &mut TcpStream, status: &str, headers: &str| {
        write!(output, "HTTP/1.1 {status}\r\nConnection: close\r\n{headers}\r\n")
    };
    let length = |len: usize| format!("Content-Length: {len}\r\n");
    match reply {
        Reply::Ranged(file) if start >= file.len() => head(output, "416 No", &length(0)),
        Reply::Ranged(file) if start > 0 => {
            let range =
                format!("Content-Range: bytes {start}-{}/{}\r\n", file.len() - 1, file.len());
            head(output, "206 Partial", &(range + &length(file.len() - start)))?;
            output.write_all(&file[start..])
        }
        Reply::Ranged(file) | Reply::Whole(file) => {
            head(output, "200 OK", &length(file.len()))?;
            output.write_all(&file)
        }
        Reply::Truncated { file, sent } => {
            head(output, "200 OK", &length(file.len()))?;
            output.write_all(&file[..sent])
        }
        Reply::Status(status) => head(output, &format!("{status} No"), &length(0)),
        Reply::Html => {
            let page = "<html>Please log in</html>";
            head(
                output,
                "200 OK",
                &("Content-Type: text/html; charset=utf-8\r\n".to_owned() + &length(page.len())),
            )?;
            output.write_all(page.as_bytes())
        }
        Reply::Stalling => {
            head(output, "200 OK", &length(1000))?;
            output.write_all(&[0x1f, 0x8b, 8])?;
            // Until the client hangs up.
            output.read(&mut [0]).map(drop)
        }
        Reply::Dripping(file) => {
            head(output, "200 OK", &length(file.len()))?;
            for byte in file {
                output.write_all(&[byte])?;
                thread::sleep(Duration::from_millis(20));
            }
            Ok(())
        }
        Reply::Endless => {
            head(output, "200 OK", "")?;
            loop {
                output.write_all(&[0; 4096])?;
            }
        }
    }
}
