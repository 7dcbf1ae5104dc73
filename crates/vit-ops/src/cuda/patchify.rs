//! Cuts images into patches on the GPU.

use candle_core::{CpuStorage, CudaStorage, CustomOp1, Layout, Result, Shape, Tensor};

use super::launch::{
    ByValue, Grid, device_of, elements, held, kernel, not_on_cpu, output, tensor, uninit,
};
use super::tape::apply1;

/// Channels, rows and columns of patches, and patch size.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Patches {
    pub(crate) channels: u32,
    pub(crate) rows: u32,
    pub(crate) columns: u32,
    pub(crate) height: u32,
    pub(crate) width: u32,
}

#[expect(unsafe_code, reason = "the kernel's declaration is the same")]
// SAFETY: five unsigned numbers in the kernel's order.
unsafe impl ByValue for Patches {}

/// `patches` describes `images`.
pub(crate) fn patchify(images: &Tensor, patches: Patches) -> Result<Tensor> {
    apply1(&images.contiguous()?, patches)
}

impl CustomOp1 for Patches {
    fn name(&self) -> &'static str {
        "patchify"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        not_on_cpu("patchify")
    }

    fn cuda_fwd(&self, images: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let (device, len) = (&images.device, layout.shape().elem_count());
        let mut patches = uninit::<f32>(device, len)?;
        kernel!(device, ROWS, "patchify")
            .read(&elements::<f32>(images, layout)?)
            .write(&mut patches)
            .long(len)
            .value(*self)
            .launch(Grid::each(len))?;
        let count = (self.rows * self.columns) as usize;
        let pixels = (self.channels * self.height * self.width) as usize;
        Ok(output(patches, device, (layout.dims()[0], count, pixels)))
    }

    fn bwd(&self, images: &Tensor, _patches: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let (device, len, grad) = (device_of(images)?, images.elem_count(), grad.contiguous()?);
        let mut grad_images = uninit::<f32>(&device, len)?;
        kernel!(&device, ROWS, "unpatchify")
            .read(&held(&grad).elements::<f32>()?)
            .write(&mut grad_images)
            .long(len)
            .value(*self)
            .launch(Grid::each(len))?;
        Ok(Some(tensor(grad_images, &device, images.shape())))
    }
}
