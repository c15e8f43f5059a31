//! The exact resamplers beside the `image` crate's, which is a common choice and not exact.
//!
//! `cargo bench -p vlmd-media`

#![expect(
    clippy::expect_used,
    reason = "a benchmark that cannot be set up has nothing to measure"
)]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use image::RgbImage;
use image::imageops::{FilterType, resize};
use vlmd_media::Picture;
use vlmd_media::resample::{Filter, pil, torch_bicubic};

/// Pixels without a pattern that a resampler or a cache could profit from.
fn noise(width: u32, height: u32) -> Vec<u8> {
    let bytes = width as usize * height as usize * 3;
    let mut state = 1_u32;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    std::iter::repeat_with(next).take(bytes).collect()
}

fn pictures(criterion: &mut Criterion) {
    for (width, height, to_width, to_height) in [
        // A phone's photograph to the four crops of Phi-3.5-vision.
        (4000, 3000, 672, 504),
        // A screenshot to the sixteen of Phi-3-vision.
        (1920, 1080, 1680, 945),
        // A thumbnail to one crop.
        (128, 96, 336, 252),
        // A square to CLIP's input, and the lines that are worst for the order of the passes.
        (1000, 1000, 224, 224),
        (15, 65_535, 224, 224),
        (65_535, 15, 224, 224),
    ] {
        let rgb = noise(width, height);
        let ours = Picture::from_rgb(width, height, rgb.clone()).expect("a whole picture");
        let theirs = RgbImage::from_raw(width, height, rgb).expect("a whole picture");
        let name = format!("resize {width}x{height} to {to_width}x{to_height}");
        let mut group = criterion.benchmark_group(name);
        group.throughput(Throughput::Elements(u64::from(width) * u64::from(height)));
        for (name, filter, nearest) in [
            ("bilinear", Filter::Bilinear, FilterType::Triangle),
            ("bicubic", Filter::Bicubic, FilterType::CatmullRom),
        ] {
            group.bench_function(format!("{name}/vlmd"), |bencher| {
                bencher.iter(|| pil(black_box(&ours), to_width, to_height, filter));
            });
            group.bench_function(format!("{name}/image"), |bencher| {
                bencher.iter(|| resize(black_box(&theirs), to_width, to_height, nearest));
            });
        }
        group.finish();
    }
}

fn planes(criterion: &mut Criterion) {
    let (width, height) = (1680, 1008);
    let values: Vec<f32> = noise(width, height).into_iter().map(f32::from).collect();
    criterion.bench_function("torch bicubic 1680x1008 to 336x336", |bencher| {
        bencher.iter(|| {
            torch_bicubic(
                black_box(&values),
                3,
                height as usize,
                width as usize,
                336,
                336,
            )
        });
    });
}

criterion_group!(benches, pictures, planes);
criterion_main!(benches);
