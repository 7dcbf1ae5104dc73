//! A step on several ranks: each rank adds all ranks' partial sums for its slice of the parameters, updates that slice,
//! and sends it to the others. The optimiser's moments are divided the same way (ZeRO, arXiv 1910.02054, stage 1).

use std::ops::Range;
use std::sync::Arc;

use candle_core::{
    CpuStorage, DType, Device, InplaceOp1, Layout, Result as TensorResult, Tensor, Var, bail,
};
use rayon::prelude::*;
use tracing::trace_span;

use super::shards::Done;
use super::sum::values_of;
use super::tree::{Sums as Tree, nodes};
use crate::backend::{StepToTake, Task};
use crate::collective::{number_of, words_of};
use crate::gradients::{CHUNK, PARAMETERS_AT_ONCE, clip_to, norm_of, squares_of};
use crate::{Collective, Error, Optimizer};

/// Assignment of shards and of parameter elements to ranks; every rank computes the same assignment.
pub(super) struct Slices {
    ranks: Arc<dyn Collective>,
    /// Offset of each parameter in their concatenation, then the total.
    starts: Vec<usize>,
    /// Offset of each rank's slice, then the total. Borders of slices are borders of chunks.
    borders: Vec<usize>,
    /// Buffers reused from step to step.
    send: Vec<u32>,
    receive: Vec<u32>,
}

/// Words for each shard before the sums: loss and number of correct answers.
const OF_SHARD: usize = 4;

impl Slices {
    /// The assignment of this task to these ranks.
    ///
    /// # Errors
    /// If the parameters are not `f32` on the CPU.
    pub(super) fn new(task: &Task) -> Result<Self, Error> {
        let ranks = Arc::clone(&task.ranks);
        let other = task.trained.iter().find(|(_, var)| !is_f32_on_cpu(var));
        if let Some((name, var)) = other {
            let got = format!("{:?} on {:?}", var.dtype(), var.device().location());
            return Err(Error::Ranks {
                expected: format!("{name} to be f32 on the CPU in training on several ranks"),
                got,
            });
        }
        let mut starts = vec![0];
        let mut chunks = vec![];
        for (_, var) in &task.trained {
            let start = starts[starts.len() - 1];
            let end = start + var.elem_count();
            chunks.extend((start..end).step_by(CHUNK));
            starts.push(end);
        }
        let total = starts[starts.len() - 1];
        chunks.push(total);
        let size = ranks.size();
        let border = |rank: usize| {
            let wanted = total * rank / size;
            // The nearest border; ties go to the first.
            let border = chunks.iter().min_by_key(|border| border.abs_diff(wanted));
            *border.expect("there is at least the end")
        };
        let borders = (0..=size).map(border).collect();
        Ok(Self { ranks, starts, borders, send: Vec::new(), receive: Vec::new() })
    }

    /// The shards that a rank computes.
    pub(super) fn shards_of(&self, rank: usize, shards: usize) -> Range<usize> {
        let size = self.ranks.size();
        rank * shards / size..(rank + 1) * shards / size
    }

    /// The shards that this rank computes.
    pub(super) fn shards(&self, shards: usize) -> Range<usize> {
        self.shards_of(self.ranks.rank(), shards)
    }

    fn slice(&self, rank: usize) -> Range<usize> {
        self.borders[rank]..self.borders[rank + 1]
    }

    fn mine(&self) -> Range<usize> {
        self.slice(self.ranks.rank())
    }

    /// The range of each parameter inside a slice.
    fn parts(&self, slice: Range<usize>) -> impl Iterator<Item = Range<usize>> {
        let (start, end) = (slice.start, slice.end);
        self.starts.windows(2).map(move |of| {
            let first = start.clamp(of[0], of[1]);
            first - of[0]..end.clamp(first, of[1]) - of[0]
        })
    }

    /// An optimiser for this rank's slice.
    pub(super) fn optimizer(&self, optimizer: Optimizer) -> Optimizer {
        optimizer.of_parts(self.parts(self.mine()).collect())
    }

    fn counts(&self, words: impl Fn(usize) -> usize) -> Vec<usize> {
        (0..self.ranks.size()).map(words).collect()
    }

    /// Exchanges the results of all shards, sums `scale` times the gradient over all shards for this rank's slice, and
    /// learns whether any rank wants to stop.
    pub(super) fn exchange(
        &mut self,
        (shards, scale): (usize, f64),
        done: &[Done],
        sums: &[Vec<Tensor>],
        ends: bool,
    ) -> TensorResult<(Vec<Done>, Vec<f32>, bool)> {
        let _exchange = trace_span!("exchange").entered();
        let size = self.ranks.size();
        let mut send = std::mem::take(&mut self.send);
        send.clear();
        let mut send_counts = Vec::with_capacity(size);
        for to in 0..size {
            let before = send.len();
            send.push(ends.into());
            for done in done {
                let [low, high] = words_of(done.loss_sum);
                send.extend([low, high, done.correct as u32, done.computes_frozen.into()]);
            }
            for sum in sums {
                for (tensor, part) in sum.iter().zip(self.parts(self.slice(to))) {
                    if !part.is_empty() {
                        let tensor = tensor.contiguous()?;
                        let (storage, layout) = tensor.storage_and_layout();
                        let values = &values_of(&storage, layout)?[part];
                        send.extend(values.iter().map(|value| value.to_bits()));
                    }
                }
            }
            send_counts.push(send.len() - before);
        }
        let len = self.mine().len();
        let receive_counts = self.counts(|from| {
            let its = self.shards_of(from, shards);
            1 + OF_SHARD * its.len() + nodes(shards, &its).len() * len
        });
        let mut receive = std::mem::take(&mut self.receive);
        receive.resize(receive_counts.iter().sum(), 0);
        self.ranks.exchange((&send, &send_counts), (&mut receive, &receive_counts));

        let mut ends = false;
        let mut all = Vec::with_capacity(shards);
        let tree = Tree::new(shards);
        let mut rest = &receive[..];
        for from in 0..size {
            let its = self.shards_of(from, shards);
            let (head, after) = rest.split_at(1 + OF_SHARD * its.len());
            ends |= head[0] != 0;
            all.extend(head[1..].chunks_exact(OF_SHARD).map(|words| Done {
                loss_sum: number_of([words[0], words[1]]),
                correct: words[2] as usize,
                computes_frozen: words[3] != 0,
            }));
            rest = after;
            for node in nodes(shards, &its) {
                let (words, after) = rest.split_at(len);
                rest = after;
                tree.add(node, Partial::Received(words), |left, right| {
                    TensorResult::Ok(Partial::Sum(left.plus(right)))
                })?;
            }
        }
        let mut total = tree.finish().pop().map(Partial::into_values).unwrap_or_default();
        (self.send, self.receive) = (send, receive);
        let scale = scale as f32;
        total.iter_mut().for_each(|value| *value *= scale);
        Ok((all, total, ends))
    }

    /// Updates all parameters: this rank's slice with its gradient, the others with their ranks' results.
    ///
    /// # Errors
    /// If a gradient is not finite on any rank.
    pub(super) fn update(
        &mut self,
        task: &Task,
        step: &StepToTake<'_>,
        optimizer: &mut Optimizer,
        gradient: &[f32],
    ) -> Result<(), Error> {
        let _update = trace_span!("update").entered();
        let mine = self.mine();
        let mut gradients = self.as_tensors(task, gradient)?;
        if let Some(norm) = task.config.clip {
            clip_to(&mut gradients, norm, self.norm(gradient))?;
        }
        let not_finite = gradient.iter().position(|value| !value.is_finite());
        if not_finite.is_none() {
            optimizer.set_lr(step.lr);
            optimizer.step(&gradients)?;
        }
        // Position (from 1) and value of a non-finite entry, then the slice.
        let value = not_finite.map_or(0.0, |at| f64::from(gradient[at]));
        let at = not_finite.map_or(0, |at| (mine.start + at + 1) as u64);
        let mut send = std::mem::take(&mut self.send);
        send.clear();
        send.extend([at as u32, (at >> 32) as u32]);
        send.extend(words_of(value));
        for ((_, var), part) in task.trained.iter().zip(self.parts(mine.clone())) {
            if !part.is_empty() {
                let (storage, layout) = var.storage_and_layout();
                let values = &values_of(&storage, layout)?[part];
                send.extend(values.iter().map(|value| value.to_bits()));
            }
        }
        let counts = self.counts(|rank| HEAD + self.slice(rank).len());
        let mut all = std::mem::take(&mut self.receive);
        all.resize(counts.iter().sum(), 0);
        trace_span!("gather").in_scope(|| self.ranks.gather(&send, &mut all, &counts));
        let found = self.take_in(task, &all);
        (self.send, self.receive) = (send, all);
        match found? {
            None => Ok(()),
            Some((at, value)) => {
                let parameter = self.starts.partition_point(|&start| start <= at) - 1;
                let name = &task.trained[parameter].0;
                Err(step.not_finite(&format!("gradient of {name}"), value))
            }
        }
    }

    /// Copies the values of all ranks into the parameters, or finds the first non-finite gradient entry.
    fn take_in(&self, task: &Task, all: &[u32]) -> TensorResult<Option<(usize, f64)>> {
        let mut slices = Vec::with_capacity(self.ranks.size());
        let mut rest = all;
        for rank in 0..self.ranks.size() {
            let (head, after) = rest.split_at(HEAD);
            let at = u64::from(head[0]) | u64::from(head[1]) << 32;
            if at > 0 {
                return Ok(Some((at as usize - 1, number_of([head[2], head[3]]))));
            }
            let slice = self.slice(rank);
            let (values, after) = after.split_at(slice.len());
            slices.push((slice, values));
            rest = after;
        }
        let each = task.trained.par_iter().zip(&self.starts).with_min_len(PARAMETERS_AT_ONCE);
        each.try_for_each(|((_, var), &start)| {
            var.inplace_op1(&Values { start, slices: &slices })
        })?;
        Ok(None)
    }

    /// A slice as one tensor for each parameter: in its shape if it is complete, else flat.
    fn as_tensors(&self, task: &Task, slice: &[f32]) -> TensorResult<Vec<Tensor>> {
        let mut rest = slice;
        let each = task.trained.iter().zip(self.parts(self.mine())).map(|((_, var), part)| {
            let (values, after) = rest.split_at(part.len());
            rest = after;
            if part.len() == var.elem_count() {
                Tensor::from_slice(values, var.shape(), &Device::Cpu)
            } else {
                Tensor::from_slice(values, part.len(), &Device::Cpu)
            }
        });
        each.collect()
    }

    /// Norm of the gradient over all ranks.
    fn norm(&self, gradient: &[f32]) -> f64 {
        let squares = |slice: &Range<usize>| self.chunks(slice).len();
        let counts = self.counts(|rank| 2 * squares(&self.slice(rank)));
        let mut rest = gradient;
        let mine = self.chunks(&self.mine()).into_iter().flat_map(|len| {
            let (chunk, after) = rest.split_at(len);
            rest = after;
            words_of(squares_of(chunk))
        });
        let mine: Vec<u32> = mine.collect();
        let mut all = vec![0; counts.iter().sum()];
        self.ranks.gather(&mine, &mut all, &counts);
        norm_of(all.chunks_exact(2).map(|words| number_of([words[0], words[1]])))
    }

    /// Lengths of a slice's chunks.
    fn chunks(&self, slice: &Range<usize>) -> Vec<usize> {
        let of = |part: Range<usize>| {
            let end = part.end;
            part.step_by(CHUNK).map(move |start| CHUNK.min(end - start))
        };
        self.parts(slice.clone()).flat_map(of).collect()
    }

    /// The moments of all slices on rank 0, each kind in the order of the parameters; empty on other ranks.
    pub(super) fn moments(
        &self,
        task: &Task,
        optimizer: &Optimizer,
    ) -> TensorResult<Vec<Vec<Tensor>>> {
        let mine = optimizer.moments()?;
        let mut all = Vec::new();
        for of in &mine {
            let mut send = Vec::with_capacity(self.mine().len());
            for tensor in of {
                let values = tensor.flatten_all()?.to_vec1::<f32>()?;
                send.extend(values.into_iter().map(f32::to_bits));
            }
            let is_root = self.ranks.rank() == 0;
            let send_counts = self.counts(|to| if to == 0 { send.len() } else { 0 });
            let receive_counts =
                self.counts(|from| if is_root { self.slice(from).len() } else { 0 });
            let mut whole = vec![0; receive_counts.iter().sum()];
            self.ranks.exchange((&send, &send_counts), (&mut whole, &receive_counts));
            if is_root {
                let values: Vec<f32> = whole.into_iter().map(f32::from_bits).collect();
                let each = task.trained.iter().zip(self.starts.windows(2)).map(|((_, var), of)| {
                    Tensor::from_slice(&values[of[0]..of[1]], var.shape(), &Device::Cpu)
                });
                all.push(each.collect::<TensorResult<_>>()?);
            }
        }
        Ok(all)
    }
}

/// A partial sum of a slice: as received, so that it is read only once, or computed here.
enum Partial<'a> {
    Received(&'a [u32]),
    Sum(Vec<f32>),
}

impl Partial<'_> {
    fn into_values(self) -> Vec<f32> {
        match self {
            Self::Received(words) => words.iter().map(|&word| f32::from_bits(word)).collect(),
            Self::Sum(values) => values,
        }
    }

    fn plus(self, right: Partial<'_>) -> Vec<f32> {
        let mut left = self.into_values();
        match right {
            Partial::Received(words) => {
                left.iter_mut()
                    .zip(words)
                    .for_each(|(left, &right)| *left += f32::from_bits(right));
            }
            Partial::Sum(values) => {
                left.iter_mut().zip(&values).for_each(|(left, right)| *left += right);
            }
        }
        left
    }
}

/// Words before each slice.
const HEAD: usize = 4;

fn is_f32_on_cpu(var: &Var) -> bool {
    var.device().is_cpu() && var.dtype() == DType::F32
}

/// Writes the values of all slices into the parameter that begins at `start`.
struct Values<'a> {
    start: usize,
    slices: &'a [(Range<usize>, &'a [u32])],
}

impl InplaceOp1 for Values<'_> {
    fn name(&self) -> &'static str {
        "values of all ranks"
    }

    fn cpu_fwd(&self, parameter: &mut CpuStorage, layout: &Layout) -> TensorResult<()> {
        let (CpuStorage::F32(parameter), Some((first, last))) =
            (parameter, layout.contiguous_offsets())
        else {
            bail!("expected a contiguous parameter of f32");
        };
        let parameter = &mut parameter[first..last];
        let end = self.start + parameter.len();
        for (slice, values) in self.slices {
            let (from, to) = (slice.start.max(self.start), slice.end.min(end));
            if from < to {
                let part = &mut parameter[from - self.start..to - self.start];
                let values = &values[from - slice.start..to - slice.start];
                part.iter_mut().zip(values).for_each(|(to, &word)| *to = f32::from_bits(word));
            }
        }
        Ok(())
    }
}
