//! The `vit` command as a library: parses arguments, combines the other crates, and prints.

mod any_model;
mod args;
mod candle_threads;
mod chrome_trace;
mod cli;
mod columns;
mod commands;
mod dataset;
mod dataset_name;
mod device;
mod differences;
mod failure;
mod foreign_flags;
mod foreign_folder;
mod interrupt;
mod logging;
mod nearest;
mod output;
mod outputs;
mod pictures;
mod prediction;
mod progress;
mod ranks;
mod report;
mod saved_model;
mod served;
mod settings;
mod terminal;
mod threads;
mod walk;

use std::process::ExitCode;

/// Runs the program with the arguments of this process.
pub fn run() -> ExitCode {
    candle_threads::leave_unused();
    terminal::install_panic_hook();
    let cli = cli::usage::parse();
    let is_shared = cli.command.is_for_ranks();
    let mut logging = cli.logging;
    // Rank 0 logs for all.
    logging.quiet |= is_shared && ranks::is_follower();
    logging::start(&logging);
    let done = instructions_are_named()
        .and_then(|()| interrupt::listen())
        .and_then(|()| commands::run(cli.command, cli::program()));
    done.unwrap_or_else(|failure| if is_shared { ranks::fail(failure) } else { failure.report() })
}

fn instructions_are_named() -> failure::Result<()> {
    vit_ops::check_instruction_set().map_err(|error| {
        failure::Failure::new(failure::Exit::Usage, error.to_string())
            .hint("unset VIT_SIMD to use the machine's best")
    })
}

/// The program's own parsers, for fuzzing. Each asserts what must hold for any input, and returns whether it accepts
/// it.
#[doc(hidden)]
pub mod fuzzing {
    pub use crate::pictures::fuzzing::read as picture;
    pub use crate::settings::fuzzing::read as settings;
}
