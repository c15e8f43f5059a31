//! Dense attention: both routes, and rows that are parts of wider ones.

use candle_core::{DType, Tensor};

use super::{Noise, largest_difference, values};
use crate::{attention, cpu, portable};

#[test]
fn dense_attention_equals_the_portable_route() {
    let mut noise = Noise::new(7);
    for (n, len, keys, heads, kv_heads, head_dim) in [
        (1, 1, 1, 1, 1, 8),
        (2, 65, 65, 3, 3, 12),
        (2, 145, 145, 2, 2, 64),
        (1, 577, 577, 2, 2, 96),
        (1, 3, 200, 8, 2, 16),
        (2, 70, 9, 4, 1, 32),
    ] {
        let shape = [n, len, heads, head_dim];
        let q = noise.tensor(&shape);
        let k = noise.tensor(&[n, keys, kv_heads, head_dim]);
        let v = noise.tensor(&[n, keys, kv_heads, head_dim]);
        let ours = cpu::attention(&q, &k, &v, 0.3).unwrap();
        let theirs = portable::attention(&q, &k, &v, 0.3).unwrap();
        let difference = largest_difference(&ours, &theirs);
        assert!(difference < 2e-6, "{shape:?}: {difference}");
    }
}

/// Queries, keys and values as parts of one projection `[n, tokens, (heads + 2 * kv_heads), head_dim]`.
fn parts(joined: &Tensor, heads: usize, kv_heads: usize) -> [Tensor; 3] {
    let part = |first, count| joined.narrow(2, first, count).unwrap();
    [
        part(0, heads),
        part(heads, kv_heads),
        part(heads + kv_heads, kv_heads),
    ]
}

#[test]
fn parts_of_a_joined_projection_are_attended_as_copies_of_them() {
    let mut noise = Noise::new(36);
    for (n, tokens, heads, kv_heads, head_dim) in [
        (1, 70, 4, 4, 24),
        (3, 33, 4, 2, 16),
        (2, 5, 1, 1, 7),
        (2, 1, 3, 3, 12),
    ] {
        let joined = noise.tensor(&[n, tokens, heads + 2 * kv_heads, head_dim]);
        let own = parts(&joined, heads, kv_heads);
        let copies = own.each_ref().map(|x| x.force_contiguous().unwrap());
        let attend = |[q, k, v]: &[Tensor; 3]| attention(q, k, v, 0.4).unwrap();
        let expected = attend(&copies);
        let what = format!("{n} x {tokens} x {heads}/{kv_heads} x {head_dim}");
        let found = attend(&own);
        assert!(found.is_contiguous(), "{what}");
        assert_eq!(values(&found), values(&expected), "{what}");
        let other = portable::attention(&own[0], &own[1], &own[2], 0.4).unwrap();
        assert!(largest_difference(&found, &other) < 2e-6, "{what}");

        // Some rows, and fewer keys than there are: pictures are no whole number of parts apart.
        let (rows, keys) = (tokens.div_ceil(3), tokens.div_ceil(2));
        let some = |all: &[Tensor; 3]| {
            let [q, k, v] = all;
            let first = tokens - rows;
            let q = q.narrow(1, first, rows).unwrap();
            let [k, v] = [k, v].map(|x| x.narrow(1, 0, keys).unwrap());
            values(&attention(&q, &k, &v, 0.4).unwrap())
        };
        assert_eq!(some(&own), some(&copies), "{what}");
    }
}

#[test]
fn keys_and_values_may_lie_otherwise_than_each_other() {
    let mut noise = Noise::new(37);
    let (n, tokens, heads, head_dim) = (2, 40, 2, 16);
    let joined = noise.tensor(&[n, tokens, 3 * heads, head_dim]);
    let [q, k, v] = parts(&joined, heads, heads);
    let expected = values(&attention(&q, &k, &v, 0.4).unwrap());
    let attended = |k: &Tensor, v: &Tensor| values(&attention(&q, k, v, 0.4).unwrap());
    let copied = |x: &Tensor| x.force_contiguous().unwrap();
    assert_eq!(attended(&copied(&k), &v), expected);
    assert_eq!(attended(&k, &copied(&v)), expected);
    // Heads apart, as after a transposition.
    let across = |x: &Tensor| {
        let turned = x.transpose(1, 2).unwrap().contiguous().unwrap();
        turned.transpose(1, 2).unwrap()
    };
    assert_eq!(attended(&across(&k), &across(&v)), expected);
    // One picture's keys for all of them.
    let shared = |x: &Tensor| {
        let first = x.narrow(0, 0, 1).unwrap();
        let all = first.broadcast_as(x.shape()).unwrap();
        (all.clone(), all.force_contiguous().unwrap())
    };
    let ((k, k_copy), (v, v_copy)) = (shared(&k), shared(&v));
    assert_eq!(attended(&k, &v), attended(&k_copy, &v_copy));
}

#[test]
fn parts_in_16_bits_are_attended_where_they_are() {
    let mut noise = Noise::new(38);
    for dtype in [DType::F16, DType::BF16] {
        let joined = noise.tensor(&[2, 50, 6, 20]);
        let [q, _, _] = parts(&joined, 2, 2);
        let [_, k, v] = parts(&joined.to_dtype(dtype).unwrap(), 2, 2);
        let copied = |x: &Tensor| x.force_contiguous().unwrap();
        let found = attention(&q, &k, &v, 0.4).unwrap();
        let expected = attention(&q, &copied(&k), &copied(&v), 0.4).unwrap();
        assert_eq!(values(&found), values(&expected), "{dtype:?}");
    }
}
