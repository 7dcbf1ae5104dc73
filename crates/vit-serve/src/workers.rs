//! The threads that answer connections. Each has its own runtime and its own connections, because the threads of a
//! shared runtime wake each other several times for each request.

use std::cell::Cell;
use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use crate::connections::{self, Accepted};
use crate::server::Shared;

/// Time for slow operations of abandoned requests at the end.
const END: Duration = Duration::from_millis(100);

/// The running threads. On drop they end, and abandon connections that are still open.
pub(crate) struct Workers {
    queues: Vec<UnboundedSender<Accepted>>,
    threads: Vec<JoinHandle<()>>,
    next: Cell<usize>,
}

impl Workers {
    /// # Errors
    /// If the system cannot start threads.
    pub(crate) fn start(shared: &Arc<Shared>) -> io::Result<Self> {
        let mut workers = Self { queues: Vec::new(), threads: Vec::new(), next: Cell::new(0) };
        for _ in 0..shared.limits.threads {
            let runtime = Builder::new_current_thread()
                // Slow operations have a limit of their own; the other threads load models and read runs.
                .max_blocking_threads(shared.limits.threads + 4)
                .thread_name("server")
                .enable_io()
                .enable_time()
                .build()?;
            let (queue, accepted) = unbounded_channel();
            let shared = Arc::clone(shared);
            let work = move || {
                runtime.block_on(connections::answer_all(accepted, shared));
                runtime.shutdown_timeout(END);
            };
            workers.threads.push(thread::Builder::new().name("server".to_owned()).spawn(work)?);
            workers.queues.push(queue);
        }
        Ok(workers)
    }

    /// Hands a connection to the next thread in turn.
    pub(crate) fn hand(&self, accepted: Accepted) {
        let next = self.next.get();
        self.next.set((next + 1) % self.queues.len());
        // A thread receives until its queue is dropped.
        let _ = self.queues[next].send(accepted);
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.queues.clear();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
