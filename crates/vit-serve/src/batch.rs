//! Batching: requests that arrive together are computed together.
//!
//! A request puts its image into the queue and yields once, so that other arrivals are queued too. Then the first
//! request computes everything in the queue. There is no timer: a single request is computed at once, and under load a
//! batch is what arrived while the previous one was computed.

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
    /// Limit of waiting images.
    bound: usize,
    /// Largest batch.
    most: usize,
    /// Held while a slow model computes: one batch at a time, on all cores.
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

    /// Class probabilities.
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
        // Lets other arrived requests join the same batch.
        tokio::task::yield_now().await;
        if is_quick {
            // Every request repeats until it is answered, so none is lost.
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

    /// Computes everything in the queue, unless another thread does so.
    fn compute_all(&self) {
        loop {
            let Ok(long) = self.long.try_lock() else { return };
            while self.compute_some() {}
            drop(long);
            // Requests queued while the lock was held did not start a batch.
            if locked(&self.queue).is_empty() {
                return;
            }
        }
    }

    /// Computes a batch; returns whether there was one.
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
                    // The client may be gone.
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

    /// The first request in the queue, and those behind it for the same model.
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
    Problem::new(503, format!("all {bound} places in the queue are taken"))
        .hint("send again a little later, or from fewer connections")
        .retry_after(1)
}

fn lost() -> Problem {
    Problem::new(500, "the model failed on this batch")
}

fn locked<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}
