//! The attention branch, on rows.

use candle_core::{Result, bail};

use super::AttentionBranch;
use super::end::{self, End};
use super::linear::Map;
use super::norm::{self, Norm};
use super::rows::Rows;
use super::stack::{Gradients, List};
use crate::attention::AttentionShape;
use crate::attention::bias::Bias;
use crate::attention::inputs::{self, Inputs};
use crate::attention::op::{self, BiasShape, Form};
use crate::attention::sample::{SampleShape, Samples};
use crate::buffer::Buffer;
use crate::many::OpParameters;
use crate::rotary::Rotations;
use crate::{Attend, Queries};

pub(super) struct Attention {
    norm: Option<Norm>,
    qkv: Map,
    rotary: Option<Rotations>,
    queries: Queries,
    form: Form,
    bias: Option<(usize, BiasShape)>,
    proj: Map,
    end: End,
}

/// Data for the backward pass.
pub(super) struct Saved {
    norm: Option<norm::Saved>,
    qkv: Buffer,
    form: op::Saved,
    /// The heads' output.
    attended: Buffer,
    end: end::Saved,
}

impl Attention {
    pub(super) fn new(
        branch: &AttentionBranch,
        rows: &Rows,
        tracked: bool,
        list: &mut List,
    ) -> Result<Self> {
        let norm = branch.norm.as_ref().map(|norm| Norm::new(norm, list)).transpose()?;
        let qkv = Map::new(&branch.qkv, list.dim(), list)?;
        let heads = branch.attend.heads;
        if heads == 0 || !qkv.outputs.is_multiple_of(3 * heads) {
            bail!(
                "attention: expected a qkv of 3 * heads * head_dim outputs with {heads} heads, got {}",
                qkv.outputs
            );
        }
        let queries = match branch.queries {
            Queries::All => rows.padded,
            Queries::First => 1,
        };
        let head_dim = qkv.outputs / (3 * heads);
        let shape = SampleShape { tokens: rows.padded, queries, heads, head_dim };
        let attend = Attend { mask: None, ..branch.attend }.simplified();
        let batch = rows.lengths.len();
        let bias = attend.bias_shape(AttentionShape { batch, sample: shape })?;
        let samples = match rows.whole() {
            true => Samples::equal(batch, shape),
            false => Samples::packed(&rows.lengths, shape),
        };
        let proj = Map::new(&branch.proj, qkv.outputs / 3, list)?;
        list.check_width("attention", proj.outputs)?;
        let bias = attend.bias.zip(bias).map(|(bias, shape)| (list.add(bias), shape));
        let rotary =
            branch.rotary.map(|rotary| rotary.rotations(rows.padded, head_dim)).transpose()?;
        Ok(Self {
            norm,
            qkv,
            rotary,
            queries: branch.queries,
            form: Form::of(samples, &attend, tracked),
            bias,
            proj,
            end: End::new(&branch.end, list)?,
        })
    }

    /// The rows of its output.
    pub(super) fn out(&self, rows: &Rows) -> Rows {
        match self.queries {
            Queries::All => rows.clone(),
            Queries::First => rows.firsts(),
        }
    }

    fn bias<'a>(&self, parameters: &OpParameters<'a>) -> Option<Bias<'a>> {
        self.bias.map(|(place, shape)| Bias::new(parameters.all()[place], shape))
    }

    pub(super) fn forward(
        &self,
        xs: &[f32],
        rows: &Rows,
        parameters: &OpParameters,
        ys: &mut [f32],
    ) -> Saved {
        let norm = self.norm.as_ref().map(|norm| norm.forward(xs, parameters));
        let normalised = norm.as_ref().map_or(xs, |saved| &saved.ys);
        let mut qkv = Buffer::dirty(rows.count() * self.qkv.outputs);
        self.qkv.forward(normalised, parameters, &mut qkv);
        if let Some(rotations) = &self.rotary {
            rotations.forward(&mut qkv, self.qkv.outputs, &rows.lengths, 2 * self.heads());
        }
        let out = self.out(rows);
        let mut attended = Buffer::dirty(out.count() * self.proj.inputs);
        let inputs = Inputs::Packed(&qkv);
        let form = self.form.forward(inputs, self.bias(parameters), &mut attended);
        self.proj.forward(&attended, parameters, ys);
        let end = match self.queries {
            Queries::All => self.end.forward(xs, rows, parameters, ys),
            Queries::First => {
                let mut firsts = Buffer::dirty(ys.len());
                rows.take_firsts(xs, self.proj.outputs, &mut firsts);
                self.end.forward(&firsts, &out, parameters, ys)
            }
        };
        Saved { norm, qkv, form, attended, end }
    }

    fn heads(&self) -> usize {
        self.form.heads()
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
        let out = self.out(rows);
        let of_end = self.end.backward(&saved.end, &out, grad, parameters, gradients);
        let of_end = of_end.as_deref().unwrap_or(grad);
        let mut of_attended = Buffer::dirty(saved.attended.len());
        self.proj.backward(of_end, parameters, &mut of_attended);
        self.proj.of_parameters(&saved.attended, of_end, parameters, gradients);
        let mut of_qkv = Buffer::dirty(saved.qkv.len());
        if self.queries == Queries::First {
            // Keys and values are written for all tokens, queries only for the first.
            let tokens = of_qkv.chunks_exact_mut(self.qkv.outputs);
            tokens.for_each(|token| token[..self.proj.inputs].fill(0.0));
        }
        let of_inputs = inputs::Gradients::Packed(&mut of_qkv);
        let place = self.bias.map(|(place, _)| place).filter(|&place| parameters.tracked(place));
        let bias = self.bias(parameters).filter(|_| place.is_some());
        let inputs = Inputs::Packed(&saved.qkv);
        let of_bias = self.form.backward(&saved.form, inputs, &of_attended, of_inputs, bias);
        if let Some(place) = place {
            gradients[place] = of_bias;
        }
        if let Some(rotations) = &self.rotary {
            rotations.backward(&mut of_qkv, self.qkv.outputs, &rows.lengths, 2 * self.heads());
        }
        let normalised = saved.norm.as_ref().map_or(xs, |saved| &saved.ys);
        self.qkv.of_parameters(normalised, &of_qkv, parameters, gradients);
        super::stack::finish(
            self.norm.as_ref().zip(saved.norm.as_ref()),
            xs,
            parameters,
            gradients,
            of_xs,
            |of_normalised| self.qkv.backward(&of_qkv, parameters, of_normalised),
            |of_xs| match self.queries {
                Queries::All => super::stack::add(of_xs, grad),
                Queries::First => rows.add_to_firsts(of_xs, self.proj.outputs, grad),
            },
        );
    }
}
