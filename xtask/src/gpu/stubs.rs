//! What a CUDA build is linked with in place of CUDA's libraries, so that one binary starts everywhere.
//!
//! candle's bindings load the libraries when the program runs, and yet name them to the linker, which only has to find
//! something of that name. The runtime library alone is really called, by candle's quantised kernels: its static form
//! goes into the binary.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::toolkit::Toolkit;

/// The libraries that are loaded when the program runs.
const LOADED: [&str; 5] = ["cublas", "cublasLt", "cuda", "curand", "nvrtc"];
/// An archive without members.
const EMPTY: &[u8] = b"!<arch>\n";

/// Fills the folder, which must be searched before the toolkit's own libraries.
pub(crate) fn write(folder: &Path, toolkit: &Toolkit) -> Result<()> {
    let runtime = toolkit.library("libcudart_static.a")?;
    let write = || {
        fs::create_dir_all(folder)?;
        for name in LOADED {
            fs::write(folder.join(format!("lib{name}.a")), EMPTY)?;
        }
        // Found as what candle asks for, which is the shared one.
        fs::copy(&runtime, folder.join("libcudart.a"))
    };
    write().with_context(|| folder.display().to_string())?;
    Ok(())
}
