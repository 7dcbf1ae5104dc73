//! Connections: limited in number, closed when slow or idle, and answered to the end when the server stops.

use std::convert::Infallible;
use std::io;
use std::net::TcpListener;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::http::header::CONNECTION;
use axum::http::{HeaderValue, Request, Response};
use axum::response::IntoResponse;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tower_service::Service;

use crate::Problem;
use crate::routes;
use crate::server::Shared;
use crate::workers::Workers;

/// After a stop, requests on open connections are still answered for this long, each as the connection's last, so
/// clients that send requests one after another lose none.
const LINGER: Duration = Duration::from_millis(250);

/// Bytes for a request's head, and for reading ahead in its body.
const BUFFER: usize = 16 << 10;

/// A connection with its permit, held until it ends.
pub(crate) struct Accepted {
    stream: std::net::TcpStream,
    permit: OwnedSemaphorePermit,
    /// Counts its worker's connections.
    worker: Arc<()>,
}

/// Accepts connections until the server is stopped, and waits for their end.
pub(crate) async fn accept_all(
    listener: TcpListener,
    shared: Arc<Shared>,
    workers: &Workers,
) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let places = Arc::new(Semaphore::new(shared.limits.connections));
    let mut stop = shared.stop.clone();
    let is_stopped = async move { stop.wait_for(|stopped| *stopped).await.is_ok() };
    let mut is_stopped = pin!(is_stopped);
    loop {
        let accepted = tokio::select! {
            biased;
            _ = &mut is_stopped => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => hand(stream, &shared, workers, &places),
            // For instance too many open files, until others close.
            Err(error) => {
                tracing::warn!("cannot accept a connection: {error}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    // Connections that the system has accepted already.
    while let Ok(Ok((stream, _))) =
        tokio::time::timeout(Duration::from_millis(1), listener.accept()).await
    {
        hand(stream, &shared, workers, &places);
    }
    drop(listener);
    let all = u32::try_from(shared.limits.connections).unwrap_or(u32::MAX);
    // All permits are free once every connection has been answered.
    let ended = tokio::time::timeout(shared.limits.end, places.acquire_many(all)).await;
    if ended.is_err() {
        let open = shared.counts.connections.load(Ordering::Relaxed);
        tracing::warn!("{open} connections were still open");
    }
    Ok(())
}

/// Hands a connection to a worker, if there are not too many.
fn hand(stream: TcpStream, shared: &Arc<Shared>, workers: &Workers, places: &Arc<Semaphore>) {
    let Ok(permit) = Arc::clone(places).try_acquire_owned() else {
        shared.counts.refused.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(refuse(stream, shared.limits.connections));
        return;
    };
    match stream.into_std() {
        Ok(stream) => workers.hand(|worker| Accepted { stream, permit, worker }),
        Err(error) => tracing::warn!("cannot take a connection: {error}"),
    }
}

/// The answers of a thread.
#[derive(Default)]
struct Answers {
    count: AtomicUsize,
    another: Notify,
}

impl Answers {
    fn add(&self) {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.another.notify_one();
    }

    /// Keeps the thread awake for some time after each answer: a client that waits for it often has another request, and
    /// waking takes tens of microseconds.
    async fn stay_awake(&self, time: Duration) {
        let mut seen = 0;
        loop {
            self.another.notified().await;
            let mut end = Instant::now();
            loop {
                let count = self.count.load(Ordering::Relaxed);
                if count != seen {
                    (seen, end) = (count, Instant::now() + time);
                }
                if Instant::now() >= end {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
    }
}

/// Answers connections from the queue until it is closed, on the thread of this runtime.
pub(crate) async fn answer_all(mut queue: UnboundedReceiver<Accepted>, shared: Arc<Shared>) {
    let router = routes::router(Arc::clone(&shared));
    let answers = Arc::<Answers>::default();
    let (counted, awake) = (Arc::clone(&answers), shared.limits.awake);
    tokio::spawn(async move { counted.stay_awake(awake).await });
    while let Some(Accepted { stream, permit, worker }) = queue.recv().await {
        let (shared, router) = (Arc::clone(&shared), router.clone());
        let answers = Arc::clone(&answers);
        tokio::spawn(async move {
            let _until_its_end = (permit, worker);
            shared.counts.connections.fetch_add(1, Ordering::Relaxed);
            match TcpStream::from_std(stream) {
                Ok(stream) => answer(stream, &shared, router, &answers).await,
                Err(error) => tracing::warn!("cannot take a connection: {error}"),
            }
            shared.counts.connections.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

/// Answers a connection's requests until it ends.
async fn answer(stream: TcpStream, shared: &Arc<Shared>, router: Router, answers: &Answers) {
    // Answers are written as a whole, so delaying packets would gain nothing.
    let _ = stream.set_nodelay(true);
    let service = service_fn(|request: Request<Incoming>| {
        let (shared, router) = (Arc::clone(shared), router.clone());
        async move {
            let response = respond(&shared, router, request).await;
            answers.add();
            Ok::<_, Infallible>(response)
        }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(shared.limits.time);
    builder.max_buf_size(BUFFER).half_close(true);
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let mut stop = shared.stop.clone();
    let linger = async {
        // The sender is never dropped before.
        let _ = stop.wait_for(|stopped| *stopped).await;
        tokio::time::sleep(LINGER).await;
    };
    tokio::select! {
        // A client that disconnects or does not send HTTP is not a server error.
        _ = connection.as_mut() => return,
        () = linger => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}

async fn respond(
    shared: &Shared,
    mut router: Router,
    request: Request<Incoming>,
) -> Response<Body> {
    let begun = Instant::now();
    let path = request.uri().path();
    let (route, is_framed) = (routes::name_of(path), path.starts_with("/runs/"));
    let mut response = match shared.guard.check(&request) {
        Err(problem) => problem.into_response(),
        Ok(()) => match router.call(request.map(Body::new)).await {
            Ok(response) => response,
            Err(never) => match never {},
        },
    };
    routes::protect(response.headers_mut(), is_framed);
    if *shared.stop.borrow() {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    shared.counts.request(route, response.status().as_u16(), begun.elapsed());
    response
}

/// Rejects a connection above the limit, without reading from it.
async fn refuse(mut stream: TcpStream, most: usize) {
    let problem = Problem::new(503, format!("all {most} connections are in use"))
        .hint("reuse connections for several requests")
        .to_json();
    let text = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\nretry-after: 1\r\n\
         connection: close\r\ncontent-length: {}\r\n\r\n{problem}",
        problem.len()
    );
    let write = stream.write_all(text.as_bytes());
    let _ = tokio::time::timeout(Duration::from_secs(1), write).await;
}
