//! Pictures as rows of patches: the same bits as on the CPU.

use candle_core::{DType, Device, Tensor};
use vlmd_kernels::{level_patches, value_patches};

use super::{DTYPES, Noise, device, there, values};

/// Sides of patches: those of published towers, one that no wide store fits, and small ones.
const SIDES: [usize; 5] = [1, 2, 7, 14, 16];

/// Pictures of patches of `side`: how many, height and width.
fn pictures(side: usize, noise: &mut Noise) -> (usize, usize, usize) {
    let most = 40_usize.div_ceil(side).min(9);
    let (rows, columns) = (1 + noise.below(most), 1 + noise.below(most));
    (1 + noise.below(5), rows * side, columns * side)
}

fn assert_same(what: &str, found: &Tensor, expected: &Tensor) {
    assert_eq!(found.dims(), expected.dims(), "{what}");
    assert_eq!(found.dtype(), expected.dtype(), "{what}");
    let bits = |x: &Tensor| values(x).into_iter().map(f32::to_bits).collect::<Vec<_>>();
    assert!(bits(found) == bits(expected), "{what}");
}

#[test]
#[ignore = "needs a CUDA driver: tests/fake_cuda/kernels.sh"]
fn levels_become_the_same_numbers() {
    let device = device();
    let mut noise = Noise(31);
    let table = noise.tensor(&[3, 256], DType::F32);
    let gpu_table = there(&table, DType::F32, &device);
    // The last one is wider than what the blocks of a strip take in one turn.
    let wide = (1, 16, 16 * 90);
    for side in SIDES {
        for case in 0..4 {
            let (count, height, width) = match (side, case) {
                (16, 0) => wide,
                _ => pictures(side, &mut noise),
            };
            // Every level, in every colour, where there is room for them.
            let start = noise.below(256);
            let levels: Vec<u8> = (0..count * height * width * 3)
                .map(|at| (start + at * 77) as u8)
                .collect();
            let shape = (count, height, width, 3);
            let levels = Tensor::from_vec(levels, shape, &Device::Cpu).unwrap();
            let gpu_levels = levels.to_device(&device).unwrap();
            for dtype in DTYPES {
                let what = format!("{count} of {width} x {height} by {side} in {dtype:?}");
                let found = level_patches(&gpu_levels, &gpu_table, side, dtype).unwrap();
                let expected = level_patches(&levels, &table, side, dtype).unwrap();
                assert_same(&what, &found, &expected);
                // The last of them: a part that begins anywhere.
                let (part, gpu_part) = (
                    levels.narrow(0, count - 1, 1).unwrap(),
                    gpu_levels.narrow(0, count - 1, 1).unwrap(),
                );
                let found = level_patches(&gpu_part, &gpu_table, side, dtype).unwrap();
                let expected = level_patches(&part, &table, side, dtype).unwrap();
                assert_same(&what, &found, &expected);
            }
        }
    }
}

#[test]
#[ignore = "needs a CUDA driver: tests/fake_cuda/kernels.sh"]
fn values_stay_the_same_numbers() {
    let device = device();
    let mut noise = Noise(32);
    for side in SIDES {
        for _ in 0..3 {
            let (count, height, width) = pictures(side, &mut noise);
            let pixels = noise.tensor(&[count, 3, height, width], DType::F32);
            let gpu_pixels = there(&pixels, DType::F32, &device);
            for dtype in DTYPES {
                let what = format!("{count} of {width} x {height} by {side} in {dtype:?}");
                let found = value_patches(&gpu_pixels, side, dtype).unwrap();
                let expected = value_patches(&pixels, side, dtype).unwrap();
                assert_same(&what, &found, &expected);
            }
        }
    }
}
