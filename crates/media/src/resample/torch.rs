//! `torch.nn.functional.interpolate(mode="bicubic")` as its CPU kernel computes it.

use rayon::prelude::*;

/// Keys' parameter. Torch takes -0.75 where Pillow takes -0.5.
const A: f32 = -0.75;

/// Scales planes of floats with `align_corners=False` and without antialiasing, whatever the
/// scale: every output is made of 4 by 4 inputs, and those beyond the border repeat it.
///
/// `chw` is `[channels, in_h, in_w]`, row-major, and so is the result with the new sizes. All
/// arithmetic is in single precision as in the reference (`UpSampleKernel.cpp`), so that results
/// differ from it by the rounding of a fused multiply-add at most.
///
/// # Panics
/// If `chw` has not `channels * in_h * in_w` values, or an input side is 0.
#[must_use]
pub fn torch_bicubic(
    chw: &[f32],
    channels: usize,
    in_h: usize,
    in_w: usize,
    out_h: usize,
    out_w: usize,
) -> Vec<f32> {
    assert!(in_h > 0 && in_w > 0, "an input of {in_h} x {in_w} is empty");
    assert_eq!(chw.len(), channels * in_h * in_w, "length of the input");
    let mut out = vec![0.0; channels * out_h * out_w];
    if out.is_empty() {
        return out;
    }
    let down = taps(in_h, out_h);
    let across = taps(in_w, out_w);
    out.par_chunks_mut(out_w)
        .enumerate()
        .for_each(|(index, out)| {
            let plane = &chw[index / out_h * in_h * in_w..][..in_h * in_w];
            let rows = &down[index % out_h];
            let lines = rows.at.map(|row| &plane[row * in_w..][..in_w]);
            for (value, columns) in out.iter_mut().zip(&across) {
                *value = rows.weigh(lines.map(|line| columns.weigh(columns.at.map(|x| line[x]))));
            }
        });
    out
}

/// The four inputs of one output along one axis, and their weights.
struct Tap {
    at: [usize; 4],
    weights: [f32; 4],
}

impl Tap {
    fn weigh(&self, values: [f32; 4]) -> f32 {
        let [a, b, c, d] = values;
        let [wa, wb, wc, wd] = self.weights;
        a * wa + b * wb + c * wc + d * wd
    }
}

fn taps(input: usize, output: usize) -> Vec<Tap> {
    let scale = input as f32 / output as f32;
    let tap = |index| {
        let source = scale * (index as f32 + 0.5) - 0.5;
        let floor = source.floor();
        let t = source - floor;
        // Beyond either border the border itself: saturating at 0 below, clamped above.
        let at = [-1.0, 0.0, 1.0, 2.0].map(|step| ((floor + step) as usize).min(input - 1));
        let weights = [far(1.0 + t), near(t), near(1.0 - t), far(2.0 - t)];
        Tap { at, weights }
    };
    (0..output).map(tap).collect()
}

/// The kernel at a distance of at most 1.
fn near(x: f32) -> f32 {
    ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
}

/// The kernel at a distance from 1 to 2.
fn far(x: f32) -> f32 {
    ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_size_is_a_copy() {
        let values: Vec<f32> = (0..2 * 3 * 5).map(|x| (x * x) as f32).collect();
        assert_eq!(torch_bicubic(&values, 2, 3, 5, 3, 5), values);
    }

    #[test]
    fn a_single_pixel_fills_any_size() {
        let out = torch_bicubic(&[0.5], 1, 1, 1, 4, 3);
        assert!(out.len() == 12 && out.iter().all(|value| (value - 0.5).abs() < 1e-6));
    }

    #[test]
    fn a_ramp_doubles_as_computed_by_hand() {
        // Between 2 and 3 at t = 0.75 (index 5) and t = 0.25 (index 6 is around 3): interior
        // values of [0, 1, 2, 3, 4] doubled. At t = 0.25 the weights are
        // (-0.10546875, 0.87890625, 0.26171875, -0.03515625).
        let out = torch_bicubic(&[0.0, 1.0, 2.0, 3.0, 4.0], 1, 1, 5, 1, 10);
        let at_quarter =
            1.0 * -0.105_468_75 + 2.0 * 0.878_906_25 + 3.0 * 0.261_718_75 - 4.0 * 0.035_156_25;
        assert!((out[5] - at_quarter).abs() < 1e-6, "{}", out[5]);
    }

    #[test]
    fn no_output_needs_no_input_column() {
        assert!(torch_bicubic(&[1.0], 1, 1, 1, 0, 5).is_empty());
    }
}
