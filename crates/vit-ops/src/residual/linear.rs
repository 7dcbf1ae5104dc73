//! A linear map on rows.

use candle_core::Result;

use super::Affine;
use super::stack::{Gradients, List};
use crate::linear::{add_columns, of_weight};
use crate::many::OpParameters;
use crate::matmul::matmul_into;
use crate::matrix::Matrix;

/// The indices of a map's parameters.
pub(super) struct Map {
    weight: usize,
    /// Whether the parameter is the weight's transpose.
    is_transposed: bool,
    bias: Option<usize>,
    pub(super) inputs: usize,
    pub(super) outputs: usize,
}

impl Map {
    pub(super) fn new(map: &Affine, inputs: usize, list: &mut List) -> Result<Self> {
        let outputs = list.check_map(map, inputs)?;
        let bias = map.bias.map(|bias| list.add(bias));
        // A constant that is stored transposed is used as it is.
        let is_transposed = !map.weight.track_op()
            && !map.weight.is_contiguous()
            && map.weight.layout().is_fortran_contiguous();
        let weight = if is_transposed { list.add(&map.weight.t()?) } else { list.add(map.weight) };
        Ok(Self { weight, is_transposed, bias, inputs, outputs })
    }

    fn weight<'a>(&self, parameters: &OpParameters<'a>) -> Matrix<'a> {
        let weight = parameters.all()[self.weight];
        match self.is_transposed {
            true => Matrix::new(weight, self.inputs, self.outputs).transposed(),
            false => Matrix::new(weight, self.outputs, self.inputs),
        }
    }

    pub(super) fn bias<'a>(&self, parameters: &OpParameters<'a>) -> Option<&'a [f32]> {
        self.bias.map(|place| parameters.all()[place])
    }

    /// `y = x Wᵀ + b`
    pub(super) fn forward(&self, xs: &[f32], parameters: &OpParameters, ys: &mut [f32]) {
        self.forward_with(xs, self.bias(parameters), parameters, ys);
    }

    /// `y = x Wᵀ`
    pub(super) fn forward_without_bias(
        &self,
        xs: &[f32],
        parameters: &OpParameters,
        ys: &mut [f32],
    ) {
        self.forward_with(xs, None, parameters, ys);
    }

    fn forward_with(
        &self,
        xs: &[f32],
        bias: Option<&[f32]>,
        parameters: &OpParameters,
        ys: &mut [f32],
    ) {
        let xs = Matrix::new(xs, xs.len() / self.inputs, self.inputs);
        matmul_into(xs, self.weight(parameters).transposed(), bias, ys);
    }

    /// `dx = dy W`
    pub(super) fn backward(&self, grad: &[f32], parameters: &OpParameters, of_xs: &mut [f32]) {
        let grad = Matrix::new(grad, grad.len() / self.outputs, self.outputs);
        matmul_into(grad, self.weight(parameters), None, of_xs);
    }

    /// `dW = dyᵀ x`, `db = sum dy`
    pub(super) fn of_parameters(
        &self,
        xs: &[f32],
        grad: &[f32],
        parameters: &OpParameters,
        gradients: &mut Gradients,
    ) {
        if parameters.tracked(self.weight) {
            let of_weight = of_weight((grad, self.outputs), (xs, self.inputs));
            gradients[self.weight] = Some(of_weight);
        }
        if let Some(bias) = self.bias
            && parameters.tracked(bias)
        {
            gradients[bias] = Some(add_columns(grad, self.outputs));
        }
    }
}
