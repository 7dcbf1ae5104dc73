//! Turning a library's panic into a value.

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

thread_local! {
    /// Whether panics on this thread are caught, and so not reported on stderr.
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// The result of `answer`, or `None` if it panics, without output. Do not use anything it was changing after a panic.
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
    fn a_panic_gives_none_and_the_next_call_works() {
        assert_eq!(guarded(|| -> u8 { panic!("a bug of a library") }), None);
        assert_eq!(guarded(|| 7), Some(7));
    }
}
