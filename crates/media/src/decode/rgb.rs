//! From a decoder's samples to 8-bit RGB on white.

use image::ColorType;

/// Brings `data`, whole pixels of `colour` in the machine's byte order, to 8-bit RGB.
///
/// `None` for a colour type that none of the decoders in use gives.
pub(super) fn flatten(data: Vec<u8>, colour: ColorType) -> Option<Vec<u8>> {
    Some(match colour {
        ColorType::Rgb8 => data,
        ColorType::L8 => widen(&data, |[grey]| [grey; 3]),
        ColorType::La8 => widen(&data, |[grey, alpha]| on_white([grey; 3], alpha)),
        ColorType::L16 => widen(&data, |grey| [high(grey); 3]),
        ColorType::Rgba8 => narrow(data, |[r, g, b, alpha]| on_white([r, g, b], alpha)),
        ColorType::La16 => narrow(data, |[g0, g1, a0, a1]| {
            on_white([high([g0, g1]); 3], high([a0, a1]))
        }),
        ColorType::Rgb16 => narrow(data, |[r0, r1, g0, g1, b0, b1]| {
            [high([r0, r1]), high([g0, g1]), high([b0, b1])]
        }),
        ColorType::Rgba16 => narrow(data, |[r0, r1, g0, g1, b0, b1, a0, a1]| {
            let rgb = [high([r0, r1]), high([g0, g1]), high([b0, b1])];
            on_white(rgb, high([a0, a1]))
        }),
        _ => return None,
    })
}

/// Eight bits of a 16-bit sample: the upper ones, without rounding, as Pillow reads RGB files.
fn high(sample: [u8; 2]) -> u8 {
    (u16::from_ne_bytes(sample) >> 8) as u8
}

/// Composites a pixel on white with the rounding of Pillow's `alpha_composite`
/// (`AlphaComposite.c`): seven extra bits, and a division by 255 made of shifts.
fn on_white(rgb: [u8; 3], alpha: u8) -> [u8; 3] {
    const EXTRA_BITS: u32 = 7;
    let opaque = u32::from(alpha) << EXTRA_BITS;
    let white = 255 * ((255 << EXTRA_BITS) - opaque);
    rgb.map(|sample| {
        let sum = u32::from(sample) * opaque + white + (0x80 << EXTRA_BITS);
        ((((sum >> 8) + sum) >> 8) >> EXTRA_BITS) as u8
    })
}

/// Maps pixels of one or two bytes to three.
fn widen<const N: usize>(data: &[u8], rgb: fn([u8; N]) -> [u8; 3]) -> Vec<u8> {
    let (pixels, _) = data.as_chunks::<N>();
    let mut out = vec![0; pixels.len() * 3];
    for (pixel, out) in pixels.iter().zip(out.chunks_exact_mut(3)) {
        out.copy_from_slice(&rgb(*pixel));
    }
    out
}

/// Maps pixels of at least three bytes to three, in place: the largest pictures are those whose
/// copy would hurt.
fn narrow<const N: usize>(mut data: Vec<u8>, rgb: fn([u8; N]) -> [u8; 3]) -> Vec<u8> {
    let count = data.len() / N;
    let mut pixel = [0; N];
    for at in 0..count {
        pixel.copy_from_slice(&data[at * N..][..N]);
        data[at * 3..][..3].copy_from_slice(&rgb(pixel));
    }
    data.truncate(count * 3);
    data.shrink_to_fit();
    data
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opaque_pixels_stay_and_clear_ones_turn_white() {
        for sample in 0..=255 {
            assert_eq!(on_white([sample; 3], 255), [sample; 3]);
            assert_eq!(on_white([sample; 3], 0), [255; 3]);
        }
    }

    #[test]
    fn compositing_rounds_to_the_nearest_level() {
        for sample in 0..=255_u8 {
            for alpha in 0..=255_u8 {
                let (s, a) = (f64::from(sample), f64::from(alpha));
                let exact = (s * a + 255.0 * (255.0 - a)) / 255.0;
                let found = f64::from(on_white([sample; 3], alpha)[0]);
                assert!((found - exact).abs() <= 0.5, "{sample} {alpha}");
            }
        }
    }

    #[test]
    fn every_layout_gives_three_bytes_a_pixel() {
        let samples = |values: &[u16]| -> Vec<u8> {
            values
                .iter()
                .flat_map(|value| value.to_ne_bytes())
                .collect()
        };
        for (colour, data, expected) in [
            (ColorType::L8, vec![1, 2], [1, 1, 1, 2, 2, 2]),
            (ColorType::La8, vec![1, 255, 2, 0], [1, 1, 1, 255, 255, 255]),
            (ColorType::Rgb8, vec![1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6]),
            (
                ColorType::Rgba8,
                vec![1, 2, 3, 255, 4, 5, 6, 0],
                [1, 2, 3, 255, 255, 255],
            ),
            (
                ColorType::L16,
                samples(&[0x01ff, 0x0200]),
                [1, 1, 1, 2, 2, 2],
            ),
            (
                ColorType::La16,
                samples(&[0x0100, 0xffff, 0x0200, 0]),
                [1, 1, 1, 255, 255, 255],
            ),
            (
                ColorType::Rgb16,
                samples(&[0x0100, 0x0200, 0x0300, 0x0400, 0x0500, 0x06ff]),
                [1, 2, 3, 4, 5, 6],
            ),
            (
                ColorType::Rgba16,
                samples(&[0x0100, 0x0200, 0x0300, 0xffff, 4, 5, 6, 0]),
                [1, 2, 3, 255, 255, 255],
            ),
        ] {
            assert_eq!(
                flatten(data, colour).as_deref(),
                Some(&expected[..]),
                "{colour:?}"
            );
        }
        assert_eq!(flatten(vec![0; 12], ColorType::Rgb32F), None);
    }
}
