//! The CPU kernels held against the portable route, on the same tensors.

mod dense;
mod fused;
mod int8;
mod patches;

use candle_core::{DType, Device, Result, Tensor};

use crate::pages::Pages;
use crate::ragged::{PAGE_TOKENS, Ragged, RaggedLayout};
use crate::{cpu, portable};

/// A source of numbers without a pattern, the same in every run.
pub(crate) struct Noise(u64);

impl Noise {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 24
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    /// Numbers within -1..1.
    pub(crate) fn vec(&mut self, count: usize) -> Vec<f32> {
        let scale = 1. / (1u64 << 39) as f32;
        (0..count)
            .map(|_| self.next() as f32 * scale - 1.)
            .collect()
    }

    fn tensor(&mut self, shape: &[usize]) -> Tensor {
        let values = self.vec(shape.iter().product());
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    fn shuffled(&mut self, count: usize) -> Vec<u32> {
        let mut all: Vec<u32> = (0..count as u32).collect();
        for i in (1..count).rev() {
            all.swap(i, self.below(i + 1));
        }
        all
    }
}

fn values(tensor: &Tensor) -> Vec<f32> {
    let flat = tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap();
    flat.to_vec1().unwrap()
}

fn largest_difference(a: &Tensor, b: &Tensor) -> f32 {
    assert_eq!(a.dims(), b.dims());
    let pairs = values(a).into_iter().zip(values(b));
    pairs.map(|(a, b)| (a - b).abs()).fold(0., |most, error| {
        // A plain maximum would pass over NaN.
        if error > most || error.is_nan() {
            error
        } else {
            most
        }
    })
}

/// A step over some sequences whose pages are scattered over a cache.
struct Case {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    /// New rows and all tokens of each sequence.
    sequences: Vec<(usize, usize)>,
    dtype: DType,
}

/// The host side of a [`RaggedLayout`].
struct Layout {
    cu_q: Vec<u32>,
    kv_len: Vec<u32>,
    kv_slots: Vec<u32>,
    block_table: Vec<u32>,
    max_blocks: usize,
    blocks: usize,
}

impl Layout {
    fn scattered(sequences: &[(usize, usize)], noise: &mut Noise) -> Self {
        let pages = |&(_, kv): &(usize, usize)| kv.div_ceil(PAGE_TOKENS);
        let max_blocks = sequences.iter().map(pages).max().unwrap_or(0) + 1;
        let blocks = sequences.iter().map(pages).sum::<usize>() + 2;
        let mut free = noise.shuffled(blocks);
        let mut layout = Self {
            cu_q: vec![0],
            kv_len: Vec::new(),
            kv_slots: Vec::new(),
            block_table: Vec::new(),
            max_blocks,
            blocks,
        };
        for &(rows, kv) in sequences {
            let mut own = free.split_off(free.len() - kv.div_ceil(PAGE_TOKENS));
            for position in kv - rows..kv {
                let block = own[position / PAGE_TOKENS] as usize;
                let slot = block * PAGE_TOKENS + position % PAGE_TOKENS;
                layout.kv_slots.push(slot as u32);
            }
            own.resize(max_blocks, 0);
            layout.block_table.extend(own);
            layout.cu_q.push(layout.kv_slots.len() as u32);
            layout.kv_len.push(kv as u32);
        }
        layout
    }

    fn as_ragged(&self) -> RaggedLayout<'_> {
        RaggedLayout {
            cu_q: &self.cu_q,
            kv_len: &self.kv_len,
            kv_slots: &self.kv_slots,
            block_table: &self.block_table,
            max_blocks: self.max_blocks,
        }
    }
}

/// What pages are made of. With u8 they are codes and have scales.
struct Cache {
    data: Tensor,
    scales: Option<Tensor>,
}

impl Cache {
    fn new(layout: &Layout, case: &Case, noise: &mut Noise) -> Self {
        let rows = [layout.blocks, PAGE_TOKENS, case.kv_heads];
        let values = noise.tensor(&[rows.as_slice(), &[case.head_dim]].concat());
        let (values, scales) = if case.dtype == DType::U8 {
            let scales = noise.tensor(&rows).affine(0.004, 0.005).unwrap();
            (values.affine(127., 128.).unwrap(), Some(scales))
        } else {
            (values, None)
        };
        let data = values.to_dtype(case.dtype).unwrap();
        Self { data, scales }
    }

    fn copy(&self) -> Self {
        Self {
            data: self.data.copy().unwrap(),
            scales: self.scales.as_ref().map(|scales| scales.copy().unwrap()),
        }
    }

    fn pages(&self) -> Pages<'_> {
        Pages {
            data: &self.data,
            scales: self.scales.as_ref(),
        }
    }

    /// The numbers that are read, as a tensor.
    fn as_numbers(&self) -> Tensor {
        let data = self.data.to_dtype(DType::F32).unwrap();
        let Some(scales) = &self.scales else {
            return data;
        };
        let numbers = data.affine(1., -128.).unwrap();
        numbers
            .broadcast_mul(&scales.unsqueeze(3).unwrap())
            .unwrap()
    }

    /// The numbers that are read, flat.
    fn read(&self) -> Vec<f32> {
        values(&self.as_numbers())
    }

    /// Everything in it, comparable where it is NaN.
    fn bits(&self) -> Vec<u32> {
        let tensors = std::iter::once(&self.data).chain(&self.scales);
        let numbers = tensors.flat_map(values);
        let plain = numbers.map(|x| if x.is_nan() { f32::NAN } else { x });
        plain.map(f32::to_bits).collect()
    }
}

/// Runs a case on both routes; gives the largest difference of the attention.
fn both_routes(case: &Case, seed: u64) -> Result<f32> {
    let mut noise = Noise::new(seed);
    let layout = Layout::scattered(&case.sequences, &mut noise);
    let rows = layout.kv_slots.len();
    let q = noise.tensor(&[rows, case.heads, case.head_dim]);
    let k = noise.tensor(&[rows, case.kv_heads, case.head_dim]);
    let v = noise.tensor(&[rows, case.kv_heads, case.head_dim]);
    let k_cache = Cache::new(&layout, case, &mut noise);
    let v_cache = Cache::new(&layout, case, &mut noise);
    let (k_twin, v_twin) = (k_cache.copy(), v_cache.copy());

    let own = Ragged::new(layout.as_ragged(), &Device::Cpu)?;
    let gathered = Ragged::gathered(layout.as_ragged(), &Device::Cpu)?;
    crate::write_kv(&k, &v, k_cache.pages(), v_cache.pages(), &own)?;
    crate::write_kv(&k, &v, k_twin.pages(), v_twin.pages(), &gathered)?;
    assert_eq!(k_cache.bits(), k_twin.bits(), "keys are written alike");
    assert_eq!(v_cache.bits(), v_twin.bits(), "values are written alike");

    // Scores large enough for the softmax to have something to do.
    let scale = 3. / (case.head_dim as f32).sqrt();
    let ours = crate::paged_attention(&q, k_cache.pages(), v_cache.pages(), &own, scale)?;
    let theirs = crate::paged_attention(&q, k_twin.pages(), v_twin.pages(), &gathered, scale)?;
    Ok(largest_difference(&ours, &theirs))
}

#[test]
fn paged_attention_equals_the_gathered_route_on_ragged_batches() {
    let dtypes = [DType::F32, DType::F16, DType::BF16, DType::U8];
    let shapes = [
        (1, 1, 8),
        (4, 4, 12),
        (4, 2, 24),
        (6, 1, 16),
        (8, 8, 96),
        (32, 4, 64),
        (4, 1, 128),
        (5, 5, 40),
        (6, 2, 9),
    ];
    let mut noise = Noise::new(11);
    for (number, (heads, kv_heads, head_dim)) in shapes.into_iter().cycle().take(72).enumerate() {
        let sequences = (0..1 + noise.below(5))
            .map(|_| {
                let kv = 1 + noise.below(200);
                // Decodes, whole prompts, and chunks in between.
                let rows = match noise.below(3) {
                    0 => 1,
                    1 => kv,
                    _ => 1 + noise.below(kv),
                };
                (rows, kv)
            })
            .collect();
        let case = Case {
            heads,
            kv_heads,
            head_dim,
            sequences,
            dtype: dtypes[number % 4],
        };
        let difference = both_routes(&case, number as u64).unwrap();
        let (sequences, dtype) = (&case.sequences, case.dtype);
        assert!(
            difference < 2e-6,
            "{heads}/{kv_heads} heads of {head_dim}, {dtype:?}, {sequences:?}: {difference}"
        );
    }
}

#[test]
fn a_prompt_in_one_piece_in_chunks_and_token_by_token_gives_the_same_bits() {
    let (tokens, heads, kv_heads, head_dim) = (150, 6, 3, 20);
    let mut noise = Noise::new(5);
    let q = noise.tensor(&[tokens, heads, head_dim]);
    let k = noise.tensor(&[tokens, kv_heads, head_dim]);
    let v = noise.tensor(&[tokens, kv_heads, head_dim]);
    let run = |dtype: DType, chunks: &[usize], noise: &mut Noise| {
        let layout = Layout::scattered(&[(tokens, tokens)], noise);
        let case = Case {
            heads,
            kv_heads,
            head_dim,
            sequences: Vec::new(),
            dtype,
        };
        let k_cache = Cache::new(&layout, &case, noise);
        let v_cache = Cache::new(&layout, &case, noise);
        let (k_pages, v_pages) = (k_cache.pages(), v_cache.pages());
        let mut done = 0;
        let mut parts = Vec::new();
        for &rows in chunks {
            let cu_q = [0, rows as u32];
            let kv_len = [(done + rows) as u32];
            let part = RaggedLayout {
                cu_q: &cu_q,
                kv_len: &kv_len,
                kv_slots: &layout.kv_slots[done..done + rows],
                ..layout.as_ragged()
            };
            let ragged = Ragged::new(part, &Device::Cpu).unwrap();
            let take = |x: &Tensor| x.narrow(0, done, rows).unwrap();
            crate::write_kv(&take(&k), &take(&v), k_pages, v_pages, &ragged).unwrap();
            let out = crate::paged_attention(&take(&q), k_pages, v_pages, &ragged, 0.5);
            parts.extend(values(&out.unwrap()));
            done += rows;
        }
        parts
    };
    for dtype in [DType::BF16, DType::U8] {
        let whole = run(dtype, &[tokens], &mut noise);
        assert_eq!(whole, run(dtype, &[64, 1, 63, 22], &mut noise));
        assert_eq!(whole, run(dtype, &vec![1; tokens], &mut noise));
    }
}

#[test]
fn what_lies_in_pages_beyond_a_sequence_cannot_reach_it() {
    let mut noise = Noise::new(3);
    let layout = Layout::scattered(&[(1, 40), (3, 7), (1, 5)], &mut noise);
    let mut k = vec![f32::NAN; layout.blocks * PAGE_TOKENS * 16];
    for (row, &kv) in layout.kv_len.iter().enumerate() {
        for position in 0..kv as usize {
            let page = layout.block_table[row * layout.max_blocks + position / PAGE_TOKENS];
            let slot = page as usize * PAGE_TOKENS + position % PAGE_TOKENS;
            k[slot * 16..][..16].copy_from_slice(&noise.vec(16));
        }
    }
    let cache = Tensor::from_vec(k, (layout.blocks, PAGE_TOKENS, 2, 8), &Device::Cpu).unwrap();
    let q = noise.tensor(&[5, 2, 8]);
    for make in [Ragged::new, Ragged::gathered] {
        let ragged = make(layout.as_ragged(), &Device::Cpu).unwrap();
        let pages = || Pages::from(&cache);
        let out = crate::paged_attention(&q, pages(), pages(), &ragged, 1.).unwrap();
        assert!(values(&out).iter().all(|x| x.is_finite()));
    }
}

#[test]
fn caches_that_the_step_does_not_fit_are_refused() {
    let mut noise = Noise::new(4);
    let layout = Layout::scattered(&[(2, 70)], &mut noise);
    let ragged = Ragged::new(layout.as_ragged(), &Device::Cpu).unwrap();
    let q = noise.tensor(&[2, 4, 8]);
    let zeros = |shape: [usize; 4]| Tensor::zeros(&shape, DType::F32, &Device::Cpu).unwrap();
    for (cache, reason) in [
        (zeros([1, PAGE_TOKENS, 2, 8]), "of a cache of 1"),
        (zeros([layout.blocks, 16, 2, 8]), "must be [blocks, 32"),
        (zeros([layout.blocks, PAGE_TOKENS, 3, 8]), "do not fit"),
        (zeros([layout.blocks, PAGE_TOKENS, 2, 4]), "do not fit"),
    ] {
        let error =
            crate::paged_attention(&q, (&cache).into(), (&cache).into(), &ragged, 1.).unwrap_err();
        assert!(error.to_string().contains(reason), "{error}");
    }
}

#[test]
fn queries_that_are_part_of_a_fused_projection_need_no_copy_to_be_right() {
    let mut noise = Noise::new(6);
    let layout = Layout::scattered(&[(3, 9), (1, 33)], &mut noise);
    let ragged = Ragged::new(layout.as_ragged(), &Device::Cpu).unwrap();
    let fused = noise.tensor(&[4, 3, 16]);
    let part = fused.narrow(1, 1, 2).unwrap();
    assert!(!part.is_contiguous());
    let shape = [layout.blocks, PAGE_TOKENS, 2, 16];
    let cache = noise.tensor(&shape);
    let run = |q: &Tensor| {
        let pages = Pages::from(&cache);
        values(&crate::paged_attention(q, pages, pages, &ragged, 0.25).unwrap())
    };
    assert_eq!(run(&part), run(&part.contiguous().unwrap()));
    let angles = noise.tensor(&[4, 8]);
    let turn = |x: &Tensor| values(&crate::rope(x, &angles, &angles).unwrap());
    assert_eq!(turn(&part), turn(&part.contiguous().unwrap()));
}

#[test]
fn linear_equals_the_portable_route_in_every_dtype() {
    let mut noise = Noise::new(8);
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        for (rows, inputs, outputs) in [(1, 40, 30), (5, 96, 7), (70, 1100, 130)] {
            let x = noise.tensor(&[rows, inputs]);
            let weight = noise.tensor(&[outputs, inputs]).to_dtype(dtype).unwrap();
            let bias = noise.tensor(&[outputs]);
            let layer = crate::Linear::new(weight.clone(), Some(bias.clone())).unwrap();
            let ours = layer.forward(&x).unwrap();
            let theirs = portable::linear(&x, &weight, Some(&bias)).unwrap();
            let difference = largest_difference(&ours, &theirs);
            // Two orders of summing up to 1100 terms.
            assert!(difference < 5e-5, "{dtype:?} {rows} rows: {difference}");
        }
    }
}

#[test]
fn a_linear_layer_keeps_leading_dimensions_and_refuses_what_does_not_fit() {
    let mut noise = Noise::new(9);
    let layer = crate::Linear::new(noise.tensor(&[6, 5]), None).unwrap();
    assert_eq!((layer.in_features(), layer.out_features()), (5, 6));
    let y = layer.forward(&noise.tensor(&[2, 3, 5])).unwrap();
    assert_eq!(y.dims(), [2, 3, 6]);
    assert_eq!(
        layer.forward(&noise.tensor(&[0, 5])).unwrap().dims(),
        [0, 6]
    );
    assert!(layer.forward(&noise.tensor(&[5, 4])).is_err());
    let bias = Some(noise.tensor(&[5]));
    assert!(crate::Linear::new(noise.tensor(&[6, 5]), bias).is_err());
    let whole_numbers = Tensor::zeros((6, 5), DType::U8, &Device::Cpu).unwrap();
    assert!(crate::Linear::new(whole_numbers, None).is_err());
}

#[test]
fn norms_and_activations_equal_the_portable_route() {
    let mut noise = Noise::new(10);
    for width in [8, 12, 30, 96, 1024, 3072] {
        let x = noise.tensor(&[3, 7, width]).affine(4., 0.5).unwrap();
        let weight = noise.tensor(&[width]).to_dtype(DType::BF16).unwrap();
        let bias = noise.tensor(&[width]);
        let pairs = [
            (
                cpu::rms_norm(&x, &weight, 1e-5),
                portable::rms_norm(&x, &weight, 1e-5),
            ),
            (
                cpu::layer_norm(&x, &weight, &bias, 1e-5),
                portable::layer_norm(&x, &weight, &bias, 1e-5),
            ),
            (cpu::swiglu(&x), portable::swiglu(&x)),
            (cpu::gelu(&x), x.gelu_erf()),
            (cpu::quick_gelu(&x), portable::quick_gelu(&x)),
            (cpu::squared_relu(&x), portable::squared_relu(&x)),
            (cpu::softmax(&x), candle_nn::ops::softmax_last_dim(&x)),
        ];
        for (number, (ours, theirs)) in pairs.into_iter().enumerate() {
            let difference = largest_difference(&ours.unwrap(), &theirs.unwrap());
            assert!(difference < 4e-6, "{number} at {width}: {difference}");
        }
    }
}

#[test]
fn rope_equals_the_portable_route() {
    let mut noise = Noise::new(12);
    for (tokens, heads, head_dim, rotated) in [
        (1, 1, 8, 8),
        (5, 3, 12, 12),
        (40, 4, 96, 96),
        (5, 3, 12, 6),
        (7, 2, 64, 32),
    ] {
        let x = noise.tensor(&[tokens, heads, head_dim]);
        let cos = noise.tensor(&[tokens, rotated / 2]);
        let sin = noise.tensor(&[tokens, rotated / 2]);
        let ours = crate::rope(&x, &cos, &sin).unwrap();
        let theirs = portable::rope(&x, &cos, &sin).unwrap();
        assert!(largest_difference(&ours, &theirs) < 1e-6);
    }
}

#[test]
fn what_an_activation_gives_for_the_same_element_does_not_depend_on_its_place() {
    let mut noise = Noise::new(13);
    let x = noise.tensor(&[5000]).affine(5., 0.).unwrap();
    let whole = values(&crate::gelu(&x).unwrap());
    for at in [0, 1, 17, 4095, 4096, 4999] {
        let alone = crate::gelu(&x.narrow(0, at, 1).unwrap()).unwrap();
        assert_eq!(values(&alone), whole[at..=at]);
    }
}
