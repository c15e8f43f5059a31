//! What chooses the next token.

use candle_core::{DType, Device, Result, Tensor};
use vlmd_kernels::{Draw, Terms};

use super::{Case, Noise, Role, Route, Run, Sizes, Work, of};

/// From -1..1 to logits of which a few hundred have most of the probability.
const SPREAD: f64 = 10.0;

/// By what tokens are drawn, one row after the other.
const TERMS: [Terms; 5] = [
    terms(0.0, None, 1.0, 0.0),
    terms(1.0, None, 1.0, 0.0),
    terms(0.7, None, 0.9, 0.0),
    terms(1.0, Some(50), 0.95, 0.0),
    terms(1.3, None, 1.0, 0.05),
];

const fn terms(temperature: f32, top_k: Option<u32>, top_p: f32, min_p: f32) -> Terms {
    Terms {
        temperature,
        top_k,
        top_p,
        min_p,
    }
}

/// A token from each row of a vocabulary. Only the very same one is right.
pub(super) fn draw(sizes: &Sizes, _: DType, noise: &mut Noise) -> Result<Case> {
    let (rows, vocab) = (sizes.sequences, 8 * sizes.inner);
    let logits = noise.tensor(&[rows, vocab])?.affine(SPREAD, 0.0)?;
    let draws: Vec<Draw> = (0..rows)
        .map(|row| Draw {
            row,
            terms: TERMS[row % TERMS.len()],
            // Apart from each other, and from the ends.
            number: (row as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15),
        })
        .collect();
    let work = Work {
        bytes: rows * vocab * size_of::<f32>(),
        flops: 0,
    };
    let shape = format!("{rows} x {vocab}");
    let tensors = vec![(Role::Plain, logits)];
    let prepare = move |tensors: &[Tensor], _: &Device, route| -> Result<Run> {
        let [logits] = of(tensors)?;
        let draws = draws.clone();
        Ok(match route {
            Route::Kernel => Box::new(move || {
                let drawn = vlmd_kernels::draw(&logits, &draws)?;
                // No id where logits were no numbers, which theirs are.
                let ids: Vec<u32> = drawn.into_iter().flatten().collect();
                Ok(vec![Tensor::new(ids, &Device::Cpu)?])
            }),
            Route::Twin => Box::new(move || {
                let rows = logits.to_vec2::<f32>()?;
                let ids: Vec<u32> = draws
                    .iter()
                    .map(|draw| sorted(&rows[draw.row], draw))
                    .collect();
                Ok(vec![Tensor::new(ids, &Device::Cpu)?])
            }),
        })
    };
    let mut case = Case::new(DType::F32, shape, tensors, work, prepare);
    case.bound = Some(0.0);
    Ok(case)
}

/// The token by a full sort and numbers of f64.
fn sorted(row: &[f32], draw: &Draw) -> u32 {
    let Terms {
        temperature,
        top_k,
        top_p,
        min_p,
    } = draw.terms;
    let mut tokens: Vec<(u32, f64)> = (0..).zip(row.iter().copied().map(f64::from)).collect();
    tokens.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    let (first, highest) = tokens[0];
    if temperature == 0.0 {
        return first;
    }
    for (_, logit) in &mut tokens {
        *logit = ((*logit - highest) / f64::from(temperature)).exp();
    }
    tokens.truncate(top_k.map_or(tokens.len(), |k| k as usize));
    let target = f64::from(top_p) * tokens.iter().map(|(_, weight)| weight).sum::<f64>();
    let mut sum = 0.0;
    tokens.retain(|(_, weight)| {
        let open = top_p >= 1.0 || sum < target;
        sum += weight;
        open && *weight >= f64::from(min_p)
    });
    tokens.sort_by_key(|(id, _)| *id);
    let total: f64 = tokens.iter().map(|(_, weight)| weight).sum();
    let mut rest = draw.number as f64 / 2f64.powi(64) * total;
    let there = tokens.iter().find(|(_, weight)| {
        rest -= weight;
        rest < 0.0
    });
    there.map_or(first, |(id, _)| *id)
}
