//! The resamplers against arrays that Pillow and torch made (`tests/reference/resample.py`).

#![expect(
    clippy::panic,
    clippy::unwrap_used,
    reason = "the helpers of tests fail as tests do"
)]

use safetensors::{Dtype, SafeTensors};
use vlmd_media::Picture;
use vlmd_media::resample::{Filter, pil, torch_bicubic};

const GOLDENS: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../tests/golden/resample/resample.safetensors"
);

/// Calls `check` with the input's and the output's name for every case of `kind`.
fn each_case(kind: &str, check: impl Fn(&SafeTensors<'_>, &str, &str)) {
    let bytes = std::fs::read(GOLDENS).unwrap();
    let goldens = SafeTensors::deserialize(&bytes).unwrap();
    let mut cases = 0;
    for input in goldens.names() {
        let Some(case) = input
            .strip_suffix("/in")
            .filter(|case| case.starts_with(kind))
        else {
            continue;
        };
        check(&goldens, input, &format!("{case}/out"));
        cases += 1;
    }
    assert!(cases >= 10, "{cases} cases of {kind}");
}

fn picture(goldens: &SafeTensors<'_>, name: &str) -> Picture {
    let tensor = goldens.tensor(name).unwrap();
    let &[height, width, 3] = tensor.shape() else {
        panic!("{name}: {:?}", tensor.shape());
    };
    assert_eq!(tensor.dtype(), Dtype::U8);
    Picture::from_rgb(width as u32, height as u32, tensor.data().to_vec()).unwrap()
}

fn compare_with_pillow(kind: &str, filter: Filter) {
    each_case(kind, |goldens, input, output| {
        let expected = picture(goldens, output);
        let (width, height) = (expected.width(), expected.height());
        let found = pil(&picture(goldens, input), width, height, filter);
        assert!(found == expected, "{output}");
    });
}

#[test]
fn bilinear_equals_pillow_bit_for_bit() {
    compare_with_pillow("pil_bilinear/", Filter::Bilinear);
}

#[test]
fn bicubic_equals_pillow_bit_for_bit() {
    compare_with_pillow("pil_bicubic/", Filter::Bicubic);
}

fn planes(goldens: &SafeTensors<'_>, name: &str) -> ([usize; 3], Vec<f32>) {
    let tensor = goldens.tensor(name).unwrap();
    assert_eq!(tensor.dtype(), Dtype::F32);
    let (values, _) = tensor.data().as_chunks();
    let values = values
        .iter()
        .map(|bytes| f32::from_le_bytes(*bytes))
        .collect();
    (tensor.shape().try_into().unwrap(), values)
}

/// Both sides work in single precision; torch may fuse a multiplication with an addition.
#[test]
fn torch_bicubic_equals_torch_within_1e_5() {
    each_case("torch_bicubic/", |goldens, input, output| {
        let ([channels, in_h, in_w], values) = planes(goldens, input);
        let ([_, out_h, out_w], expected) = planes(goldens, output);
        let found = torch_bicubic(&values, channels, in_h, in_w, out_h, out_w);
        assert_eq!(found.len(), expected.len(), "{output}");
        for (found, expected) in found.iter().zip(&expected) {
            assert!(
                (found - expected).abs() < 1e-5,
                "{output}: {found} != {expected}"
            );
        }
    });
}
