//! One large operation split over threads, for whoever runs a model outside of a trainer's shards: one image, say.
//!
//! Pieces have borders that depend on shapes alone, and nothing is summed across them, so that the number of
//! threads changes no bit.

use std::cell::Cell;
use std::hint::spin_loop;
use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;

use rayon::{ThreadPool, ThreadPoolBuilder};

/// Multiply-adds that are worth waking threads for: waking takes 5 to 25 us, these many some 40 us.
const WORTH_SPLITTING: usize = 4_000_000;

/// How often the caller looks whether the others are done, some tenths of a millisecond, before it sleeps.
const SPINS: usize = 10_000;

static POOL: OnceLock<Pool> = OnceLock::new();

thread_local! {
    static SERIAL: Cell<bool> = const { Cell::new(false) };
}

/// Splits large operations over so many threads, the caller's among them, instead of one for each core.
///
/// Gives `false`, and changes nothing, where an operation was split before or a number was set before.
#[must_use]
pub fn set_threads(threads: NonZero<usize>) -> bool {
    let mut set = false;
    POOL.get_or_init(|| {
        set = true;
        Pool::new(threads.get())
    });
    set
}

/// Runs `work` with every operation on this thread alone: for one of many pieces that keep all cores busy.
///
/// On a thread of a rayon pool operations are serial anyway.
pub fn serial<R>(work: impl FnOnce() -> R) -> R {
    /// Also where `work` panics.
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            SERIAL.set(self.0);
        }
    }
    let _restore = Restore(SERIAL.replace(true));
    work()
}

/// Whether an operation of so many multiply-adds comes in pieces, be they split over threads or not.
pub(crate) fn large(multiply_adds: usize) -> bool {
    multiply_adds >= WORTH_SPLITTING
}

/// Whether an operation of so many multiply-adds is split over threads.
pub(crate) fn splits(multiply_adds: usize) -> bool {
    large(multiply_adds) && !SERIAL.get() && rayon::current_thread_index().is_none()
}

/// Runs `work` on each piece: over threads where an operation of so many multiply-adds is split, else in order.
pub(crate) fn for_each<P: Send>(
    multiply_adds: usize,
    pieces: impl IntoIterator<Item = P, IntoIter: Send>,
    work: impl Fn(P) + Sync,
) {
    for_each_with(multiply_adds, pieces, || (), |(), piece| work(piece));
}

/// The same, where each thread has room of its own, which `work` finds as the piece before left it.
pub(crate) fn for_each_with<P: Send, R>(
    multiply_adds: usize,
    pieces: impl IntoIterator<Item = P, IntoIter: Send>,
    room: impl Fn() -> R + Sync,
    work: impl Fn(&mut R, P) + Sync,
) {
    let pieces = pieces.into_iter();
    if splits(multiply_adds) {
        pool().for_each(pieces, room, work);
    } else {
        let mut room = room();
        pieces.for_each(|piece| work(&mut room, piece));
    }
}

/// The threads that operations split over, started at the first need.
fn pool() -> &'static Pool {
    #[cfg(test)]
    if let Some(pool) = tests::INSTEAD.get() {
        return pool;
    }
    POOL.get_or_init(|| Pool::new(thread::available_parallelism().map_or(1, NonZero::get)))
}

struct Pool {
    /// All threads but the caller's, if there are any.
    helpers: Option<ThreadPool>,
}

impl Pool {
    fn new(threads: usize) -> Self {
        let helpers = ThreadPoolBuilder::new().num_threads(threads.saturating_sub(1));
        let helpers = helpers.thread_name(|index| format!("vit-ops-{index}"));
        // Without threads to be had, the caller works alone.
        Self { helpers: (threads > 1).then(|| helpers.build().ok()).flatten() }
    }

    /// Whoever is free takes the next piece.
    fn for_each<P: Send, R>(
        &self,
        pieces: impl Iterator<Item = P> + Send,
        room: impl Fn() -> R + Sync,
        work: impl Fn(&mut R, P) + Sync,
    ) {
        let pieces = Mutex::new(pieces);
        let next = || pieces.lock().unwrap_or_else(PoisonError::into_inner).next();
        let busy = AtomicUsize::new(0);
        let help = || {
            let _busy = Busy::new(&busy);
            // Who comes too late makes no room.
            let Some(mut piece) = next() else { return };
            let mut room = room();
            loop {
                work(&mut room, piece);
                let Some(another) = next() else { break };
                piece = another;
            }
        };
        let Some(helpers) = &self.helpers else {
            return help();
        };
        helpers.in_place_scope(|scope| {
            for _ in 0..helpers.current_num_threads() {
                scope.spawn(|_| help());
            }
            help();
            // The last pieces take microseconds: sleeping and being woken would take longer. The scope waits for
            // those that take more.
            for _ in 0..SPINS {
                if busy.load(Ordering::Acquire) == 0 {
                    break;
                }
                spin_loop();
            }
        });
    }
}

/// Counts a thread at work, until it is dropped, also by a panic.
struct Busy<'a>(&'a AtomicUsize);

impl<'a> Busy<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Release);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    thread_local! {
        /// What operations of this test's thread split over.
        pub(super) static INSTEAD: Cell<Option<&'static Pool>> = const { Cell::new(None) };
    }

    /// Runs `work` with large operations split over so many threads.
    pub(crate) fn on_threads<R>(threads: usize, work: impl FnOnce() -> R) -> R {
        INSTEAD.set(Some(Box::leak(Box::new(Pool::new(threads)))));
        let result = work();
        INSTEAD.set(None);
        result
    }

    /// That `work` gives the same serially and on 1, 2 and 3 threads.
    pub(crate) fn assert_threads_do_not_show<R: PartialEq>(work: impl Fn() -> R) {
        let alone = serial(&work);
        for threads in 1..=3 {
            assert!(on_threads(threads, &work) == alone, "{threads} threads");
        }
    }

    #[test]
    fn every_piece_is_worked_on_once_on_any_number_of_threads() {
        for threads in 1..=4 {
            let mut counts = vec![0; 100];
            on_threads(threads, || {
                for_each(WORTH_SPLITTING, &mut counts, |count| *count += 1);
            });
            assert_eq!(counts, vec![1; 100]);
        }
    }

    #[test]
    fn small_operations_and_those_of_a_piece_are_not_split() {
        assert!(splits(WORTH_SPLITTING) && !splits(WORTH_SPLITTING - 1));
        serial(|| assert!(!splits(WORTH_SPLITTING)));
        let in_a_pool = rayon::join(|| splits(WORTH_SPLITTING), || splits(WORTH_SPLITTING));
        assert_eq!(in_a_pool, (false, false));
        let panicked = catch_unwind(|| serial(|| panic!("a panic in a piece")));
        assert!(panicked.is_err() && splits(WORTH_SPLITTING));
    }

    #[test]
    fn a_panic_of_a_piece_comes_back_to_the_caller() {
        let panics = || for_each(WORTH_SPLITTING, 0..100, |piece| assert_ne!(piece, 50));
        assert!(catch_unwind(AssertUnwindSafe(|| on_threads(3, panics))).is_err());
        INSTEAD.set(None);
    }
}
