//! Draws on the card are those on the CPU.

use candle_core::{Device, Tensor};
use vlmd_kernels::{Draw, Terms, draw};

use super::device;

#[path = "draw_cases.rs"]
mod cases;

#[test]
#[ignore = "needs a CUDA driver: tests/fake_cuda/kernels.sh"]
fn what_is_drawn_is_the_same_token() {
    let device = device();
    let cases = cases::cases();
    for of_one_width in cases.chunk_by(|a, b| a.logits.len() == b.logits.len()) {
        let rows: Vec<&[f32]> = of_one_width.iter().map(|case| &case.logits[..]).collect();
        let (count, width) = (rows.len(), rows[0].len());
        let here = Tensor::from_vec(rows.concat(), (count, width), &Device::Cpu).unwrap();
        let mut draws: Vec<Draw> = of_one_width
            .iter()
            .enumerate()
            .map(|(row, case)| Draw {
                row,
                terms: case.terms,
                number: case.number,
            })
            .collect();
        // Any order, and a row more than once.
        draws.reverse();
        draws.extend_from_within(..3);
        let found = draw(&here.to_device(&device).unwrap(), &draws).unwrap();
        let expected = draw(&here, &draws).unwrap();
        for ((draw, found), expected) in draws.iter().zip(found).zip(expected) {
            assert_eq!(found, expected, "{draw:?} of {width}");
            assert!(found.is_some_and(|id| (id as usize) < width), "{draw:?}");
        }
    }
}

#[test]
#[ignore = "needs a CUDA driver: tests/fake_cuda/kernels.sh"]
fn logits_that_are_no_numbers_are_told() {
    let terms = |temperature, top_k, top_p| Terms {
        temperature,
        top_k,
        top_p,
        min_p: 0.0,
    };
    let inf = f32::INFINITY;
    let rows = [
        [f32::NAN, 0.0, 1.0],
        [0.0, -f32::NAN, 1.0],
        [0.0, inf, 1.0],
        [-inf, -inf, -inf],
        [-inf, -inf, 0.0],
    ];
    let logits = Tensor::new(&rows, &device()).unwrap();
    for terms in [
        terms(0.0, None, 1.0),
        terms(1.0, None, 1.0),
        terms(0.7, Some(2), 0.5),
    ] {
        let draws: Vec<Draw> = (0..5)
            .map(|row| Draw {
                row,
                terms,
                number: 1,
            })
            .collect();
        let found = draw(&logits, &draws).unwrap();
        assert_eq!(found, [None, None, None, None, Some(2)], "{terms:?}");
    }
}
