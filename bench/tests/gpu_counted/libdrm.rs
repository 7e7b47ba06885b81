//! `libdrm`, as a program in C calls it.

use std::ffi::c_int;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use libloading::Library;
use libtest_mimic::Failed;

type PrimeHandleToFd = unsafe extern "C" fn(c_int, u32, u32, *mut c_int) -> c_int;
type PrimeFdToHandle = unsafe extern "C" fn(c_int, c_int, *mut u32) -> c_int;
type OfHandle = unsafe extern "C" fn(c_int, u32) -> c_int;
type CreateDumbBuffer =
    unsafe extern "C" fn(c_int, u32, u32, u32, u32, *mut u32, *mut u32, *mut u64) -> c_int;
type MapDumbBuffer = unsafe extern "C" fn(c_int, u32, *mut u64) -> c_int;

/// The library's functions, of a version from 2.4.114 on.
pub struct Libdrm {
    prime_handle_to_fd: PrimeHandleToFd,
    prime_fd_to_handle: PrimeFdToHandle,
    close_buffer_handle: OfHandle,
    create_dumb_buffer: CreateDumbBuffer,
    destroy_dumb_buffer: OfHandle,
    map_dumb_buffer: MapDumbBuffer,
    _library: Library,
}

impl Libdrm {
    pub fn open() -> Result<Self, Failed> {
        // SAFETY: the library's constructors do nothing; the types are those of `xf86drm.h` and
        // `xf86drmMode.h`, and the functions are kept no longer than the library.
        unsafe {
            let library = Library::new("libdrm.so.2")?;
            Ok(Self {
                prime_handle_to_fd: *library.get(b"drmPrimeHandleToFD\0")?,
                prime_fd_to_handle: *library.get(b"drmPrimeFDToHandle\0")?,
                close_buffer_handle: *library.get(b"drmCloseBufferHandle\0")?,
                create_dumb_buffer: *library.get(b"drmModeCreateDumbBuffer\0")?,
                destroy_dumb_buffer: *library.get(b"drmModeDestroyDumbBuffer\0")?,
                map_dumb_buffer: *library.get(b"drmModeMapDumbBuffer\0")?,
                _library: library,
            })
        }
    }

    pub fn export(&self, card: BorrowedFd<'_>, handle: u32) -> Result<OwnedFd, Failed> {
        const CLOEXEC_AND_WRITING: u32 = (libc::O_CLOEXEC | libc::O_RDWR) as u32;
        let mut fd = -1;
        // SAFETY: `fd` can be written; what comes is a new descriptor.
        unsafe {
            let card = card.as_raw_fd();
            done((self.prime_handle_to_fd)(card, handle, CLOEXEC_AND_WRITING, &raw mut fd))?;
            Ok(OwnedFd::from_raw_fd(fd))
        }
    }

    pub fn import(&self, card: BorrowedFd<'_>, dma_buf: BorrowedFd<'_>) -> Result<u32, Failed> {
        let (card, dma_buf, mut handle) = (card.as_raw_fd(), dma_buf.as_raw_fd(), 0);
        // SAFETY: `handle` can be written.
        done(unsafe { (self.prime_fd_to_handle)(card, dma_buf, &raw mut handle) })?;
        Ok(handle)
    }

    pub fn close(&self, card: BorrowedFd<'_>, handle: u32) -> Result<(), Failed> {
        // SAFETY: no memory is involved.
        done(unsafe { (self.close_buffer_handle)(card.as_raw_fd(), handle) })
    }

    /// A dumb buffer of 32 bits a pixel, by its handle.
    pub fn create(&self, card: BorrowedFd<'_>, width: u32, height: u32) -> Result<u32, Failed> {
        let (card, mut handle, mut pitch, mut size) = (card.as_raw_fd(), 0, 0, 0);
        let (to_handle, to_pitch, to_size) = (&raw mut handle, &raw mut pitch, &raw mut size);
        // SAFETY: the three can be written.
        done(unsafe {
            (self.create_dumb_buffer)(card, width, height, 32, 0, to_handle, to_pitch, to_size)
        })?;
        Ok(handle)
    }

    /// Where a dumb buffer is to be mapped in the card's file.
    pub fn place(&self, card: BorrowedFd<'_>, handle: u32) -> Result<u64, Failed> {
        let mut offset = 0;
        // SAFETY: `offset` can be written.
        done(unsafe { (self.map_dumb_buffer)(card.as_raw_fd(), handle, &raw mut offset) })?;
        Ok(offset)
    }

    pub fn destroy(&self, card: BorrowedFd<'_>, handle: u32) -> Result<(), Failed> {
        // SAFETY: no memory is involved.
        done(unsafe { (self.destroy_dumb_buffer)(card.as_raw_fd(), handle) })
    }
}

fn done(answer: c_int) -> Result<(), Failed> {
    match answer {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error().into()),
    }
}
