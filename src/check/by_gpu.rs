//! Fingerprints that a GPU takes of what lies in its memory.

use exporters::Destination;
use exporters::vulkan::VulkanError;

use crate::plan::requested::Requested;
use crate::transfer::{Request, TransferError};

/// The fingerprint of each request, in order, or why the GPU takes none. What is copied into the buffer has been waited for.
pub(crate) fn by_gpu(
    destination: &dyn Destination,
    requests: &[Request],
) -> Result<Result<Vec<u32>, String>, TransferError> {
    let buffer = match destination.gpu() {
        Ok(buffer) => buffer,
        Err(why) => return Ok(Err(why.to_string())),
    };
    // Neighbours together: they share a part of the buffer that is given to the GPU at once.
    let by_buffer = Requested::by_buffer(requests);
    let range = |request: &Request| {
        request.buffer_offset as usize..(request.buffer_offset + request.len) as usize
    };
    let ranges: Vec<_> = by_buffer.iter().map(|&i| range(&requests[i])).collect();
    let found = buffer.device().fingerprinter().and_then(|mut gpu| gpu.crc32(buffer, &ranges));
    let found = match found {
        Ok(found) => found,
        Err(error @ (VulkanError::Unavailable(_) | VulkanError::OutOfMemory { .. })) => {
            return Ok(Err(error.to_string()));
        }
        Err(error) => return Err(error.into()),
    };
    // Of no bytes at all it is zero.
    let mut all = vec![0; requests.len()];
    for (index, crc) in by_buffer.into_iter().zip(found) {
        all[index] = crc;
    }
    Ok(Ok(all))
}
