//! Dropout on the GPU. Kernels draw masks where they use them, forward and backward.

use candle_core::cuda_backend::CudaDevice;
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, DevicePtr};
use candle_core::{CpuStorage, CudaStorage, CustomOp1, Device, Layout, Result, Shape, Tensor};
use vit_random::{Random, Site};

use super::clock;
use super::launch::{
    ByValue, Grid, device_of, elements, held, kernel, not_on_cpu, output, tensor, uninit,
};
use super::tape::apply1;
use crate::DropRate;

/// The source of a mask.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Draw {
    seed: [u32; 2],
    step: u32,
    site: u32,
    first_sample: u32,
    threshold: u32,
    keep: f32,
}

#[expect(unsafe_code, reason = "the kernels' declaration is the same")]
// SAFETY: six unsigned numbers and a float in the kernels' order.
unsafe impl ByValue for Draw {}

impl Draw {
    fn new(rate: DropRate, site: Site, random: &Random) -> Self {
        Self {
            seed: [random.seed() as u32, (random.seed() >> 32) as u32],
            step: random.step(),
            site: site.number(),
            first_sample: random.first_sample(),
            threshold: rate.threshold().into(),
            keep: rate.keep(),
        }
    }
}

/// `xs` has a dimension.
pub(crate) fn dropout(xs: &Tensor, rate: DropRate, site: Site, random: &Random) -> Result<Tensor> {
    apply1(&xs.contiguous()?, Drawn::new(rate, site, random))
}

/// The mask of [`dropout`]; `shape` has a dimension.
pub(crate) fn dropout_mask(
    shape: &[usize],
    rate: DropRate,
    site: Site,
    random: &Random,
    device: &Device,
) -> Result<Tensor> {
    let ones = Tensor::ones(shape, candle_core::DType::F32, device)?;
    dropout(&ones, rate, site, random)
}

/// The source of masks in the forward and backward pass.
#[derive(Clone, Copy)]
pub(super) struct Drawn {
    pub(super) draw: Draw,
    /// The clock of the forward pass.
    pub(super) clock: u64,
}

impl Drawn {
    pub(super) fn new(rate: DropRate, site: Site, random: &Random) -> Self {
        Self { draw: Draw::new(rate, site, random), clock: clock::current() }
    }

    /// For a kernel that could drop, but does not here.
    pub(super) fn nothing() -> Self {
        Self::new(DropRate::ZERO, Site::named(""), &Random::new(0))
    }

    /// `x m` for each sample.
    pub(super) fn masked(
        &self,
        device: &CudaDevice,
        xs: &impl DevicePtr<f32>,
        shape: &[usize],
    ) -> Result<CudaSlice<f32>> {
        let (batch, sample_len) = (shape[0], shape[1..].iter().product::<usize>());
        let mut ys = uninit::<f32>(device, batch * sample_len)?;
        kernel!(device, DROPOUT, "dropout")
            .read(xs)
            .write(&mut ys)
            .count(batch)
            .count(sample_len)
            .value(self.draw)
            .pointer(self.clock)
            .launch(Grid::each(batch * sample_len.div_ceil(4)))?;
        Ok(ys)
    }
}

impl CustomOp1 for Drawn {
    fn name(&self) -> &'static str {
        "dropout"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        not_on_cpu("dropout")
    }

    fn cuda_fwd(&self, xs: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let device = &xs.device;
        let ys = self.masked(device, &elements::<f32>(xs, layout)?, layout.dims())?;
        Ok(output(ys, device, layout.shape()))
    }

    fn bwd(&self, xs: &Tensor, _ys: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let (device, grad) = (device_of(xs)?, grad.contiguous()?);
        let masked = self.masked(&device, &held(&grad).elements::<f32>()?, xs.dims())?;
        Ok(Some(tensor(masked, &device, xs.shape())))
    }
}
