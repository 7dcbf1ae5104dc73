//! The products of a linear map and of its gradients: of small ones by kernels that do all of it, of larger ones by
//! cuBLAS.

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::CudaDevice;
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, DevicePtr};
use candle_core::{CudaStorage, Layout, Result, Shape, Tensor};

use super::dropout::Drawn;
use super::launch::{ByValue, Grid, device_of, elements, held, kernel, room, tensor};

/// What becomes of a product: places of the bias and of room for what the activation is applied to, or none; the
/// activation's number; and how many numbers a sample has, or none where nothing is dropped.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub(super) struct Then {
    pub(super) bias: u64,
    pub(super) inputs: u64,
    pub(super) activation: u32,
    pub(super) sample_len: u32,
}

#[expect(unsafe_code, reason = "the kernels' declaration is the same")]
// SAFETY: two pointers and two unsigned numbers in the order of the kernels'.
unsafe impl ByValue for Then {}

impl Then {
    const fn is_nothing(self) -> bool {
        self.bias == 0 && self.inputs == 0 && self.activation == 0 && self.sample_len == 0
    }
}

/// Rows or columns that a block of the small kernels takes.
const TILE: usize = 32;

/// Multiply-adds up to which they are faster than cuBLAS with what follows it.
const SMALL: usize = 1 << 23;

const fn is_small(rows: usize, inner: usize, columns: usize) -> bool {
    rows * inner * columns <= SMALL
}

/// `x Wᵀ`, and what then becomes of it: of `xs` (rows, inputs) and `weight` (outputs, inputs).
pub(super) fn forward(
    (xs, xs_layout): (&CudaStorage, &Layout),
    (weight, weight_layout): (&CudaStorage, &Layout),
    (rows, inputs, outputs): (usize, usize, usize),
    (then, drawn): (Then, Drawn),
) -> Result<CudaStorage> {
    let (device, len) = (xs.device.clone(), rows * outputs);
    if is_small(rows, inputs, outputs) {
        let (xs, weight) = (elements(xs, xs_layout)?, elements(weight, weight_layout)?);
        let sizes = (rows, inputs, outputs);
        let ys =
            small_product(&device, (&xs, &weight), sizes, Orientation::Forward, (then, drawn))?;
        return Ok(CudaStorage::wrap_cuda_slice(ys, device));
    }
    let matrix = Layout::contiguous_with_offset((rows, inputs), xs_layout.start_offset());
    let transposed = weight_layout.transpose(0, 1)?;
    let mut ys = xs.matmul(weight, (1, rows, outputs, inputs), &matrix, &transposed)?;
    if !then.is_nothing() {
        kernel!(&device, LINEAR, "finish")
            .write(ys.as_cuda_slice_mut::<f32>()?)
            .long(len)
            .count(outputs)
            .value(then)
            .value(drawn.draw)
            .pointer(drawn.clock)
            .launch(Grid::each(len))?;
    }
    Ok(ys)
}

/// `dx = dy W`, of `grad` (rows, outputs), in the shape of `xs`.
pub(super) fn input_gradient(grad: &Tensor, weight: &Tensor, xs: &Shape) -> Result<Tensor> {
    let ((rows, outputs), (_, inputs)) = (grad.dims2()?, weight.dims2()?);
    if !is_small(rows, outputs, inputs) {
        return grad.matmul(&weight.detach())?.reshape(xs);
    }
    let (device, grad, weight) = (device_of(grad)?, held(grad), held(weight));
    let factors = (&grad.elements::<f32>()?, &weight.elements::<f32>()?);
    let nothing = (Then::default(), Drawn::nothing());
    let sizes = (rows, outputs, inputs);
    let of_xs = small_product(&device, factors, sizes, Orientation::Backward, nothing)?;
    Ok(tensor(of_xs, &device, xs))
}

/// How the weight of a small product lies.
#[derive(Clone, Copy)]
enum Orientation {
    /// (columns, inner)
    Forward,
    /// (inner, columns)
    Backward,
}

fn small_product(
    device: &CudaDevice,
    (xs, weight): (&impl DevicePtr<f32>, &impl DevicePtr<f32>),
    (rows, inner, columns): (usize, usize, usize),
    orientation: Orientation,
    (then, drawn): (Then, Drawn),
) -> Result<CudaSlice<f32>> {
    let mut ys = room::<f32>(device, rows * columns)?;
    kernel!(device, SMALL_LINEAR, "small_product")
        .read(xs)
        .read(weight)
        .write(&mut ys)
        .count(rows)
        .count(inner)
        .count(columns)
        .count(matches!(orientation, Orientation::Backward).into())
        .value(then)
        .value(drawn.draw)
        .pointer(drawn.clock)
        .launch(Grid::blocks(rows.div_ceil(TILE), columns.div_ceil(TILE)).of(256, 1))?;
    Ok(ys)
}

/// Elements of a weight up to which its gradient and the bias's come from one kernel.
const SMALL_WEIGHT: usize = 1 << 15;

/// `dW = dyᵀ x` and `db = sum dy`, of `grad` (rows, outputs).
pub(super) fn parameter_gradients(grad: &Tensor, xs: &Tensor) -> Result<(Tensor, Tensor)> {
    let (rows, outputs) = grad.dims2()?;
    let inputs = xs.elem_count() / rows;
    let device = device_of(grad)?;
    if outputs * inputs > SMALL_WEIGHT {
        let matrix = xs.detach().reshape((rows, inputs))?;
        let of_bias = column_sums(&device, &held(grad).elements::<f32>()?, (rows, outputs))?;
        return Ok((grad.t()?.matmul(&matrix)?, tensor(of_bias, &device, outputs)));
    }
    const ROWS: usize = 64;
    const MOST: usize = 128;
    let (slices, len) = (rows.div_ceil(ROWS).min(MOST), outputs * (inputs + 1));
    let mut sums = room::<f32>(&device, slices * len)?;
    kernel!(&device, SMALL_LINEAR, "small_gradients")
        .read(&held(grad).elements::<f32>()?)
        .read(&held(xs).elements::<f32>()?)
        .write(&mut sums)
        .count(rows)
        .count(outputs)
        .count(inputs)
        .launch(
            Grid::blocks(inputs.div_ceil(TILE), outputs.div_ceil(TILE)).layers(slices).of(256, 1),
        )?;
    if slices > 1 {
        let parts = sums;
        sums = room::<f32>(&device, len)?;
        kernel!(&device, SMALL_LINEAR, "add_slices")
            .read(&parts)
            .write(&mut sums)
            .count(slices)
            .count(len)
            .launch(Grid::each(len))?;
    }
    let sums = tensor(sums, &device, len);
    let of_weight = sums.narrow(0, 0, outputs * inputs)?.reshape((outputs, inputs))?;
    Ok((of_weight, sums.narrow(0, outputs * inputs, outputs)?))
}

/// Slices that rows are cut into where they are added up, by their number alone.
pub(super) fn slices_of(rows: usize) -> usize {
    const ROWS: usize = 2048;
    const MOST: usize = 128;
    rows.div_ceil(ROWS).min(MOST)
}

/// `sum_i x_ij` over the rows.
pub(super) fn column_sums(
    device: &CudaDevice,
    xs: &impl DevicePtr<f32>,
    (rows, columns): (usize, usize),
) -> Result<CudaSlice<f32>> {
    let slices = slices_of(rows);
    let mut sums = room::<f32>(device, slices * columns)?;
    kernel!(device, LINEAR, "column_sums")
        .read(xs)
        .write(&mut sums)
        .count(rows)
        .count(columns)
        .launch(Grid::blocks(columns.div_ceil(8), slices).of(8, 128))?;
    if slices == 1 { Ok(sums) } else { column_sums(device, &sums, (slices, columns)) }
}
