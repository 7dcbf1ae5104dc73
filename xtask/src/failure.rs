//! Turns errors into messages, hints and exit codes.

use std::error::Error;
use std::fmt;
use std::process::ExitCode;

use vit_device::Unusable;

/// Exit code without a usable device, the same as `vit`'s.
pub(crate) const NO_DEVICE: u8 = 6;

/// An error with a hint.
#[derive(Debug)]
pub(crate) struct Hinted {
    message: String,
    hint: String,
}

impl Hinted {
    pub(crate) fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { message: message.into(), hint: hint.into() }
    }
}

impl fmt::Display for Hinted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for Hinted {}

/// Prints the error and its hint to stderr; returns the exit code.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    eprintln!("error: {error:#}");
    if let Some(hint) = hint(error) {
        eprintln!("hint: {hint}");
    }
    if error.is::<Unusable>() { NO_DEVICE.into() } else { ExitCode::FAILURE }
}

fn hint(error: &anyhow::Error) -> Option<String> {
    let hinted = error.downcast_ref().map(|hinted: &Hinted| hinted.hint.clone());
    let unusable = || error.downcast_ref().map(|unusable: &Unusable| unusable.hint().to_owned());
    hinted.or_else(unusable).or_else(|| error.downcast_ref().and_then(vit_fetch::Error::hint))
}
