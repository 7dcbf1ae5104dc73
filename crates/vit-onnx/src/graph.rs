//! A graph under construction: each node has one output with the node's name.

use std::collections::BTreeSet;

use vit_model::Tensors;

use crate::Error;
use crate::proto::{self, Attribute, AttributeType, DataType, Dimension, Size};

/// The name of a value.
pub(crate) type Value = String;

/// Nodes in execution order, and initializers.
pub(crate) struct Graph<'a> {
    parameters: &'a Tensors,
    nodes: Vec<proto::Node>,
    initializers: Vec<proto::Tensor>,
    /// Names of the initializers.
    known: BTreeSet<String>,
}

impl<'a> Graph<'a> {
    pub(crate) fn new(parameters: &'a Tensors) -> Self {
        let (nodes, initializers) = (Vec::new(), Vec::new());
        Self { parameters, nodes, initializers, known: BTreeSet::new() }
    }

    /// Adds a node with one output, named like the node.
    pub(crate) fn node(
        &mut self,
        op_type: &str,
        name: impl Into<String>,
        inputs: &[&str],
        attributes: Vec<Attribute>,
    ) -> Value {
        let name = name.into();
        self.push(op_type, &name, inputs, vec![name.clone()], attributes);
        name
    }

    /// Adds a node with several outputs.
    pub(crate) fn push(
        &mut self,
        op_type: &str,
        name: &str,
        inputs: &[&str],
        outputs: Vec<Value>,
        attribute: Vec<Attribute>,
    ) {
        self.nodes.push(proto::Node {
            input: inputs.iter().map(|&input| input.to_owned()).collect(),
            output: outputs,
            name: name.to_owned(),
            op_type: op_type.to_owned(),
            attribute,
        });
    }

    /// A parameter of the model, by its native name.
    ///
    /// # Errors
    /// If its values cannot be read.
    pub(crate) fn parameter(&mut self, name: impl Into<String>) -> Result<Value, Error> {
        let name = name.into();
        let tensor = &self.parameters[&name];
        self.tensor(name, tensor)
    }

    /// A tensor computed during export.
    ///
    /// # Errors
    /// If its values cannot be read.
    pub(crate) fn tensor(
        &mut self,
        name: impl Into<String>,
        tensor: &candle_core::Tensor,
    ) -> Result<Value, Error> {
        let name = name.into();
        let values = tensor.to_dtype(candle_core::DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
        let dims: Vec<i64> = tensor.dims().iter().map(|&size| size as i64).collect();
        let raw = values.into_iter().flat_map(f32::to_le_bytes).collect();
        Ok(self.initializer(name, dims, DataType::Float, raw))
    }

    /// A constant number.
    pub(crate) fn float(&mut self, value: f64) -> Value {
        let value = value as f32;
        let raw = value.to_le_bytes().to_vec();
        self.initializer(format!("{value:?}"), Vec::new(), DataType::Float, raw)
    }

    /// Constant numbers, one a channel, to broadcast over (batch, channels, height, width).
    pub(crate) fn each_channel(&mut self, name: &str, values: &[f64]) -> Value {
        let raw = values.iter().flat_map(|&value| (value as f32).to_le_bytes()).collect();
        let dims = vec![1, values.len() as i64, 1, 1];
        self.initializer(name.to_owned(), dims, DataType::Float, raw)
    }

    /// A constant list of integers: a shape, axes or bounds.
    pub(crate) fn ints(&mut self, values: &[i64]) -> Value {
        let raw = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.initializer(format!("{values:?}"), vec![values.len() as i64], DataType::Int64, raw)
    }

    /// A constant integer.
    pub(crate) fn int(&mut self, value: i64) -> Value {
        let raw = value.to_le_bytes().to_vec();
        self.initializer(value.to_string(), Vec::new(), DataType::Int64, raw)
    }

    /// Adds an initializer. Constants are named by their value, so equal ones are stored once.
    fn initializer(&mut self, name: String, dims: Vec<i64>, kind: DataType, raw: Vec<u8>) -> Value {
        if self.known.insert(name.clone()) {
            let (data_type, raw_data) = (kind.into(), Some(raw));
            self.initializers.push(proto::Tensor { dims, data_type, name: name.clone(), raw_data });
        }
        name
    }

    pub(crate) const fn parameters(&self) -> &'a Tensors {
        self.parameters
    }

    pub(crate) fn finish(self, input: proto::ValueInfo, output: proto::ValueInfo) -> proto::Graph {
        proto::Graph {
            node: self.nodes,
            name: "vision_transformer".to_owned(),
            initializer: self.initializers,
            input: vec![input],
            output: vec![output],
        }
    }
}

pub(crate) fn int(name: &str, value: i64) -> Attribute {
    attribute(name, AttributeType::Int, Attribute { i: Some(value), ..Attribute::default() })
}

pub(crate) fn float(name: &str, value: f64) -> Attribute {
    let value = Some(value as f32);
    attribute(name, AttributeType::Float, Attribute { f: value, ..Attribute::default() })
}

pub(crate) fn ints(name: &str, values: &[i64]) -> Attribute {
    let ints = values.to_vec();
    attribute(name, AttributeType::Ints, Attribute { ints, ..Attribute::default() })
}

fn attribute(name: &str, kind: AttributeType, value: Attribute) -> Attribute {
    Attribute { name: name.to_owned(), kind: kind.into(), ..value }
}

/// An input or output of the graph, with any batch size.
pub(crate) fn batch_of(name: &str, kind: DataType, sizes: &[usize]) -> proto::ValueInfo {
    let batch = Size::Named("batch".to_owned());
    let sizes = sizes.iter().map(|&size| Size::Fixed(size as i64));
    let dim = [batch].into_iter().chain(sizes).map(|size| Dimension { size: Some(size) }).collect();
    let shape = Some(proto::Shape { dim });
    let tensor_type = Some(proto::TensorType { elem_type: kind.into(), shape });
    proto::ValueInfo { name: name.to_owned(), kind: Some(proto::Type { tensor_type }) }
}
