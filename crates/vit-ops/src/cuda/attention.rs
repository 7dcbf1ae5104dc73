//! Attention over few tokens on the GPU: one block per head and sample. The backward pass recomputes the weights.

use candle_core::cuda_backend::CudaDevice;
use candle_core::cuda_backend::cudarc::driver::DevicePtr;
use candle_core::{CpuStorage, CudaStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor};

use super::dropout::Drawn;
use super::launch::{
    ByValue, Grid, Held, begin, device_of, elements, held, kernel, not_on_cpu, output,
    shared_at_most, tensor, uninit,
};
use super::tape::{apply1, apply2};
use crate::Attend;
use crate::attention::AttentionShape;

/// The layout of queries, keys and values.
#[derive(Clone, Copy)]
pub(crate) enum AttentionInputs<'a> {
    /// (batch, tokens, 3 * dim)
    Packed(&'a Tensor),
    /// (batch, queries, dim) and (batch, tokens, 2 * dim)
    Apart(&'a Tensor, &'a Tensor),
}

/// Shared memory per block. With more, a multiprocessor has room for only one.
const SHARED: usize = 96 << 10;

/// Whether a head fits into a block's shared memory on the GPU of `xs`.
pub(crate) fn suits(shape: AttentionShape, xs: &Tensor) -> Result<bool> {
    let most = shared_at_most(&device_of(xs)?)?.min(SHARED);
    Ok(shared_numbers(shape, Direction::Backward) * size_of::<f32>() <= most)
}

#[derive(Clone, Copy)]
enum Direction {
    Forward,
    Backward,
}

/// Numbers in a block's shared memory: padded rows of queries, keys and values, and weights; in the backward pass also
/// the gradient's rows, the weights' gradients and their masks.
fn shared_numbers(shape: AttentionShape, direction: Direction) -> usize {
    let (sample, width) = (shape.sample, shape.sample.head_dim + 1);
    let weights = sample.queries * sample.tokens;
    match direction {
        Direction::Forward => (sample.queries + 2 * sample.tokens) * width + weights,
        Direction::Backward => (2 * sample.queries + 2 * sample.tokens) * width + 3 * weights,
    }
}

/// A head [fits](suits), and the shapes are checked.
pub(crate) fn attention(
    inputs: AttentionInputs,
    shape: AttentionShape,
    attend: &Attend,
) -> Result<Tensor> {
    let (AttentionInputs::Packed(first) | AttentionInputs::Apart(first, _)) = inputs;
    let bias = attend.mask.map(|mask| mask.bias(first.dtype(), first.device())).transpose()?;
    let drawn = attend.dropout.map_or_else(Drawn::nothing, |dropout| {
        Drawn::new(dropout.rate, dropout.site, &dropout.random)
    });
    let layout = Rows::of(inputs, shape, attend);
    let op = Attention { shape, layout, drawn, bias };
    match inputs {
        AttentionInputs::Packed(qkv) => apply1(&qkv.contiguous()?, op),
        AttentionInputs::Apart(q, kv) => apply2(&q.contiguous()?, &kv.contiguous()?, op),
    }
}

/// Sizes and positions for the kernels.
#[derive(Clone, Copy)]
#[repr(C)]
struct Rows {
    tokens: u32,
    queries: u32,
    heads: u32,
    head_dim: u32,
    q_row: u32,
    q_sample: u32,
    kv_row: u32,
    kv_sample: u32,
    k_first: u32,
    v_first: u32,
    scale: f32,
    draws: u32,
}

#[expect(unsafe_code, reason = "the kernels' declaration is the same")]
// SAFETY: four-byte numbers in the kernels' order.
unsafe impl ByValue for Rows {}

impl Rows {
    fn of(inputs: AttentionInputs, shape: AttentionShape, attend: &Attend) -> Self {
        let sample = shape.sample;
        let (dim, tokens, queries) = (sample.dim(), sample.tokens, sample.queries);
        let [q_row, q_sample, kv_row, kv_sample, k_first, v_first] = match inputs {
            AttentionInputs::Packed(_) => {
                [3 * dim, tokens * 3 * dim, 3 * dim, tokens * 3 * dim, dim, 2 * dim]
            }
            AttentionInputs::Apart(..) => [dim, queries * dim, 2 * dim, tokens * 2 * dim, 0, dim],
        }
        .map(|number| number as u32);
        Self {
            tokens: tokens as u32,
            queries: queries as u32,
            heads: sample.heads as u32,
            head_dim: sample.head_dim as u32,
            q_row,
            q_sample,
            kv_row,
            kv_sample,
            k_first,
            v_first,
            scale: attend.scale as f32,
            draws: attend.dropout.is_some().into(),
        }
    }
}

struct Attention {
    shape: AttentionShape,
    layout: Rows,
    drawn: Drawn,
    /// Added to the scores of a sample's keys.
    bias: Option<Tensor>,
}

impl Attention {
    /// One block per head and sample.
    fn grid(&self, direction: Direction) -> Grid {
        let sample = self.shape.sample;
        let threads = (sample.queries * sample.tokens).next_multiple_of(32).clamp(64, 256);
        let shared = shared_numbers(self.shape, direction) * size_of::<f32>();
        Grid::blocks(sample.heads * self.shape.batch, 1).of(threads as u32, 1).sharing(shared)
    }

    fn forward(
        &self,
        device: &CudaDevice,
        q: &impl DevicePtr<f32>,
        kv: &impl DevicePtr<f32>,
    ) -> Result<(CudaStorage, Shape)> {
        let AttentionShape { batch, sample } = self.shape;
        let mut ys = uninit::<f32>(device, batch * sample.output())?;
        let bias = self.bias.as_ref().map(held);
        kernel!(device, ATTENTION, "attention")
            .read(q)
            .read(kv)
            .read_if(bias.as_ref().map(Held::elements::<f32>).transpose()?.as_ref())
            .write(&mut ys)
            .value(self.layout)
            .value(self.drawn.draw)
            .pointer(self.drawn.clock)
            .launch(self.grid(Direction::Forward))?;
        Ok(output(ys, device, (batch, sample.queries, sample.dim())))
    }

    /// Writes the gradients of `q`, whose samples have `q_rows` rows, and of `kv`.
    fn backward(
        &self,
        (q, kv, grad): (&Tensor, &Tensor, &Tensor),
        (grad_q, grad_kv): (u64, u64),
        q_rows: usize,
    ) -> Result<()> {
        let (device, grad) = (device_of(q)?, grad.contiguous()?);
        let bias = self.bias.as_ref().map(held);
        kernel!(&device, ATTENTION, "attention_gradient")
            .read(&held(q).elements::<f32>()?)
            .read(&held(kv).elements::<f32>()?)
            .read_if(bias.as_ref().map(Held::elements::<f32>).transpose()?.as_ref())
            .read(&held(&grad).elements::<f32>()?)
            .pointer(grad_q)
            .pointer(grad_kv)
            .count(q_rows)
            .value(self.layout)
            .value(self.drawn.draw)
            .pointer(self.drawn.clock)
            .launch(self.grid(Direction::Backward))
    }
}

impl CustomOp1 for Attention {
    fn name(&self) -> &'static str {
        "self-attention"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        not_on_cpu("self-attention")
    }

    fn cuda_fwd(&self, qkv: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let packed = elements::<f32>(qkv, layout)?;
        self.forward(&qkv.device, &packed, &packed)
    }

    fn bwd(&self, qkv: &Tensor, _ys: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let device = device_of(qkv)?;
        let grad_qkv = uninit::<f32>(&device, qkv.elem_count())?;
        let place = begin(&grad_qkv, &device);
        self.backward((qkv, qkv, grad), (place, place), self.shape.sample.tokens)?;
        Ok(Some(tensor(grad_qkv, &device, qkv.shape())))
    }
}

impl CustomOp2 for Attention {
    fn name(&self) -> &'static str {
        "cross-attention"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        not_on_cpu("cross-attention")
    }

    fn cuda_fwd(
        &self,
        q: &CudaStorage,
        q_layout: &Layout,
        kv: &CudaStorage,
        kv_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        self.forward(&q.device, &elements::<f32>(q, q_layout)?, &elements::<f32>(kv, kv_layout)?)
    }

    fn bwd(
        &self,
        q: &Tensor,
        kv: &Tensor,
        _ys: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let device = device_of(q)?;
        let [grad_q, grad_kv] = [q, kv].map(|xs| uninit::<f32>(&device, xs.elem_count()));
        let (grad_q, grad_kv) = (grad_q?, grad_kv?);
        let places = (begin(&grad_q, &device), begin(&grad_kv, &device));
        self.backward((q, kv, grad), places, self.shape.sample.queries)?;
        let gradient = |values, like: &Tensor| tensor(values, &device, like.shape());
        let (of_q, of_kv) = (gradient(grad_q, q), gradient(grad_kv, kv));
        Ok((q.track_op().then_some(of_q), kv.track_op().then_some(of_kv)))
    }
}
