//! Progress of something counted: bytes downloaded, images evaluated.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::line::Line;
use super::screen::{Shown, show};

/// A progress bar for a count, until dropped.
pub(crate) struct Counter {
    count: Arc<Mutex<Count>>,
    _shown: Shown,
}

struct Count {
    name: String,
    done: u64,
    /// The total; `None` if unknown.
    of: Option<u64>,
    written: fn(u64) -> String,
}

impl Counter {
    /// `written` formats a number.
    pub(crate) fn new(name: &str, of: Option<u64>, written: fn(u64) -> String) -> Self {
        let count = Count { name: name.to_owned(), done: 0, of, written };
        let count = Arc::new(Mutex::new(count));
        let drawn = Arc::clone(&count);
        let shown = show(move || vec![locked(&drawn).line()]);
        Self { count, _shown: shown }
    }

    /// Adds to the count.
    pub(crate) fn add(&self, more: u64) {
        locked(&self.count).done += more;
    }

    /// Sets name, count and total.
    pub(crate) fn set(&self, name: &str, done: u64, of: Option<u64>) {
        let mut count = locked(&self.count);
        name.clone_into(&mut count.name);
        (count.done, count.of) = (done, of);
    }
}

fn locked(count: &Mutex<Count>) -> MutexGuard<'_, Count> {
    count.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Count {
    fn line(&self) -> Line {
        let Self { name, done, of, written } = self;
        let told = match of {
            Some(of) => format!("{} of {}", written(*done), written(*of)),
            None => written(*done),
        };
        let share = of.filter(|&of| of > 0).map(|of| *done as f64 / of as f64);
        Line { name: name.clone(), done: share, details: vec![told] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_total_has_no_bar() {
        let mut count =
            Count { name: "file".to_owned(), done: 3, of: Some(4), written: |n| n.to_string() };
        let line = count.line();
        assert_eq!((line.done, line.details), (Some(0.75), vec!["3 of 4".to_owned()]));
        count.of = None;
        let line = count.line();
        assert_eq!((line.done, line.details), (None, vec!["3".to_owned()]));
    }
}
