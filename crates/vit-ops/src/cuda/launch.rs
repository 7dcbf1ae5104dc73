//! Launches kernels on candle's tensors.
#![expect(
    unsafe_code,
    reason = "a kernel is given pointers; each operation passes what its kernel declares"
)]

use std::ops::Deref;

use candle_core::cuda_backend::cudarc::driver::{
    CudaSlice, CudaView, DevicePtr, DevicePtrMut, DeviceRepr, LaunchConfig, PushKernelArg,
    ValidAsZeroBits,
    sys::{CUdevice_attribute_enum, CUfunction_attribute_enum},
};
use candle_core::cuda_backend::{CudaDType, CudaDevice, CudaStorage, WrapErr};
use candle_core::op::BackpropOp;
use candle_core::{CpuStorage, Layout, Result, Shape, Storage, Tensor, bail};

/// The elements of a contiguous tensor on the GPU.
pub(super) fn elements<'a, T: CudaDType>(
    storage: &'a CudaStorage,
    layout: &Layout,
) -> Result<CudaView<'a, T>> {
    let Some((start, end)) = layout.contiguous_offsets() else {
        bail!("expected a contiguous tensor, got strides {:?}", layout.stride());
    };
    Ok(storage.as_cuda_slice::<T>()?.slice(start..end))
}

/// A tensor with its storage locked for reading.
pub(super) struct Held<'a, S> {
    storage: S,
    layout: &'a Layout,
}

/// Locks a tensor's storage.
pub(super) fn held(xs: &Tensor) -> Held<'_, impl Deref<Target = Storage>> {
    let (storage, layout) = xs.storage_and_layout();
    Held { storage, layout }
}

impl<S: Deref<Target = Storage>> Held<'_, S> {
    /// Its elements, if it is contiguous and on a GPU.
    pub(super) fn elements<T: CudaDType>(&self) -> Result<CudaView<'_, T>> {
        match &*self.storage {
            Storage::Cuda(storage) => elements(storage, self.layout),
            _ => bail!("expected a tensor on a GPU, got one elsewhere"),
        }
    }
}

/// candle's handle of a tensor's GPU.
pub(super) fn device_of(xs: &Tensor) -> Result<CudaDevice> {
    Ok(xs.device().as_cuda_device()?.clone())
}

/// Uninitialised memory for a kernel to fill.
pub(super) fn uninit<T: DeviceRepr>(device: &CudaDevice, len: usize) -> Result<CudaSlice<T>> {
    // SAFETY: the caller passes it to a kernel that writes every element before anything reads one.
    unsafe { device.alloc(len) }
}

/// Zeroed memory.
pub(super) fn zeros<T: DeviceRepr + ValidAsZeroBits>(
    device: &CudaDevice,
    len: usize,
) -> Result<CudaSlice<T>> {
    device.alloc_zeros(len)
}

/// The address of numbers on the GPU.
pub(super) fn begin<T>(numbers: &impl DevicePtr<T>, device: &CudaDevice) -> u64 {
    numbers.device_ptr(&device.cuda_stream()).0
}

/// The return value of a custom operation's forward.
pub(super) fn output<T: CudaDType>(
    values: CudaSlice<T>,
    device: &CudaDevice,
    shape: impl Into<Shape>,
) -> (CudaStorage, Shape) {
    (CudaStorage::wrap_cuda_slice(values, device.clone()), shape.into())
}

/// The same as a tensor without a graph.
pub(super) fn tensor<T: CudaDType>(
    values: CudaSlice<T>,
    device: &CudaDevice,
    shape: impl Into<Shape>,
) -> Tensor {
    let (storage, shape) = output(values, device, shape);
    Tensor::from_storage(Storage::Cuda(storage), shape, BackpropOp::none(), false)
}

/// The error of a GPU form that gets CPU storage.
pub(super) fn not_on_cpu(operation: &str) -> Result<(CpuStorage, Shape)> {
    bail!("{operation}: expected tensors on the GPU, got some on the CPU")
}

/// The threads of a launch.
#[derive(Clone, Copy)]
pub(super) struct Grid {
    blocks: (u32, u32, u32),
    threads: (u32, u32),
    shared: u32,
}

impl Grid {
    /// One thread per item.
    pub(super) fn each(count: usize) -> Self {
        const THREADS: u32 = 256;
        Self::blocks(count.div_ceil(THREADS as usize), 1).of(THREADS, 1)
    }

    /// One warp per row.
    pub(super) fn warps(rows: usize) -> Self {
        const WARPS: u32 = 4;
        Self::blocks(rows.div_ceil(WARPS as usize), 1).of(32 * WARPS, 1)
    }

    pub(super) const fn blocks(x: usize, y: usize) -> Self {
        Self { blocks: (x as u32, y as u32, 1), threads: (1, 1), shared: 0 }
    }

    /// Sets the grid's third dimension.
    pub(super) const fn layers(self, z: usize) -> Self {
        Self { blocks: (self.blocks.0, self.blocks.1, z as u32), ..self }
    }

    /// Sets the threads of a block.
    pub(super) const fn of(self, x: u32, y: u32) -> Self {
        Self { threads: (x, y), ..self }
    }

    /// Sets a block's dynamic shared memory.
    pub(super) const fn sharing(self, bytes: usize) -> Self {
        Self { shared: bytes as u32, ..self }
    }
}

/// Shared memory per block that needs no opt-in.
const SHARED_BY_DEFAULT: u32 = 48 << 10;

/// Shared memory per block with opt-in: 227 KiB on an H100, less on others.
pub(super) fn shared_at_most(device: &CudaDevice) -> Result<usize> {
    let most = CUdevice_attribute_enum::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN;
    Ok(device.cuda_stream().context().attribute(most).w()?.max(0) as usize)
}

/// A kernel launch with its arguments in declaration order.
///
/// Pointers are passed as they are: on a device from [`open`](super::open) everything happens in order, and on one of
/// candle's the stream waits for other streams' writes.
pub(super) struct Launch<'a> {
    device: &'a CudaDevice,
    name: &'static str,
    module: (&'static str, &'static str),
    arguments: Vec<Argument>,
    /// A count too large for the kernel.
    too_many: Option<usize>,
}

enum Argument {
    Pointer(u64),
    U32(u32),
    U64(u64),
    F32(f32),
    F64(f64),
    /// The bytes of a structure.
    Bytes(Box<[u64]>),
}

/// A structure that a kernel takes by value.
///
/// # Safety
/// It is `repr(C)`, and the kernel declares the same structure.
pub(super) unsafe trait ByValue: Copy {}

/// A kernel by its file and name.
macro_rules! kernel {
    ($device:expr, $file:ident, $name:literal) => {
        $crate::cuda::launch::Launch::new(
            $device,
            $name,
            (concat!("vit-ops ", stringify!($file)), $crate::cuda::kernels::$file),
        )
    };
}
pub(super) use kernel;

impl<'a> Launch<'a> {
    pub(super) fn new(
        device: &'a CudaDevice,
        name: &'static str,
        module: (&'static str, &'static str),
    ) -> Self {
        Self { device, name, module, arguments: Vec::with_capacity(12), too_many: None }
    }

    fn with(mut self, argument: Argument) -> Self {
        self.arguments.push(argument);
        self
    }

    /// Adds a pointer to read from.
    pub(super) fn read<T>(self, from: &impl DevicePtr<T>) -> Self {
        let stream = self.device.cuda_stream();
        let pointer = from.device_ptr(&stream).0;
        self.with(Argument::Pointer(pointer))
    }

    /// Adds a pointer to read from, or null.
    pub(super) fn read_if<T>(self, from: Option<&impl DevicePtr<T>>) -> Self {
        match from {
            Some(from) => self.read(from),
            None => self.with(Argument::Pointer(0)),
        }
    }

    /// Adds a pointer to write to.
    pub(super) fn write<T>(self, to: &mut impl DevicePtrMut<T>) -> Self {
        let stream = self.device.cuda_stream();
        let pointer = to.device_ptr_mut(&stream).0;
        self.with(Argument::Pointer(pointer))
    }

    /// Adds a pointer that the caller keeps valid.
    pub(super) fn pointer(self, pointer: u64) -> Self {
        self.with(Argument::Pointer(pointer))
    }

    /// Adds a count as `unsigned`.
    pub(super) fn count(mut self, count: usize) -> Self {
        let number = u32::try_from(count);
        self.too_many = self.too_many.or(number.is_err().then_some(count));
        self.with(Argument::U32(number.unwrap_or_default()))
    }

    /// Adds a count as `unsigned long long`.
    pub(super) fn long(self, count: usize) -> Self {
        self.with(Argument::U64(count as u64))
    }

    pub(super) fn float(self, x: f32) -> Self {
        self.with(Argument::F32(x))
    }

    pub(super) fn double(self, x: f64) -> Self {
        self.with(Argument::F64(x))
    }

    pub(super) fn value<T: ByValue>(self, value: T) -> Self {
        let mut bytes = vec![0_u64; size_of::<T>().div_ceil(size_of::<u64>())];
        // SAFETY: there is room for the value, which is plain data, and `u64` has the alignment of any of its fields.
        unsafe { bytes.as_mut_ptr().cast::<T>().write_unaligned(value) };
        self.with(Argument::Bytes(bytes.into()))
    }

    /// Launches after earlier work.
    pub(super) fn launch(self, grid: Grid) -> Result<()> {
        if let Some(count) = self.too_many {
            bail!("{}: expected at most {} of each size, got {count}", self.name, u32::MAX);
        }
        if grid.blocks.0 == 0 {
            return Ok(());
        }
        let (module, ptx) = self.module;
        let function = self.device.get_or_load_custom_func(self.name, module, ptx)?;
        if grid.shared > SHARED_BY_DEFAULT {
            let most = CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // Every thread sets the same value, so races do not matter.
            function.set_attribute(most, shared_at_most(self.device)? as i32).w()?;
        }
        let mut launch = function.builder();
        for argument in &self.arguments {
            match argument {
                Argument::Pointer(x) | Argument::U64(x) => launch.arg(x),
                Argument::U32(x) => launch.arg(x),
                Argument::F32(x) => launch.arg(x),
                Argument::F64(x) => launch.arg(x),
                Argument::Bytes(bytes) => launch.arg(&bytes[0]),
            };
        }
        let config = LaunchConfig {
            grid_dim: grid.blocks,
            block_dim: (grid.threads.0, grid.threads.1, 1),
            shared_mem_bytes: grid.shared,
        };
        // SAFETY: the operation passed its kernel's declared arguments, with room for the outputs.
        unsafe { launch.launch(config) }.w()?;
        Ok(())
    }
}
