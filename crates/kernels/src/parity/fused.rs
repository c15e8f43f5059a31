//! What is fused held against its parts, to the last bit.

use candle_core::{DType, Device};

use super::{Cache, Case, Layout, Noise, values};
use crate::pages::Pages;
use crate::ragged::Ragged;

#[test]
fn a_sum_and_its_norm_are_the_sum_and_its_norm() {
    let mut noise = Noise::new(31);
    for width in [8, 30, 1024] {
        let (x, y) = (noise.tensor(&[2, 3, width]), noise.tensor(&[2, 3, width]));
        let (weight, bias) = (noise.tensor(&[width]), noise.tensor(&[width]));
        let sum = (&x + &y).unwrap();
        let rms = crate::rms_norm(&sum, &weight, 1e-5).unwrap();
        let layer = crate::layer_norm(&sum, &weight, &bias, 1e-5).unwrap();
        let fused_rms = crate::add_rms_norm(&x, &y, &weight, 1e-5).unwrap();
        let fused_layer = crate::add_layer_norm(&x, &y, &weight, &bias, 1e-5).unwrap();
        for ((fused_sum, fused), apart) in [(fused_rms, rms), (fused_layer, layer)] {
            assert_eq!(values(&fused_sum), values(&sum));
            assert_eq!(values(&fused), values(&apart));
        }
    }
    let (x, weight) = (noise.tensor(&[2, 8]), noise.tensor(&[8]));
    let other_shape = noise.tensor(&[1, 8]);
    let other_dtype = x.to_dtype(DType::BF16).unwrap();
    for added in [other_shape, other_dtype] {
        let error = crate::add_rms_norm(&x, &added, &weight, 1e-5).unwrap_err();
        assert!(error.to_string().contains("cannot be added"), "{error}");
        let error = crate::add_layer_norm(&x, &added, &weight, &weight, 1e-5).unwrap_err();
        assert!(error.to_string().contains("cannot be added"), "{error}");
    }
}

#[test]
fn a_joined_projection_goes_where_its_parts_go() {
    let mut noise = Noise::new(32);
    for dtype in [DType::F32, DType::F16, DType::BF16, DType::U8] {
        for (heads, kv_heads, head_dim, rotated) in [(4, 2, 24, 24), (6, 1, 16, 8), (3, 3, 10, 0)] {
            let case = Case {
                heads,
                kv_heads,
                head_dim,
                sequences: vec![(1, 40), (7, 7), (2, 33)],
                dtype,
            };
            let layout = Layout::scattered(&case.sequences, &mut noise);
            let ragged = Ragged::new(layout.as_ragged(), &Device::Cpu).unwrap();
            let rows = ragged.rows();
            let qkv = noise.tensor(&[rows, heads + 2 * kv_heads, head_dim]);
            let cos = noise.tensor(&[rows, rotated / 2]);
            let sin = noise.tensor(&[rows, rotated / 2]);
            let fused = [0, 1].map(|_| Cache::new(&layout, &case, &mut noise));
            let apart = fused.each_ref().map(Cache::copy);

            let angles = (rotated > 0).then_some((&cos, &sin));
            let (k, v) = (fused[0].pages(), fused[1].pages());
            let joined = qkv.flatten_from(1).unwrap();
            let query = crate::qkv_rope_write(&joined, angles, heads, k, v, &ragged).unwrap();

            let part = |first, count| qkv.narrow(1, first, count).unwrap();
            let turned = |x| match angles {
                Some((cos, sin)) => crate::rope(&x, cos, sin).unwrap(),
                None => x,
            };
            let key = turned(part(heads, kv_heads));
            let value = part(heads + kv_heads, kv_heads);
            let (k, v) = (apart[0].pages(), apart[1].pages());
            crate::write_kv(&key, &value, k, v, &ragged).unwrap();
            assert_eq!(values(&query), values(&turned(part(0, heads))));
            for (fused, apart) in fused.iter().zip(&apart) {
                assert_eq!(fused.bits(), apart.bits(), "{dtype:?}");
            }
        }
    }
}

#[test]
fn a_joined_projection_that_does_not_fit_is_refused_with_the_reason() {
    let mut noise = Noise::new(33);
    let layout = Layout::scattered(&[(2, 5)], &mut noise);
    let ragged = Ragged::new(layout.as_ragged(), &Device::Cpu).unwrap();
    let mut cache = |heads, width| noise.tensor(&[layout.blocks, crate::PAGE_TOKENS, heads, width]);
    let (cache, other) = (cache(2, 8), cache(1, 8));
    let mut noise = Noise::new(34);
    let (fits, wide) = (noise.tensor(&[2, 64]), noise.tensor(&[2, 72]));
    let (long, angles) = (noise.tensor(&[3, 64]), noise.tensor(&[2, 5]));
    let pages = Pages::from(&cache);
    let cases = [
        (&wide, None, pages, "do not fit 2 rows, 4 heads"),
        (&long, None, pages, "do not fit 2 rows, 4 heads"),
        (&fits, None, Pages::from(&other), "the caches differ"),
        (&fits, Some((&angles, &angles)), pages, "cannot take angles"),
    ];
    for (qkv, angles, v_pages, reason) in cases {
        let error = crate::qkv_rope_write(qkv, angles, 4, pages, v_pages, &ragged).unwrap_err();
        assert!(error.to_string().contains(reason), "{error}");
    }
    crate::qkv_rope_write(&fits, None, 4, pages, pages, &ragged).unwrap();
}
