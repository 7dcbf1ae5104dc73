//! Tests of the layers through the public API only.

mod bad_input;
mod dtypes;
mod gradients;
mod masks;
mod pytorch;
mod support;
mod weights;
