//! Tests that need more than a clone: the real MNIST, a browser, TensorBoard, or permission to mount or to drop
//! privileges. A test whose need is not met counts as ignored and names the need.
#![allow(clippy::unwrap_used, reason = "a helper that panics fails its test, as it should")]

#[path = "../files.rs"]
mod files;
#[path = "../idx_folder.rs"]
mod idx_folder;
#[path = "../small_run.rs"]
#[expect(dead_code, reason = "these tests use only parts of it")]
mod small_run;
#[path = "../support.rs"]
#[expect(dead_code, reason = "these tests use only parts of it")]
mod support;

mod browser;
#[cfg(unix)]
mod disk;
mod mnist;
mod paper;
mod pytorch_losses;
mod tensorboard;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Completion, Trial};

/// A test that is ignored unless `met`, and then names its need.
fn trial(name: &str, need: &'static str, met: fn() -> bool, test: fn()) -> Trial {
    Trial::ignorable_test(name, move || {
        if !met() {
            return Ok(Completion::ignored_with(need));
        }
        test();
        Ok(Completion::Completed)
    })
}

/// Tests of the same need, named after their functions.
macro_rules! tests {
    ($need:literal, $met:expr, [$($module:ident::$test:ident),+ $(,)?]) => {
        [$(trial(concat!(stringify!($module), "::", stringify!($test)), $need, $met, $module::$test)),+]
    };
}

fn main() -> ExitCode {
    let mut trials = Vec::from(tests!(
        "needs mnist/ in VIT_DATA",
        || mnist::real_mnist().is_some(),
        [
            mnist::mnist_is_read_and_written_byte_for_byte,
            mnist::published_mnist_is_recognised,
            paper::digits_on_paper_are_classified_like_on_clean_paper,
            pytorch_losses::twenty_losses_on_mnist_equal_pytorchs,
        ]
    ));
    trials.extend(tests!(
        "needs Chromium or Chrome",
        || browser::chromium().is_some(),
        [browser::a_browser_renders_it_without_errors_or_overflow,]
    ));
    trials.extend(tests!(
        "needs TensorBoard in python3 or VIT_PYTHON",
        tensorboard::is_installed,
        [tensorboard::tensorboards_own_reader_reads_the_events,]
    ));
    #[cfg(unix)]
    trials.extend(tests!(
        "needs a user who may mount in a namespace",
        disk::can_mount,
        [
            disk::a_full_disk_ends_the_run_and_keeps_the_last_checkpoint,
            disk::a_read_only_file_system_is_named,
        ]
    ));
    #[cfg(unix)]
    trials.extend(tests!(
        "needs setpriv, or another user than root",
        disk::can_be_unprivileged,
        [
            disk::a_read_only_folder_is_named_and_not_changed,
            disk::a_umask_of_777_leaves_nothing_behind,
            disk::outputs_in_a_read_only_folder_are_rejected_before_any_work,
            disk::without_a_cache_folder_training_uses_digits_and_logs_the_reason,
        ]
    ));
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}
