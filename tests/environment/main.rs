//! Tests that need more than a clone: the real MNIST, a browser, TensorBoard, or rights. A test whose need is not met
//! counts as ignored, with the need in brackets.
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

use libtest_mimic::{Arguments, Trial};

/// The tests of these functions; ignored without `met`, which `need` describes.
macro_rules! tests {
    ($met:expr, $need:literal, [$($module:ident::$test:ident),+ $(,)?]) => {{
        let met = $met;
        [$(Trial::test(concat!(stringify!($module), "::", stringify!($test)), || {
            $module::$test();
            Ok(())
        })),+]
        .map(|trial| if met { trial } else { trial.with_kind($need).with_ignored_flag(true) })
    }};
}

fn main() -> ExitCode {
    let mut trials = Vec::from(tests!(
        mnist::real_mnist().is_some(),
        "needs mnist/ in VIT_DATA",
        [
            mnist::mnist_is_read_and_written_byte_for_byte,
            paper::digits_on_paper_are_classified_like_on_clean_paper,
            pytorch_losses::twenty_losses_on_mnist_equal_pytorchs,
        ]
    ));
    trials.extend(tests!(
        browser::chromium().is_some(),
        "needs Chromium",
        [browser::a_browser_renders_it_without_errors_or_overflow,]
    ));
    trials.extend(tests!(
        tensorboard::is_installed(),
        "needs TensorBoard for VIT_PYTHON",
        [tensorboard::tensorboards_own_reader_reads_the_events,]
    ));
    #[cfg(unix)]
    trials.extend(tests!(
        disk::can_mount(),
        "needs a mount namespace",
        [
            disk::a_full_disk_ends_the_run_and_keeps_the_last_checkpoint,
            disk::a_read_only_file_system_is_named,
        ]
    ));
    #[cfg(unix)]
    trials.extend(tests!(
        disk::can_be_unprivileged(),
        "needs setpriv as root",
        [
            disk::a_read_only_folder_is_named_and_not_changed,
            disk::a_umask_of_777_leaves_nothing_behind,
            disk::outputs_in_a_read_only_folder_are_rejected_before_any_work,
            disk::without_a_cache_folder_training_uses_digits_and_logs_the_reason,
        ]
    ));
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}
