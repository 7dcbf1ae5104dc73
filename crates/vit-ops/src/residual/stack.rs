//! Stages as one operation with any number of parameters.

use std::sync::OnceLock;

use candle_core::{Result, Shape, Tensor, bail};

use super::attention::{self, Attention};
use super::end::{CHUNK, COST};
use super::feed_forward::{self, FeedForward};
use super::norm::{self, Norm};
use super::rows::Rows;
use super::{Affine, Stage};
use crate::buffer::Buffer;
use crate::layer_norm::Row;
use crate::many::{Many, OpParameters};
use crate::{TokenMask, parallel, pieces, simd, slices};

/// The gradient of each parameter.
pub(super) type Gradients = Vec<Option<Vec<f32>>>;

/// Collects the parameters of all stages.
pub(super) struct List<'l> {
    parameters: &'l mut Vec<Tensor>,
    dim: usize,
}

impl List<'_> {
    /// Adds a parameter and returns its index.
    pub(super) fn add(&mut self, parameter: &Tensor) -> usize {
        self.parameters.push(parameter.clone());
        self.parameters.len() - 1
    }

    /// The width of a token.
    pub(super) fn dim(&self) -> usize {
        self.dim
    }

    pub(super) fn check_features(&self, name: &str, parameter: &Tensor) -> Result<()> {
        if parameter.dims() != [self.dim] {
            bail!(
                "{name}: expected a parameter of shape ({},), got {:?}",
                self.dim,
                parameter.dims()
            );
        }
        Ok(())
    }

    /// The number of outputs of a map with `inputs` inputs.
    pub(super) fn check_map(&self, map: &Affine, inputs: usize) -> Result<usize> {
        let (outputs, of_weight) = map.weight.dims2()?;
        if of_weight != inputs || map.bias.is_some_and(|bias| bias.dims() != [outputs]) {
            let bias = map.bias.map(Tensor::dims);
            bail!(
                "linear: expected a weight of shape (outputs, {inputs}) and a bias of shape (outputs,), got {:?} and {bias:?}",
                map.weight.dims()
            );
        }
        Ok(outputs)
    }

    pub(super) fn check_width(&self, name: &str, width: usize) -> Result<()> {
        if width != self.dim {
            bail!("{name}: expected a branch that ends in {} features, got {width}", self.dim);
        }
        Ok(())
    }
}

enum Step {
    Attention(Box<Attention>),
    FeedForward(Box<FeedForward>),
    Norm(Norm),
}

enum SavedStep {
    Attention(attention::Saved),
    FeedForward(feed_forward::Saved),
    Norm(Vec<Row>),
}

pub(super) struct Stack {
    /// Each step with the rows of its input.
    steps: Vec<(Rows, Step)>,
    /// The first parameter of each step.
    starts: Vec<usize>,
    rows: Rows,
    out: Rows,
    dim: usize,
    tracked: bool,
    saved: OnceLock<Saved>,
}

/// Data for the backward pass.
struct Saved {
    /// Each step's input. `None` for the first if it is the operation's own input, without padding.
    inputs: Vec<Option<Buffer>>,
    steps: Vec<SavedStep>,
}

impl Stack {
    pub(super) fn new(
        xs: &Tensor,
        stages: &[Stage],
        mask: Option<&TokenMask>,
        parameters: &mut Vec<Tensor>,
    ) -> Result<Self> {
        let (batch, tokens, dim) = xs.dims3()?;
        let first = Rows::new(batch, tokens, mask);
        let mut rows = first.clone();
        // Attention saves data only for a backward pass, so all parameters are checked first.
        let tracked = xs.track_op() || stages.iter().any(Stage::tracked);
        let mut list = List { parameters, dim };
        let (mut steps, mut starts) = (Vec::new(), Vec::new());
        for stage in stages {
            starts.push(list.parameters.len());
            let step = match stage {
                Stage::Attention(branch) => {
                    Step::Attention(Box::new(Attention::new(branch, &rows, tracked, &mut list)?))
                }
                Stage::FeedForward(branch) => {
                    Step::FeedForward(Box::new(FeedForward::new(branch, &mut list)?))
                }
                Stage::Norm(norm) => Step::Norm(Norm::new(norm, &mut list)?),
            };
            let out = match &step {
                Step::Attention(attention) => attention.out(&rows),
                _ => rows.clone(),
            };
            steps.push((std::mem::replace(&mut rows, out), step));
        }
        Ok(Self { steps, starts, rows: first, out: rows, dim, tracked, saved: OnceLock::new() })
    }
}

impl Stage<'_> {
    /// Whether a parameter needs a gradient.
    fn tracked(&self) -> bool {
        let norm = |norm: &super::Norm| norm.weight.track_op() || norm.bias.track_op();
        let map = |map: &Affine| map.weight.track_op() || map.bias.is_some_and(Tensor::track_op);
        let scale = |scale: Option<&Tensor>| scale.is_some_and(Tensor::track_op);
        match self {
            Self::Attention(branch) => {
                branch.norm.as_ref().is_some_and(norm)
                    || map(&branch.qkv)
                    || map(&branch.proj)
                    || scale(branch.end.scale)
                    || branch.attend.bias.is_some_and(Tensor::track_op)
            }
            Self::FeedForward(branch) => {
                branch.norm.as_ref().is_some_and(norm)
                    || map(&branch.fc1)
                    || map(&branch.fc2)
                    || scale(branch.end.scale)
            }
            Self::Norm(of) => norm(of),
        }
    }
}

impl Many for Stack {
    fn name(&self) -> &'static str {
        "residual-stages"
    }

    fn forward(&self, xs: &[f32], parameters: &OpParameters) -> Result<(Vec<f32>, Shape)> {
        let dim = self.dim;
        let mut inputs: Vec<Option<Buffer>> = Vec::new();
        let mut saved = Vec::new();
        let mut input = (!self.rows.whole()).then(|| {
            let mut packed = Buffer::dirty(self.rows.count() * dim);
            self.rows.pack(xs, dim, &mut packed);
            packed
        });
        let shape = (self.out.lengths.len(), self.out.padded, dim);
        let mut ys = vec![0.0; self.out.lengths.len() * self.out.padded * dim];
        for (index, (rows, step)) in self.steps.iter().enumerate() {
            let last = index + 1 == self.steps.len() && self.out.whole();
            let next = self.steps.get(index + 1).map_or(&self.out, |(rows, _)| rows);
            let mut output = (!last).then(|| Buffer::dirty(next.count() * dim));
            let to = output.as_deref_mut().unwrap_or(&mut ys);
            let from = input.as_deref().unwrap_or(xs);
            let step = match step {
                Step::Attention(attention) => {
                    SavedStep::Attention(attention.forward(from, rows, parameters, to))
                }
                Step::FeedForward(feed_forward) => {
                    let saved = feed_forward.forward(from, rows, parameters, self.tracked, to);
                    SavedStep::FeedForward(saved)
                }
                Step::Norm(norm) => SavedStep::Norm(norm.forward_into(from, parameters, to)),
            };
            let used = std::mem::replace(&mut input, output);
            if self.tracked {
                inputs.push(used);
                saved.push(step);
            }
        }
        if let Some(packed) = &input {
            self.out.unpack(packed, dim, &mut ys);
        }
        if self.tracked {
            // An operation runs forward once; its value lives in the graph until the backward pass.
            let _ = self.saved.set(Saved { inputs, steps: saved });
        }
        Ok((ys, shape.into()))
    }

    fn backward(
        &self,
        xs: &[f32],
        parameters: &OpParameters,
        grad: &[f32],
    ) -> Result<(Option<Vec<f32>>, Gradients)> {
        let dim = self.dim;
        if !self.rows.whole() {
            pieces::refuse("a token mask");
        }
        let saved = self.saved.get().expect("the forward pass ran before the backward pass");
        let count = parameters.all().len();
        let mut gradients: Gradients = (0..count).map(|_| None).collect();
        let mut of_xs = parameters.of_input.then(|| vec![0.0; xs.len()]);
        let mut of_output = (!self.out.whole()).then(|| {
            let mut packed = Buffer::dirty(self.out.count() * dim);
            self.out.pack(grad, dim, &mut packed);
            packed
        });
        for (index, (rows, step)) in self.steps.iter().enumerate().rev() {
            let before = self.starts[index];
            // If nothing before needs a gradient, stop: a frozen trunk costs no backward pass.
            let needed = parameters.of_input || (0..before).any(|i| parameters.tracked(i));
            let into_xs = index == 0 && self.rows.whole();
            let mut of_input = (needed && !into_xs).then(|| Buffer::dirty(rows.count() * dim));
            let to = match needed {
                true => of_input.as_deref_mut().or(of_xs.as_deref_mut()),
                false => None,
            };
            let from = saved.inputs[index].as_deref().unwrap_or(xs);
            let grad = of_output.as_deref().unwrap_or(grad);
            match (step, &saved.steps[index]) {
                (Step::Attention(attention), SavedStep::Attention(saved)) => {
                    attention.backward((saved, from, rows), grad, parameters, &mut gradients, to);
                }
                (Step::FeedForward(feed_forward), SavedStep::FeedForward(saved)) => {
                    feed_forward.backward(
                        (saved, from, rows),
                        grad,
                        parameters,
                        &mut gradients,
                        to,
                    );
                }
                (Step::Norm(norm), SavedStep::Norm(saved)) => {
                    let mut unused = Buffer::default();
                    let to = to.unwrap_or_else(|| {
                        unused = Buffer::dirty(from.len());
                        &mut unused
                    });
                    norm.backward(from, saved, grad, parameters, to, &mut gradients);
                }
                _ => unreachable!("a step's saved data has its own kind"),
            }
            if !needed {
                break;
            }
            if !into_xs {
                of_output = of_input;
            }
        }
        if let (Some(of_xs), false, Some(packed)) = (&mut of_xs, self.rows.whole(), &of_output) {
            self.rows.unpack(packed, dim, of_xs);
        }
        Ok((of_xs, gradients))
    }
}

/// Ends a branch's backward pass: adds the gradient of its first map's inputs, through the norm if any, to the sum's.
pub(super) fn finish(
    norm: Option<(&Norm, &norm::Saved)>,
    xs: &[f32],
    parameters: &OpParameters,
    gradients: &mut Gradients,
    of_xs: Option<&mut [f32]>,
    of_normalised: impl FnOnce(&mut [f32]),
    add_sum: impl FnOnce(&mut [f32]),
) {
    match (norm, of_xs) {
        (Some((norm, saved)), of_xs) => {
            let mut scratch = Buffer::dirty(xs.len());
            of_normalised(&mut scratch);
            let mut unused = Buffer::default();
            let wanted = of_xs.is_some();
            let of_xs = of_xs.unwrap_or_else(|| {
                unused = Buffer::dirty(xs.len());
                &mut unused
            });
            norm.backward(xs, saved.rows(), &scratch, parameters, of_xs, gradients);
            if wanted {
                add_sum(of_xs);
            }
        }
        (None, Some(of_xs)) => {
            of_normalised(of_xs);
            add_sum(of_xs);
        }
        (None, None) => {}
    }
}

/// `x_i += y_i`
pub(super) fn add(xs: &mut [f32], ys: &[f32]) {
    let chunks = xs.chunks_mut(CHUNK).zip(ys.chunks(CHUNK));
    parallel::for_each(COST * ys.len(), chunks, |(xs, ys)| {
        simd::dispatch(
            #[inline(always)]
            || slices::add_scaled(xs, 1.0, ys),
        );
    });
}
