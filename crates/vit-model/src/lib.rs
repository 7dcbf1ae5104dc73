//! The Vision Transformer: configuration, presets, parameter layouts, safetensors.
