//! What `find` reports on machines that each lack something.
//!
//! The dynamic loader reads its path at process start, so each test restarts this program with the ignored test below.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a helper that panics fails its test, as it should")]

mod machine;

use std::env;
use std::process::Command;

use machine::Machine;
use vit_device::Build;

/// The child's request: an ordinal, an architecture and a toolkit version.
const ASKED: &str = "VIT_PROBE";
const ANSWER: &str = "answer: ";

#[test]
#[ignore = "the child of the others"]
fn child() {
    let asked = env::var(ASKED).unwrap();
    let [ordinal, architecture, toolkit] = asked.split(' ').collect::<Vec<_>>()[..] else {
        panic!("{asked}");
    };
    let build = Build::parse(architecture, toolkit).unwrap();
    let found = vit_device::find(ordinal.parse().unwrap(), &build);
    println!("\n{ANSWER}{}", found.map_or_else(|why| why.to_string(), |gpu| format!("{gpu:?}")));
}

/// The result of looking for this GPU with a build for compute capability 9.0 and CUDA 13.0.
fn find(machine: &Machine, ordinal: usize) -> String {
    find_for(machine, &format!("{ordinal} sm_90a 13.0"))
}

fn find_for(machine: &Machine, asked: &str) -> String {
    let mut child = Command::new(env::current_exe().unwrap());
    child.args(["child", "--exact", "--ignored", "--nocapture"]).env(ASKED, asked);
    let output = child.envs(machine.environment()).output().unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    let answer = stdout.lines().find_map(|line| line.strip_prefix(ANSWER));
    answer.unwrap_or_else(|| panic!("{stdout}")).to_owned()
}

#[test]
fn usable_gpu_is_found() {
    let machine = Machine::with_a_gpu();
    let machine = machine.saying("VIT_STUB_GPUS", "2").saying("VIT_STUB_CUDA", "13010");
    assert_eq!(
        find(&machine, 1),
        "Gpu { ordinal: 1, name: \"Stub 1\", compute_capability: (9, 0), memory: 2147483648, \
         driver_cuda: (13, 1) }"
    );
}

#[test]
fn missing_driver_is_reported() {
    let machine = Machine::with_a_gpu();
    let machine = machine.without("libcuda.so");
    assert_lacks(&find(&machine, 0), "no NVIDIA driver: libcuda.so.1: ");
}

#[test]
fn failing_driver_is_reported() {
    let machine = Machine::with_a_gpu();
    let machine = machine.saying("VIT_STUB_INIT", "803");
    assert_eq!(
        find(&machine, 0),
        "the NVIDIA driver does not work: cuInit gives CUDA_ERROR_SYSTEM_DRIVER_MISMATCH (803)"
    );
    let machine = machine.saying("VIT_STUB_INIT", "999");
    let expected = "the NVIDIA driver does not work: cuInit gives an unknown error (999)";
    assert_eq!(find(&machine, 0), expected);
}

#[test]
fn missing_gpu_is_reported() {
    for (setting, value) in [("VIT_STUB_GPUS", "0"), ("VIT_STUB_INIT", "100")] {
        let machine = Machine::with_a_gpu();
        let machine = machine.saying(setting, value);
        assert_eq!(find(&machine, 0), "no NVIDIA GPU: the driver sees none", "{setting}={value}");
    }
}

#[test]
fn unknown_ordinal_is_reported() {
    let machine = Machine::with_a_gpu();
    let expected = "no such GPU: expected an ordinal below 1, the number of GPUs, got 1";
    assert_eq!(find(&machine, 1), expected);
}

#[test]
fn driver_older_than_the_toolkit_is_reported() {
    let machine = Machine::with_a_gpu();
    let machine = machine.saying("VIT_STUB_CUDA", "12080");
    assert_eq!(
        find(&machine, 0),
        "the NVIDIA driver is too old: expected one for CUDA 13.0 or newer, got one for CUDA 12.8"
    );
    assert!(find_for(&machine, "0 sm_90a 12.9").contains("expected one for CUDA 12.9 or newer"));
}

#[test]
fn unsupported_compute_capability_is_reported() {
    let machine = Machine::with_a_gpu();
    let machine = machine.saying("VIT_STUB_CAPABILITY", "120");
    assert_eq!(
        find(&machine, 0),
        "Stub 0 cannot run this build: expected a GPU for sm_90a, got compute capability 12.0"
    );
    assert!(find_for(&machine, "0 sm_80 13.0").starts_with("Gpu"));
}

#[test]
fn missing_library_is_reported() {
    for (library, usual) in [
        ("libcublas.so", "libcublas.so.13"),
        ("libcublasLt.so", "libcublasLt.so.13"),
        ("libcurand.so", "libcurand.so.10"),
    ] {
        let machine = Machine::with_a_gpu();
        let found = find(&machine.without(library), 0);
        assert_lacks(&found, &format!("a library of CUDA is missing: {usual}: "));
    }
}

/// The loader's message comes after the library's name.
#[track_caller]
fn assert_lacks(found: &str, expected: &str) {
    assert!(found.starts_with(expected) && found.ends_with(": file too short"), "{found}");
}
