//! Time a step waits for other ranks.

use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use vit_train::Collective;

/// Ranks whose calls are timed; nothing is computed during a call.
pub(super) struct Timed {
    ranks: Arc<dyn Collective>,
    spent: Mutex<Duration>,
}

impl Timed {
    pub(super) fn new(ranks: Arc<dyn Collective>) -> Self {
        Self { ranks, spent: Mutex::default() }
    }

    /// The time of all calls since the last call of this method.
    pub(super) fn take_spent(&self) -> Duration {
        mem::take(&mut self.spent())
    }

    fn spent(&self) -> MutexGuard<'_, Duration> {
        self.spent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn timed(&self, call: impl FnOnce(&dyn Collective)) {
        let begun = Instant::now();
        call(&*self.ranks);
        *self.spent() += begun.elapsed();
    }
}

impl Collective for Timed {
    fn rank(&self) -> usize {
        self.ranks.rank()
    }

    fn size(&self) -> usize {
        self.ranks.size()
    }

    fn exchange(&self, send: (&[u32], &[usize]), receive: (&mut [u32], &[usize])) {
        self.timed(|ranks| ranks.exchange(send, receive));
    }

    fn gather(&self, mine: &[u32], all: &mut [u32], counts: &[usize]) {
        self.timed(|ranks| ranks.gather(mine, all, counts));
    }

    fn broadcast(&self, words: &mut [u32]) {
        self.timed(|ranks| ranks.broadcast(words));
    }

    fn barrier(&self) {
        self.timed(|ranks| ranks.barrier());
    }

    fn abort(&self, code: i32) -> ! {
        self.ranks.abort(code)
    }
}
