//! The tests that need an NVIDIA GPU, as one binary: `cargo xtask test-gpu` runs it, and carries it to a machine with one.

#![allow(clippy::unwrap_used, reason = "a helper that panics fails its test, as it should")]

#[path = "../agreement.rs"]
mod agreement;
#[path = "../files.rs"]
#[expect(dead_code, reason = "not all of it is for these tests")]
mod files;
#[path = "../fixture.rs"]
#[expect(dead_code, reason = "not all of it is for these tests")]
mod fixture;
#[path = "../support.rs"]
#[expect(dead_code, reason = "not all of it is for these tests")]
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

/// The GPU that is tested, for the calling test alone until it ends: what another launches would be recorded too, and
/// opening a device ends a recording.
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
