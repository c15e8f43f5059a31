//! Paged attention on a card against the CPU's, on pages that hold NaN wherever no token is.

use candle_core::{DType, Device, Tensor};
use vlmd_kernels::{PAGE_TOKENS, Pages, paged_attention};

use super::{DTYPES, Noise, Scattered, assert_near, device, rounding, there, values};

/// What two orders of summing f32 may differ by, of weights that are large.
const SUMS: f32 = 2e-5;

/// Heads of queries, heads of keys and width of a head: groups of one head to twelve, in one tile
/// of a decode and in two, and widths that fill a warp's lanes in part.
const HEADS: [(usize, usize, usize); 10] = [
    (2, 2, 64),
    (2, 1, 96),
    (8, 2, 128),
    (16, 2, 80),
    (3, 3, 128),
    (6, 2, 40),
    (12, 1, 256),
    (7, 1, 8),
    (4, 4, 192),
    (8, 1, 64),
];

/// Keys or values in pages, on the CPU and on a card.
struct Cache {
    here: (Tensor, Option<Tensor>),
    there: (Tensor, Option<Tensor>),
}

impl Cache {
    /// Numbers in `dtype`, or codes and scales for u8.
    fn new(
        step: &Scattered,
        (kv_heads, head_dim): (usize, usize),
        dtype: DType,
        noise: &mut Noise,
    ) -> Self {
        let rows = step.blocks * PAGE_TOKENS;
        let mut inside = vec![f32::NAN; rows];
        for (own, &kv_len) in step.block_table.chunks(step.max_blocks).zip(&step.kv_len) {
            for position in 0..kv_len as usize {
                let block = own[position / PAGE_TOKENS] as usize;
                inside[block * PAGE_TOKENS + position % PAGE_TOKENS] = 0.;
            }
        }
        let inside = Tensor::from_vec(inside, (rows, 1, 1), &Device::Cpu).unwrap();
        let numbers = noise.tensor(&[rows, kv_heads, head_dim], DType::F32);
        let shape = [step.blocks, PAGE_TOKENS, kv_heads, head_dim];
        let here = if dtype == DType::U8 {
            let codes = numbers.affine(63., 128.).unwrap().to_dtype(dtype).unwrap();
            let scales = noise.tensor(&[rows, kv_heads, 1], DType::F32);
            let scales = scales.affine(0.004, 0.01).unwrap();
            let scales = scales.broadcast_add(&inside).unwrap();
            (codes, Some(scales.reshape(&shape[..3]).unwrap()))
        } else {
            let numbers = numbers.broadcast_add(&inside).unwrap();
            (numbers.to_dtype(dtype).unwrap(), None)
        };
        let here = (here.0.reshape(&shape[..]).unwrap(), here.1);
        let device = device();
        let moved = |x: &Tensor| x.to_device(&device).unwrap();
        let there = (moved(&here.0), here.1.as_ref().map(moved));
        Self { here, there }
    }

    fn here(&self) -> Pages<'_> {
        pages(&self.here)
    }

    fn there(&self) -> Pages<'_> {
        pages(&self.there)
    }
}

fn pages((data, scales): &(Tensor, Option<Tensor>)) -> Pages<'_> {
    Pages {
        data,
        scales: scales.as_ref(),
    }
}

/// New rows and tokens of some sequences: decodes short and long, whole prompts, chunks of
/// prompts, and one that is not in the step.
fn sequences(noise: &mut Noise) -> Vec<(usize, usize)> {
    let mut all = vec![(1, 260 + noise.below(300)), (0, 1 + noise.below(50))];
    for _ in 0..1 + noise.below(4) {
        let kv = 1 + noise.below(120);
        all.push(match noise.below(3) {
            0 => (1, kv),
            1 => (kv, kv),
            _ => (1 + noise.below(kv), kv),
        });
    }
    let by = noise.below(all.len());
    all.rotate_left(by);
    all
}

/// Attends on both devices and compares.
fn compare(
    (heads, kv_heads, head_dim): (usize, usize, usize),
    (dtype, cached): (DType, DType),
    noise: &mut Noise,
) {
    let sequences = sequences(noise);
    let step = Scattered::of(&sequences, noise);
    let device = device();
    let q = noise.tensor(&[step.kv_slots.len(), heads, head_dim], dtype);
    let k = Cache::new(&step, (kv_heads, head_dim), cached, noise);
    let v = Cache::new(&step, (kv_heads, head_dim), cached, noise);
    let scale = 2. / (head_dim as f32).sqrt();
    let ragged = step.ragged(&Device::Cpu);
    let expected = paged_attention(&q, k.here(), v.here(), &ragged, scale).unwrap();
    let q = there(&q, dtype, &device);
    let ragged = step.ragged(&device);
    let found = paged_attention(&q, k.there(), v.there(), &ragged, scale).unwrap();
    assert_eq!(found.dtype(), dtype);
    // Tensor cores take weights as 16-bit floats: each is off by half a step of them at most, and
    // so is the mean of values up to 2.
    let weights = if cached == dtype { rounding(dtype) } else { 0. };
    let what = format!(
        "{heads}/{kv_heads} heads of {head_dim} over {cached:?} for rows and tokens {sequences:?}"
    );
    assert_near(&what, &found, &expected, dtype, SUMS + 2. * weights);
}

#[test]
#[ignore = "needs a CUDA driver: tests/fake_cuda/kernels.sh"]
fn ragged_steps_are_attended_as_on_the_cpu() {
    let mut noise = Noise(21);
    for heads in HEADS {
        for dtype in DTYPES {
            compare(heads, (dtype, dtype), &mut noise);
            compare(heads, (dtype, DType::U8), &mut noise);
        }
    }
}

#[test]
#[ignore = "needs a CUDA driver: tests/fake_cuda/kernels.sh"]
fn what_the_kernels_do_not_take_is_attended_by_the_portable_route() {
    let mut noise = Noise(22);
    for (heads, cached) in [
        ((4, 2, 12), DType::F32),
        ((2, 1, 264), DType::F32),
        ((2, 2, 64), DType::F16),
    ] {
        compare(heads, (DType::F32, cached), &mut noise);
    }
}

#[test]
#[ignore = "needs a CUDA driver: tests/fake_cuda/kernels.sh"]
fn a_row_is_the_same_to_the_last_bit_whatever_else_is_in_the_step() {
    let mut noise = Noise(23);
    let device = device();
    let (heads, kv_heads, head_dim) = (8, 2, 96);
    for own in [(1, 700), (1, 20), (45, 130)] {
        let all = [(3, 40), own, (1, 900)];
        let step = Scattered::of(&all, &mut noise);
        let rows = step.kv_slots.len();
        let q = noise.tensor(&[rows, heads, head_dim], DType::F32);
        let q = q.to_device(&device).unwrap();
        let k = Cache::new(&step, (kv_heads, head_dim), DType::F32, &mut noise);
        let v = Cache::new(&step, (kv_heads, head_dim), DType::F32, &mut noise);
        let attend = |step: &Scattered, q: &Tensor| {
            let ragged = step.ragged(&device);
            let out = paged_attention(q, k.there(), v.there(), &ragged, 0.2).unwrap();
            values(&out)
        };
        let among_others = attend(&step, &q);
        let (first, last) = (step.cu_q[1] as usize, step.cu_q[2] as usize);
        let alone = Scattered {
            cu_q: vec![0, own.0 as u32],
            kv_len: vec![own.1 as u32],
            kv_slots: step.kv_slots[first..last].to_vec(),
            block_table: step.block_table[step.max_blocks..2 * step.max_blocks].to_vec(),
            max_blocks: step.max_blocks,
            blocks: step.blocks,
        };
        let alone = attend(&alone, &q.narrow(0, first, own.0).unwrap());
        let width = heads * head_dim;
        assert_eq!(alone, among_others[first * width..last * width], "{own:?}");
    }
}

#[test]
#[ignore = "needs a CUDA driver: tests/fake_cuda/kernels.sh"]
fn queries_may_be_part_of_a_joined_projection_or_lie_across() {
    let mut noise = Noise(24);
    let device = device();
    for dtype in DTYPES {
        let step = Scattered::of(&[(4, 50), (1, 33)], &mut noise);
        let joined = noise.tensor(&[5, 8, 64], dtype);
        let joined = there(&joined, dtype, &device);
        let k = Cache::new(&step, (2, 64), dtype, &mut noise);
        let ragged = step.ragged(&device);
        let attend = |q: &Tensor| {
            let out = paged_attention(q, k.there(), k.there(), &ragged, 0.3).unwrap();
            values(&out)
        };
        let part = joined.narrow(1, 3, 4).unwrap();
        let expected = attend(&part.force_contiguous().unwrap());
        assert_eq!(attend(&part), expected, "{dtype:?}");
        let across = part.transpose(0, 1).unwrap().contiguous().unwrap();
        let across = across.transpose(0, 1).unwrap();
        assert_eq!(attend(&across), expected, "{dtype:?}");
    }
}

#[test]
#[ignore = "needs a CUDA driver: tests/fake_cuda/kernels.sh"]
fn a_step_without_new_rows_gives_none() {
    let mut noise = Noise(25);
    let device = device();
    let step = Scattered::of(&[(0, 50)], &mut noise);
    let k = Cache::new(&step, (1, 16), DType::F32, &mut noise);
    let q = Tensor::zeros((1, 2, 16), DType::F32, &device).unwrap();
    let q = q.narrow(0, 0, 0).unwrap();
    let ragged = step.ragged(&device);
    let out = paged_attention(&q, k.there(), k.there(), &ragged, 1.).unwrap();
    assert_eq!(out.dims(), [0, 2, 16]);
}
