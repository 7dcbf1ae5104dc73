//! The header of a safetensors file, parsed into what it may hold and nothing else: whatever else a file has there is an error
//! where it begins, and costs nothing.

use std::collections::HashMap;
use std::fmt;

use safetensors::SafeTensorError;
use safetensors::tensor::{Metadata, TensorInfo};
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};

/// The bytes before the header, which say how long it is.
const LENGTH_BYTES: usize = 8;
/// The one name that is no tensor's.
const METADATA: &str = "__metadata__";

/// Where the tensors of a file begin, and what its header says of them, which is as long as the file.
///
/// # Errors
/// If it is none, or the file has other bytes than it says.
pub(crate) fn read(bytes: &[u8]) -> Result<(usize, Metadata), SafeTensorError> {
    let length = bytes.first_chunk::<LENGTH_BYTES>().ok_or(SafeTensorError::HeaderTooSmall)?;
    let length = usize::try_from(u64::from_le_bytes(*length)).ok();
    let start = length.and_then(|length| length.checked_add(LENGTH_BYTES));
    let header = start.and_then(|start| Some((start, bytes.get(LENGTH_BYTES..start)?)));
    let (start, header) = header.ok_or(SafeTensorError::InvalidHeaderLength)?;
    let Header { metadata, mut tensors } =
        serde_json::from_slice(header).map_err(SafeTensorError::InvalidHeaderDeserialization)?;
    tensors.sort_by_key(|(_, info)| info.data_offsets);
    // One tensor lies behind the other, each of as many bytes as its shape and type come to.
    let header = Metadata::new(metadata, tensors)?;
    if header.data_len() != bytes.len() - start {
        return Err(SafeTensorError::MetadataIncompleteBuffer);
    }
    Ok((start, header))
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
