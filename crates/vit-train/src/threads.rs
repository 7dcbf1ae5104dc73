//! The trainer's thread pool.

use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::Error;

/// A pool of `threads` threads, at least one.
pub(crate) fn thread_pool(threads: usize) -> Result<ThreadPool, Error> {
    let pool = ThreadPoolBuilder::new().num_threads(threads.max(1));
    let pool = pool.thread_name(|index| format!("shard-{index}"));
    pool.build().map_err(|source| Error::Threads { threads, source })
}
