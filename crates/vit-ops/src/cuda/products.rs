//! The products of a linear map and its gradients: small ones by fused kernels, larger ones by cuBLAS.

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::CudaDevice;
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, DevicePtr};
use candle_core::{CudaStorage, Layout, Result, Shape, Tensor};

use super::dropout::Drawn;
use super::launch::{ByValue, Grid, device_of, elements, held, kernel, tensor, uninit};

/// Epilogue of a product: addresses of the bias and of memory for the activation's inputs, or null; the activation's
/// number; and the numbers per sample, or 0 without dropout.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Epilogue {
    pub(super) bias: u64,
    pub(super) inputs: u64,
    pub(super) activation: u32,
    pub(super) sample_len: u32,
}

#[expect(unsafe_code, reason = "the kernels' declaration is the same")]
// SAFETY: two pointers and two unsigned numbers in the kernels' order.
unsafe impl ByValue for Epilogue {}

impl Epilogue {
    const fn is_nothing(self) -> bool {
        self.bias == 0 && self.inputs == 0 && self.activation == 0 && self.sample_len == 0
    }
}

/// Columns per block of the small kernels, and rows of a product.
const COLUMNS: usize = 32;
const ROWS: usize = 16;

/// Multiply-adds up to which the fused kernel is faster than cuBLAS plus what follows.
const SMALL: usize = 1 << 23;

const fn is_small(rows: usize, inner: usize, columns: usize) -> bool {
    rows * inner * columns <= SMALL
}

/// One block per tile of a small product, one thread per four numbers.
fn small_grid(rows: usize, columns: usize) -> Grid {
    let threads = ROWS * COLUMNS / 4;
    Grid::blocks(rows.div_ceil(ROWS), columns.div_ceil(COLUMNS)).of(threads as u32, 1)
}

/// `x Wᵀ` and what follows, for `xs` (rows, inputs) and `weight` (outputs, inputs).
pub(super) fn forward(
    (xs, xs_layout): (&CudaStorage, &Layout),
    (weight, weight_layout): (&CudaStorage, &Layout),
    (rows, inputs, outputs): (usize, usize, usize),
    (epilogue, drawn): (Epilogue, Drawn),
) -> Result<CudaStorage> {
    let (device, len) = (xs.device.clone(), rows * outputs);
    if is_small(rows, inputs, outputs) {
        let mut ys = uninit::<f32>(&device, len)?;
        kernel!(&device, SMALL_LINEAR, "small_product")
            .read(&elements::<f32>(xs, xs_layout)?)
            .read(&elements::<f32>(weight, weight_layout)?)
            .write(&mut ys)
            .count(rows)
            .count(inputs)
            .count(outputs)
            .value(epilogue)
            .value(drawn.draw)
            .pointer(drawn.clock)
            .launch(small_grid(rows, outputs))?;
        return Ok(CudaStorage::wrap_cuda_slice(ys, device));
    }
    let matrix = Layout::contiguous_with_offset((rows, inputs), xs_layout.start_offset());
    let transposed = weight_layout.transpose(0, 1)?;
    let mut ys = xs.matmul(weight, (1, rows, outputs, inputs), &matrix, &transposed)?;
    if !epilogue.is_nothing() {
        kernel!(&device, LINEAR, "finish")
            .write(ys.as_cuda_slice_mut::<f32>()?)
            .long(len)
            .count(outputs)
            .value(epilogue)
            .value(drawn.draw)
            .pointer(drawn.clock)
            .launch(Grid::each(len))?;
    }
    Ok(ys)
}

/// `dx = dy W` for `grad` (rows, outputs), in the shape of `xs`.
pub(super) fn input_gradient(grad: &Tensor, weight: &Tensor, xs: &Shape) -> Result<Tensor> {
    let ((rows, outputs), (_, inputs)) = (grad.dims2()?, weight.dims2()?);
    if !is_small(rows, outputs, inputs) {
        return grad.matmul(&weight.detach())?.reshape(xs);
    }
    let (device, mut of_xs) = (device_of(grad)?, uninit::<f32>(&device_of(grad)?, rows * inputs)?);
    kernel!(&device, SMALL_LINEAR, "small_product_of_gradient")
        .read(&held(grad).elements::<f32>()?)
        .read(&held(weight).elements::<f32>()?)
        .write(&mut of_xs)
        .count(rows)
        .count(outputs)
        .count(inputs)
        .launch(small_grid(rows, inputs))?;
    Ok(tensor(of_xs, &device, xs))
}

/// Multiply-adds up to which one kernel computes the gradients of weight and bias. It spreads the rows over the GPU,
/// for which cuBLAS needs one more kernel.
const SMALL_GRADIENT: usize = 1 << 26;

/// `dW = dyᵀ x` and `db = sum dy` for `grad` (rows, outputs).
pub(super) fn parameter_gradients(grad: &Tensor, xs: &Tensor) -> Result<(Tensor, Tensor)> {
    let (rows, outputs) = grad.dims2()?;
    let inputs = xs.elem_count() / rows;
    let device = device_of(grad)?;
    if rows * outputs * inputs > SMALL_GRADIENT {
        let matrix = xs.detach().reshape((rows, inputs))?;
        let of_bias = column_sums(&device, &held(grad).elements::<f32>()?, (rows, outputs))?;
        return Ok((grad.t()?.matmul(&matrix)?, tensor(of_bias, &device, outputs)));
    }
    const ROWS_OF_SLICE: usize = 64;
    const MOST: usize = 128;
    let (slices, len) = (rows.div_ceil(ROWS_OF_SLICE).min(MOST), outputs * (inputs + 1));
    let mut sums = uninit::<f32>(&device, slices * len)?;
    kernel!(&device, SMALL_LINEAR, "small_gradients")
        .read(&held(grad).elements::<f32>()?)
        .read(&held(xs).elements::<f32>()?)
        .write(&mut sums)
        .count(rows)
        .count(outputs)
        .count(inputs)
        .launch(
            Grid::blocks(inputs.div_ceil(COLUMNS), outputs.div_ceil(COLUMNS))
                .layers(slices)
                .of(256, 1),
        )?;
    if slices > 1 {
        let parts = sums;
        sums = uninit::<f32>(&device, len)?;
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

/// The slices that rows are summed in, decided by the number of rows alone.
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
    let mut sums = uninit::<f32>(device, slices * columns)?;
    kernel!(device, LINEAR, "column_sums")
        .read(xs)
        .write(&mut sums)
        .count(rows)
        .count(columns)
        .launch(Grid::blocks(columns.div_ceil(8), slices).of(8, 128))?;
    if slices == 1 { Ok(sums) } else { column_sums(device, &sums, (slices, columns)) }
}
