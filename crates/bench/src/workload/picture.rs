//! Drawn pictures: noise, which no codec makes small and no cache has seen.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{ExtendedColorType, ImageEncoder};
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};

use super::mix;
use crate::args::ImageFormat;
use crate::error::BenchError;

/// Pixels of a side.
const MAX_SIDE: u32 = 8192;

/// Bytes that all drawn pictures may take, as data URIs.
const MAX_BYTES: usize = 4 << 30;

/// Quality of JPEGs, of 100.
const JPEG_QUALITY: u8 = 85;

/// The stream of drawn numbers that pictures take.
const STREAM: u64 = 2;

/// Width and height in pixels, each from 1 to `MAX_SIDE`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size {
    width: u32,
    height: u32,
}

impl fmt::Display for Size {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}x{}", self.width, self.height)
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let side = |text: &str| {
            let side = text.parse().ok();
            side.filter(|side| (1..=MAX_SIDE).contains(side))
        };
        text.split_once(['x', 'X'])
            .and_then(|(width, height)| {
                Some(Self {
                    width: side(width)?,
                    height: side(height)?,
                })
            })
            .ok_or_else(|| format!("expected WIDTHxHEIGHT in pixels, each from 1 to {MAX_SIDE}"))
    }
}

/// Draws `count` different pictures as data URIs.
///
/// # Errors
/// [`BenchError::Flag`] if they would take more than 4 GiB together.
pub(crate) fn draw_all(
    size: Size,
    format: ImageFormat,
    seed: u64,
    count: usize,
) -> Result<Vec<Arc<str>>, BenchError> {
    let mut pictures: Vec<Arc<str>> = Vec::new();
    for number in 0..count {
        let picture = draw(size, format, mix(seed, STREAM, number as u64))?;
        if picture.len().saturating_mul(count) > MAX_BYTES {
            let reason = format!(
                "{count} pictures of {} bytes are more than {MAX_BYTES} bytes together",
                picture.len()
            );
            return Err(BenchError::flag("--image-pool", reason));
        }
        pictures.push(picture.into());
    }
    Ok(pictures)
}

fn draw(size: Size, format: ImageFormat, seed: u64) -> Result<String, BenchError> {
    // At most 3 · 8192², far within any usize.
    let mut pixels = vec![0; size.width as usize * size.height as usize * 3];
    StdRng::seed_from_u64(seed).fill_bytes(&mut pixels);
    let mut file = Vec::new();
    let (width, height, colour) = (size.width, size.height, ExtendedColorType::Rgb8);
    let (written, kind) = match format {
        ImageFormat::Png => {
            let encoder = PngEncoder::new_with_quality(
                &mut file,
                CompressionType::Fast,
                FilterType::NoFilter,
            );
            (encoder.write_image(&pixels, width, height, colour), "png")
        }
        ImageFormat::Jpeg => {
            let encoder = JpegEncoder::new_with_quality(&mut file, JPEG_QUALITY);
            (encoder.write_image(&pixels, width, height, colour), "jpeg")
        }
    };
    written.map_err(|error| BenchError::system("drawing a picture", &error))?;
    Ok(data_uri(kind, &file))
}

/// A picture's file as a data URI of type `image/kind`.
pub(crate) fn data_uri(kind: &str, file: &[u8]) -> String {
    let mut uri = format!("data:image/{kind};base64,");
    STANDARD.encode_string(file, &mut uri);
    uri
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_bounds() {
        let size: Size = "1120x840".parse().unwrap();
        assert_eq!(size.to_string(), "1120x840");
        for text in [
            "", "x", "5", "0x5", "5x0", "5x9000", "-1x5", "5x5x5", "1.5x2",
        ] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }

    #[test]
    fn pictures_are_what_they_say() {
        let size = "33x21".parse().unwrap();
        for (format, kind) in [(ImageFormat::Png, "png"), (ImageFormat::Jpeg, "jpeg")] {
            let pictures = draw_all(size, format, 7, 2).unwrap();
            assert_ne!(pictures[0], pictures[1]);
            let (head, base64) = pictures[0].split_once(',').unwrap();
            assert_eq!(head, format!("data:image/{kind};base64"));
            let decoded = image::load_from_memory(&STANDARD.decode(base64).unwrap()).unwrap();
            assert_eq!((decoded.width(), decoded.height()), (33, 21));
        }
    }

    #[test]
    fn too_many_large_ones_are_refused_before_they_fill_memory() {
        let size = "400x400".parse().unwrap();
        let error = draw_all(size, ImageFormat::Png, 0, 1 << 20).unwrap_err();
        assert!(error.to_string().starts_with("--image-pool: "), "{error}");
    }
}
