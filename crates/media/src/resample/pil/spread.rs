//! The horizontal pass of pictures that become much wider.
//!
//! Neighbouring outputs look at nearly the same inputs then, so they are computed side by side and
//! no rows need turning. That keeps lines of some pixels by 65535, on which the horizontal pass
//! has to make 65535 wide rows, from costing many times what a square of as many pixels costs.

use super::{CHANNELS, HALF, SIDE, Taps, to_bytes};

/// Outputs per input from which on this is the faster way.
const LEAST_RATIO: usize = 2;

/// [`Taps`] for [`SIDE`] outputs at a time.
#[derive(Debug)]
pub(super) struct Spread {
    blocks: Vec<Block>,
    /// Weights of an input for the outputs of a block, 0 where it has no part in one.
    weights: Vec<[i32; SIDE]>,
    outputs: usize,
}

/// Outputs side by side.
#[derive(Debug)]
struct Block {
    /// First byte of a picture's row that is looked at.
    from: usize,
    /// First of the weights in [`Spread::weights`].
    start: usize,
    /// Inputs, and as many weights.
    len: usize,
}

impl Spread {
    /// `None` where it would not pay. `taps` must not be empty.
    pub(super) fn new(taps: &Taps) -> Option<Self> {
        let outputs = taps.spans.len();
        if taps.identity || outputs < taps.inputs(0..outputs).len() * LEAST_RATIO {
            return None;
        }
        let mut blocks = Vec::with_capacity(outputs.div_ceil(SIDE));
        let mut weights = Vec::new();
        for first in (0..outputs).step_by(SIDE) {
            let block = first..outputs.min(first + SIDE);
            let inputs = taps.inputs(block.clone());
            let start = weights.len();
            weights.resize(start + inputs.len(), [0; SIDE]);
            for (side, output) in block.enumerate() {
                let (from, own) = taps.of(output);
                for (row, weight) in weights[start + from - inputs.start..].iter_mut().zip(own) {
                    row[side] = *weight;
                }
            }
            blocks.push(Block {
                from: inputs.start * CHANNELS,
                start,
                len: inputs.len(),
            });
        }
        Some(Self {
            blocks,
            weights,
            outputs,
        })
    }

    /// Resamples a row across. `planes` gets its channels one after the other.
    // Inlined into the caller that is compiled once per instruction set.
    #[inline(always)]
    pub(super) fn row(&self, row: &[u8], planes: &mut [u8]) {
        for (channel, plane) in planes.chunks_exact_mut(self.outputs).enumerate() {
            let row = &row[channel..];
            let (whole, rest) = plane.as_chunks_mut();
            let mut blocks = self.blocks.iter();
            // In this order: asking for a block when none is left to fill would lose it.
            for (out, block) in whole.iter_mut().zip(&mut blocks) {
                *out = self.weigh(block, row);
            }
            for block in blocks {
                let bytes = self.weigh(block, row);
                rest.copy_from_slice(&bytes[..rest.len()]);
            }
        }
    }

    /// The outputs of a block. `row` begins with the channel's byte of the first pixel.
    #[inline(always)]
    fn weigh(&self, block: &Block, row: &[u8]) -> [u8; SIDE] {
        let weights = &self.weights[block.start..][..block.len];
        let values = row[block.from..].iter().step_by(CHANNELS);
        let mut sums = [HALF; SIDE];
        for (weights, value) in weights.iter().zip(values) {
            let value = i32::from(*value);
            for side in 0..SIDE {
                sums[side] = sums[side].wrapping_add(weights[side].wrapping_mul(value));
            }
        }
        to_bytes(&sums)
    }
}

/// Puts a row's channels side by side again.
pub(super) fn join(planes: &[u8], row: &mut [u8]) {
    let width = row.len() / CHANNELS;
    for (channel, plane) in planes.chunks_exact(width).enumerate() {
        for (pixel, byte) in row.chunks_exact_mut(CHANNELS).zip(plane) {
            pixel[channel] = *byte;
        }
    }
}
