//! Lists GPUs, and whether a build can use one: `cargo run -p vit-device --example probe [ORDINAL SM TOOLKIT]`.
//!
//! ```text
//! $ cargo run -p vit-device --example probe 0 sm_90a 13.0
//! cuda:0, NVIDIA H100 80GB HBM3 (compute capability 9.0, driver for CUDA 13.0), 85.0 GB
//! sm_90a, CUDA 13.0: usable
//! ```
#![allow(clippy::print_stdout, reason = "an example")]

use std::error::Error;

use vit_device::{Build, Unusable};

fn main() -> Result<(), Box<dyn Error>> {
    match vit_device::gpus() {
        Ok(gpus) => {
            for gpu in gpus {
                println!("{gpu}, {:.1} GB", gpu.memory as f64 / 1e9);
            }
        }
        Err(why) => say(&why),
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [ordinal, architecture, toolkit] = &arguments[..] {
        let build = Build::parse(architecture, toolkit)?;
        match vit_device::find(ordinal.parse()?, &build) {
            Ok(_) => println!("{architecture}, CUDA {toolkit}: usable"),
            Err(why) => say(&why),
        }
    }
    Ok(())
}

fn say(why: &Unusable) {
    println!("{why}\nhint: {}", why.hint());
}
