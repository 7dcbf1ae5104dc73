//! Why no GPU can be used.

use crate::version::dotted;

/// Why no GPU, or not the requested one, can be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Unusable {
    /// The driver's library cannot be loaded.
    #[error("no NVIDIA driver: {library}: {reason}")]
    NoDriver {
        /// Its file.
        library: String,
        /// The dynamic loader's message.
        reason: String,
    },
    /// A call of the driver failed.
    #[error("the NVIDIA driver does not work: {call} gives {name} ({code})")]
    Driver {
        /// The function.
        call: &'static str,
        /// Its return code.
        code: i32,
        /// The driver's name for that code.
        name: String,
    },
    /// There is a driver, and it sees no GPU.
    #[error("no NVIDIA GPU: the driver sees none")]
    NoGpu,
    /// The requested ordinal is too large.
    #[error("no such GPU: expected an ordinal below {count}, the number of GPUs, got {asked}")]
    NoSuchGpu {
        /// The requested ordinal.
        asked: usize,
        /// The number of GPUs.
        count: usize,
    },
    /// The driver is older than the toolkit of the build.
    #[error(
        "the NVIDIA driver is too old: expected one for CUDA {} or newer, got one for CUDA {}",
        dotted(*toolkit),
        dotted(*driver)
    )]
    OldDriver {
        /// The newest CUDA version that the driver supports.
        driver: (u32, u32),
        /// The toolkit's version.
        toolkit: (u32, u32),
    },
    /// The build has no kernels for this GPU.
    #[error(
        "{gpu} cannot run this build: expected a GPU for {architecture}, got compute capability {}",
        dotted(*compute_capability)
    )]
    ComputeCapability {
        /// The GPU's name.
        gpu: String,
        /// Its compute capability.
        compute_capability: (u32, u32),
        /// The architecture of the build, such as `sm_90a`.
        architecture: String,
    },
    /// A CUDA library cannot be loaded.
    #[error("a library of CUDA is missing: {library}: {reason}")]
    NoLibrary {
        /// Its file.
        library: String,
        /// The dynamic loader's message.
        reason: String,
    },
}

impl Unusable {
    /// Suggests what to do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NoDriver { .. } => {
                "install the NVIDIA driver; start a container with `--gpus all`"
            }
            Self::Driver { .. } => {
                "run `nvidia-smi`; restart after an update of the driver, and remove toolkits' `stubs` folders from the \
                 library path"
            }
            Self::NoGpu => {
                "run `nvidia-smi`, and check that CUDA_VISIBLE_DEVICES does not hide the GPU"
            }
            Self::NoSuchGpu { .. } => "`nvidia-smi -L` lists the GPUs",
            Self::OldDriver { .. } => {
                "update NVIDIA's driver, or build with a toolkit of the driver's version"
            }
            Self::ComputeCapability { .. } => {
                "build for this GPU: set CUDA_COMPUTE_CAP to its compute capability, such as 90 for 9.0"
            }
            Self::NoLibrary { .. } => {
                "install the CUDA toolkit's libraries, and name their folder in LD_LIBRARY_PATH (PATH on Windows)"
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_name_expected_and_actual() {
        let old = Unusable::OldDriver { driver: (12, 8), toolkit: (13, 0) };
        assert_eq!(
            old.to_string(),
            "the NVIDIA driver is too old: expected one for CUDA 13.0 or newer, got one for CUDA 12.8"
        );
        let absent = Unusable::NoSuchGpu { asked: 3, count: 2 };
        assert_eq!(
            absent.to_string(),
            "no such GPU: expected an ordinal below 2, the number of GPUs, got 3"
        );
    }
}
