//! The trainer's thread pool.

use std::cell::Cell;
use std::hint::spin_loop;
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

/// How long a thread without work looks for some before it sleeps. Otherwise a step of a small model puts each thread to
/// sleep several times, and waking it takes a noticeable part of the step.
const PATIENCE: Duration = Duration::from_micros(500);

/// Looks for work until `is_done`, or until there has been none for a while. Does nothing if threads share cores: another
/// one may need this one's.
pub(crate) fn work_until(is_done: impl Fn() -> bool) {
    if !have_cores() {
        return;
    }
    let mut since = Instant::now();
    while !is_done() {
        match rayon::yield_now() {
            Some(Yield::Executed) => since = Instant::now(),
            _ if since.elapsed() > PATIENCE => return,
            _ => spin_loop(),
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
        if self.count.load(Ordering::Relaxed) >= others || !have_cores() {
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
