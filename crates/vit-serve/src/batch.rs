//! Requests that arrive together are computed together.
//!
//! A request puts its image into the queue and lets the thread look once for what else has arrived. Then whoever comes first
//! computes all that are there. Nothing waits for a clock: a request alone is computed at once, and under load a batch is what
//! came in while the one before was computed.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::count::Counts;
use crate::{Model, Problem};

type Answer = Result<Vec<f32>, Problem>;

struct Job {
    model: Arc<dyn Model>,
    values: Vec<f32>,
    answer: oneshot::Sender<Answer>,
}

/// The queue of images.
pub(crate) struct Batches {
    queue: Mutex<VecDeque<Job>>,
    /// At most so many wait.
    bound: usize,
    /// At most so many are computed together.
    most: usize,
    /// Who computes for a model that takes long: one at a time, on all cores.
    long: Mutex<()>,
    counts: Arc<Counts>,
}

impl Batches {
    pub(crate) fn new(bound: usize, most: usize, counts: Arc<Counts>) -> Self {
        Self { queue: Mutex::default(), bound, most, long: Mutex::default(), counts }
    }

    pub(crate) fn waiting(&self) -> usize {
        locked(&self.queue).len()
    }

    /// The probabilities of the classes.
    ///
    /// # Errors
    /// If the queue is full or the model fails.
    pub(crate) async fn predict(
        self: &Arc<Self>,
        model: Arc<dyn Model>,
        values: Vec<f32>,
    ) -> Answer {
        let (answer, mut answered) = oneshot::channel();
        let is_quick = model.is_quick();
        {
            let mut queue = locked(&self.queue);
            if queue.len() >= self.bound {
                drop(queue);
                return Err(full(self.bound));
            }
            queue.push_back(Job { model, values, answer });
        }
        // Those that have arrived meanwhile come first, and into the same batch.
        tokio::task::yield_now().await;
        if is_quick {
            // Until this one is answered: each request sees to its own, so that none is left.
            loop {
                match answered.try_recv() {
                    Ok(answer) => return answer,
                    Err(oneshot::error::TryRecvError::Closed) => return Err(lost()),
                    Err(oneshot::error::TryRecvError::Empty) => {}
                }
                if !self.compute_some() {
                    break;
                }
            }
        } else {
            let batches = Arc::clone(self);
            tokio::task::spawn_blocking(move || batches.compute_all());
        }
        answered.await.unwrap_or_else(|_| Err(lost()))
    }

    /// Computes what waits, where nobody else does.
    fn compute_all(&self) {
        loop {
            let Ok(long) = self.long.try_lock() else { return };
            while self.compute_some() {}
            drop(long);
            // What came in before the lock was given back has seen it taken.
            if locked(&self.queue).is_empty() {
                return;
            }
        }
    }

    /// Computes a batch, and says whether there was one.
    fn compute_some(&self) -> bool {
        let batch = self.take();
        let Some(first) = batch.first() else { return false };
        let model = Arc::clone(&first.model);
        let (images, answers): (Vec<_>, Vec<_>) =
            batch.into_iter().map(|job| (job.values, job.answer)).unzip();
        self.counts.batch(images.len());
        let computed = catch_unwind(AssertUnwindSafe(|| model.predict(&images)));
        match computed.unwrap_or_else(|_| Err(lost())) {
            Ok(rows) => {
                for (answer, row) in answers.into_iter().zip(rows) {
                    // Who asked may have gone.
                    let _ = answer.send(Ok(row));
                }
            }
            Err(problem) => {
                for answer in answers {
                    let _ = answer.send(Err(problem.clone()));
                }
            }
        }
        true
    }

    /// The first in the queue, and those behind it for the same model.
    fn take(&self) -> Vec<Job> {
        let mut queue = locked(&self.queue);
        let mut batch: Vec<Job> = Vec::new();
        while batch.len() < self.most {
            let is_next = |job: &Job| {
                job.answer.is_closed()
                    || batch.first().is_none_or(|first| Arc::ptr_eq(&first.model, &job.model))
            };
            let Some(job) = queue.pop_front_if(|job| is_next(job)) else { break };
            if !job.answer.is_closed() {
                batch.push(job);
            }
        }
        batch
    }
}

fn full(bound: usize) -> Problem {
    Problem::new(503, format!("{bound} requests are waiting already"))
        .hint("send again a little later, or from fewer connections")
        .retry_after(1)
}

fn lost() -> Problem {
    Problem::new(500, "the model failed on this batch")
}

fn locked<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}
