//! NVIDIA's driver, and the opening of any library: the only unsafe code of this crate.
//!
//! Functions and numbers come from `cuda.h`: CUDA Driver API, "Initialization", "Version Management", "Device
//! Management".
#![expect(unsafe_code, reason = "a library that may be missing must be loaded and called by hand")]

use std::error::Error;
use std::ffi::{CStr, c_char, c_int, c_uint};
use std::mem::ManuallyDrop;

use libloading::Library;

use crate::{Gpu, Unusable};

/// In the order in which cudarc tries them, so that candle will use the same one.
const NAMES: [&str; 2] =
    if cfg!(windows) { ["cuda.dll", "nvcuda.dll"] } else { ["libcuda.so", "libcuda.so.1"] };

type Code = c_int;
const SUCCESS: Code = 0;
const NO_DEVICE: Code = 100;

/// The driver's handle of a GPU.
type Handle = c_int;
/// `CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR` and `..._MINOR`.
const CAPABILITY: [c_int; 2] = [75, 76];
/// Room for a GPU's name.
const LONGEST_NAME: usize = 256;

type Init = unsafe extern "system" fn(c_uint) -> Code;
type GetNumber = unsafe extern "system" fn(*mut c_int) -> Code;
type GetHandle = unsafe extern "system" fn(*mut Handle, c_int) -> Code;
type GetName = unsafe extern "system" fn(*mut c_char, c_int, Handle) -> Code;
type GetAttribute = unsafe extern "system" fn(*mut c_int, c_int, Handle) -> Code;
type GetMemory = unsafe extern "system" fn(*mut usize, Handle) -> Code;
type GetErrorName = unsafe extern "system" fn(Code, *mut *const c_char) -> Code;

/// A driver that has been started.
pub(crate) struct Driver {
    library: ManuallyDrop<Library>,
}

impl Driver {
    /// Loads the driver and starts it.
    pub(crate) fn start() -> Result<Self, Unusable> {
        let driver = Self { library: open_first(&NAMES).map_err(no_driver)? };
        // SAFETY: the type is from `cuda.h`, and 0 is the only flag.
        let code = unsafe { driver.function::<Init>("cuInit")?(0) };
        if code == NO_DEVICE {
            return Err(Unusable::NoGpu);
        }
        driver.check("cuInit", code)?;
        Ok(driver)
    }

    /// The number of GPUs.
    pub(crate) fn count(&self) -> Result<usize, Unusable> {
        Ok(usize::try_from(self.number("cuDeviceGetCount")?).unwrap_or(0))
    }

    /// Describes one GPU.
    pub(crate) fn gpu(&self, ordinal: usize) -> Result<Gpu, Unusable> {
        let handle = self.handle(ordinal)?;
        let [major, minor] = CAPABILITY.map(|attribute| self.attribute(attribute, handle));
        Ok(Gpu {
            ordinal,
            name: self.name(handle)?,
            compute_capability: (major?, minor?),
            memory: self.memory(handle)?,
            driver_cuda: self.version()?,
        })
    }

    /// 13000 is 13.0, and 12080 is 12.8.
    fn version(&self) -> Result<(u32, u32), Unusable> {
        let version = self.number("cuDriverGetVersion")?.unsigned_abs();
        Ok((version / 1000, version % 1000 / 10))
    }

    fn number(&self, call: &'static str) -> Result<c_int, Unusable> {
        let mut number = 0;
        // SAFETY: both functions have this type and write one number, for which there is room.
        let code = unsafe { self.function::<GetNumber>(call)?(&raw mut number) };
        self.check(call, code)?;
        Ok(number)
    }

    fn handle(&self, ordinal: usize) -> Result<Handle, Unusable> {
        let call = "cuDeviceGet";
        let mut handle = 0;
        // SAFETY: the type is from `cuda.h`, and there is room for a handle.
        let code = unsafe { self.function::<GetHandle>(call)?(&raw mut handle, ordinal as c_int) };
        self.check(call, code)?;
        Ok(handle)
    }

    fn name(&self, handle: Handle) -> Result<String, Unusable> {
        let call = "cuDeviceGetName";
        let mut name = [0_u8; LONGEST_NAME];
        // SAFETY: the type is from `cuda.h`, and the buffer has the length that is passed.
        let code = unsafe {
            let get = self.function::<GetName>(call)?;
            get(name.as_mut_ptr().cast(), LONGEST_NAME as c_int, handle)
        };
        self.check(call, code)?;
        let name = CStr::from_bytes_until_nul(&name).unwrap_or_default();
        Ok(name.to_string_lossy().into_owned())
    }

    fn attribute(&self, attribute: c_int, handle: Handle) -> Result<u32, Unusable> {
        let call = "cuDeviceGetAttribute";
        let mut value = 0;
        // SAFETY: the type is from `cuda.h`, and there is room for a number.
        let code =
            unsafe { self.function::<GetAttribute>(call)?(&raw mut value, attribute, handle) };
        self.check(call, code)?;
        Ok(value.unsigned_abs())
    }

    fn memory(&self, handle: Handle) -> Result<u64, Unusable> {
        let call = "cuDeviceTotalMem_v2";
        let mut bytes = 0;
        // SAFETY: the type is from `cuda.h`, whose `size_t` is `usize`, and there is room for it.
        let code = unsafe { self.function::<GetMemory>(call)?(&raw mut bytes, handle) };
        self.check(call, code)?;
        Ok(bytes as u64)
    }

    fn check(&self, call: &'static str, code: Code) -> Result<(), Unusable> {
        if code == SUCCESS {
            return Ok(());
        }
        let name = self.error_name(code).unwrap_or_else(|| "an unknown error".to_owned());
        Err(Unusable::Driver { call, code, name })
    }

    /// The driver's name of an error, such as `CUDA_ERROR_NO_DEVICE`, if it has one.
    fn error_name(&self, code: Code) -> Option<String> {
        let mut name = std::ptr::null();
        // SAFETY: the type is from `cuda.h`, and there is room for a pointer. It then is null or points to a text of
        // the driver, which stays valid because the driver is never unloaded.
        let name = unsafe {
            self.function::<GetErrorName>("cuGetErrorName").ok()?(code, &raw mut name);
            if name.is_null() { None } else { Some(CStr::from_ptr(name)) }
        };
        name.map(|name| name.to_string_lossy().into_owned())
    }

    /// A function of the driver.
    ///
    /// # Safety
    /// `F` is the function's type.
    unsafe fn function<F: Copy>(&self, name: &'static str) -> Result<F, Unusable> {
        // SAFETY: the caller guarantees the type, and the library is never unloaded.
        let symbol = unsafe { self.library.get::<F>(name) };
        symbol.map(|function| *function).map_err(|error| no_driver(reason(&error)))
    }
}

fn no_driver(reason: String) -> Unusable {
    Unusable::NoDriver { library: NAMES[NAMES.len() - 1].to_owned(), reason }
}

/// Opens the first of these libraries that opens; otherwise returns the last one's error.
///
/// It is never closed: candle opens it next, and CUDA's libraries leave threads and handlers behind that still need
/// their code.
pub(crate) fn open_first(names: &[impl AsRef<str>]) -> Result<ManuallyDrop<Library>, String> {
    let mut why = String::new();
    for name in names.iter().map(AsRef::as_ref) {
        // SAFETY: opening a library runs its initialisers. These are NVIDIA's, found where the user's system looks for
        // them, and candle would run them anyway.
        match unsafe { Library::new(name) } {
            Ok(library) => return Ok(ManuallyDrop::new(library)),
            Err(error) => why = without_name(&reason(&error), name),
        }
    }
    Err(why)
}

/// The dynamic loader's message. libloading's own message only names the function that failed.
fn reason(error: &libloading::Error) -> String {
    error.source().map_or_else(|| error.to_string(), ToString::to_string)
}

/// Some loaders begin with the library's name.
fn without_name(reason: &str, name: &str) -> String {
    let rest = reason.strip_prefix(name).and_then(|rest| rest.strip_prefix(": "));
    rest.unwrap_or(reason).to_owned()
}
