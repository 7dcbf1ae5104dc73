//! Server-sent events about runs: each new metrics record and each new model.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::http::Response;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::IntoResponse;
use hyper::body::Frame;
use tokio::sync::mpsc::{Receiver, channel};
use vit_run::METRICS;

use crate::Problem;
use crate::server::Shared;

/// Interval at which run directories are polled.
const LOOK: Duration = Duration::from_millis(400);
/// Interval of comment lines, which reveal closed connections.
const SIGN_OF_LIFE: Duration = Duration::from_secs(15);
/// Most clients that may watch.
const MOST_WATCHERS: usize = 64;
/// Most bytes of a file sent at a time.
const MOST_BYTES: u64 = 1 << 20;

/// # Errors
/// If too many clients watch already.
pub(crate) fn stream(shared: Arc<Shared>, run: Option<String>) -> Result<Response<Body>, Problem> {
    if shared.models.watchers() >= MOST_WATCHERS {
        let detail = format!("{MOST_WATCHERS} clients are watching already");
        return Err(Problem::new(503, detail).retry_after(10));
    }
    let (sender, receiver) = channel::<Bytes>(4);
    let watching = shared.models.watch();
    tokio::spawn(async move {
        let mut stop = shared.stop.clone();
        let mut watch = Watch { run, files: BTreeMap::new() };
        let mut said = Instant::now();
        let mut news = "retry: 2000\n\n".to_owned();
        loop {
            if !news.is_empty() {
                if sender.send(std::mem::take(&mut news).into()).await.is_err() {
                    break;
                }
                said = Instant::now();
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = sender.closed() => break,
                _ = stop.wait_for(|stopped| *stopped) => break,
            }
            let shared = Arc::clone(&shared);
            let looked = tokio::task::spawn_blocking(move || {
                let news = watch.look(&shared);
                (watch, news)
            });
            let Ok((again, found)) = looked.await else { break };
            (watch, news) = (again, found);
            if news.is_empty() && said.elapsed() > SIGN_OF_LIFE {
                ":\n\n".clone_into(&mut news);
            }
        }
        drop(watching);
    });
    let headers = [(CONTENT_TYPE, "text/event-stream"), (CACHE_CONTROL, "no-store")];
    Ok((headers, Body::new(Stream(receiver))).into_response())
}

struct Watch {
    /// Watches only this run.
    run: Option<String>,
    /// Metrics bytes already sent and model version, by run.
    files: BTreeMap<String, (u64, Option<u64>)>,
}

impl Watch {
    /// Events since the last call.
    fn look(&mut self, shared: &Shared) -> String {
        let models = &shared.models;
        let names = match &self.run {
            Some(run) => vec![run.clone()],
            None => models.names(),
        };
        let mut news = String::new();
        for name in names {
            let Some(folder) = models.folder_of(Some(&name)) else { continue };
            models.refresh(&name);
            let (len, version) = (length(&folder), models.version(&name));
            let json = serde_json::to_string(&name).expect("text");
            let (told, known) = self.files.entry(name).or_insert_with(|| (len, version));
            if len < *told {
                // Resumed from an earlier step.
                *told = len;
                let _ = write!(news, "event: reset\ndata: {{\"run\":{json}}}\n\n");
            }
            for line in new_lines(&folder, told) {
                let _ =
                    write!(news, "event: record\ndata: {{\"run\":{json},\"record\":{line}}}\n\n");
            }
            if version != *known {
                *known = version;
                let _ = write!(news, "event: model\ndata: {{\"run\":{json}}}\n\n");
            }
        }
        news
    }
}

fn length(run: &Path) -> u64 {
    std::fs::metadata(run.join(METRICS)).map_or(0, |data| data.len())
}

/// Complete JSON lines after what was sent.
fn new_lines(run: &Path, told: &mut u64) -> Vec<String> {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file: File = vit_files::open_file(&run.join(METRICS))?;
        file.seek(SeekFrom::Start(*told))?;
        let mut bytes = Vec::new();
        file.take(MOST_BYTES).read_to_end(&mut bytes)?;
        let end = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        bytes.truncate(end);
        Ok(bytes)
    };
    let Ok(bytes) = read() else { return Vec::new() };
    *told += bytes.len() as u64;
    let text = String::from_utf8_lossy(&bytes);
    let is_json = |line: &&str| serde_json::from_str::<serde::de::IgnoredAny>(line).is_ok();
    text.lines().filter(is_json).map(str::to_owned).collect()
}

/// A response body fed by a channel.
struct Stream(Receiver<Bytes>);

impl hyper::body::Body for Stream {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.0.poll_recv(context).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}
