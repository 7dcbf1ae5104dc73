//! Stub libraries to link a CUDA build with, so that one binary starts on every machine.
//!
//! candle's bindings load CUDA's libraries at run time, but still name them to the linker, which only has to find files
//! of these names. Only the runtime library is really called, by candle's quantised kernels; it is linked statically.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::toolkit::Toolkit;

/// Libraries that are loaded at run time.
const LOADED: [&str; 5] = ["cublas", "cublasLt", "cuda", "curand", "nvrtc"];
/// An empty archive.
const EMPTY: &[u8] = b"!<arch>\n";

/// Writes the stubs into the folder, which the linker must search before the toolkit's libraries.
pub(crate) fn write(folder: &Path, toolkit: &Toolkit) -> Result<()> {
    let runtime = toolkit.library("libcudart_static.a")?;
    let write = || {
        fs::create_dir_all(folder)?;
        for name in LOADED {
            fs::write(folder.join(format!("lib{name}.a")), EMPTY)?;
        }
        // candle asks the linker for the shared `cudart`; under this name it finds the static one.
        fs::copy(&runtime, folder.join("libcudart.a"))
    };
    write().with_context(|| folder.display().to_string())?;
    Ok(())
}
