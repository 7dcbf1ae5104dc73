//! Tests of the whole system: agreement with PyTorch, and the `vit` binary as users run it.

#![allow(clippy::unwrap_used, reason = "a helper that panics fails its test, as it should")]

mod files;
mod finetune;
mod fixture;
mod idx_folder;
#[cfg(target_os = "linux")]
#[path = "../crates/vit-device/tests/machine/mod.rs"]
mod machine;
#[cfg(target_os = "linux")]
mod memory;
mod png_file;
mod running;
mod small_run;
mod support;

mod agreement;
mod bad_data;
mod bad_models;
mod bad_settings;
mod bench;
mod committed_configs;
mod compare;
mod config;
#[cfg(target_os = "linux")]
mod cuda_build;
mod documents;
mod evaluation;
mod explain;
mod export;
mod faults;
mod first_run;
mod foreign_text;
mod help;
mod home;
mod hostile_pictures;
mod hub;
mod info;
mod interchange;
#[cfg(unix)]
mod interrupt;
mod launch;
mod messages;
mod onnx;
#[cfg(unix)]
mod outputs;
mod own_pictures;
mod photos;
mod pictures;
mod prediction;
mod recipe;
mod report;
mod run_folder;
mod same_bits;
#[cfg(unix)]
mod serve;
mod shell;
mod streams;
mod tensorboard;
#[cfg(target_os = "linux")]
mod terminal;
mod timm;
mod trace;
mod validation;
