#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| vit_fuzz::read("safetensors", bytes));
