//! Splits one large operation over threads: over threads of its own, such as inference on one image, or over idle ones
//! of the rayon pool that it runs on, such as a trainer's shard.
//!
//! Nothing is summed across pieces, so neither their borders nor the number of threads change a bit.
#![expect(
    unsafe_code,
    reason = "threads work on what their caller borrows; the caller waits for them"
)]

use std::cell::Cell;
use std::hint::spin_loop;
use std::num::NonZero;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, LocalKey};

/// Multiply-adds that justify waking threads: waking takes 5 to 25 µs, this work about 40 µs.
const WORTH_WAKING: usize = 4_000_000;

/// Multiply-adds that justify splitting over threads that are awake, which costs about a microsecond.
const WORTH_SPLITTING: usize = 400_000;

/// Multiply-adds that justify sharing with idle threads of a rayon pool, half for the caller and half for a helper, which
/// wakes in 5 to 25 µs: 20 to 45 µs of work.
const WORTH_SHARING: usize = 2_000_000;

/// How often a thread polls for work, some tenths of a millisecond, before it sleeps. A model's next operation comes
/// sooner, and the last pieces of one take microseconds.
const SPINS: usize = 10_000;

static POOL: OnceLock<Pool> = OnceLock::new();

thread_local! {
    static SERIAL: Cell<bool> = const { Cell::new(false) };
    /// Whether operations on this thread of a rayon pool are split over idle ones.
    static SHARING: Cell<bool> = const { Cell::new(false) };
}

/// Threads of rayon pools inside [`share_pool`].
static SHARERS: AtomicUsize = AtomicUsize::new(0);

/// Sets the number of threads for large operations, including the caller's. The default is one per core.
///
/// Returns `false` without effect if an operation was already split or a number was already set.
#[must_use]
pub fn set_threads(threads: NonZero<usize>) -> bool {
    let mut set = false;
    POOL.get_or_init(|| {
        set = true;
        Pool::new(threads.get())
    });
    set
}

/// Runs `work` with every operation on this thread only, for work that already keeps all cores busy.
///
/// On a thread of a rayon pool operations are serial anyway, except in [`share_pool`].
pub fn serial<R>(work: impl FnOnce() -> R) -> R {
    with(&SERIAL, true, work)
}

/// Runs `work`, on a thread of a rayon pool, with each large operation split over the pool's idle threads: those outside
/// such work. This changes no bit.
///
/// A thread that waits for the others' part takes up no other work of the pool. On a thread outside a pool nothing
/// changes.
pub fn share_pool<R>(work: impl FnOnce() -> R) -> R {
    struct Leave;
    impl Drop for Leave {
        fn drop(&mut self) {
            SHARERS.fetch_sub(1, Ordering::Relaxed);
        }
    }
    if !is_pooled() || SHARING.get() {
        return work();
    }
    SHARERS.fetch_add(1, Ordering::Relaxed);
    let _leave = Leave;
    with(&SHARING, true, work)
}

/// Runs `work` with this value, and restores the one before, even if `work` panics.
fn with<T: Copy, R>(key: &'static LocalKey<Cell<T>>, value: T, work: impl FnOnce() -> R) -> R {
    struct Restore<T: Copy + 'static>(&'static LocalKey<Cell<T>>, T);
    impl<T: Copy> Drop for Restore<T> {
        fn drop(&mut self) {
            self.0.set(self.1);
        }
    }
    let _restore = Restore(key, key.replace(value));
    work()
}

/// Whether an operation of so many multiply-adds justifies waking threads.
fn large(multiply_adds: usize) -> bool {
    multiply_adds >= WORTH_WAKING
}

/// Whether an operation of so many multiply-adds is split over threads. This may differ from call to call, so both ways
/// must give the same bits.
pub(crate) fn splits(multiply_adds: usize) -> bool {
    if SERIAL.get() {
        return false;
    }
    if is_pooled() {
        return multiply_adds >= WORTH_SHARING && SHARING.get() && idle() > 0;
    }
    large(multiply_adds) || (multiply_adds >= WORTH_SPLITTING && helpers_wait_awake())
}

/// Whether this is a thread of a rayon pool.
fn is_pooled() -> bool {
    rayon::current_thread_index().is_some()
}

/// Threads of this one's rayon pool outside [`share_pool`], or fewer if other pools' threads are inside.
fn idle() -> usize {
    rayon::current_num_threads().saturating_sub(SHARERS.load(Ordering::Relaxed))
}

/// Runs `work` on each piece: over threads if an operation of so many multiply-adds is split, otherwise in order.
pub(crate) fn for_each<P: Send>(
    multiply_adds: usize,
    pieces: impl IntoIterator<Item = P, IntoIter: Send>,
    work: impl Fn(P) + Sync,
) {
    for_each_with(multiply_adds, pieces, || (), |(), piece| work(piece));
}

/// The same with scratch memory per thread, which `work` finds as the previous piece left it.
pub(crate) fn for_each_with<P: Send, R>(
    multiply_adds: usize,
    pieces: impl IntoIterator<Item = P, IntoIter: Send>,
    scratch: impl Fn() -> R + Sync,
    work: impl Fn(&mut R, P) + Sync,
) {
    let pieces = pieces.into_iter();
    if !splits(multiply_adds) {
        let mut scratch = scratch();
        return pieces.for_each(|piece| work(&mut scratch, piece));
    }
    let pieces = Mutex::new(pieces);
    let next = || pieces.lock().unwrap_or_else(PoisonError::into_inner).next();
    // A free thread takes the next piece. A thread that comes too late allocates nothing.
    let take_in_turn = || {
        let Some(mut piece) = next() else { return };
        let mut scratch = scratch();
        loop {
            work(&mut scratch, piece);
            let Some(another) = next() else { break };
            piece = another;
        }
    };
    if is_pooled() {
        let helpers = idle().min(multiply_adds / (WORTH_SHARING / 2) - 1);
        on_idle(helpers, &|| with(&SHARING, false, take_in_turn));
    } else {
        pool().on_all(large(multiply_adds), &take_in_turn);
    }
}

/// Runs `work` on this thread of a rayon pool, and on up to so many idle ones that join before it ends here.
fn on_idle(helpers: usize, work: &(dyn Fn() + Sync)) {
    let shared = Arc::<Shared>::default();
    // Not `rayon::scope`, in which this thread would take up another shard while it waits.
    shared.run(work, || {
        for _ in 0..helpers {
            let shared = Arc::clone(&shared);
            rayon::spawn(move || shared.join(shared.lock()));
        }
    });
}

/// The threads that share a split operation, including the caller's.
pub(crate) fn threads() -> usize {
    if is_pooled() { idle() + 1 } else { pool().helpers + 1 }
}

/// The pool for split operations, started on first use.
fn pool() -> &'static Pool {
    #[cfg(test)]
    if let Some(pool) = tests::INSTEAD.get() {
        return pool;
    }
    POOL.get_or_init(|| Pool::new(thread::available_parallelism().map_or(1, NonZero::get)))
}

fn helpers_wait_awake() -> bool {
    #[cfg(test)]
    if tests::INSTEAD.get().is_some() {
        return true;
    }
    POOL.get().is_some_and(|pool| pool.shared.awake.load(Ordering::Relaxed) > 0)
}

/// The caller's thread and helpers. An idle helper polls for a while, then sleeps.
struct Pool {
    shared: Arc<Shared>,
    helpers: usize,
}

#[derive(Default)]
struct Shared {
    job: Mutex<Option<Job>>,
    /// Jobs so far; changed under the lock.
    jobs: AtomicUsize,
    /// Helpers working on the job; changed under the lock.
    busy: AtomicUsize,
    /// Helpers that poll or work.
    awake: AtomicUsize,
    posted: Condvar,
    finished: Condvar,
}

/// A caller's work, which does not panic. The caller waits until no helper runs it before its borrows end.
#[derive(Clone, Copy)]
struct Job(*const (dyn Fn() + Sync + 'static));

// SAFETY: the target is `Sync` and lives while it is in the pool or a helper is busy.
unsafe impl Send for Job {}

impl Job {
    fn new<'a>(work: &'a (dyn Fn() + Sync + 'a)) -> Self {
        let work: *const (dyn Fn() + Sync + 'a) = work;
        // SAFETY: both point to the same trait object and differ only in lifetime, which `Finish` guarantees.
        Self(unsafe {
            std::mem::transmute::<*const (dyn Fn() + Sync + 'a), *const (dyn Fn() + Sync + 'static)>(
                work,
            )
        })
    }

    fn run(self) {
        // SAFETY: a helper runs it only between joining and leaving, and the owner waits for that.
        unsafe { (*self.0)() }
    }
}

impl Pool {
    fn new(threads: usize) -> Self {
        let shared = Arc::<Shared>::default();
        let start = |index: &usize| {
            let shared = Arc::clone(&shared);
            let name = format!("vit-ops-{index}");
            thread::Builder::new().name(name).spawn(move || shared.help()).is_ok()
        };
        // If no threads can be started, the caller works alone.
        let helpers = (0..threads.saturating_sub(1)).take_while(start).count();
        shared.awake.fetch_add(helpers, Ordering::Relaxed);
        Self { shared, helpers }
    }

    /// Runs `work` on the caller's thread and on helpers. Sleeping ones join only if woken.
    fn on_all(&self, wakes: bool, work: &(dyn Fn() + Sync)) {
        let shared = &*self.shared;
        if self.helpers == 0 {
            return work();
        }
        shared.run(work, || {
            if wakes && shared.awake.load(Ordering::Relaxed) < self.helpers {
                shared.posted.notify_all();
            }
        });
    }
}

impl Shared {
    /// Runs `work` on the caller's thread and on every helper that joins before it ends there. One job at a time: a
    /// caller that finds another job works alone.
    fn run(&self, work: &(dyn Fn() + Sync), call_helpers: impl FnOnce()) {
        let panic = Mutex::new(None);
        let of_helper = || {
            if let Err(payload) = catch_unwind(AssertUnwindSafe(work)) {
                *panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(payload);
            }
        };
        if !self.post(Job::new(&of_helper)) {
            return work();
        }
        let finish = Finish(self);
        call_helpers();
        work();
        drop(finish);
        if let Some(payload) = panic.into_inner().unwrap_or_else(PoisonError::into_inner) {
            resume_unwind(payload);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Job>> {
        // The job is consistent whenever the lock is free.
        self.job.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns `false` if there is another job.
    fn post(&self, job: Job) -> bool {
        let mut posted = self.lock();
        if posted.is_some() || self.busy.load(Ordering::Relaxed) > 0 {
            return false;
        }
        *posted = Some(job);
        self.jobs.fetch_add(1, Ordering::Release);
        true
    }

    /// A helper's endless loop.
    fn help(&self) {
        SERIAL.set(true);
        let mut seen = 0;
        let none_since = |seen| self.jobs.load(Ordering::Acquire) == seen;
        loop {
            for _ in 0..SPINS {
                if !none_since(seen) {
                    break;
                }
                spin_loop();
            }
            let mut job = self.lock();
            while none_since(seen) {
                self.awake.fetch_sub(1, Ordering::Relaxed);
                job = self.posted.wait(job).unwrap_or_else(PoisonError::into_inner);
                self.awake.fetch_add(1, Ordering::Relaxed);
            }
            seen = self.jobs.load(Ordering::Relaxed);
            self.join(job);
        }
    }

    /// Runs the job, if there still is one.
    fn join(&self, job: MutexGuard<'_, Option<Job>>) {
        let Some(work) = *job else { return };
        self.busy.fetch_add(1, Ordering::Relaxed);
        drop(job);
        work.run();
        let _lock = self.lock();
        if self.busy.fetch_sub(1, Ordering::Release) == 1 {
            self.finished.notify_all();
        }
    }
}

/// On drop, even by a panic, takes the job back and waits until no helper runs it.
struct Finish<'a>(&'a Shared);

impl Drop for Finish<'_> {
    fn drop(&mut self) {
        let shared = self.0;
        *shared.lock() = None;
        let is_busy = || shared.busy.load(Ordering::Acquire) > 0;
        for _ in 0..SPINS {
            if !is_busy() {
                return;
            }
            spin_loop();
        }
        let mut job = shared.lock();
        while is_busy() {
            job = shared.finished.wait(job).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::sync::Barrier;
    use std::sync::atomic::AtomicBool;
    use std::time::Duration;

    thread_local! {
        /// The pool of this test's thread.
        pub(super) static INSTEAD: Cell<Option<&'static Pool>> = const { Cell::new(None) };
    }

    /// Runs `work` with large operations split over `threads` threads.
    pub(crate) fn on_threads<R>(threads: usize, work: impl FnOnce() -> R) -> R {
        INSTEAD.set(Some(Box::leak(Box::new(Pool::new(threads)))));
        let result = work();
        INSTEAD.set(None);
        result
    }

    /// Asserts that `work` gives the same result serially, on 1, 2 and 3 threads, and on idle threads of a rayon pool.
    pub(crate) fn assert_threads_do_not_show<R: PartialEq + Send>(work: impl Fn() -> R + Sync) {
        let alone = serial(&work);
        for threads in 1..=3 {
            assert!(on_threads(threads, &work) == alone, "{threads} threads");
        }
        assert!(on_idle_pool(3, || share_pool(&work)) == alone, "threads of a rayon pool");
    }

    /// Runs `work` on one of a rayon pool's threads; the others are idle. Tests take turns, because [`SHARERS`] counts
    /// those of the whole process.
    fn on_idle_pool<R: Send>(threads: usize, work: impl FnOnce() -> R + Send) -> R {
        static TURN: Mutex<()> = Mutex::new(());
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        pool.expect("threads start").install(work)
    }

    #[test]
    fn each_piece_runs_once_on_any_number_of_threads() {
        for threads in 1..=4 {
            let mut counts = vec![0; 100];
            on_threads(threads, || {
                for _ in 0..100 {
                    for_each(WORTH_WAKING, &mut counts, |count| *count += 1);
                }
            });
            assert_eq!(counts, vec![100; 100]);
        }
    }

    #[test]
    fn small_and_nested_operations_are_not_split() {
        assert!(splits(WORTH_WAKING) && !splits(WORTH_SPLITTING - 1));
        serial(|| assert!(!splits(WORTH_WAKING)));
        on_idle_pool(3, || {
            assert!(!splits(WORTH_WAKING));
            share_pool(|| {
                assert!(splits(WORTH_SHARING) && !splits(WORTH_SHARING - 1));
                serial(|| assert!(!splits(WORTH_WAKING)));
                share_pool(|| assert_eq!(idle(), 2));
                let all = Barrier::new(3);
                rayon::broadcast(|_| {
                    share_pool(|| {
                        all.wait();
                        assert!(!splits(WORTH_SHARING), "no thread is idle");
                        all.wait();
                    });
                });
            });
            assert_eq!(idle(), 3);
        });
        let panicked = catch_unwind(|| serial(|| panic!("a panic in a piece")));
        assert!(panicked.is_err() && splits(WORTH_WAKING));
    }

    #[test]
    fn panic_in_a_piece_reaches_the_caller() {
        let panics = || for_each(WORTH_WAKING, 0..100, |piece| assert_ne!(piece, 50));
        assert!(catch_unwind(AssertUnwindSafe(|| on_threads(3, panics))).is_err());
        INSTEAD.set(None);
        let panics = || on_idle_pool(3, || share_pool(panics));
        assert!(catch_unwind(panics).is_err());
        assert_eq!(on_idle_pool(3, idle), 3);
    }

    #[test]
    fn concurrent_callers_each_complete_their_pieces() {
        let pool: &'static Pool = Box::leak(Box::new(Pool::new(3)));
        let sums = |_: usize| {
            INSTEAD.set(Some(pool));
            let total = AtomicUsize::new(0);
            for _ in 0..1000 {
                for_each(WORTH_WAKING, 0..10, |piece| {
                    total.fetch_add(piece, Ordering::Relaxed);
                });
            }
            total.into_inner()
        };
        let totals: Vec<usize> = thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|index| scope.spawn(move || sums(index))).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
        });
        assert_eq!(totals, [45_000; 4]);
    }

    #[test]
    fn sleeping_helpers_are_woken() {
        let pool: &'static Pool = Box::leak(Box::new(Pool::new(2)));
        INSTEAD.set(Some(pool));
        while pool.shared.awake.load(Ordering::Relaxed) > 0 {
            thread::yield_now();
        }
        each_thread_takes_a_piece();
        INSTEAD.set(None);
    }

    #[test]
    fn idle_threads_of_a_pool_take_part() {
        on_idle_pool(3, || share_pool(each_thread_takes_a_piece));
    }

    #[test]
    fn a_thread_that_waits_for_a_piece_takes_up_nothing_else() {
        static HAS_RUN: AtomicBool = AtomicBool::new(false);
        on_idle_pool(2, || {
            let (caller, both) = (thread::current().id(), Barrier::new(2));
            let piece = |_| {
                both.wait();
                if thread::current().id() != caller {
                    // Only the caller, which waits for this piece, is free for it.
                    rayon::spawn(|| HAS_RUN.store(true, Ordering::Relaxed));
                    thread::sleep(Duration::from_millis(20));
                    assert!(!HAS_RUN.load(Ordering::Relaxed));
                }
            };
            share_pool(|| for_each(WORTH_SHARING, 0..2, piece));
        });
    }

    /// Splits an operation whose two pieces wait for each other, and in which nothing is split.
    fn each_thread_takes_a_piece() {
        let caller = thread::current().id();
        let taken = AtomicUsize::new(0);
        for_each(WORTH_WAKING, 0..2, |_| {
            taken.fetch_add(1, Ordering::Relaxed);
            while taken.load(Ordering::Relaxed) < 2 {
                thread::yield_now();
            }
            assert!(!splits(WORTH_WAKING) || (thread::current().id() == caller && !is_pooled()));
        });
    }
}
