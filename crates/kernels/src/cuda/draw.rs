//! Drawing tokens; see `cuda/draw.cu`.

#![expect(unsafe_code, reason = "a kernel is launched")]

use candle_core::{DType, Result, Tensor};

use super::launch::{Argument, Grid, Module, launch, module};
use crate::draw::Draw;

const DRAW: Module = module!("draw");

/// `THREADS` of the kernel.
const THREADS: usize = 1024;

/// Words of the kernel's `Draw`.
const WORDS: usize = 9;

/// What the kernel gives where the highest logit is no finite number.
const NOTHING: u32 = u32::MAX;

/// See [`crate::draw::draw`], which checks what is given.
pub(crate) fn draw(logits: &Tensor, draws: &[Draw]) -> Result<Vec<Option<u32>>> {
    let (_, width) = logits.dims2()?;
    let logits = logits.contiguous()?;
    let device = logits.device();
    let words: Vec<u32> = draws.iter().flat_map(words).collect();
    let words = Tensor::from_vec(words, (draws.len(), WORDS), device)?;
    // SAFETY: the kernel writes all of it before the host reads it.
    let ids = unsafe { Tensor::empty(draws.len(), DType::U32, device) }?;
    let grid = Grid {
        blocks: (draws.len(), 1),
        threads: THREADS,
    };
    let arguments = [
        Argument::Tensor(&logits),
        Argument::Tensor(&words),
        Argument::Tensor(&ids),
        Argument::Int(width),
    ];
    // SAFETY: the parameters of `draw.cu`; all arrays are dense and as large as it says, and the
    // rows of all draws are there.
    unsafe { launch(device, DRAW, "draw_f32", grid, &arguments) }?;
    let ids = ids.to_vec1::<u32>()?;
    Ok(ids
        .into_iter()
        .map(|id| (id != NOTHING).then_some(id))
        .collect())
}

/// A draw as the kernel takes it.
fn words(draw: &Draw) -> [u32; WORDS] {
    let Draw { row, terms, number } = draw;
    let halves = |number: u64| [number as u32, (number >> 32) as u32];
    let [share_low, share_high] = halves(terms.share().unwrap_or(0));
    let [least_low, least_high] = halves(terms.least());
    let [number_low, number_high] = halves(*number);
    [
        // More rows than that have no room on any card.
        *row as u32,
        terms.temperature.to_bits(),
        // 0 keeps all.
        terms.top_k.map_or(0, |k| k.max(1)),
        share_low,
        share_high,
        least_low,
        least_high,
        number_low,
        number_high,
    ]
}
