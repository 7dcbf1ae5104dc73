//! Where to compute.

use std::str::FromStr;

use crate::failure::{Exit, Failure};

/// What `--device` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Device {
    Auto,
    Cpu,
    Cuda(usize),
}

impl FromStr for Device {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
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
    /// candle's device. Only the CPU can be had: there is no CUDA build yet.
    ///
    /// # Errors
    /// If another is asked for by name.
    pub(crate) fn open(self) -> Result<candle_core::Device, Failure> {
        match self {
            Self::Auto | Self::Cpu => Ok(candle_core::Device::Cpu),
            Self::Cuda(ordinal) => {
                let message = format!("cuda:{ordinal}: this program is built without CUDA");
                Err(Failure::new(Exit::Device, message)
                    .hint("pass --device cpu, or leave --device out"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_read_from_their_names() {
        assert_eq!("auto".parse(), Ok(Device::Auto));
        assert_eq!("cuda:3".parse(), Ok(Device::Cuda(3)));
        for wrong in ["", "gpu", "cuda:", "cuda:x", "CPU"] {
            assert!(wrong.parse::<Device>().is_err(), "{wrong}");
        }
    }
}
