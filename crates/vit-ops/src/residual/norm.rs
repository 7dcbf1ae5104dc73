//! Layer norms, on rows.

use candle_core::Result;

use super::stack::{Gradients, List};
use crate::buffer::Buffer;
use crate::layer_norm::{self, Row};
use crate::many::OpParameters;

/// The indices of a norm's parameters.
pub(super) struct Norm {
    weight: usize,
    bias: usize,
    eps: f32,
}

/// Data for the backward pass.
pub(super) struct Saved {
    rows: Vec<Row>,
    /// The outputs.
    pub(super) ys: Buffer,
}

impl Norm {
    pub(super) fn new(norm: &super::Norm, list: &mut List) -> Result<Self> {
        list.check_features("layer norm", norm.weight)?;
        list.check_features("layer norm", norm.bias)?;
        let (weight, bias) = (list.add(norm.weight), list.add(norm.bias));
        Ok(Self { weight, bias, eps: norm.eps as f32 })
    }

    fn weight<'a>(&self, parameters: &OpParameters<'a>) -> &'a [f32] {
        parameters.all()[self.weight]
    }

    pub(super) fn forward(&self, xs: &[f32], parameters: &OpParameters) -> Saved {
        let mut ys = Buffer::dirty(xs.len());
        let rows = self.forward_into(xs, parameters, &mut ys);
        Saved { rows, ys }
    }

    pub(super) fn forward_into(
        &self,
        xs: &[f32],
        parameters: &OpParameters,
        ys: &mut [f32],
    ) -> Vec<Row> {
        let (weight, bias) = (self.weight(parameters), parameters.all()[self.bias]);
        layer_norm::forward(self.eps, xs, (weight, bias), ys)
    }

    pub(super) fn backward(
        &self,
        xs: &[f32],
        rows: &[Row],
        grad: &[f32],
        parameters: &OpParameters,
        of_xs: &mut [f32],
        gradients: &mut Gradients,
    ) {
        let weight = self.weight(parameters);
        let [of_weight, of_bias] = layer_norm::backward(xs, weight, rows, grad, of_xs);
        gradients[self.weight] = Some(of_weight);
        gradients[self.bias] = Some(of_bias);
    }
}

impl Saved {
    pub(super) fn rows(&self) -> &[Row] {
        &self.rows
    }
}
