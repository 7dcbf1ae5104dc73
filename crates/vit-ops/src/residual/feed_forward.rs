//! The feed-forward branch, on rows.

use candle_core::Result;

use super::FeedForwardBranch;
use super::end::{self, End};
use super::linear::Map;
use super::norm::{self, Norm};
use super::rows::Rows;
use super::stack::{Gradients, List};
use crate::Activation;
use crate::activation::{gelu, gelu_again, gradient_of_relu, relu_of_sums};
use crate::buffer::Buffer;
use crate::many::OpParameters;

pub(super) struct FeedForward {
    norm: Option<Norm>,
    fc1: Map,
    activation: Activation,
    fc2: Map,
    end: End,
}

/// Data for the backward pass.
pub(super) struct Saved {
    norm: Option<norm::Saved>,
    /// The activation's inputs, or for ReLU its outputs.
    hidden: Buffer,
    end: end::Saved,
}

impl FeedForward {
    pub(super) fn new(branch: &FeedForwardBranch, list: &mut List) -> Result<Self> {
        let dim = list.dim();
        let norm = branch.norm.as_ref().map(|norm| Norm::new(norm, list)).transpose()?;
        let fc1 = Map::new(&branch.fc1, dim, list)?;
        let fc2 = Map::new(&branch.fc2, fc1.outputs, list)?;
        list.check_width("feed-forward", fc2.outputs)?;
        let end = End::new(&branch.end, list)?;
        Ok(Self { norm, fc1, activation: branch.activation, fc2, end })
    }

    pub(super) fn forward(
        &self,
        xs: &[f32],
        rows: &Rows,
        parameters: &OpParameters,
        tracked: bool,
        ys: &mut [f32],
    ) -> Saved {
        let norm = self.norm.as_ref().map(|norm| norm.forward(xs, parameters));
        let normalised = norm.as_ref().map_or(xs, |saved| &saved.ys);
        let mut hidden = Buffer::dirty(rows.count() * self.fc1.outputs);
        match (self.activation, self.fc1.bias(parameters)) {
            (Activation::Relu, Some(bias)) => {
                self.fc1.forward_without_bias(normalised, parameters, &mut hidden);
                relu_of_sums(&mut hidden, bias);
                self.fc2.forward(&hidden, parameters, ys);
            }
            (Activation::Gelu, _) if tracked => {
                self.fc1.forward(normalised, parameters, &mut hidden);
                let mut activated = Buffer::dirty(hidden.len());
                gelu(&hidden, &mut activated);
                self.fc2.forward(&activated, parameters, ys);
            }
            (activation, _) => {
                self.fc1.forward(normalised, parameters, &mut hidden);
                activation.replace(&mut hidden);
                self.fc2.forward(&hidden, parameters, ys);
            }
        }
        let end = self.end.forward(xs, rows, parameters, ys);
        Saved { norm, hidden, end }
    }

    /// Writes the gradient of `xs` to `of_xs`.
    pub(super) fn backward(
        &self,
        (saved, xs, rows): (&Saved, &[f32], &Rows),
        grad: &[f32],
        parameters: &OpParameters,
        gradients: &mut Gradients,
        of_xs: Option<&mut [f32]>,
    ) {
        let of_end = self.end.backward(&saved.end, rows, grad, parameters, gradients);
        let of_end = of_end.as_deref().unwrap_or(grad);
        let mut of_hidden = Buffer::dirty(saved.hidden.len());
        self.fc2.backward(of_end, parameters, &mut of_hidden);
        match self.activation {
            Activation::Relu => {
                gradient_of_relu(&mut of_hidden, &saved.hidden);
                self.fc2.of_parameters(&saved.hidden, of_end, parameters, gradients);
            }
            Activation::Gelu => {
                let mut activated = Buffer::dirty(saved.hidden.len());
                gelu_again(&saved.hidden, &mut activated, &mut of_hidden);
                self.fc2.of_parameters(&activated, of_end, parameters, gradients);
            }
        }
        let normalised = saved.norm.as_ref().map_or(xs, |saved| &saved.ys);
        self.fc1.of_parameters(normalised, &of_hidden, parameters, gradients);
        super::stack::finish(
            self.norm.as_ref().zip(saved.norm.as_ref()),
            xs,
            parameters,
            gradients,
            of_xs,
            |of_normalised| self.fc1.backward(&of_hidden, parameters, of_normalised),
            |of_xs| super::stack::add(of_xs, grad),
        );
    }
}
