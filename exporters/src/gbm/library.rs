//! `libgbm.so.1`, loaded when first needed: the functions that are used here, and their types.
//!
//! It stays for the life of the process, as the drivers that it loads do.
//!
//! # Safety
//!
//! The law of this module: `libgbm.so.1` is the system's, and its functions have the types that
//! `gbm.h` gives them. These are part of its ABI: the number in the library's name would change with
//! them.
#![allow(unsafe_code)]

use std::ffi::{c_char, c_int, c_void};
use std::sync::OnceLock;

use libloading::Library;

use super::error::GbmError;
use crate::Absent;

/// What the dynamic linker looks for.
const NAME: &str = "libgbm.so.1";

/// `struct gbm_device`.
#[repr(C)]
pub(super) struct RawDevice {
    _opaque: [u8; 0],
}

/// `struct gbm_bo`.
#[repr(C)]
pub(super) struct RawBo {
    _opaque: [u8; 0],
}

/// `GBM_BO_IMPORT_FD_MODIFIER`.
pub(super) const IMPORT_FD_MODIFIER: u32 = 0x5504;

/// `struct gbm_import_fd_modifier_data`.
#[repr(C)]
pub(super) struct ImportData {
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) format: u32,
    pub(super) num_fds: u32,
    pub(super) fds: [c_int; 4],
    pub(super) strides: [c_int; 4],
    pub(super) offsets: [c_int; 4],
    pub(super) modifier: u64,
}

const _: () = assert!(size_of::<ImportData>() == 72);
const _: () = assert!(std::mem::offset_of!(ImportData, fds) == 16);
const _: () = assert!(std::mem::offset_of!(ImportData, modifier) == 64);

/// Declares the functions and loads them by their names.
macro_rules! functions {
    ($($name:ident: fn($($argument:ty),*) $(-> $result:ty)?;)*) => {
        /// The library's functions, each called as `gbm.h` says.
        pub(super) struct Gbm {
            $(pub(super) $name: unsafe extern "C" fn($($argument),*) $(-> $result)?,)*
            /// Unloaded after the last use of the functions: never.
            _library: Library,
        }

        impl Gbm {
            fn of(library: Library) -> Result<Self, GbmError> {
                $(
                    let symbol = concat!("gbm_", stringify!($name));
                    // SAFETY: the module's law: the symbol is a function of this type.
                    let $name = *unsafe {
                        library.get::<unsafe extern "C" fn($($argument),*) $(-> $result)?>(
                            symbol.as_bytes(),
                        )
                    }
                    .map_err(|_| GbmError::Unsupported { symbol, since: "Mesa 21.3" })?;
                )*
                Ok(Self { $($name,)* _library: library })
            }
        }
    };
}

functions! {
    create_device: fn(c_int) -> *mut RawDevice;
    device_destroy: fn(*mut RawDevice);
    device_get_backend_name: fn(*mut RawDevice) -> *const c_char;
    device_is_format_supported: fn(*mut RawDevice, u32, u32) -> c_int;
    device_get_format_modifier_plane_count: fn(*mut RawDevice, u32, u64) -> c_int;
    bo_create: fn(*mut RawDevice, u32, u32, u32, u32) -> *mut RawBo;
    bo_create_with_modifiers2:
        fn(*mut RawDevice, u32, u32, u32, *const u64, u32, u32) -> *mut RawBo;
    bo_import: fn(*mut RawDevice, u32, *mut c_void, u32) -> *mut RawBo;
    bo_destroy: fn(*mut RawBo);
    bo_get_modifier: fn(*mut RawBo) -> u64;
    bo_get_plane_count: fn(*mut RawBo) -> c_int;
    bo_get_stride_for_plane: fn(*mut RawBo, c_int) -> u32;
    bo_get_offset: fn(*mut RawBo, c_int) -> u32;
    bo_get_fd_for_plane: fn(*mut RawBo, c_int) -> c_int;
    bo_map: fn(*mut RawBo, u32, u32, u32, u32, u32, *mut u32, *mut *mut c_void) -> *mut c_void;
    bo_unmap: fn(*mut RawBo, *mut c_void);
}

/// The library, loaded now if it is not yet.
pub(super) fn gbm() -> Result<&'static Gbm, GbmError> {
    static GBM: OnceLock<Gbm> = OnceLock::new();
    if let Some(gbm) = GBM.get() {
        return Ok(gbm);
    }
    let gbm = Gbm::of(load(NAME)?)?;
    Ok(GBM.get_or_init(|| gbm))
}

fn load(name: &str) -> Result<Library, GbmError> {
    // SAFETY: the module's law; the library's initialisers ask nothing of the program.
    unsafe { Library::new(name) }.map_err(|error| {
        GbmError::Unavailable(Absent::new(
            format!("GBM's library cannot be loaded: {error}"),
            "install it (Debian, Ubuntu: libgbm1)",
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_that_is_not_there_is_a_reason_and_a_package() {
        let Err(GbmError::Unavailable(absent)) = load("libgbm-of-nobody.so.1") else {
            panic!("it was loaded");
        };
        assert!(absent.why.contains("libgbm-of-nobody.so.1"), "{absent}");
        assert!(absent.fix.contains("libgbm1"), "{absent}");
    }
}
