//! The steps of CI, each also a task of its own.

use std::time::Instant;

use anyhow::{Context, Result, anyhow};
use clap::Subcommand;

use crate::api::Api;
use crate::cargo::{cargo, run};
use crate::page::Page;
use crate::{deny, examples, gpu, layering, mpi, outside};

/// A step of CI, cheapest first.
#[derive(Clone, Subcommand)]
pub(crate) enum Step {
    /// Checks that the code is formatted
    Fmt,
    /// Checks that crates depend only on the crates they may depend on
    Layering,
    /// Checks licences and sources of all dependencies, if cargo-deny is installed
    Deny,
    /// Checks the code with clippy; warnings are errors
    Clippy,
    /// Runs all tests
    Test,
    /// Runs the numerical tests again with narrower vector instructions
    Paths,
    Page(Page),
    /// Runs every example
    Examples,
    /// Builds the documentation; warnings are errors
    Doc,
    Api(Api),
    /// Builds and runs a separate project that uses vit-layers
    Consumer,
    /// Packages the crates as for publishing, and builds them from the packages
    Package,
    /// Trains over MPI on one to four ranks, if an MPI library is or may be installed
    TestMpi,
    /// Builds the GPU tests with a CUDA kit, and runs what needs no GPU
    GpuBuild,
}

/// What a step runs, and the advice if it fails.
struct Entry {
    name: &'static str,
    check: fn() -> Result<()>,
    when_it_fails: &'static str,
}

impl Step {
    const ALL: [Self; 14] = [
        Self::Fmt,
        Self::Layering,
        Self::Deny,
        Self::Clippy,
        Self::Test,
        Self::Paths,
        Self::Page(Page::CHECK),
        Self::Examples,
        Self::Doc,
        Self::Api(Api::COMPARE),
        Self::Consumer,
        Self::Package,
        Self::TestMpi,
        Self::GpuBuild,
    ];

    /// Runs the step; prints its duration, or the advice.
    pub(crate) fn run(&self) -> Result<()> {
        let Entry { name, check, when_it_fails } = self.entry();
        eprintln!("[{name}]");
        let begun = Instant::now();
        let result = match self {
            // It has options.
            Self::Page(page) => page.run(),
            _ => check(),
        };
        let seconds = begun.elapsed().as_secs_f64();
        result
            .map_err(|e| anyhow!("{name} failed after {seconds:.1} s: {e:#}; {when_it_fails}"))?;
        eprintln!("[{name}] passed in {seconds:.1} s");
        Ok(())
    }

    fn entry(&self) -> Entry {
        match self {
            Self::Fmt => Entry {
                name: "fmt",
                check: || run(cargo("fmt").args(["--all", "--check"])),
                when_it_fails: "run `cargo fmt --all`",
            },
            Self::Layering => Entry {
                name: "layering",
                check: layering::check,
                when_it_fails: "remove the dependency, or allow it in xtask/src/layering.rs or tree.rs",
            },
            Self::Deny => Entry {
                name: "deny",
                check: deny::check,
                when_it_fails: "remove the dependency, or allow it in deny.toml",
            },
            Self::Clippy => Entry {
                name: "clippy",
                check: || {
                    let targets = ["--locked", "--workspace", "--all-targets"];
                    run(cargo("clippy").args(targets).args(["--", "--deny=warnings"]))
                },
                when_it_fails: "fix the warnings above; `cargo clippy --fix` fixes many",
            },
            Self::Test => Entry {
                name: "test",
                check: || run(cargo("test").args(["--locked", "--workspace", "--no-fail-fast"])),
                when_it_fails: "run the failed test alone with `cargo test --package CRATE NAME`",
            },
            Self::Paths => Entry {
                name: "paths",
                check: || ["avx2", "portable"].into_iter().try_for_each(numerical_tests),
                when_it_fails: "run the failed test alone with VIT_SIMD=avx2 or VIT_SIMD=portable",
            },
            Self::Page(_) => Entry {
                name: "page",
                check: Page::check,
                when_it_fails: "look at `cargo xtask page --screenshots DIR`",
            },
            Self::Examples => Entry {
                name: "examples",
                check: examples::run_all,
                when_it_fails: "run it alone with `cargo run --package CRATE --example NAME`",
            },
            Self::Doc => Entry {
                name: "doc",
                check: || {
                    let mut doc = cargo("doc");
                    doc.args(["--locked", "--workspace", "--no-deps"]);
                    run(doc.env("RUSTDOCFLAGS", "--deny=warnings"))
                },
                when_it_fails: "fix the links and the markup named above",
            },
            Self::Api(api) => Entry {
                name: "api",
                check: api.task(),
                when_it_fails: "if the change is intended, run `cargo xtask api --bless` and add it to the changelog",
            },
            Self::Consumer => Entry {
                name: "consumer",
                check: outside::consumer,
                when_it_fails: "run it by hand in tests/consumer; if its Cargo.lock is outdated, run `cargo update` there",
            },
            Self::Package => Entry {
                name: "package",
                check: outside::package,
                when_it_fails: "look at `cargo package --list --package CRATE`",
            },
            Self::TestMpi => Entry {
                name: "test-mpi",
                check: mpi::test,
                when_it_fails: "run the failed test alone with `cargo test --workspace --features vit/mpi --test mpi NAME`",
            },
            Self::GpuBuild => Entry {
                name: "gpu-build",
                check: gpu::check,
                when_it_fails: "see the failure above; `cargo xtask test-gpu --kit --build-only` only builds",
            },
        }
    }
}

/// Runs the tests that depend on vector instructions, with these instructions.
fn numerical_tests(instructions: &str) -> Result<()> {
    // On the whole workspace: for a part of it cargo would recompile dependencies with fewer features.
    let (units, system) = (["--lib"], ["--test", "system", "--", "agreement"]);
    for targets in [&units[..], &system[..]] {
        let mut tests = cargo("test");
        tests.args(["--locked", "--workspace"]).args(targets);
        run(tests.env("VIT_SIMD", instructions))?;
    }
    Ok(())
}

/// Runs the steps up to the first failure.
pub(crate) fn run_all() -> Result<()> {
    let begun = Instant::now();
    for (passed, step) in Step::ALL.into_iter().enumerate() {
        step.run().with_context(|| format!("{passed} of {} steps passed", Step::ALL.len()))?;
    }
    let seconds = begun.elapsed().as_secs_f64();
    eprintln!("all {} steps passed in {seconds:.1} s", Step::ALL.len());
    Ok(())
}
