//! Every CUDA kernel against its CPU twin, on random ragged cases.
//!
//! These need a driver, so plain `cargo test` names them as ignored; `tests/fake_cuda/kernels.sh`
//! runs them on the fake driver and sees to it that every kernel was launched.

#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

use std::sync::LazyLock;

use candle_core::{DType, Device, Tensor};
use vlmd_kernels::{
    PAGE_TOKENS, Pages, Ragged, RaggedLayout, add_layer_norm, add_rms_norm, layer_norm,
    qkv_rope_write, quick_gelu, rms_norm, rope, squared_relu, swiglu,
};

#[path = "cuda_parity/dense_attention.rs"]
mod dense_attention;
#[path = "cuda_parity/draw.rs"]
mod draw;
#[path = "cuda_parity/paged_attention.rs"]
mod paged_attention;
#[path = "cuda_parity/patches.rs"]
mod patches;
#[path = "cuda_parity/write_codes.rs"]
mod write_codes;

const DTYPES: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

/// Numbers without a pattern, the same in every run.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 24
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    /// On the CPU, f32, but numbers that `dtype` holds, within -2..2.
    fn tensor(&mut self, shape: &[usize], dtype: DType) -> Tensor {
        let count = shape.iter().product();
        let scale = 1. / (1u64 << 38) as f32;
        let numbers: Vec<f32> = (0..count)
            .map(|_| self.next() as f32 * scale - 2.)
            .collect();
        let tensor = Tensor::from_vec(numbers, shape, &Device::Cpu).unwrap();
        tensor
            .to_dtype(dtype)
            .unwrap()
            .to_dtype(DType::F32)
            .unwrap()
    }
}

/// The one device: tensors of two are never used together, even if it is the same card.
fn device() -> Device {
    static DEVICE: LazyLock<Device> = LazyLock::new(|| Device::new_cuda(0).unwrap());
    DEVICE.clone()
}

/// The same numbers on the card.
fn there(x: &Tensor, dtype: DType, device: &Device) -> Tensor {
    x.to_dtype(dtype).unwrap().to_device(device).unwrap()
}

fn values(x: &Tensor) -> Vec<f32> {
    let here = x.to_device(&Device::Cpu).unwrap();
    let flat = here.to_dtype(DType::F32).unwrap().flatten_all().unwrap();
    flat.to_vec1().unwrap()
}

/// How far a result may be off that was rounded to `dtype` once, as a part of its size.
fn rounding(dtype: DType) -> f32 {
    match dtype {
        DType::F16 => 1. / 2048.,
        DType::BF16 => 1. / 256.,
        _ => 0.,
    }
}

/// Fails where results are further apart than one rounding to `dtype` and `sums`, what two orders
/// of summing f32 may differ by.
fn assert_near(what: &str, found: &Tensor, expected: &Tensor, dtype: DType, sums: f32) {
    assert_eq!(found.dims(), expected.dims(), "{what}");
    for (at, (found, expected)) in values(found).into_iter().zip(values(expected)).enumerate() {
        let bound = rounding(dtype) * expected.abs() * 1.01 + sums;
        let apart = (found - expected).abs();
        assert!(
            apart <= bound,
            "{what} in {dtype:?}: element {at} is {found}, not {expected}"
        );
    }
}

/// Widths for each path: packs and none, one thread, a block's worth, more than that.
const WIDTHS: [usize; 9] = [1, 7, 8, 12, 30, 96, 1024, 3072, 9001];

#[test]
#[ignore = "needs a CUDA driver: tests/fake_cuda/kernels.sh"]
fn norms_equal_the_cpu() {
    let device = device();
    let mut noise = Noise(1);
    for dtype in DTYPES {
        for width in WIDTHS {
            let rows = 1 + noise.below(4);
            let mut tensor = |shape: &[usize]| {
                let here = noise.tensor(shape, dtype);
                (there(&here, dtype, &device), here)
            };
            let (gpu_x, x) = tensor(&[rows, 2, width]);
            let (gpu_y, y) = tensor(&[rows, 2, width]);
            let (gpu_w, w) = tensor(&[width]);
            let (gpu_b, b) = tensor(&[width]);
            let near = |what: &str, found: &Tensor, expected: &Tensor| {
                assert_near(&format!("{what} of {width}"), found, expected, dtype, 2e-5);
            };
            let found = rms_norm(&gpu_x, &gpu_w, 1e-5).unwrap();
            near("rms norm", &found, &rms_norm(&x, &w, 1e-5).unwrap());
            if width > 1 {
                let found = layer_norm(&gpu_x, &gpu_w, &gpu_b, 1e-5).unwrap();
                near("layer norm", &found, &layer_norm(&x, &w, &b, 1e-5).unwrap());
            }
            // What is normed is the sum as it was rounded.
            let sum = (&x + &y).unwrap().to_dtype(dtype).unwrap();
            let sum = sum.to_dtype(DType::F32).unwrap();
            let (found, normed) = add_rms_norm(&gpu_x, &gpu_y, &gpu_w, 1e-5).unwrap();
            assert_eq!(
                values(&found),
                values(&sum),
                "sums are exact but for rounding"
            );
            near(
                "sum and rms norm",
                &normed,
                &rms_norm(&sum, &w, 1e-5).unwrap(),
            );
            if width > 1 {
                let (found, normed) = add_layer_norm(&gpu_x, &gpu_y, &gpu_w, &gpu_b, 1e-5).unwrap();
                assert_eq!(
                    values(&found),
                    values(&sum),
                    "sums are exact but for rounding"
                );
                let expected = layer_norm(&sum, &w, &b, 1e-5).unwrap();
                near("sum and layer norm", &normed, &expected);
            }
        }
    }
}

#[test]
#[ignore = "needs a CUDA driver: tests/fake_cuda/kernels.sh"]
fn activations_equal_the_cpu() {
    type Activation = fn(&Tensor) -> candle_core::Result<Tensor>;
    let activations: [(&str, Activation); 3] = [
        ("swiglu", swiglu),
        ("quick gelu", quick_gelu),
        ("squared relu", squared_relu),
    ];
    let device = device();
    let mut noise = Noise(2);
    for dtype in DTYPES {
        for width in WIDTHS {
            let rows = 1 + noise.below(3);
            let x = noise.tensor(&[rows, 2 * width], dtype);
            let x = x.affine(4., 0.).unwrap();
            let gpu_x = there(&x, dtype, &device);
            for (name, activation) in activations {
                let (found, expected) = (activation(&gpu_x).unwrap(), activation(&x).unwrap());
                assert_near(name, &found, &expected, dtype, 1e-5);
            }
            // No rows: there is nothing to launch, and nothing to allocate.
            let nothing = gpu_x.narrow(0, 0, 0).unwrap();
            assert_eq!(swiglu(&nothing).unwrap().dims(), [0, width]);
            assert_eq!(quick_gelu(&nothing).unwrap().dims(), [0, 2 * width]);
            // A part that starts off the alignment of wide loads.
            let (part, gpu_part) = (x.narrow(0, 0, 1).unwrap(), gpu_x.narrow(0, 0, 1).unwrap());
            let part = part.narrow(1, 1, 2 * width - 1).unwrap();
            let gpu_part = gpu_part.narrow(1, 1, 2 * width - 1).unwrap();
            let (found, expected) = (quick_gelu(&gpu_part).unwrap(), quick_gelu(&part).unwrap());
            assert_near("a part", &found, &expected, dtype, 1e-5);
        }
    }
    let broken = Tensor::new(&[f32::NAN, 1., -1.], &device).unwrap();
    let broken = values(&squared_relu(&broken).unwrap());
    assert!(broken[0].is_nan() && broken[1..] == [1., 0.], "{broken:?}");
}

/// Heads of queries, heads of keys, width of a head and of its turned part.
const HEADS: [(usize, usize, usize, usize); 9] = [
    (1, 1, 8, 8),
    (4, 2, 24, 24),
    (4, 4, 12, 6),
    (6, 1, 16, 0),
    (8, 8, 96, 96),
    (32, 4, 64, 32),
    (4, 1, 128, 128),
    (6, 2, 10, 10),
    (5, 5, 40, 40),
];

#[test]
#[ignore = "needs a CUDA driver: tests/fake_cuda/kernels.sh"]
fn rope_equals_the_cpu() {
    let device = device();
    let mut noise = Noise(3);
    for dtype in DTYPES {
        for (heads, others, head_dim, rotated) in HEADS {
            let tokens = 1 + noise.below(7);
            let joined = noise.tensor(&[tokens, heads + others, head_dim], dtype);
            let gpu_joined = there(&joined, dtype, &device);
            let cos = noise.tensor(&[tokens, rotated / 2], dtype);
            let sin = noise.tensor(&[tokens, rotated / 2], dtype);
            if rotated == 0 {
                continue;
            }
            let gpu_cos = there(&cos, dtype, &device);
            let gpu_sin = there(&sin, dtype, &device);
            let x = joined.narrow(1, others, heads).unwrap();
            let gpu_x = gpu_joined.narrow(1, others, heads).unwrap();
            let found = rope(&gpu_x, &gpu_cos, &gpu_sin).unwrap();
            let expected = rope(&x, &cos, &sin).unwrap();
            assert_near("rope", &found, &expected, dtype, 2e-6);
            // Angles of another dtype, and heads that lie apart.
            let across = gpu_x.transpose(0, 1).unwrap().contiguous().unwrap();
            let across = across.transpose(0, 1).unwrap();
            let wide = |table: &Tensor| table.to_device(&device).unwrap();
            let found = rope(&across, &wide(&cos), &wide(&sin)).unwrap();
            assert_near("rope of heads apart", &found, &expected, dtype, 2e-6);
        }
    }
}

/// A step over sequences whose pages are scattered over a cache.
struct Scattered {
    cu_q: Vec<u32>,
    kv_len: Vec<u32>,
    kv_slots: Vec<u32>,
    block_table: Vec<u32>,
    max_blocks: usize,
    blocks: usize,
}

impl Scattered {
    fn new(noise: &mut Noise) -> Self {
        let sequences: Vec<(usize, usize)> = (0..1 + noise.below(4))
            .map(|_| {
                let kv = 1 + noise.below(90);
                (1 + noise.below(kv.min(9)), kv)
            })
            .collect();
        Self::of(&sequences, noise)
    }

    /// New rows and tokens of each sequence.
    fn of(sequences: &[(usize, usize)], noise: &mut Noise) -> Self {
        let pages = |&(_, kv): &(usize, usize)| kv.div_ceil(PAGE_TOKENS);
        let max_blocks = sequences.iter().map(pages).max().unwrap();
        let blocks = sequences.iter().map(pages).sum::<usize>() + 2;
        let mut free: Vec<u32> = (0..blocks as u32).collect();
        for i in (1..blocks).rev() {
            free.swap(i, noise.below(i + 1));
        }
        let mut step = Self {
            cu_q: vec![0],
            kv_len: Vec::new(),
            kv_slots: Vec::new(),
            block_table: Vec::new(),
            max_blocks,
            blocks,
        };
        for &(rows, kv) in sequences {
            let mut own = free.split_off(free.len() - kv.div_ceil(PAGE_TOKENS));
            step.kv_slots.extend((kv - rows..kv).map(|position| {
                own[position / PAGE_TOKENS] * PAGE_TOKENS as u32 + (position % PAGE_TOKENS) as u32
            }));
            own.resize(max_blocks, 0);
            step.block_table.extend(own);
            step.cu_q.push(step.kv_slots.len() as u32);
            step.kv_len.push(kv as u32);
        }
        step
    }

    fn ragged(&self, device: &Device) -> Ragged {
        let layout = RaggedLayout {
            cu_q: &self.cu_q,
            kv_len: &self.kv_len,
            kv_slots: &self.kv_slots,
            block_table: &self.block_table,
            max_blocks: self.max_blocks,
        };
        Ragged::new(layout, device).unwrap()
    }
}

#[test]
#[ignore = "needs a CUDA driver: tests/fake_cuda/kernels.sh"]
fn queries_keys_and_values_arrive_where_the_cpu_puts_them() {
    let device = device();
    let mut noise = Noise(4);
    for dtype in DTYPES {
        for cached in DTYPES {
            for (heads, kv_heads, head_dim, rotated) in HEADS {
                let step = Scattered::new(&mut noise);
                let tokens = step.kv_slots.len();
                let width = (heads + 2 * kv_heads) * head_dim;
                let qkv = noise.tensor(&[tokens, width], dtype);
                let cos = noise.tensor(&[tokens, rotated / 2], dtype);
                let sin = noise.tensor(&[tokens, rotated / 2], dtype);
                let shape = [step.blocks, PAGE_TOKENS, kv_heads, head_dim];
                let caches = [0, 1].map(|_| noise.tensor(&shape, cached));
                let here = caches.each_ref().map(|c| c.to_dtype(cached).unwrap());
                let gpu = here.each_ref().map(|c| c.to_device(&device).unwrap());
                let angles = (rotated > 0).then_some((&cos, &sin));
                let expected = qkv_rope_write(
                    &qkv,
                    angles,
                    heads,
                    Pages::from(&here[0]),
                    Pages::from(&here[1]),
                    &step.ragged(&Device::Cpu),
                );
                let gpu_qkv = there(&qkv, dtype, &device);
                let tables = angles.map(|(cos, sin)| {
                    let table = |x| there(x, dtype, &device);
                    (table(cos), table(sin))
                });
                let found = qkv_rope_write(
                    &gpu_qkv,
                    tables.as_ref().map(|(cos, sin)| (cos, sin)),
                    heads,
                    Pages::from(&gpu[0]),
                    Pages::from(&gpu[1]),
                    &step.ragged(&device),
                );
                assert_near("queries", &found.unwrap(), &expected.unwrap(), dtype, 2e-6);
                // Ties between two neighbours of a 16-bit type may be broken either way.
                let kept = format!("keys of {dtype:?}");
                let steps = 2e-6 + rounding(cached) * 0.01;
                assert_near(&kept, &gpu[0], &here[0], cached, steps);
                assert_eq!(
                    values(&gpu[1]),
                    values(&here[1]),
                    "values are moved as they are"
                );
            }
        }
    }
}
