//! Attention to codes in the build for every instruction set.

use super::super::code::{Code, quantised};
use super::*;
use crate::parity::Noise;

struct Straight;

impl KeyRows for Straight {
    fn row(&self, position: usize) -> usize {
        position
    }
}

#[test]
fn codes_and_their_numbers_attend_alike_in_every_instruction_set() {
    let mut noise = Noise::new(41);
    // Heads that fill vectors and heads that do not, few query rows and many.
    for (heads, kv_heads, head_dim, rows, keys) in [
        (2, 2, 16, 1, 130),
        (4, 2, 24, 1, 65),
        (3, 3, 7, 2, 9),
        (6, 3, 40, 40, 100),
        (2, 1, 96, 70, 70),
    ] {
        let q = noise.vec(rows * heads * head_dim);
        let mut values = noise.vec(2 * keys * kv_heads * head_dim);
        // Rows of very different sizes.
        for (row, values) in values.chunks_exact_mut(head_dim).enumerate() {
            let size = [1., 0.01, 3.][row % 3];
            values.iter_mut().for_each(|x| *x *= size);
        }
        let (codes, scales) = quantised(Level::get(), &values, head_dim);
        let codes = Code::from_bytes(&codes);
        let scaled = codes.chunks_exact(head_dim).zip(&scales);
        let numbers: Vec<f32> = scaled
            .flat_map(|(codes, scale)| codes.iter().map(move |code| code.to_f32() * scale))
            .collect();
        let shape = Shape {
            heads,
            kv_heads,
            head_dim,
            scale: 1. / (head_dim as f32).sqrt(),
        };
        let q = Rows {
            data: &q,
            stride: heads * head_dim,
        };
        let spans = [Span {
            first_row: 0,
            first_query: 0,
            rows,
            visible: keys - rows + 1,
            growth: 1,
            keys: Straight,
        }];
        let (k_codes, v_codes) = codes.split_at(codes.len() / 2);
        let (k_scales, v_scales) = scales.split_at(scales.len() / 2);
        let (k_numbers, v_numbers) = numbers.split_at(numbers.len() / 2);
        let stride = kv_heads * head_dim;
        for level in Level::all() {
            let mut found = vec![0.; rows * heads * head_dim];
            let mut exact = found.clone();
            let k = Stored {
                data: k_codes,
                stride,
                scales: Some(k_scales),
            };
            let v = Stored {
                data: v_codes,
                stride,
                scales: Some(v_scales),
            };
            attend(level, Heads { q, k, v, shape }, &spans, &mut found);
            let [k, v] = [k_numbers, v_numbers].map(|data| Stored {
                data,
                stride,
                scales: None,
            });
            attend(level, Heads { q, k, v, shape }, &spans, &mut exact);
            for (found, exact) in found.iter().zip(&exact) {
                let error = (found - exact).abs();
                assert!(error < 3e-6, "{level:?}: {found}, not {exact}");
            }
        }
    }
}
