//! Reads a checkpoint's tensors one after another, allocating no more than the file's size.

use std::io::{self, BufReader, Read};
use std::path::Path;

use candle_core::{Device, Tensor};
use safetensors::Dtype;
use safetensors::tensor::TensorInfo;
use vit_files::{open_file, read_safetensors_header};

use crate::Tensors;

/// Reads all tensors of a file with a header of at most `longest_header` bytes.
///
/// # Errors
/// If it cannot be read, or is not a safetensors file of `f32` and `f64`.
pub(crate) fn read(path: &Path, longest_header: u64) -> Result<Tensors, String> {
    let said = |error: io::Error| error.to_string();
    let file = open_file(path).map_err(said)?;
    let length = file.metadata().map_err(said)?.len();
    let mut bytes = BufReader::new(file);
    let header = read_safetensors_header(&mut bytes, length, longest_header).map_err(said)?;
    let tensors = header.offset_keys().into_iter().map(|name| {
        let info = header.info(&name).expect("a name of the header's");
        let tensor = next(&mut bytes, info).map_err(|what| format!("{name}: {what}"))?;
        Ok((name, tensor))
    });
    tensors.collect()
}

/// Reads the next tensor.
fn next(bytes: &mut impl Read, info: &TensorInfo) -> Result<Tensor, String> {
    let (begin, end) = info.data_offsets;
    let (size, shape) = (end - begin, info.shape.as_slice());
    let tensor = match info.dtype {
        Dtype::F32 => numbers(bytes, size / 4, f32::from_le_bytes)
            .map(|numbers| Tensor::from_vec(numbers, shape, &Device::Cpu)),
        Dtype::F64 => numbers(bytes, size / 8, f64::from_le_bytes)
            .map(|numbers| Tensor::from_vec(numbers, shape, &Device::Cpu)),
        other => return Err(format!("expected F32 or F64, got {other}")),
    };
    tensor.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
}

/// Reads the next numbers, of `BYTES` bytes each.
fn numbers<T, const BYTES: usize>(
    mut reader: impl Read,
    count: usize,
    number: fn([u8; BYTES]) -> T,
) -> io::Result<Vec<T>> {
    let mut numbers = Vec::with_capacity(count);
    let mut bytes = [0; BYTES];
    for _ in 0..count {
        reader.read_exact(&mut bytes)?;
        numbers.push(number(bytes));
    }
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const LONGEST: u64 = 1000;

    /// Reads a file with this header and data.
    fn read_of(header: &str, data: &[u8]) -> Result<Tensors, String> {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        let bytes = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat();
        fs::write(file.path(), bytes).expect("a writable file");
        read(file.path(), LONGEST)
    }

    #[test]
    fn both_dtypes_are_read_in_order() {
        let header = r#"{"b":{"dtype":"F64","shape":[],"data_offsets":[8,16]},"a":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]},"none":{"dtype":"F32","shape":[0],"data_offsets":[16,16]}}"#;
        let data = [&1.5_f32.to_le_bytes()[..], &(-2.0_f32).to_le_bytes(), &0.1_f64.to_le_bytes()];
        let tensors = read_of(header, &data.concat()).expect("three tensors");
        assert_eq!(tensors["a"].to_vec2::<f32>().expect("f32"), [[1.5, -2.0]]);
        assert_eq!(tensors["b"].to_scalar::<f64>().expect("f64"), 0.1);
        assert_eq!(tensors["none"].dims(), [0]);
        assert_eq!(tensors.len(), 3);
    }

    #[test]
    fn other_dtypes_are_rejected() {
        let header = r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}"#;
        let error = read_of(header, &[0; 4]).expect_err("an error");
        assert_eq!(error, "a: expected F32 or F64, got U8");
        assert!(read(Path::new("absent"), LONGEST).is_err());
    }
}
