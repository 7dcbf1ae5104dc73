//! A library's panic as a value.

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

thread_local! {
    /// Whether this thread's panics are somebody's answer, and not to be told on stderr.
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// What `answer` gives, or None where it panics, of which nothing is then said. What it changes must not be used after
/// a panic.
pub(super) fn guarded<T>(answer: impl FnOnce() -> T) -> Option<T> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !GUARDED.get() {
                usual(info);
            }
        }));
    });
    GUARDED.set(true);
    let answer = panic::catch_unwind(AssertUnwindSafe(answer));
    GUARDED.set(false);
    answer.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_no_answer_and_the_next_call_works() {
        assert_eq!(guarded(|| -> u8 { panic!("a bug of a library") }), None);
        assert_eq!(guarded(|| 7), Some(7));
    }
}
