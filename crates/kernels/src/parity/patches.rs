//! Pictures as rows of patches, on both routes, held against a loop, to the last bit.

use candle_core::{DType, Device, Tensor};
use half::{bf16, f16};

use super::{Noise, values};
use crate::{level_patches, twin, value_patches};

const DTYPES: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

/// Pictures, rows and columns of patches, and pixels per side of one.
const CUTS: [(usize, usize, usize, usize); 7] = [
    (1, 1, 1, 1),
    (3, 2, 5, 1),
    (2, 3, 1, 2),
    (5, 4, 7, 2),
    (1, 5, 3, 14),
    (2, 2, 9, 16),
    (4, 3, 3, 7),
];

fn rounded(value: f32, dtype: DType) -> f32 {
    match dtype {
        DType::F16 => f16::from_f32(value).to_f32(),
        DType::BF16 => bf16::from_f32(value).to_f32(),
        _ => value,
    }
}

/// What comes of pixels of which `of` tells each by picture, colour, row and column.
fn looped(
    (count, rows, columns, side): (usize, usize, usize, usize),
    of: impl Fn(usize, usize, usize, usize) -> f32,
) -> Vec<f32> {
    let mut all = Vec::new();
    for picture in 0..count {
        for patch in 0..rows * columns {
            for at in 0..3 * side * side {
                let (colour, y, x) = (at / (side * side), at / side % side, at % side);
                let (top, left) = (patch / columns * side, patch % columns * side);
                all.push(of(picture, colour, top + y, left + x));
            }
        }
    }
    all
}

fn bits(tensor: &Tensor) -> Vec<u32> {
    values(tensor).into_iter().map(f32::to_bits).collect()
}

fn assert_same(what: &str, found: &Tensor, cut: (usize, usize, usize, usize), expected: &[f32]) {
    let (count, rows, columns, side) = cut;
    let shape = [count, rows * columns, 3 * side * side];
    assert_eq!(found.dims(), shape, "{what} {cut:?}");
    let expected: Vec<u32> = expected.iter().map(|value| value.to_bits()).collect();
    assert_eq!(bits(found), expected, "{what} {cut:?}");
}

#[test]
fn levels_are_looked_up_and_rounded() {
    let mut noise = Noise::new(41);
    let numbers = noise.vec(3 * 256);
    let table = Tensor::from_vec(numbers.clone(), (3, 256), &Device::Cpu).unwrap();
    for cut in CUTS {
        let (count, rows, columns, side) = cut;
        let (height, width) = (rows * side, columns * side);
        // All 256 levels where there is room for them.
        let start = noise.below(256);
        let pixels: Vec<u8> = (0..count * height * width * 3)
            .map(|at| (start + at * 77) as u8)
            .collect();
        let levels = Tensor::from_vec(pixels.clone(), (count, height, width, 3), &Device::Cpu);
        let levels = levels.unwrap();
        for dtype in DTYPES {
            let expected = looped(cut, |picture, colour, y, x| {
                let at = ((picture * height + y) * width + x) * 3 + colour;
                rounded(numbers[colour * 256 + usize::from(pixels[at])], dtype)
            });
            let found = level_patches(&levels, &table, side, dtype).unwrap();
            assert_eq!(found.dtype(), dtype);
            assert_same("kernel", &found, cut, &expected);
            let found = twin::level_patches(&levels, &table, side, dtype).unwrap();
            assert_same("twin", &found, cut, &expected);
        }
    }
}

#[test]
fn values_are_moved_and_rounded() {
    let mut noise = Noise::new(42);
    for cut in CUTS {
        let (count, rows, columns, side) = cut;
        let (height, width) = (rows * side, columns * side);
        let mut numbers = noise.vec(count * 3 * height * width);
        numbers[0] = -0.;
        let pixels = Tensor::from_vec(numbers.clone(), (count, 3, height, width), &Device::Cpu);
        let pixels = pixels.unwrap();
        for dtype in DTYPES {
            let expected = looped(cut, |picture, colour, y, x| {
                let at = ((picture * 3 + colour) * height + y) * width + x;
                rounded(numbers[at], dtype)
            });
            let found = value_patches(&pixels, side, dtype).unwrap();
            assert_same("kernel", &found, cut, &expected);
            let found = twin::value_patches(&pixels, side, dtype).unwrap();
            assert_same("twin", &found, cut, &expected);
        }
    }
}

#[test]
fn a_part_of_pictures_is_cut_like_the_whole() {
    let mut noise = Noise::new(43);
    let table = Tensor::from_vec(noise.vec(768), (3, 256), &Device::Cpu).unwrap();
    let pixels: Vec<u8> = (0..3 * 4 * 6 * 3).map(|_| noise.below(256) as u8).collect();
    let levels = Tensor::from_vec(pixels, (3, 4, 6, 3), &Device::Cpu).unwrap();
    let whole = level_patches(&levels, &table, 2, DType::F32).unwrap();
    let part = level_patches(&levels.narrow(0, 1, 2).unwrap(), &table, 2, DType::F32).unwrap();
    assert_eq!(bits(&part), bits(&whole.narrow(0, 1, 2).unwrap()));
    // Turned, which is no part that lies together.
    let turned = levels.transpose(1, 2).unwrap();
    let straight = turned.force_contiguous().unwrap();
    let found = level_patches(&turned, &table, 2, DType::F32).unwrap();
    let expected = level_patches(&straight, &table, 2, DType::F32).unwrap();
    assert_eq!(bits(&found), bits(&expected));
}

#[test]
fn what_cannot_be_cut_is_refused_with_the_reason() {
    let zeros = |shape: &[usize], dtype| Tensor::zeros(shape, dtype, &Device::Cpu).unwrap();
    let table = zeros(&[3, 256], DType::F32);
    let levels = zeros(&[1, 4, 6, 3], DType::U8);
    let refused = |levels: &Tensor, table: &Tensor, patch, dtype, reason: &str| {
        let error = level_patches(levels, table, patch, dtype).unwrap_err();
        assert!(error.to_string().contains(reason), "{error}");
    };
    let other = zeros(&[1, 4, 6, 3], DType::F32);
    refused(
        &other,
        &table,
        2,
        DType::F32,
        "in u8, not [1, 4, 6, 3] in F32",
    );
    let other = zeros(&[1, 3, 4, 6], DType::U8);
    refused(&other, &table, 2, DType::F32, "in u8, not [1, 3, 4, 6]");
    let other = zeros(&[256, 3], DType::F32);
    refused(
        &levels,
        &other,
        2,
        DType::F32,
        "[3, 256] in f32, not [256, 3]",
    );
    refused(
        &levels,
        &table,
        4,
        DType::F32,
        "6 x 4 pixels are not whole patches of 4",
    );
    refused(&levels, &table, 0, DType::F32, "not whole patches of 0");
    refused(&levels, &table, 2, DType::U32, "f32, f16 or bf16, not U32");
    let none = levels.narrow(0, 0, 0).unwrap();
    refused(&none, &table, 2, DType::F32, "0 pictures");
    let error = value_patches(&levels, 2, DType::F32)
        .unwrap_err()
        .to_string();
    assert!(error.contains("in f32, not [1, 4, 6, 3] in U8"), "{error}");
    level_patches(&levels, &table, 2, DType::F32).unwrap();
}
