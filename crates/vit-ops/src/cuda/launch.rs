//! Between candle's tensors and the kernels: what a launch reads, writes and is told.
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

/// A tensor whose storage is held for reading.
pub(super) struct Held<'a, S> {
    storage: S,
    layout: &'a Layout,
}

/// Holds a tensor's storage.
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

/// candle's own handle of a tensor's GPU.
pub(super) fn device_of(xs: &Tensor) -> Result<CudaDevice> {
    Ok(xs.device().as_cuda_device()?.clone())
}

/// Room that a kernel fills.
pub(super) fn room<T: DeviceRepr>(device: &CudaDevice, len: usize) -> Result<CudaSlice<T>> {
    // SAFETY: whoever asks passes it to a kernel that writes every element before anything reads one.
    unsafe { device.alloc(len) }
}

/// Room that holds zeros.
pub(super) fn zeros<T: DeviceRepr + ValidAsZeroBits>(
    device: &CudaDevice,
    len: usize,
) -> Result<CudaSlice<T>> {
    device.alloc_zeros(len)
}

/// Where numbers on the GPU begin.
pub(super) fn begin<T>(numbers: &impl DevicePtr<T>, device: &CudaDevice) -> u64 {
    numbers.device_ptr(&device.cuda_stream()).0
}

/// What a custom operation's forward returns.
pub(super) fn output<T: CudaDType>(
    values: CudaSlice<T>,
    device: &CudaDevice,
    shape: impl Into<Shape>,
) -> (CudaStorage, Shape) {
    (CudaStorage::wrap_cuda_slice(values, device.clone()), shape.into())
}

/// The same as a tensor without a history.
pub(super) fn tensor<T: CudaDType>(
    values: CudaSlice<T>,
    device: &CudaDevice,
    shape: impl Into<Shape>,
) -> Tensor {
    let (storage, shape) = output(values, device, shape);
    Tensor::from_storage(Storage::Cuda(storage), shape, BackpropOp::none(), false)
}

/// What a form for the GPU says where it meets the CPU's storage.
pub(super) fn not_on_cpu(operation: &str) -> Result<(CpuStorage, Shape)> {
    bail!("{operation}: expected tensors on the GPU, got some on the CPU")
}

/// How many threads a launch has.
#[derive(Clone, Copy)]
pub(super) struct Grid {
    blocks: (u32, u32, u32),
    threads: (u32, u32),
    shared: u32,
}

impl Grid {
    /// A thread for each of `count` things.
    pub(super) fn each(count: usize) -> Self {
        const THREADS: u32 = 256;
        Self::blocks(count.div_ceil(THREADS as usize), 1).of(THREADS, 1)
    }

    /// A warp for each of `rows` rows.
    pub(super) fn warps(rows: usize) -> Self {
        const WARPS: u32 = 4;
        Self::blocks(rows.div_ceil(WARPS as usize), 1).of(32 * WARPS, 1)
    }

    pub(super) const fn blocks(x: usize, y: usize) -> Self {
        Self { blocks: (x as u32, y as u32, 1), threads: (1, 1), shared: 0 }
    }

    /// So many layers of blocks.
    pub(super) const fn layers(self, z: usize) -> Self {
        Self { blocks: (self.blocks.0, self.blocks.1, z as u32), ..self }
    }

    /// Threads of a block.
    pub(super) const fn of(self, x: u32, y: u32) -> Self {
        Self { threads: (x, y), ..self }
    }

    /// Bytes that a block's threads share, besides those that the kernel declares.
    pub(super) const fn sharing(self, bytes: usize) -> Self {
        Self { shared: bytes as u32, ..self }
    }
}

/// Bytes that the threads of a block may share without being asked for.
const SHARED_BY_DEFAULT: u32 = 48 << 10;

/// Bytes that they may share if they are asked for: on an H100 227 KiB, on others less.
pub(super) fn shared_at_most(device: &CudaDevice) -> Result<usize> {
    let most = CUdevice_attribute_enum::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN;
    Ok(device.cuda_stream().context().attribute(most).w()?.max(0) as usize)
}

/// A launch of a kernel, its arguments in the order of the kernel's declaration.
///
/// Pointers are taken as they are: on a device of [`open`](super::open) everything happens in order, and on one of
/// candle's own the stream waits for what others have written.
pub(super) struct Launch<'a> {
    device: &'a CudaDevice,
    name: &'static str,
    module: (&'static str, &'static str),
    arguments: Vec<Argument>,
    /// A count that is beyond what a kernel takes.
    too_many: Option<usize>,
}

enum Argument {
    Pointer(u64),
    U32(u32),
    U64(u64),
    F32(f32),
    F64(f64),
    /// A structure, by its bytes.
    Bytes(Box<[u64]>),
}

/// A structure that a kernel takes by value.
///
/// # Safety
/// It is `repr(C)`, and means the same to the kernel.
pub(super) unsafe trait ByValue: Copy {}

/// A kernel by the file that it stands in.
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

    /// A pointer that is read from.
    pub(super) fn read<T>(self, from: &impl DevicePtr<T>) -> Self {
        let stream = self.device.cuda_stream();
        let pointer = from.device_ptr(&stream).0;
        self.with(Argument::Pointer(pointer))
    }

    /// The same, or none.
    pub(super) fn read_if<T>(self, from: Option<&impl DevicePtr<T>>) -> Self {
        match from {
            Some(from) => self.read(from),
            None => self.with(Argument::Pointer(0)),
        }
    }

    /// A pointer that is written to.
    pub(super) fn write<T>(self, to: &mut impl DevicePtrMut<T>) -> Self {
        let stream = self.device.cuda_stream();
        let pointer = to.device_ptr_mut(&stream).0;
        self.with(Argument::Pointer(pointer))
    }

    /// A pointer that the caller keeps valid.
    pub(super) fn pointer(self, pointer: u64) -> Self {
        self.with(Argument::Pointer(pointer))
    }

    /// A count that a kernel takes as `unsigned`.
    pub(super) fn count(mut self, count: usize) -> Self {
        let number = u32::try_from(count);
        self.too_many = self.too_many.or(number.is_err().then_some(count));
        self.with(Argument::U32(number.unwrap_or_default()))
    }

    /// A count that a kernel takes as `unsigned long long`.
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
        // SAFETY: there is room for the value, which is plain data, and `u64` is aligned as any of its fields.
        unsafe { bytes.as_mut_ptr().cast::<T>().write_unaligned(value) };
        self.with(Argument::Bytes(bytes.into()))
    }

    /// Puts the launch behind what was launched before.
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
            // The same from every thread, whatever its need.
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
        // SAFETY: the operation passed what its kernel declares, with room for what it writes.
        unsafe { launch.launch(config) }.w()?;
        Ok(())
    }
}
