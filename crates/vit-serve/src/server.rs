//! The server: what it listens on, its limits, and how it ends.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit, watch};

use crate::batch::Batches;
use crate::connections;
use crate::count::Counts;
use crate::guard::Guard;
use crate::models::{Load, Models, Subject};
use crate::{Model, Problem};

/// What a server takes at most.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of a body.
    pub body: usize,
    /// For a request's head, and for its body; an idle connection is closed after it.
    pub time: Duration,
    /// Open connections.
    pub connections: usize,
    /// Images that wait.
    pub queue: usize,
    /// Images that are computed together.
    pub batch: usize,
    /// From the end of listening to the end of the program, for what is still being answered.
    pub end: Duration,
    /// Threads.
    pub threads: usize,
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
        }
    }
}

/// What all connections share.
pub(crate) struct Shared {
    pub(crate) models: Models,
    pub(crate) batches: Arc<Batches>,
    pub(crate) limits: Limits,
    pub(crate) guard: Guard,
    pub(crate) counts: Arc<Counts>,
    /// Turns to `true` once.
    pub(crate) stop: watch::Receiver<bool>,
    /// What takes longer than a moment, so many at a time.
    work: Semaphore,
}

impl Shared {
    /// Waits for a turn at what takes longer than a moment.
    ///
    /// # Errors
    /// If it does not come soon.
    pub(crate) async fn work(&self) -> Result<SemaphorePermit<'_>, Problem> {
        match tokio::time::timeout(self.limits.time, self.work.acquire()).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(Problem::new(503, "too much is asked for at a time").retry_after(1)),
        }
    }
}

/// Ends a server, from any thread.
#[derive(Clone, Debug)]
pub struct Stop(Arc<watch::Sender<bool>>);

impl Stop {
    /// No more connections are taken, and what was taken is answered.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }
}

/// A server that listens, and answers once it is run.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: Stop,
}

impl Server {
    /// Answers what comes to a listener, once it is run. With a `token`, only who knows it is answered.
    ///
    /// # Errors
    /// If the listener has no address, or cannot be asked without waiting.
    pub fn on(
        listener: TcpListener,
        (subject, load): (Subject, Load),
        token: Option<String>,
        limits: Limits,
    ) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
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

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// What ends it.
    #[must_use]
    pub fn stop(&self) -> Stop {
        self.stop.clone()
    }

    /// What shows it a model that is being trained.
    #[must_use]
    pub fn live(&self) -> Live {
        Live(Arc::clone(&self.shared))
    }

    /// Opens the model that is served, so that what is wrong with it is known before the first request. That a run has none yet
    /// is not wrong.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn open(&self) -> Result<(), Problem> {
        self.shared.models.open()
    }

    /// Answers until it is stopped.
    ///
    /// # Errors
    /// If the system gives no threads.
    pub fn run(self) -> io::Result<()> {
        let limits = &self.shared.limits;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(limits.threads)
            // What takes long waits for a turn; the rest of these load models and read runs.
            .max_blocking_threads(limits.threads + 4)
            .thread_name("server")
            .enable_io()
            .enable_time()
            .build()?;
        runtime.block_on(connections::serve(self.listener, self.shared))?;
        runtime.shutdown_timeout(Duration::from_millis(100));
        Ok(())
    }
}

/// Whether an address is this machine's own and nobody else's.
pub(crate) fn is_local(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

/// Shows a server a model that is being trained.
#[derive(Clone)]
pub struct Live(Arc<Shared>);

impl Live {
    /// Whether somebody looks at a page of it.
    #[must_use]
    pub fn is_watched(&self) -> bool {
        self.0.models.watchers() > 0
    }

    /// From now on, this is the model of the run in this folder.
    pub fn publish(&self, run: &Path, model: Arc<dyn Model>) {
        self.0.models.publish(run, model);
    }
}
