//! Reads the metadata of an exported file, without its parameters.

use std::io::{BufReader, Read, Seek, SeekFrom};

use prost::Message;
use vit_model::{ModelInfo, VitConfig};

use crate::proto::{self, DataType};
use crate::{CONFIG_KEY, Error, Input};

/// Most fields in one message; the deepest model has fewer nodes and initializers.
const MOST_FIELDS: usize = 1 << 17;
/// Longest field that is read; the largest configuration, with a name for every class, is shorter.
const LONGEST_FIELD: u64 = 2 << 20;

/// The metadata of an exported file.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Description {
    /// The model's configuration.
    pub config: VitConfig,
    /// Class names and transform.
    pub info: ModelInfo,
    /// Input type of the graph.
    pub input: Input,
    /// Version of the file format.
    pub ir_version: u64,
    /// Version of the operator set.
    pub opset: u64,
    /// The program that wrote the file, with its version.
    pub producer: String,
}

/// Reads the metadata of a file written by [`to_bytes`](crate::to_bytes), skipping the parameters.
///
/// # Errors
/// If it is not an ONNX file, has no configuration, or cannot be read.
pub fn describe(file: impl Read + Seek) -> Result<Description, Error> {
    let mut file = BufReader::new(file);
    let len = file.seek(SeekFrom::End(0))?;
    file.rewind()?;
    let mut fields = Fields { file: &mut file, left: len, count: 0 };
    let (mut ir_version, mut opset, mut producer) = (None, 0, [String::new(), String::new()]);
    let (mut input, mut json) = (None, None);
    while let Some(field) = fields.next()? {
        match field {
            (1, Payload::Number(version)) => ir_version = Some(version),
            (part @ (2 | 3), Payload::Bytes(len)) => {
                producer[part as usize - 2] = fields.text(len)?;
            }
            (7, Payload::Bytes(len)) => input = Some(input_of_graph(&mut fields, len)?),
            (8, Payload::Bytes(len)) => {
                let version = fields.message::<proto::OperatorSet>(len)?.version;
                opset = u64::try_from(version).map_err(|_| NO_ONNX)?;
            }
            (14, Payload::Bytes(len)) => {
                let entry: proto::Entry = fields.message(len)?;
                json = (entry.key == CONFIG_KEY).then_some(entry.value).or(json);
            }
            (_, payload) => fields.skip(payload)?,
        }
    }
    let (Some(ir_version), Some(input)) = (ir_version, input) else { return Err(NO_ONNX) };
    let producer = producer.join(" ").trim().to_owned();
    let Some(json) = json else { return Err(Error::Foreign { producer }) };
    let (config, info) = ModelInfo::from_json(&json)?;
    let input = match input.map(DataType::try_from) {
        Some(Ok(DataType::Float)) => Input::Float,
        Some(Ok(DataType::Uint8)) => Input::Bytes,
        _ => return Err(Error::NotOnnx { what: "its input is neither float nor uint8" }),
    };
    Ok(Description { config, info, input, ir_version, opset, producer })
}

const NO_ONNX: Error = Error::NotOnnx { what: "expected a version and a graph" };
const CUT: Error = Error::NotOnnx { what: "a field extends beyond the end of the file" };

/// Type of the graph's first input.
fn input_of_graph<R: Read + Seek>(
    fields: &mut Fields<'_, R>,
    len: u64,
) -> Result<Option<i32>, Error> {
    let mut graph = fields.part(len)?;
    let mut input = None;
    while let Some(field) = graph.next()? {
        match field {
            (11, Payload::Bytes(len)) if input.is_none() => {
                let info: proto::ValueInfo = graph.message(len)?;
                input = info.kind.and_then(|kind| kind.tensor_type).map(|kind| kind.elem_type);
            }
            (_, payload) => graph.skip(payload)?,
        }
    }
    Ok(input)
}

/// The fields of a message, one after another. The caller must read or skip a field before the next one.
struct Fields<'a, R> {
    file: &'a mut BufReader<R>,
    left: u64,
    count: usize,
}

/// Content of a field.
#[derive(Clone, Copy)]
enum Payload {
    Number(u64),
    Bytes(u64),
}

impl<R: Read + Seek> Fields<'_, R> {
    /// The next field's number.
    fn next(&mut self) -> Result<Option<(u32, Payload)>, Error> {
        if self.left == 0 {
            return Ok(None);
        }
        self.count += 1;
        if self.count > MOST_FIELDS {
            return Err(Error::NotOnnx { what: "it has more fields than any model" });
        }
        let key = self.varint()?;
        let payload = match key & 7 {
            0 => Payload::Number(self.varint()?),
            1 => Payload::Bytes(8),
            2 => Payload::Bytes(self.varint()?),
            5 => Payload::Bytes(4),
            _ => return Err(Error::NotOnnx { what: "a field has an unknown wire type" }),
        };
        if matches!(payload, Payload::Bytes(len) if len > self.left) {
            return Err(CUT);
        }
        Ok(Some((u32::try_from(key >> 3).map_err(|_| NO_ONNX)?, payload)))
    }

    fn varint(&mut self) -> Result<u64, Error> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let mut byte = [0];
            self.take(1)?;
            self.file.read_exact(&mut byte)?;
            value |= u64::from(byte[0] & 0x7f) << shift;
            if byte[0] < 0x80 {
                return Ok(value);
            }
        }
        Err(Error::NotOnnx { what: "a number has more than 64 bits" })
    }

    fn take(&mut self, len: u64) -> Result<(), Error> {
        self.left = self.left.checked_sub(len).ok_or(CUT)?;
        Ok(())
    }

    fn skip(&mut self, payload: Payload) -> Result<(), Error> {
        let Payload::Bytes(len) = payload else { return Ok(()) };
        self.take(len)?;
        Ok(self.file.seek_relative(i64::try_from(len).map_err(|_| CUT)?)?)
    }

    fn bytes(&mut self, len: u64) -> Result<Vec<u8>, Error> {
        if len > LONGEST_FIELD {
            return Err(Error::NotOnnx { what: "a field is longer than in any model" });
        }
        self.take(len)?;
        let mut bytes = vec![0; len as usize];
        self.file.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn text(&mut self, len: u64) -> Result<String, Error> {
        String::from_utf8(self.bytes(len)?)
            .map_err(|_| Error::NotOnnx { what: "a string is not UTF-8" })
    }

    fn message<M: Message + Default>(&mut self, len: u64) -> Result<M, Error> {
        M::decode(&self.bytes(len)?[..])
            .map_err(|_| Error::NotOnnx { what: "a message is malformed" })
    }

    /// The fields of a nested message.
    fn part(&mut self, len: u64) -> Result<Fields<'_, R>, Error> {
        self.take(len)?;
        Ok(Fields { file: self.file, left: len, count: 0 })
    }
}
