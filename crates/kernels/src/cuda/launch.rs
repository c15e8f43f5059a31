//! Launching a kernel: from tensors and numbers to the arguments that the driver takes.

#![expect(
    unsafe_code,
    reason = "what a kernel does with its arguments is beyond what the compiler sees"
)]

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::cudarc::driver::{
    CudaStream, DevicePtr, LaunchConfig, PushKernelArg, SyncOnDrop,
};
use candle_core::cuda_backend::{CudaDType, WrapErr};
use candle_core::{CudaDevice, CudaStorage, DType, Device, Layout, Result, Storage, Tensor, bail};

/// The largest grid along x that cards take, and along y.
const MOST_BLOCKS: (usize, usize) = (i32::MAX as usize, u16::MAX as usize);

/// A source file of kernels, compiled.
#[derive(Debug, Clone, Copy)]
pub(super) struct Module {
    /// What candle keeps it as; no other module may be called so.
    pub(super) name: &'static str,
    /// Empty where a pretended compiler was at work.
    pub(super) ptx: &'static str,
}

/// The module of a source file.
macro_rules! module {
    ($file:literal) => {
        $crate::cuda::launch::Module {
            name: concat!("vlmd-", $file),
            ptx: include_str!(concat!(env!("OUT_DIR"), "/", $file, ".ptx")),
        }
    };
}
pub(super) use module;

/// What a kernel is given, in the order of its parameters.
#[derive(Debug, Clone, Copy)]
pub(super) enum Argument<'a> {
    /// The address of a tensor's first element.
    Tensor(&'a Tensor),
    /// The address of nothing.
    Null,
    /// A length that is an `int` in the kernel.
    Int(usize),
    /// A length that is a `size_t` in the kernel.
    Size(usize),
    /// A number.
    Float(f32),
}

impl<'a> Argument<'a> {
    /// The tensor, or the address of nothing.
    pub(super) fn optional(tensor: Option<&'a Tensor>) -> Self {
        tensor.map_or(Self::Null, Self::Tensor)
    }
}

/// An argument as the driver takes it.
enum Word {
    Address(u64),
    Int(i32),
    Float(f32),
}

/// How many threads run a kernel.
#[derive(Debug, Clone, Copy)]
pub(super) struct Grid {
    /// Blocks along x and y.
    pub(super) blocks: (usize, usize),
    /// Threads of a block, along x.
    pub(super) threads: usize,
}

/// The names of kernels end with the type of their numbers, as `cuda/common.cuh` calls it.
pub(super) fn suffix(dtype: DType) -> Result<&'static str> {
    match dtype {
        DType::F32 => Ok("f32"),
        DType::F16 => Ok("f16"),
        DType::BF16 => Ok("bf16"),
        other => bail!("CUDA kernels take f32, f16 or bf16, not {other:?}"),
    }
}

/// A tensor for a kernel to fill, on the device of `like` and of its dtype.
///
/// # Safety
/// Before anything else reads it, a kernel is launched that writes every element.
pub(super) unsafe fn unwritten(shape: &[usize], like: &Tensor) -> Result<Tensor> {
    // SAFETY: the same contract.
    unsafe { Tensor::empty(shape, like.dtype(), like.device()) }
}

/// Launches a kernel on the device's stream, whose order is the only synchronisation there is:
/// candle gives a device one stream.
///
/// # Safety
/// The arguments are in number, order and type what the kernel takes, and as large as it says
/// in its source; the tensors that it writes to are not read or written by the host meanwhile.
///
/// # Errors
/// When tensors are on other devices than `device`, an argument or the grid is too large, or the
/// driver refuses.
pub(super) unsafe fn launch(
    device: &Device,
    module: Module,
    kernel: &str,
    grid: Grid,
    arguments: &[Argument<'_>],
) -> Result<()> {
    let Device::Cuda(device) = device else {
        bail!("{kernel} runs on CUDA devices, not on {device:?}");
    };
    let config = config(kernel, grid)?;
    let function = device.get_or_load_custom_func(kernel, module.name, module.ptx)?;
    let stream = device.cuda_stream();
    let storages: Vec<_> = arguments
        .iter()
        .filter_map(|argument| match argument {
            Argument::Tensor(tensor) => Some(tensor.storage_and_layout()),
            _ => None,
        })
        .collect();
    let mut tensors = storages.iter();
    let mut words = Vec::with_capacity(arguments.len());
    // Dropped after the launch, which is then what others wait for.
    let mut uses = Vec::with_capacity(storages.len());
    for argument in arguments {
        words.push(match *argument {
            Argument::Tensor(_) => {
                let Some((storage, layout)) = tensors.next() else {
                    bail!("{kernel} was given fewer tensors than it has");
                };
                let (address, used) = address(kernel, storage, layout, device, &stream)?;
                uses.push(used);
                Word::Address(address)
            }
            Argument::Null => Word::Address(0),
            Argument::Int(number) => match i32::try_from(number) {
                Ok(number) => Word::Int(number),
                Err(_) => bail!("{kernel} takes lengths up to {}, not {number}", i32::MAX),
            },
            Argument::Size(number) => Word::Address(number as u64),
            Argument::Float(number) => Word::Float(number),
        });
    }
    let mut builder = function.builder();
    for word in &words {
        match word {
            Word::Address(word) => builder.arg(word),
            Word::Int(word) => builder.arg(word),
            Word::Float(word) => builder.arg(word),
        };
    }
    // SAFETY: the same contract; the tensors live until the launch is in the stream, after which
    // the stream frees them only in its own order.
    unsafe { builder.launch(config) }.w()?;
    Ok(())
}

fn config(kernel: &str, grid: Grid) -> Result<LaunchConfig> {
    let (x, y) = grid.blocks;
    if !(1..=MOST_BLOCKS.0).contains(&x)
        || !(1..=MOST_BLOCKS.1).contains(&y)
        || !(1..=1024).contains(&grid.threads)
    {
        bail!("{kernel} cannot run on {grid:?}: cards take {MOST_BLOCKS:?} blocks of 1024 threads");
    }
    Ok(LaunchConfig {
        grid_dim: (x as u32, y as u32, 1),
        block_dim: (grid.threads as u32, 1, 1),
        shared_mem_bytes: 0,
    })
}

/// The address of a tensor's first element, and what records that it is used.
fn address<'a>(
    kernel: &str,
    storage: &'a Storage,
    layout: &Layout,
    device: &CudaDevice,
    stream: &'a CudaStream,
) -> Result<(u64, SyncOnDrop<'a>)> {
    let Storage::Cuda(storage) = storage else {
        bail!("{kernel} was given a tensor that is not on its device");
    };
    if storage.device.id() != device.id() {
        bail!("{kernel} was given tensors of two devices");
    }
    fn start<'a, T: CudaDType + 'a>(
        storage: &'a CudaStorage,
        stream: &'a CudaStream,
    ) -> Result<(u64, SyncOnDrop<'a>)> {
        Ok(storage.as_cuda_slice::<T>()?.device_ptr(stream))
    }
    let dtype = storage.dtype();
    let (address, used) = match dtype {
        DType::F32 => start::<f32>(storage, stream),
        DType::F16 => start::<half::f16>(storage, stream),
        DType::BF16 => start::<half::bf16>(storage, stream),
        DType::U32 => start::<u32>(storage, stream),
        DType::U8 => start::<u8>(storage, stream),
        other => bail!("{kernel} takes no tensors of {other:?}"),
    }?;
    let offset = layout.start_offset() * dtype.size_in_bytes();
    Ok((address + offset as u64, used))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grids_beyond_what_cards_take_are_refused() {
        let refused = |blocks, threads| config("k", Grid { blocks, threads }).is_err();
        assert!(!refused((1, 1), 1));
        assert!(!refused((i32::MAX as usize, 65_535), 1024));
        assert!(refused((0, 1), 32));
        assert!(refused((1 << 31, 1), 32));
        assert!(refused((1, 65_536), 32));
        assert!(refused((1, 1), 1025));
        assert!(refused((1, 1), 0));
    }
}
