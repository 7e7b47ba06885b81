//! What wgpu has against something, as an error instead of a call of the program's handler, which by default panics.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use super::error::WgpuError;

/// Has wgpu do something, and returns what it has against it.
pub(super) fn caught<T>(
    device: &wgpu::Device,
    doing: &'static str,
    run: impl FnOnce() -> T,
) -> Result<T, WgpuError> {
    use wgpu::ErrorFilter::{Internal, OutOfMemory, Validation};
    let scopes = [Internal, OutOfMemory, Validation].map(|filter| device.push_error_scope(filter));
    let done = run();
    // The last that was pushed is popped first.
    let caught = scopes.into_iter().rev().map(|scope| at_once(scope.pop()).flatten());
    match caught.fold(None, Option::or) {
        None => Ok(done),
        Some(error) => Err(WgpuError::Wgpu { doing, why: error.to_string() }),
    }
}

/// What a future that is ready has: wgpu's own error scopes are when they are made.
fn at_once<F: Future>(future: F) -> Option<F::Output> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}
