//! The highest logits of each row.

use std::cmp::Ordering;

use candle_core::{Result, Tensor};

use super::host::with_f32;
use crate::highest::Highest;

/// See [`crate::highest()`].
pub(crate) fn highest(logits: &Tensor, count: usize) -> Result<Highest> {
    let (rows, width) = logits.dims2()?;
    let mut found = Highest {
        ids: Vec::with_capacity(rows * count),
        logits: Vec::with_capacity(rows * count),
    };
    let mut ids: Vec<u32> = Vec::with_capacity(width);
    with_f32(logits, |logits| {
        for row in logits.chunks_exact(width) {
            ids.clear();
            ids.extend((0..).take(width));
            let order = |a: &u32, b: &u32| before(row, *a, *b);
            if count < width {
                ids.select_nth_unstable_by(count, order);
            }
            ids[..count].sort_unstable_by(order);
            found.ids.extend_from_slice(&ids[..count]);
            found
                .logits
                .extend(ids[..count].iter().map(|id| row[*id as usize]));
        }
        Ok(())
    })?;
    Ok(found)
}

fn before(row: &[f32], a: u32, b: u32) -> Ordering {
    // NaN of either sign is the greatest of all; adding 0 makes zeros equal.
    let rank = |id: u32| {
        let logit = row[id as usize];
        if logit.is_nan() { f32::NAN } else { logit + 0. }
    };
    rank(b).total_cmp(&rank(a)).then(a.cmp(&b))
}
