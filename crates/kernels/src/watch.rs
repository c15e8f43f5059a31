//! How much memory work on a device takes at most.

use candle_core::{Device, Result};

/// Watches the memory of a CUDA device while work is given to it.
#[derive(Debug)]
pub struct MemoryWatch {
    #[cfg(feature = "cuda")]
    inner: cuda::Watch,
    #[cfg(not(feature = "cuda"))]
    never: std::convert::Infallible,
}

impl MemoryWatch {
    /// Begins to watch, when the device has done what it was given. `None` on any other device.
    ///
    /// # Errors
    /// When the driver does not answer.
    pub fn start(device: &Device) -> Result<Option<Self>> {
        match device {
            #[cfg(feature = "cuda")]
            Device::Cuda(device) => Ok(Some(Self {
                inner: cuda::Watch::start(device)?,
            })),
            _ => Ok(None),
        }
    }

    /// Most bytes in use since, beside those that were at the start. Call it while results are
    /// still alive.
    ///
    /// # Errors
    /// When the driver does not answer.
    pub fn peak(self) -> Result<u64> {
        #[cfg(feature = "cuda")]
        {
            self.inner.peak()
        }
        #[cfg(not(feature = "cuda"))]
        {
            match self.never {}
        }
    }
}

#[cfg(feature = "cuda")]
mod cuda {
    #![expect(
        unsafe_code,
        reason = "cudarc has no safe calls for the driver's memory pools"
    )]

    use std::sync::Arc;

    use candle_core::Result;
    use candle_core::cuda_backend::cudarc::driver::{CudaContext, result, sys};
    use candle_core::cuda_backend::{CudaDevice, WrapErr};

    /// Two counts: what the pool that tensors come from had in use at most, and how much less is
    /// free, which knows of the libraries' own allocations, too, and not of what came and went. A
    /// driver without pools knows the second alone.
    #[derive(Debug)]
    pub(super) struct Watch {
        context: Arc<CudaContext>,
        free: u64,
        /// Bytes in use of the pool.
        used: Option<u64>,
    }

    impl Watch {
        pub(super) fn start(device: &CudaDevice) -> Result<Self> {
            let stream = device.cuda_stream();
            stream.synchronize().w()?;
            let context = stream.context().clone();
            let used = if has_pools(&context)? {
                Some(reset(&context)?)
            } else {
                None
            };
            Ok(Self {
                free: context.mem_get_info().w()?.0 as u64,
                context,
                used,
            })
        }

        pub(super) fn peak(self) -> Result<u64> {
            let free = self.context.mem_get_info().w()?.0 as u64;
            let gone = self.free.saturating_sub(free);
            let Some(used) = self.used else {
                return Ok(gone);
            };
            let high = attribute(
                &self.context,
                sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH,
            )?;
            Ok(gone.max(high.saturating_sub(used)))
        }
    }

    fn has_pools(context: &CudaContext) -> Result<bool> {
        let attribute = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED;
        Ok(context.attribute(attribute).w()? > 0)
    }

    /// Forgets the mark of high water, and gives what is in use.
    fn reset(context: &CudaContext) -> Result<u64> {
        let mut zero = 0_u64;
        // SAFETY: the context's own device and its pool; the attribute is a number of 64 bits.
        unsafe {
            let pool = result::device::get_mem_pool(context.cu_device()).w()?;
            result::mem_pool::set_attribute(
                pool,
                sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH,
                (&raw mut zero).cast(),
            )
            .w()?;
        }
        attribute(
            context,
            sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT,
        )
    }

    fn attribute(context: &CudaContext, name: sys::CUmemPool_attribute) -> Result<u64> {
        let mut value = 0_u64;
        // SAFETY: as above.
        unsafe {
            let pool = result::device::get_mem_pool(context.cu_device()).w()?;
            result::mem_pool::get_attribute(pool, name, (&raw mut value).cast()).w()?;
        }
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cpu_is_not_watched() {
        assert!(MemoryWatch::start(&Device::Cpu).unwrap().is_none());
    }
}
