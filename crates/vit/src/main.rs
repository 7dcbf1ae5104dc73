//! The `vit` command: parses, resolves, composes and prints. What it does is done by the crates below it.

mod any_model;
mod candle_threads;
mod chrome_trace;
mod cli;
mod commands;
mod dataset;
mod device;
mod differences;
mod failure;
mod interrupt;
mod logging;
mod nearest;
mod output;
mod outputs;
mod pictures;
mod progress;
mod report;
mod saved_model;
mod settings;
mod terminal;

use std::process::ExitCode;

/// Keeps freed pages: glibc's allocator would map and unmap those of every large tensor.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    candle_threads::leave_unused();
    terminal::tell_panics();
    let cli = cli::parse();
    logging::start(&cli.logging);
    let done = interrupt::listen().and_then(|()| commands::run(cli.command));
    done.unwrap_or_else(|failure| failure.report())
}
