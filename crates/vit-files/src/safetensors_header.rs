//! Parses the header of a safetensors file and checks it against the file's length.

use std::collections::HashMap;
use std::fmt;
use std::io::{self, ErrorKind, Read};

use safetensors::tensor::{Metadata, TensorInfo};
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};

use crate::text_of_at_most;

/// The header's length comes first, in this many bytes.
const LENGTH_BYTES: usize = 8;
/// The only key that is not a tensor.
const METADATA: &str = "__metadata__";

/// Reads the header of a safetensors file of `file_length` bytes. The reader then is at the tensors' bytes, and the
/// header covers exactly the rest. A header of more than `longest` bytes is not read.
///
/// # Errors
/// [`ErrorKind::InvalidData`] for an invalid header or one that contradicts the file's length, else the reader's error.
pub fn read_safetensors_header(
    reader: &mut impl Read,
    file_length: u64,
    longest: u64,
) -> io::Result<Metadata> {
    let mut length = [0; LENGTH_BYTES];
    reader.read_exact(&mut length).map_err(|error| match error.kind() {
        ErrorKind::UnexpectedEof => invalid("it is too short for a header"),
        _ => error,
    })?;
    let length = u64::from_le_bytes(length);
    let data_length = file_length.checked_sub(LENGTH_BYTES as u64);
    let Some(data_length) = data_length.and_then(|rest| rest.checked_sub(length)) else {
        // A number this large comes from a file of another kind.
        return Err(invalid(match length > longest {
            true => "it does not begin with the length of a header".to_owned(),
            false => format!("expected a header of {length} bytes, got a file of {file_length}"),
        }));
    };
    if length > longest {
        return Err(invalid(format!("expected a header of at most {longest} bytes, got {length}")));
    }
    let header = text_of_at_most(longest, reader.take(length))?;
    let of_header = |error: &dyn fmt::Display| invalid(format!("its header: {error}"));
    let Header { metadata, mut tensors } =
        serde_json::from_str(&header).map_err(|error| of_header(&error))?;
    tensors.sort_by_key(|(_, info)| info.data_offsets);
    // Checks that tensors follow each other, each as long as its shape and dtype require.
    let header = Metadata::new(metadata, tensors).map_err(|error| of_header(&error))?;
    let expected = header.data_len() as u64;
    if data_length != expected {
        return Err(invalid(format!("expected {expected} bytes of numbers, got {data_length}")));
    }
    Ok(header)
}

fn invalid(what: impl Into<String>) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what.into())
}

struct Header {
    metadata: Option<HashMap<String, String>>,
    tensors: Vec<(String, TensorInfo)>,
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Header;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("tensors by name")
    }

    /// Anything else is an error where it begins, without reading further.
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
        let (mut metadata, mut tensors) = (None, HashMap::new());
        while let Some(name) = map.next_key::<String>()? {
            if name == METADATA {
                metadata = Some(map.next_value()?);
            } else {
                tensors.insert(name, map.next_value()?);
            }
        }
        Ok(Header { metadata, tensors: tensors.into_iter().collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONGEST: u64 = 1000;

    fn read_of(header: &str, data: u64) -> io::Result<Metadata> {
        let bytes = [&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat();
        let length = bytes.len() as u64 + data;
        read_safetensors_header(&mut bytes.as_slice(), length, LONGEST)
    }

    fn one(shape: &str, end: u64) -> String {
        format!(r#"{{"a":{{"dtype":"F32","shape":{shape},"data_offsets":[0,{end}]}}}}"#)
    }

    #[test]
    fn tensors_and_metadata_are_parsed() {
        let header = r#"{"__metadata__":{"key":"text"},"b":{"dtype":"F64","shape":[],"data_offsets":[8,16]},"a":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]},"none":{"dtype":"F32","shape":[0],"data_offsets":[16,16]}}"#;
        let header = read_of(header, 16).expect("three tensors");
        assert_eq!(header.metadata().as_ref().expect("metadata")["key"], "text");
        assert_eq!(header.info("b").expect("b").data_offsets, (8, 16));
        assert_eq!(header.tensors().len(), 3);
    }

    #[test]
    fn header_that_contradicts_the_file_is_an_error() {
        for (header, data, says) in [
            (one("[2]", 8), 4, "expected 8 bytes of numbers, got 4"),
            (one("[1]", 4), 8, "expected 4 bytes of numbers, got 8"),
            (one("[2]", 4), 4, "its header: invalid shape"),
            (one("[1000000000000]", 4), 4, "its header: invalid shape"),
            (one("[18446744073709551615,2]", 4), 4, "its header: overflow"),
            (one("[1]", 4).replace("[0,4]", "[4,8]"), 8, "its header: invalid offset"),
            ("[]".to_owned(), 0, "its header: "),
            (r#"{"a":1}"#.to_owned(), 0, "its header: "),
            (" ".repeat(1001), 0, "expected a header of at most 1000 bytes, got 1001"),
        ] {
            let error = read_of(&header, data).expect_err("an error").to_string();
            assert!(error.starts_with(says), "{header}: {error}");
        }
        let short = read_safetensors_header(&mut &[1, 2, 3][..], 3, LONGEST).expect_err("short");
        assert_eq!(short.to_string(), "it is too short for a header");
        for (length, says) in
            [(LONGEST, "got a file of 8"), (u64::MAX, "not begin with the length of a header")]
        {
            let bytes = length.to_le_bytes();
            let error = read_safetensors_header(&mut &bytes[..], 8, LONGEST).expect_err("too long");
            assert!(error.to_string().ends_with(says), "{error}");
        }
    }
}
