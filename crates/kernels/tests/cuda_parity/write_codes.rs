//! Pages of codes on a card: the CPU's, to the last bit.

use candle_core::{DType, Device, Tensor};
use vlmd_kernels::{PAGE_TOKENS, Pages, qkv_rope_write, write_kv};

use super::{DTYPES, HEADS, Noise, Scattered, assert_near, device, there};

/// Codes and scales of keys and of values, of nothing yet.
struct Caches([(Tensor, Tensor); 2]);

impl Caches {
    fn new(step: &Scattered, kv_heads: usize, head_dim: usize, device: &Device) -> Self {
        let rows = [step.blocks, PAGE_TOKENS, kv_heads];
        let codes = [step.blocks, PAGE_TOKENS, kv_heads, head_dim];
        Self([0, 1].map(|_| {
            let codes = Tensor::zeros(&codes, DType::U8, device).unwrap();
            let scales = Tensor::zeros(&rows, DType::F32, device).unwrap();
            (codes, scales)
        }))
    }

    fn pages(&self) -> [Pages<'_>; 2] {
        self.0.each_ref().map(|(data, scales)| Pages {
            data,
            scales: Some(scales),
        })
    }

    /// Codes, and the bits of scales.
    fn bits(&self) -> Vec<(Vec<u8>, Vec<u32>)> {
        let own = self.0.iter().map(|(codes, scales)| {
            let codes = codes.flatten_all().unwrap().to_vec1::<u8>().unwrap();
            let scales = scales.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            (codes, scales.into_iter().map(f32::to_bits).collect())
        });
        own.collect()
    }
}

/// Rows of numbers that differ in size, and some that are broken, nothing, or on the edge.
fn rows(noise: &mut Noise, shape: &[usize], dtype: DType) -> Tensor {
    let plain = noise.tensor(shape, dtype);
    let width = shape[shape.len() - 1];
    let mut numbers: Vec<f32> = plain.flatten_all().unwrap().to_vec1().unwrap();
    for row in numbers.chunks_mut(width) {
        let at = noise.below(width);
        match noise.below(12) {
            0 => row.fill(0.),
            1 => row.fill(-0.),
            2 => row[at] = f32::NAN,
            3 => row[at] = f32::INFINITY,
            4 => row[at] = f32::NEG_INFINITY,
            5 => row.iter_mut().for_each(|x| *x *= 1e-37),
            6 => row.iter_mut().for_each(|x| *x *= 1e4),
            // A scale of 1, and ties.
            7 => {
                row[at] = -127.;
                row.iter_mut().step_by(3).for_each(|x| *x = x.round() + 0.5);
            }
            _ => {}
        }
    }
    let rows = Tensor::from_vec(numbers, shape, &Device::Cpu).unwrap();
    let rounded = rows.to_dtype(dtype).unwrap();
    rounded.to_dtype(DType::F32).unwrap()
}

#[test]
#[ignore = "needs a CUDA driver: tests/fake_cuda/kernels.sh"]
fn joined_projections_become_the_codes_of_the_cpu() {
    let device = device();
    let mut noise = Noise(41);
    for dtype in DTYPES {
        for (heads, kv_heads, head_dim, rotated) in HEADS {
            let step = Scattered::new(&mut noise);
            let tokens = step.kv_slots.len();
            let all = heads + 2 * kv_heads;
            let qkv = rows(&mut noise, &[tokens, all, head_dim], dtype);
            // The queries are looked at as numbers, so they are.
            let plain = noise.tensor(&[tokens, heads, head_dim], dtype);
            let others = qkv.narrow(1, heads, 2 * kv_heads).unwrap();
            let qkv = Tensor::cat(&[&plain, &others], 1).unwrap();
            let qkv = qkv.flatten_from(1).unwrap();
            let cos = noise.tensor(&[tokens, rotated / 2], dtype);
            let sin = noise.tensor(&[tokens, rotated / 2], dtype);
            let write = |device: &Device, dtype: DType, joined: &Tensor| {
                let caches = Caches::new(&step, kv_heads, head_dim, device);
                let [k, v] = caches.pages();
                let table = |x| there(x, dtype, device);
                let angles = (rotated > 0).then(|| (table(&cos), table(&sin)));
                let angles = angles.as_ref().map(|(cos, sin)| (cos, sin));
                let ragged = step.ragged(device);
                let query = qkv_rope_write(joined, angles, heads, k, v, &ragged).unwrap();
                (query, caches.bits())
            };
            let (expected, codes) = write(&Device::Cpu, DType::F32, &qkv);
            let what = format!("{heads}/{kv_heads} heads of {head_dim}, {dtype:?}");
            let moved = there(&qkv, dtype, &device);
            let (found, own) = write(&device, dtype, &moved);
            assert_near(&what, &found, &expected, dtype, 0.);
            assert_eq!(own, codes, "{what}");
            // Rows that lie apart, off the alignment of wide loads.
            let room = Tensor::cat(&[&moved, &moved], 1).unwrap();
            let part = room.narrow(1, 1, all * head_dim).unwrap();
            let (_, shifted) = write(&device, dtype, &part);
            let copied = part.to_device(&Device::Cpu).unwrap();
            let copied = copied.to_dtype(DType::F32).unwrap().contiguous().unwrap();
            let (_, codes) = write(&Device::Cpu, DType::F32, &copied);
            assert_eq!(shifted, codes, "{what}, a part of wider rows");
        }
    }
}

#[test]
#[ignore = "needs a CUDA driver: tests/fake_cuda/kernels.sh"]
fn keys_and_values_become_the_codes_of_the_cpu() {
    let device = device();
    let mut noise = Noise(42);
    for dtype in DTYPES {
        for (kv_heads, head_dim) in [
            (1, 8),
            (3, 7),
            (2, 128),
            (4, 80),
            (1, 256),
            (2, 300),
            (5, 1),
        ] {
            let step = Scattered::new(&mut noise);
            let tokens = step.kv_slots.len();
            let both = rows(&mut noise, &[tokens, 2 * kv_heads, head_dim], dtype);
            let write = |device: &Device, k: &Tensor, v: &Tensor| {
                let caches = Caches::new(&step, kv_heads, head_dim, device);
                let [k_pages, v_pages] = caches.pages();
                write_kv(k, v, k_pages, v_pages, &step.ragged(device)).unwrap();
                caches.bits()
            };
            let parts = |both: &Tensor| {
                let part = |first| both.narrow(1, first, kv_heads).unwrap();
                (part(0), part(kv_heads))
            };
            let (k, v) = parts(&both);
            let expected = write(&Device::Cpu, &k, &v);
            let (k, v) = parts(&there(&both, dtype, &device));
            let what = format!("{kv_heads} heads of {head_dim}, {dtype:?}");
            assert_eq!(write(&device, &k, &v), expected, "{what}");
            // One of them is a copy, so that they lie differently.
            let k = k.force_contiguous().unwrap();
            assert_eq!(write(&device, &k, &v), expected, "{what}");
        }
    }
}
