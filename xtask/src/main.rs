//! The tasks of this workspace: `cargo xtask help` lists them.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for a terminal")]

mod api;
mod bench;
mod cargo;
mod ci;
mod circles;
mod deny;
mod examples;
mod failure;
mod fetch;
mod fuzz;
mod gpu;
mod layering;
mod mpi;
mod nightly;
mod outside;
mod page;
mod reference;
mod soak;
mod train;
mod tree;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

/// The tasks of this workspace
#[derive(Parser)]
#[command(bin_name = "cargo xtask")]
enum Task {
    Train(train::Train),
    Fetch(fetch::Fetch),
    Bench(bench::Bench),
    Reference(reference::Reference),
    TestGpu(gpu::TestGpu),
    Soak(soak::Soak),
    Fuzz(fuzz::Fuzz),
    /// Runs all of CI, cheapest steps first, up to the first failure
    Ci,
    #[command(flatten)]
    Step(ci::Step),
}

fn main() -> ExitCode {
    run(Task::parse()).unwrap_or_else(|error| failure::report(&error))
}

fn run(task: Task) -> Result<ExitCode> {
    match task {
        Task::Train(train) => return train.run(),
        Task::Fetch(fetch) => fetch.run()?,
        Task::Bench(bench) => bench.run()?,
        Task::Reference(reference) => reference.run()?,
        Task::TestGpu(test_gpu) => test_gpu.run()?,
        Task::Soak(soak) => soak.run()?,
        Task::Fuzz(fuzz) => fuzz.run()?,
        Task::Ci => ci::run_all()?,
        Task::Step(step) => step.run()?,
    }
    Ok(ExitCode::SUCCESS)
}
