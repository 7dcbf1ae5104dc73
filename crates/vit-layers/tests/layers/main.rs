//! The layers as other projects meet them: through the crate's front door alone.

mod bad_input;
mod dtypes;
mod gradients;
mod masks;
mod pytorch;
mod support;
mod weights;
