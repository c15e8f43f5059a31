//! What a device tells about itself.

use candle_core::{Device, Result};

/// Bytes of memory that are free on a CUDA device; `None` for any other device.
///
/// # Errors
/// When the driver does not answer.
pub fn free_cuda_memory(device: &Device) -> Result<Option<u64>> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => {
            use candle_core::cuda_backend::WrapErr;

            let (free, _total) = device.cuda_stream().context().mem_get_info().w()?;
            Ok(Some(free as u64))
        }
        _ => Ok(None),
    }
}
