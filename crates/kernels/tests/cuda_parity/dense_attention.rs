//! Dense attention on a card against the CPU's.

use candle_core::{DType, Device, Tensor};
use vlmd_kernels::attention;

use super::{DTYPES, Noise, assert_near, device, rounding, there, values};

/// What two orders of summing f32 may differ by, of weights that are large.
const SUMS: f32 = 2e-5;

/// Heads of queries, heads of keys and width of a head: those of the towers and decoders that are
/// served, and others that fill a warp's lanes, or the tiles of tensor cores, in part.
const HEADS: [(usize, usize, usize); 12] = [
    (2, 2, 64),
    (3, 3, 80),
    (2, 1, 72),
    (2, 2, 88),
    (4, 2, 96),
    (8, 2, 128),
    (1, 1, 8),
    (3, 1, 40),
    (7, 1, 16),
    (2, 2, 136),
    (4, 1, 192),
    (2, 2, 256),
];

/// Attends on both devices and compares. `joined` has queries, keys and values side by side, of
/// which the first `rows` and `keys` are taken.
fn compare(
    (pictures, rows, keys): (usize, usize, usize),
    (heads, kv_heads, head_dim): (usize, usize, usize),
    dtype: DType,
    noise: &mut Noise,
) {
    let tokens = rows.max(keys);
    let joined = noise.tensor(&[pictures, tokens, heads + 2 * kv_heads, head_dim], dtype);
    let scale = 2. / (head_dim as f32).sqrt();
    let attend = |joined: &Tensor| {
        let part = |first, count, tokens| {
            let heads = joined.narrow(2, first, count).unwrap();
            heads.narrow(1, 0, tokens).unwrap()
        };
        let q = part(0, heads, rows);
        let k = part(heads, kv_heads, keys);
        let v = part(heads + kv_heads, kv_heads, keys);
        attention(&q, &k, &v, scale).unwrap()
    };
    let expected = attend(&joined);
    let found = attend(&there(&joined, dtype, &device()));
    assert_eq!(found.dtype(), dtype);
    assert!(found.is_contiguous());
    // Tensor cores take weights as 16-bit floats: each is off by half a step of them at most, and
    // so is the mean of values up to 2.
    let sums = SUMS + 2. * rounding(dtype);
    let what =
        format!("{pictures} x {rows} rows, {keys} keys, {heads}/{kv_heads} heads of {head_dim}");
    assert_near(&what, &found, &expected, dtype, sums);
}

#[test]
#[ignore = "needs a CUDA driver: tests/fake_cuda/kernels.sh"]
fn pictures_are_attended_as_on_the_cpu() {
    let mut noise = Noise(31);
    for heads in HEADS {
        for dtype in DTYPES {
            // Many rows and few of them; keys that fill no page, and one.
            for rows in [33 + noise.below(60), 1 + noise.below(9)] {
                let pictures = 1 + noise.below(3);
                let keys = 1 + noise.below(100);
                compare((pictures, rows, keys), heads, dtype, &mut noise);
            }
            compare((2, 1 + noise.below(70), 1), heads, dtype, &mut noise);
        }
    }
}

#[test]
#[ignore = "needs a CUDA driver: tests/fake_cuda/kernels.sh"]
fn few_rows_have_their_keys_split() {
    let mut noise = Noise(32);
    // Tiles of one row, of four and of eight; several tiles; all that few rows are, and one more.
    for (rows, heads) in [
        (1, (2, 2, 80)),
        (1, (8, 2, 128)),
        (3, (2, 2, 64)),
        (2, (6, 1, 256)),
        (5, (4, 1, 24)),
        (32, (1, 1, 16)),
        (33, (1, 1, 16)),
    ] {
        for dtype in DTYPES {
            for keys in [256, 257, 500 + noise.below(400)] {
                compare((1 + noise.below(2), rows, keys), heads, dtype, &mut noise);
            }
        }
    }
}

#[test]
#[ignore = "needs a CUDA driver: tests/fake_cuda/kernels.sh"]
fn what_the_kernels_do_not_take_is_attended_by_the_portable_route() {
    let mut noise = Noise(33);
    for heads in [(4, 2, 12), (2, 1, 264), (1, 1, 9)] {
        compare((2, 5, 40), heads, DType::F32, &mut noise);
    }
}

#[test]
#[ignore = "needs a CUDA driver: tests/fake_cuda/kernels.sh"]
fn a_picture_gives_the_same_to_the_last_bit_whatever_stands_beside_it() {
    let mut noise = Noise(34);
    let device = device();
    for (rows, keys) in [(1, 700), (40, 90)] {
        for dtype in DTYPES {
            let tensor = |noise: &mut Noise, tokens: usize, heads: usize| {
                there(
                    &noise.tensor(&[3, tokens, heads, 96], dtype),
                    dtype,
                    &device,
                )
            };
            let q = tensor(&mut noise, rows, 4);
            let k = tensor(&mut noise, keys, 2);
            let v = tensor(&mut noise, keys, 2);
            let all = attention(&q, &k, &v, 0.2).unwrap();
            for picture in 0..3 {
                let own = |x: &Tensor| x.narrow(0, picture, 1).unwrap();
                let alone = attention(&own(&q), &own(&k), &own(&v), 0.2).unwrap();
                assert_eq!(values(&alone), values(&own(&all)), "{dtype:?} {rows} rows");
            }
        }
    }
}

#[test]
#[ignore = "needs a CUDA driver: tests/fake_cuda/kernels.sh"]
fn rows_may_lie_anyhow() {
    let mut noise = Noise(35);
    let device = device();
    for dtype in DTYPES {
        let joined = noise.tensor(&[2, 40, 6, 64], dtype);
        let joined = there(&joined, dtype, &device);
        let part = |first| joined.narrow(2, first, 2).unwrap();
        let (q, k, v) = (part(0), part(2), part(4));
        let copied = |x: &Tensor| x.force_contiguous().unwrap();
        let across = |x: &Tensor| {
            let turned = x.transpose(1, 2).unwrap().contiguous().unwrap();
            turned.transpose(1, 2).unwrap()
        };
        // Begins off the alignment of wide loads.
        let shifted = |x: &Tensor| {
            let flat = copied(x).flatten_all().unwrap();
            let room = Tensor::cat(&[&flat.narrow(0, 0, 1).unwrap(), &flat], 0).unwrap();
            let count = flat.elem_count();
            let own = room.narrow(0, 1, count).unwrap();
            own.reshape(x.shape()).unwrap()
        };
        let attend = |q: &Tensor, k: &Tensor, v: &Tensor| values(&attention(q, k, v, 0.3).unwrap());
        let expected = attend(&copied(&q), &copied(&k), &copied(&v));
        assert_eq!(attend(&q, &k, &v), expected, "{dtype:?}");
        assert_eq!(attend(&q, &copied(&k), &v), expected, "{dtype:?}");
        assert_eq!(
            attend(&across(&q), &across(&k), &across(&v)),
            expected,
            "{dtype:?}"
        );
        assert_eq!(
            attend(&shifted(&q), &shifted(&k), &shifted(&v)),
            expected,
            "{dtype:?}"
        );
    }
}

#[test]
#[ignore = "needs a CUDA driver: tests/fake_cuda/kernels.sh"]
fn numbers_that_are_broken_stay_with_their_picture() {
    let mut noise = Noise(36);
    let device = device();
    for rows in [2, 40] {
        let tensor = |noise: &mut Noise, tokens| noise.tensor(&[2, tokens, 2, 64], DType::F32);
        let (q, k, v) = (
            tensor(&mut noise, rows),
            tensor(&mut noise, 50),
            tensor(&mut noise, 50),
        );
        let mut numbers = values(&v);
        numbers[50 * 2 * 64] = f32::NAN;
        let v = Tensor::from_vec(numbers, v.shape(), &Device::Cpu).unwrap();
        for dtype in DTYPES {
            let moved = |x: &Tensor| there(x, dtype, &device);
            let out = attention(&moved(&q), &moved(&k), &moved(&v), 0.3).unwrap();
            let of = |picture: usize| values(&out.narrow(0, picture, 1).unwrap());
            assert!(of(0).iter().all(|x| x.is_finite()), "{dtype:?}");
            assert!(
                of(1).iter().step_by(2 * 64).all(|x| x.is_nan()),
                "{dtype:?}"
            );
        }
    }
}
