//! The CUDA build of `vit` without a usable GPU, on machines simulated by stub libraries.
//!
//! `VIT_CUDA_BINARY` is the absolute path of that build, for compute capability 9.0 with a CUDA 13.0 toolkit. It loads
//! CUDA's libraries at run time; linked to them it would not start here.

use std::env;

use crate::files::test_file;
use crate::machine::Machine;
use crate::support::Sandbox;

/// The program on a simulated machine.
fn on(machine: &Machine) -> Sandbox {
    let vit = env::var_os("VIT_CUDA_BINARY").expect("VIT_CUDA_BINARY names a CUDA build of vit");
    Sandbox::of(vit.into(), machine.environment())
}

/// Checks that an explicit GPU is rejected with this reason and hint, and that `auto` falls back to the CPU.
#[track_caller]
fn assert_unusable(machine: &Machine, reason: &str, hint: &str) {
    let sandbox = on(machine);
    let refusal = sandbox.refuses(6, "train --dataset digits --run-dir run --device cuda");
    assert!(refusal.message.starts_with(&format!("cuda:0: {reason}")), "{refusal:?}");
    assert!(refusal.hint.contains(hint), "{refusal:?}");
    let log = sandbox.train_digits("--max-steps 2").stderr;
    assert!(log.contains(&format!("computing on the CPU: {reason}")), "{log}");
}

fn saying(setting: &'static str, value: &'static str) -> Machine {
    Machine::with_a_gpu().saying(setting, value)
}

fn without(library: &str) -> Machine {
    Machine::with_a_gpu().without(library)
}

#[test]
#[ignore = "cargo xtask gpu-build runs it"]
fn a_missing_driver_is_reported() {
    assert_unusable(&without("libcuda.so"), "no NVIDIA driver: libcuda.so.1: ", "install");
}

#[test]
#[ignore = "cargo xtask gpu-build runs it"]
fn a_driver_that_fails_to_start_is_reported() {
    let reason = "the NVIDIA driver does not work: cuInit gives CUDA_ERROR_SYSTEM_DRIVER_MISMATCH";
    assert_unusable(&saying("VIT_STUB_INIT", "803"), reason, "restart");
}

#[test]
#[ignore = "cargo xtask gpu-build runs it"]
fn a_missing_gpu_is_reported() {
    let reason = "no NVIDIA GPU: the driver sees none";
    assert_unusable(&saying("VIT_STUB_GPUS", "0"), reason, "CUDA_VISIBLE_DEVICES");
}

#[test]
#[ignore = "cargo xtask gpu-build runs it"]
fn an_old_driver_is_reported() {
    let reason =
        "the NVIDIA driver is too old: expected one for CUDA 13.0 or newer, got one for CUDA 12.8";
    assert_unusable(&saying("VIT_STUB_CUDA", "12080"), reason, "update NVIDIA's driver");
}

#[test]
#[ignore = "cargo xtask gpu-build runs it"]
fn an_unsupported_compute_capability_is_reported() {
    let reason =
        "Stub 0 cannot run this build: expected a GPU for sm_90a, got compute capability 8.0";
    assert_unusable(&saying("VIT_STUB_CAPABILITY", "80"), reason, "CUDA_COMPUTE_CAP");
}

#[test]
#[ignore = "cargo xtask gpu-build runs it"]
fn a_missing_library_is_reported() {
    for (library, usual) in [
        ("libcublas.so", "libcublas.so.13"),
        ("libcublasLt.so", "libcublasLt.so.13"),
        ("libcurand.so", "libcurand.so.10"),
    ] {
        let reason = format!("a library of CUDA is missing: {usual}: ");
        assert_unusable(&without(library), &reason, "LD_LIBRARY_PATH");
    }
}

/// Everything is present, but the device cannot be opened.
#[test]
#[ignore = "cargo xtask gpu-build runs it"]
fn a_gpu_reserved_by_another_program_is_reported() {
    let reason = "Stub 0 cannot be started: DriverError(CUDA_ERROR_DEVICE_UNAVAILABLE";
    assert_unusable(&Machine::with_a_gpu(), reason, "nvidia-smi");
}

#[test]
#[ignore = "cargo xtask gpu-build runs it"]
fn an_ordinal_beyond_the_last_gpu_is_reported() {
    let machine = saying("VIT_STUB_GPUS", "2");
    let sandbox = on(&machine);
    let refusal = sandbox.refuses(6, "train --dataset digits --device cuda:2");
    let reason = "no such GPU: expected an ordinal below 2, the number of GPUs, got 2";
    assert_eq!(refusal.message, format!("cuda:2: {reason}"));
    assert!(refusal.hint.contains("nvidia-smi -L"), "{refusal:?}");
}

#[test]
#[ignore = "cargo xtask gpu-build runs it"]
fn commands_use_the_cpu_unless_a_gpu_is_requested() {
    let machine = without("libcuda.so");
    let sandbox = on(&machine);
    sandbox.train_digits("--max-steps 2");
    let image = test_file("fixtures/digit.png");
    let image = image.display();
    for words in [
        "eval run --dataset digits",
        "predict run --dataset digits",
        &format!("explain run {image} -o explained.png"),
    ] {
        let refusal = sandbox.refuses(6, &format!("{words} --device cuda"));
        assert!(refusal.message.starts_with("cuda:0: no NVIDIA driver: "), "{words}: {refusal:?}");
        let log = sandbox.run(words).succeeded().stderr;
        assert!(log.contains("computing on the CPU: no NVIDIA driver: "), "{words}: {log}");
    }
}
