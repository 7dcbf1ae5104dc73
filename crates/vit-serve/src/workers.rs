//! The threads that answer connections. Each has its own runtime and its own connections, because the threads of a
//! shared runtime wake each other several times for each request.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use tokio::runtime::Builder;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use crate::connections::{self, Accepted};
use crate::server::Shared;

/// Threads of each worker for files and slow operations.
const BLOCKING: usize = 4;

/// Time for the work of abandoned requests at the end.
const END: Duration = Duration::from_millis(100);

/// The running threads. On drop they abandon open connections and end, or are left behind if one computes for too long.
pub(crate) struct Workers {
    all: Vec<Worker>,
    ended: Receiver<()>,
}

struct Worker {
    queue: UnboundedSender<Accepted>,
    /// A reference for each connection.
    connections: Arc<()>,
}

impl Workers {
    /// # Errors
    /// If the system cannot start threads.
    pub(crate) fn start(shared: &Arc<Shared>) -> io::Result<Self> {
        let (end, ended) = channel();
        let all = (0..shared.limits.threads).map(|_| Worker::start(shared, end.clone()));
        Ok(Self { all: all.collect::<io::Result<_>>()?, ended })
    }

    /// Hands a connection to the thread with the fewest.
    pub(crate) fn hand(&self, accepted: impl FnOnce(Arc<()>) -> Accepted) {
        let free = self.all.iter().min_by_key(|worker| Arc::strong_count(&worker.connections));
        let Some(Worker { queue, connections }) = free else { return };
        // A thread receives until its queue is dropped.
        let _ = queue.send(accepted(Arc::clone(connections)));
    }
}

impl Worker {
    fn start(shared: &Arc<Shared>, end: Sender<()>) -> io::Result<Self> {
        let runtime = Builder::new_current_thread()
            .max_blocking_threads(BLOCKING)
            .thread_name("server")
            .enable_io()
            .enable_time()
            .build()?;
        let (queue, accepted) = unbounded_channel();
        let shared = Arc::clone(shared);
        let work = move || {
            runtime.block_on(connections::answer_all(accepted, shared));
            runtime.shutdown_timeout(END);
            let _ = end.send(());
        };
        thread::Builder::new().name("server".to_owned()).spawn(work)?;
        Ok(Self { queue, connections: Arc::default() })
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        let end = Instant::now() + 2 * END;
        let count = self.all.len();
        self.all.clear();
        for _ in 0..count {
            if self.ended.recv_timeout(end.saturating_duration_since(Instant::now())).is_err() {
                tracing::warn!("a request was still being computed");
                return;
            }
        }
    }
}
