//! The device to compute on.

#[cfg_attr(not(feature = "cuda"), path = "without_cuda.rs")]
mod cuda;

use std::str::FromStr;

use crate::failure::Result;

/// A value of `--device`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Device {
    Auto,
    Cpu,
    Cuda(usize),
}

impl FromStr for Device {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            _ => text
                .strip_prefix("cuda:")
                .and_then(|ordinal| ordinal.parse().ok())
                .map(Self::Cuda)
                .ok_or_else(|| "expected auto, cpu, cuda or cuda:N".to_owned()),
        }
    }
}

impl Device {
    /// Opens candle's device. For `auto`, logs which GPU is used, or why none is.
    ///
    /// # Errors
    /// If a GPU was requested explicitly and is not usable.
    pub(crate) fn open(self) -> Result<candle_core::Device> {
        match self {
            Self::Auto => cuda::open_any(),
            Self::Cpu => Ok(candle_core::Device::Cpu),
            Self::Cuda(ordinal) => cuda::open(ordinal),
        }
    }
}

/// A device's name: `cpu`, or a GPU's number and name.
pub(crate) fn name(device: &candle_core::Device) -> String {
    match device.location() {
        candle_core::DeviceLocation::Cuda { gpu_id } => cuda::name(gpu_id),
        _ => "cpu".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_parsed_from_their_names() {
        assert_eq!("auto".parse(), Ok(Device::Auto));
        assert_eq!("cuda:3".parse(), Ok(Device::Cuda(3)));
        for wrong in ["", "gpu", "cuda:", "cuda:x", "CPU"] {
            assert!(wrong.parse::<Device>().is_err(), "{wrong}");
        }
    }
}
