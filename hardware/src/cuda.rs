//! CUDA's driver, opened at run time: pinned memory, memory of the GPU, copies from one to the other.
//!
//! # Safety
//!
//! The laws of this module: the library is Nvidia's `libcuda.so.1`, whose functions have the types that
//! its header `cuda.h` gives them; the context is made current in each thread before any other call
//! there; memory is freed once, by the guard that owns it, before the context that it belongs to is
//! released.
#![allow(unsafe_code)]

use std::ffi::{c_char, c_int, c_uint, c_void};
use std::ptr::{self, NonNull};
use std::time::Instant;

use iomap::{Access, BufMap, Caching, Location};
use libloading::{Library, Symbol};

use crate::record::gib_per_second;

/// A `CUresult`; zero is success.
type Status = c_int;

/// A `CUdevice`: a number.
type Number = c_int;

/// A `CUdeviceptr`: an address in the GPU's own space.
type DevicePtr = u64;

/// The driver, and the first GPU's primary context.
pub struct Cuda {
    library: Library,
    device: Number,
    context: *mut c_void,
}

// SAFETY: the driver's functions may be called from any thread; the pointer only names the context.
unsafe impl Send for Cuda {}
// SAFETY: as above.
unsafe impl Sync for Cuda {}

impl Cuda {
    /// Opens the driver and its first GPU.
    pub fn open() -> Result<Self, String> {
        // SAFETY: the module's law on the library.
        let library = unsafe { Library::new("libcuda.so.1") }.map_err(|error| error.to_string())?;
        let mut cuda = Self { library, device: 0, context: ptr::null_mut() };
        // SAFETY: the module's law on types; the pointers are to live values of ours.
        unsafe {
            let init: Symbol<'_, unsafe extern "C" fn(c_uint) -> Status> =
                cuda.symbol(b"cuInit")?;
            cuda.check("cuInit", init(0))?;
            let get: Symbol<'_, unsafe extern "C" fn(*mut Number, c_int) -> Status> =
                cuda.symbol(b"cuDeviceGet")?;
            let mut device = 0;
            cuda.check("cuDeviceGet", get(&mut device, 0))?;
            let retain: Symbol<'_, unsafe extern "C" fn(*mut *mut c_void, Number) -> Status> =
                cuda.symbol(b"cuDevicePrimaryCtxRetain")?;
            let mut context = ptr::null_mut();
            cuda.check("cuDevicePrimaryCtxRetain", retain(&mut context, device))?;
            (cuda.device, cuda.context) = (device, context);
        }
        cuda.enter()?;
        Ok(cuda)
    }

    /// # Safety
    /// `F` is the type of the function of that name.
    unsafe fn symbol<F>(&self, name: &[u8]) -> Result<Symbol<'_, F>, String> {
        // SAFETY: the caller's promise.
        unsafe { self.library.get(name) }.map_err(|error| error.to_string())
    }

    fn check(&self, call: &str, status: Status) -> Result<(), String> {
        if status == 0 {
            return Ok(());
        }
        let mut text: *const c_char = ptr::null();
        // SAFETY: the module's law on types; a text that is there is static and ends with a zero.
        let named = unsafe {
            self.symbol::<unsafe extern "C" fn(Status, *mut *const c_char) -> Status>(
                b"cuGetErrorName",
            )
            .ok()
            .filter(|name| name(status, &mut text) == 0 && !text.is_null())
            .map(|_| std::ffi::CStr::from_ptr(text).to_string_lossy().into_owned())
        };
        Err(format!("{call}: {}", named.unwrap_or_else(|| status.to_string())))
    }

    /// Makes the context current in this thread, before any other call in it.
    pub fn enter(&self) -> Result<(), String> {
        // SAFETY: the module's law on types; the context is retained until `self` is dropped.
        unsafe {
            let set =
                self.symbol::<unsafe extern "C" fn(*mut c_void) -> Status>(b"cuCtxSetCurrent")?;
            self.check("cuCtxSetCurrent", set(self.context))
        }
    }

    /// Memory of this process that the GPU reads by DMA.
    pub fn pinned(&self, len: usize) -> Result<Pinned<'_>, String> {
        let mut at = ptr::null_mut();
        // SAFETY: the module's law on types.
        unsafe {
            let allocate = self.symbol::<unsafe extern "C" fn(*mut *mut c_void, usize) -> Status>(
                b"cuMemAllocHost_v2",
            )?;
            self.check("cuMemAllocHost", allocate(&mut at, len))?;
        }
        let at = NonNull::new(at.cast()).ok_or("cuMemAllocHost gave no memory")?;
        Ok(Pinned { cuda: self, at, len })
    }

    /// Memory of the GPU's own.
    pub fn allocate(&self, len: usize) -> Result<OnGpu<'_>, String> {
        let mut at = 0;
        // SAFETY: the module's law on types.
        unsafe {
            let allocate = self.symbol::<unsafe extern "C" fn(*mut DevicePtr, usize) -> Status>(
                b"cuMemAlloc_v2",
            )?;
            self.check("cuMemAlloc", allocate(&mut at, len))?;
        }
        Ok(OnGpu { cuda: self, at, len })
    }

    /// Copies `len` bytes of pinned memory to an offset of the GPU's, and returns when they are there.
    pub fn copy(
        &self,
        from: &Pinned<'_>,
        len: usize,
        to: &OnGpu<'_>,
        offset: usize,
    ) -> Result<(), String> {
        if len > from.len || offset.checked_add(len).is_none_or(|end| end > to.len) {
            return Err(format!("a copy of {len} bytes to {offset} leaves one of its sides"));
        }
        // SAFETY: both ranges lie inside memory that their guards keep.
        unsafe {
            let copy = self
                .symbol::<unsafe extern "C" fn(DevicePtr, *const c_void, usize) -> Status>(
                    b"cuMemcpyHtoD_v2",
                )?;
            self.check("cuMemcpyHtoD", copy(to.at + offset as u64, from.at.as_ptr().cast(), len))
        }
    }

    /// How fast copies of `len` bytes from pinned memory are, in GiB a second.
    pub fn host_to_device(&self, len: usize, rounds: u32) -> Result<f64, String> {
        let (from, to) = (self.pinned(len)?, self.allocate(len)?);
        from.map().fill(7).map_err(|error| error.to_string())?;
        self.copy(&from, len, &to, 0)?;
        let started = Instant::now();
        for _ in 0..rounds {
            self.copy(&from, len, &to, 0)?;
        }
        Ok(gib_per_second(len as u64 * u64::from(rounds), started.elapsed()))
    }
}

impl Drop for Cuda {
    fn drop(&mut self) {
        if self.context.is_null() {
            return;
        }
        // SAFETY: retained once in `open`; every guard borrows `self` and is gone.
        unsafe {
            let _ = self
                .symbol::<unsafe extern "C" fn(Number) -> Status>(b"cuDevicePrimaryCtxRelease_v2")
                .map(|release| release(self.device));
        }
    }
}

/// Memory of this process, pinned by the driver.
pub struct Pinned<'c> {
    cuda: &'c Cuda,
    at: NonNull<u8>,
    len: usize,
}

// SAFETY: the bytes are handed out as a `BufMap` alone, whose accesses may race (iomap's laws), and the
// driver's calls may come from any thread.
unsafe impl Send for Pinned<'_> {}
// SAFETY: as above.
unsafe impl Sync for Pinned<'_> {}

impl Pinned<'_> {
    /// Its bytes.
    pub fn map(&self) -> BufMap<'_> {
        // SAFETY: ours alone until it is freed in `drop`, readable and writable over its length.
        unsafe {
            BufMap::from_raw(
                self.at.as_ptr(),
                self.len,
                Location::System,
                Caching::WriteBack,
                Access::ReadWrite,
            )
        }
    }
}

impl Drop for Pinned<'_> {
    fn drop(&mut self) {
        // SAFETY: allocated by `cuMemAllocHost`, freed once.
        unsafe {
            let _ = self
                .cuda
                .symbol::<unsafe extern "C" fn(*mut c_void) -> Status>(b"cuMemFreeHost")
                .map(|free| free(self.at.as_ptr().cast()));
        }
    }
}

/// Memory of the GPU's own.
pub struct OnGpu<'c> {
    cuda: &'c Cuda,
    at: DevicePtr,
    len: usize,
}

impl Drop for OnGpu<'_> {
    fn drop(&mut self) {
        // SAFETY: allocated by `cuMemAlloc`, freed once.
        unsafe {
            let _ = self
                .cuda
                .symbol::<unsafe extern "C" fn(DevicePtr) -> Status>(b"cuMemFree_v2")
                .map(|free| free(self.at));
        }
    }
}
