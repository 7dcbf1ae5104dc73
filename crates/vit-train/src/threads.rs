//! The trainer's thread pool.

use std::cell::Cell;
use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use rayon::{ThreadPool, ThreadPoolBuilder, Yield};

use crate::Error;

/// A pool of `threads` threads, at least one.
pub(crate) fn thread_pool(threads: usize) -> Result<ThreadPool, Error> {
    let pool = ThreadPoolBuilder::new().num_threads(threads.max(1));
    let pool = pool.thread_name(|index| format!("shard-{index}"));
    pool.build().map_err(|source| Error::Threads { threads, source })
}

/// How long an idle thread polls for work before it sleeps. Without polling, each thread sleeps several times in a step of a
/// small model, and waking it takes a noticeable part of the step.
const PATIENCE: Duration = Duration::from_micros(500);

/// Runs the pool's work until `is_done`, or until there has been none for [`PATIENCE`]. Does nothing if the pool has more
/// threads than the machine cores.
pub(crate) fn work_until(is_done: impl Fn() -> bool) {
    if !have_cores() {
        return;
    }
    let mut since = Instant::now();
    while !is_done() {
        match rayon::yield_now() {
            Some(Yield::Executed) => since = Instant::now(),
            _ if since.elapsed() > PATIENCE => return,
            // Another process may need the core.
            _ => std::thread::yield_now(),
        }
    }
}

/// Whether each thread of this pool has a core.
fn have_cores() -> bool {
    static CORES: OnceLock<usize> = OnceLock::new();
    let cores = CORES.get_or_init(|| available_parallelism().map_or(1, NonZero::get));
    rayon::current_num_threads() <= *cores
}

thread_local! {
    /// Whether this thread is kept awake, maybe further down its stack.
    static IS_AWAKE: Cell<bool> = const { Cell::new(false) };
}

/// Keeps a pool's other threads awake between the parts of a step.
#[derive(Default)]
pub(crate) struct Awake {
    /// How many are awake.
    count: Arc<AtomicUsize>,
}

impl Awake {
    /// Wakes those that sleep. Called by a thread of the pool.
    pub(crate) fn keep(&self) {
        let others = rayon::current_num_threads() - 1;
        // A run may be called by a thread that an earlier run has kept awake.
        let awake = self.count.load(Ordering::Relaxed) - usize::from(IS_AWAKE.get());
        if awake >= others || !have_cores() {
            return;
        }
        let (caller, count) = (rayon::current_thread_index(), Arc::clone(&self.count));
        rayon::spawn_broadcast(move |context| {
            if Some(context.index()) == caller || IS_AWAKE.replace(true) {
                return;
            }
            count.fetch_add(1, Ordering::Relaxed);
            work_until(|| false);
            count.fetch_sub(1, Ordering::Relaxed);
            IS_AWAKE.set(false);
        });
    }
}
