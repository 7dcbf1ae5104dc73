//! The server: its listener, its limits, and its shutdown.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::sync::{Semaphore, SemaphorePermit, watch};

use crate::batch::Batches;
use crate::connections;
use crate::count::Counts;
use crate::guard::Guard;
use crate::models::{Load, Models, Subject};
use crate::workers::Workers;
use crate::{Model, Problem};

/// Limits of a server.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of a request's body.
    pub body: usize,
    /// Time for a request's head, for its body, and until an idle connection is closed.
    pub time: Duration,
    /// Open connections.
    pub connections: usize,
    /// Waiting images.
    pub queue: usize,
    /// Largest batch.
    pub batch: usize,
    /// Time for open requests after a stop.
    pub end: Duration,
    /// Threads that answer requests; at least 1.
    pub threads: usize,
    /// How long an idle thread polls for the next request after an answer, before it sleeps.
    pub awake: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body: 16 << 20,
            time: Duration::from_secs(10),
            connections: 512,
            queue: 1024,
            batch: 64,
            end: Duration::from_secs(10),
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            awake: Duration::from_micros(100),
        }
    }
}

/// Shared by all connections.
pub(crate) struct Shared {
    pub(crate) models: Models,
    pub(crate) batches: Arc<Batches>,
    pub(crate) limits: Limits,
    pub(crate) guard: Guard,
    pub(crate) counts: Arc<Counts>,
    /// Turns to `true` once.
    pub(crate) stop: watch::Receiver<bool>,
    /// Limits the number of slow operations at a time.
    work: Semaphore,
}

impl Shared {
    /// Waits for permission to run a slow operation.
    ///
    /// # Errors
    /// If it takes too long.
    pub(crate) async fn work(&self) -> Result<SemaphorePermit<'_>, Problem> {
        match tokio::time::timeout(self.limits.time, self.work.acquire()).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(Problem::new(503, "too many requests at a time").retry_after(1)),
        }
    }
}

/// Stops a server, from any thread.
#[derive(Clone, Debug)]
pub struct Stop(Arc<watch::Sender<bool>>);

impl Stop {
    /// Stops accepting connections; open requests are still answered.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }
}

/// A server that listens; call [`run`](Self::run) to answer requests.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: Stop,
}

impl Server {
    /// A server on a listener. With a `token`, only clients that have it are answered.
    ///
    /// # Errors
    /// If the listener has no address, or cannot be made non-blocking.
    pub fn on(
        listener: TcpListener,
        (subject, load): (Subject, Load),
        token: Option<String>,
        mut limits: Limits,
    ) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        limits.threads = limits.threads.max(1);
        let address = listener.local_addr()?;
        let (sender, stop) = watch::channel(false);
        let counts = Arc::new(Counts::default());
        let shared = Shared {
            models: Models::new(subject, load),
            batches: Arc::new(Batches::new(limits.queue, limits.batch, Arc::clone(&counts))),
            guard: Guard { is_local: is_local(address.ip()), token },
            counts,
            stop,
            work: Semaphore::new(limits.threads),
            limits,
        };
        Ok(Self { listener, address, shared: Arc::new(shared), stop: Stop(Arc::new(sender)) })
    }

    /// The address it listens on.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// A handle that stops it.
    #[must_use]
    pub fn stop(&self) -> Stop {
        self.stop.clone()
    }

    /// A handle that supplies the model of a run in training.
    #[must_use]
    pub fn live(&self) -> Live {
        Live(Arc::clone(&self.shared))
    }

    /// Opens the model, so that its errors are known before the first request. A run without a model yet is not an
    /// error.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn open(&self) -> Result<(), Problem> {
        self.shared.models.open()
    }

    /// Answers requests until it is stopped.
    ///
    /// # Errors
    /// If the system cannot start threads.
    pub fn run(self) -> io::Result<()> {
        let runtime = Builder::new_current_thread().enable_io().enable_time().build()?;
        let workers = Workers::start(&self.shared)?;
        runtime.block_on(connections::accept_all(self.listener, self.shared, &workers))
    }
}

/// Whether an address is loopback.
pub(crate) fn is_local(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

/// Supplies a server with the model of a run in training.
#[derive(Clone)]
pub struct Live(Arc<Shared>);

impl Live {
    /// Whether any client watches.
    #[must_use]
    pub fn is_watched(&self) -> bool {
        self.0.models.watchers() > 0
    }

    /// Replaces the model of the run in this directory.
    pub fn publish(&self, run: &Path, model: Arc<dyn Model>) {
        self.0.models.publish(run, model);
    }
}
