//! What devices, their driver and this binary's kernels tell about themselves.

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

/// What the kernels in this binary were compiled with and for, as their PTX says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CudaBuild {
    /// Version of the toolkit, such as 13.0; `None` where the PTX does not say.
    pub toolkit: Option<String>,
    /// Version of the PTX, which the driver must know, such as 9.0.
    pub ptx: Option<String>,
    /// Architecture, such as `sm_80`.
    pub target: Option<String>,
}

impl CudaBuild {
    /// Reads what a module of PTX says of itself.
    #[cfg_attr(
        not(any(feature = "cuda", test)),
        expect(dead_code, reason = "there is no PTX")
    )]
    fn of(ptx: &str) -> Self {
        let word_after = |mark: &str| {
            let rest = ptx.split_once(mark)?.1;
            let end = rest.find(|c: char| c.is_whitespace() || c == ',');
            let word = rest.get(..end.unwrap_or(rest.len()))?;
            (!word.is_empty()).then(|| word.to_owned())
        };
        Self {
            toolkit: word_after("tools, release "),
            ptx: word_after(".version "),
            target: word_after(".target "),
        }
    }

    /// Whether a card of this compute capability runs the kernels: PTX is compiled for every later
    /// one, unless it is of the kind that an `a` marks, which is for one alone. `None` where
    /// the PTX does not say what it is for.
    #[must_use]
    pub fn runs_on(&self, (major, minor): (u32, u32)) -> Option<bool> {
        let target = self.target.as_deref()?.strip_prefix("sm_")?;
        let (number, only) = match target.strip_suffix('a') {
            Some(number) => (number, true),
            None => (target, false),
        };
        let (built, card) = (
            number.parse::<u32>().ok()?,
            major.checked_mul(10)?.checked_add(minor)?,
        );
        Some(if only { card == built } else { card >= built })
    }
}

/// What this binary's kernels are for; `None` where it was built for CPUs alone.
#[must_use]
pub fn cuda_build() -> Option<CudaBuild> {
    #[cfg(feature = "cuda")]
    {
        Some(CudaBuild::of(
            candle_core::cuda_backend::kernels::AFFINE.ptx(),
        ))
    }
    #[cfg(not(feature = "cuda"))]
    {
        None
    }
}

/// The driver and its cards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CudaDriver {
    /// The latest CUDA that it knows, major and minor.
    pub version: (u32, u32),
    /// In the order of their numbers.
    pub cards: Vec<CudaCard>,
}

/// A card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CudaCard {
    /// Its number.
    pub ordinal: usize,
    /// What its maker calls it.
    pub name: String,
    /// Major and minor.
    pub compute_capability: (u32, u32),
    /// Bytes of its memory.
    pub total: u64,
    /// Bytes of these that nobody uses.
    pub free: u64,
}

/// Asks the driver for its cards, and opens each for a moment. `None` where the binary was built
/// for CPUs alone.
///
/// # Errors
/// When there is no driver, or it or a card does not answer.
pub fn cuda_driver() -> Result<Option<CudaDriver>> {
    #[cfg(feature = "cuda")]
    {
        driver::ask().map(Some)
    }
    #[cfg(not(feature = "cuda"))]
    {
        Ok(None)
    }
}

#[cfg(feature = "cuda")]
mod driver {
    #![expect(
        unsafe_code,
        reason = "cudarc has no safe call for the driver's version"
    )]

    use candle_core::cuda_backend::WrapErr;
    use candle_core::cuda_backend::cudarc::driver::{CudaContext, sys};
    use candle_core::{Result, bail};

    use super::{CudaCard, CudaDriver};

    pub(super) fn ask() -> Result<CudaDriver> {
        let count = CudaContext::device_count().w()?;
        let cards = (0..usize::try_from(count).unwrap_or_default())
            .map(card)
            .collect::<Result<_>>()?;
        Ok(CudaDriver {
            version: version()?,
            cards,
        })
    }

    /// 13000 is 13.0.
    fn version() -> Result<(u32, u32)> {
        let mut version = 0;
        // SAFETY: the driver writes one number to where it is told.
        let answer = unsafe { sys::cuDriverGetVersion(&raw mut version) };
        if answer != sys::CUresult::CUDA_SUCCESS {
            bail!("the driver does not tell its version: {answer:?}");
        }
        let version = u32::try_from(version).unwrap_or_default();
        Ok((version / 1000, version % 1000 / 10))
    }

    fn card(ordinal: usize) -> Result<CudaCard> {
        let context = CudaContext::new(ordinal).w()?;
        let (major, minor) = context.compute_capability().w()?;
        let number = |part: i32| u32::try_from(part).unwrap_or_default();
        let (free, total) = context.mem_get_info().w()?;
        Ok(CudaCard {
            ordinal,
            name: context.name().w()?,
            compute_capability: (number(major), number(minor)),
            total: total as u64,
            free: free as u64,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PTX: &str = "//\n// Generated by NVIDIA NVVM Compiler\n//\n\
        // Cuda compilation tools, release 13.0, V13.0.88\n// Based on NVVM 20.0.0\n//\n\n\
        .version 9.0\n.target sm_80\n.address_size 64\n";

    #[test]
    fn ptx_tells_what_it_was_made_with_and_for() {
        let build = CudaBuild::of(PTX);
        let said = |text: &Option<String>| text.clone().unwrap_or_default();
        assert_eq!(said(&build.toolkit), "13.0");
        assert_eq!(said(&build.ptx), "9.0");
        assert_eq!(said(&build.target), "sm_80");
        let nothing = CudaBuild::of("");
        assert_eq!(nothing.target, None);
        assert_eq!(nothing.runs_on((8, 0)), None);
    }

    #[test]
    fn later_cards_run_what_was_built_for_earlier_ones() {
        let build = |target: &str| CudaBuild::of(&PTX.replace("sm_80", target));
        for (target, card, runs) in [
            ("sm_80", (7, 5), false),
            ("sm_80", (8, 0), true),
            ("sm_80", (8, 9), true),
            ("sm_80", (12, 0), true),
            ("sm_90a", (9, 0), true),
            ("sm_90a", (10, 0), false),
            ("sm_90a", (8, 0), false),
        ] {
            assert_eq!(build(target).runs_on(card), Some(runs), "{target} {card:?}");
        }
    }
}
