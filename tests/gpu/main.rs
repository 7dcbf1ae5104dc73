//! The tests that need an NVIDIA GPU, in one binary: `cargo xtask test-gpu` runs it, or packs it for another machine.

#![allow(clippy::unwrap_used, reason = "a helper that panics fails its test, as it should")]

#[path = "../agreement.rs"]
mod agreement;
#[path = "../files.rs"]
mod files;
#[path = "../fixture.rs"]
#[expect(dead_code, reason = "these tests use only parts of it")]
mod fixture;
#[path = "../support.rs"]
#[expect(dead_code, reason = "these tests use only parts of it")]
mod support;
#[path = "../timm.rs"]
mod timm;

mod case;
mod digits;
mod operations;
mod program;
mod pytorch;
mod steps;

use std::sync::{Mutex, MutexGuard, PoisonError};

use candle_core::Device;

/// The GPU, exclusively for the calling test: another test's launches would be recorded too, and opening a device ends
/// a recording.
fn gpu() -> Device {
    static ONE: Mutex<()> = Mutex::new(());
    thread_local! {
        static GPU: (Device, MutexGuard<'static, ()>) = {
            let alone = ONE.lock().unwrap_or_else(PoisonError::into_inner);
            (vit_ops::cuda::open(0).expect("a GPU, without which nothing is tested"), alone)
        };
    }
    GPU.with(|(gpu, _alone)| gpu.clone())
}
