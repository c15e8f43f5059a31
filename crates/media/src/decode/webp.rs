//! What a WebP file must be beyond what its decoder insists on.

/// Whether no frame of a file is larger than its canvas.
///
/// The canvas is what limits are held against, but the decoder reads a lossy frame to its end
/// before it finds that the frame is larger.
pub(super) fn frames_fit(bytes: &[u8], width: u32, height: u32) -> bool {
    const RIFF_HEADER: usize = 12;
    /// Position, size, duration and flags before the chunks of an animation's frame.
    const FRAME_HEADER: usize = 16;
    let fits = |size: Option<(u32, u32)>| size.is_none_or(|(w, h)| w <= width && h <= height);
    let frame_fits = |(tag, payload): (&[u8; 4], &[u8])| match tag {
        b"VP8 " => fits(lossy_size(payload)),
        b"VP8L" => fits(lossless_size(payload)),
        _ => true,
    };
    chunks(bytes.get(RIFF_HEADER..).unwrap_or_default()).all(|(tag, payload)| match tag {
        b"ANMF" => chunks(payload.get(FRAME_HEADER..).unwrap_or_default()).all(frame_fits),
        _ => frame_fits((tag, payload)),
    })
}

/// Tags and payloads of the chunks that lie side by side in `bytes`. A last one that is cut off is
/// given as far as it goes.
fn chunks(mut bytes: &[u8]) -> impl Iterator<Item = (&[u8; 4], &[u8])> {
    std::iter::from_fn(move || {
        let (tag, rest) = bytes.split_first_chunk::<4>()?;
        let (size, rest) = rest.split_first_chunk::<4>()?;
        let size = u32::from_le_bytes(*size) as usize;
        // Chunks are padded to an even length.
        bytes = rest
            .get(size.saturating_add(size & 1)..)
            .unwrap_or_default();
        Some((tag, rest.get(..size).unwrap_or(rest)))
    })
}

/// Sizes have 14 bits in either codec.
const SIZE_MASK: u32 = 0x3fff;

fn lossy_size(frame: &[u8]) -> Option<(u32, u32)> {
    // A frame tag of three bytes and a start code of three come first.
    let [w0, w1, h0, h1] = *frame.get(6..)?.first_chunk()?;
    let side = |bytes| u32::from(u16::from_le_bytes(bytes)) & SIZE_MASK;
    Some((side([w0, w1]), side([h0, h1])))
}

fn lossless_size(frame: &[u8]) -> Option<(u32, u32)> {
    let bits = u32::from_le_bytes(*frame.get(1..)?.first_chunk()?);
    Some(((bits & SIZE_MASK) + 1, ((bits >> 14) & SIZE_MASK) + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(tag: &[u8; 4], payload: &[u8]) -> Vec<u8> {
        let size = payload.len() as u32;
        let padding = &[0][..payload.len() % 2];
        [&tag[..], &size.to_le_bytes(), payload, padding].concat()
    }

    fn lossy(width: u16, height: u16) -> Vec<u8> {
        let sides = [width.to_le_bytes(), height.to_le_bytes()].concat();
        chunk(b"VP8 ", &[&[0; 6][..], &sides].concat())
    }

    fn lossless(width: u32, height: u32) -> Vec<u8> {
        let bits = (width - 1) | ((height - 1) << 14);
        chunk(b"VP8L", &[&[0x2f][..], &bits.to_le_bytes()].concat())
    }

    #[test]
    fn a_frame_may_fill_its_canvas_and_no_more() {
        for (frame, fits) in [
            (lossy(10, 20), true),
            (lossy(11, 20), false),
            (lossy(10, 21), false),
            (lossless(10, 20), true),
            (lossless(11, 20), false),
            (lossless(16_384, 16_384), false),
        ] {
            let still = [&b"RIFF\0\0\0\0WEBP"[..], &chunk(b"VP8X", &[0; 10]), &frame].concat();
            assert_eq!(frames_fit(&still, 10, 20), fits, "{frame:?}");
            let animated = chunk(
                b"ANMF",
                &[&[0; 16][..], &chunk(b"ALPH", &[0]), &frame].concat(),
            );
            let animated = [&b"RIFF\0\0\0\0WEBP"[..], &animated].concat();
            assert_eq!(frames_fit(&animated, 10, 20), fits, "{frame:?} animated");
        }
    }

    #[test]
    fn cut_chunks_are_left_to_the_decoder() {
        let file = [&b"RIFF\0\0\0\0WEBP"[..], &lossy(10, 20)].concat();
        for end in 0..file.len() {
            assert!(frames_fit(&file[..end], 10, 20), "{end}");
        }
        assert!(frames_fit(b"RIFF\0\0\0\0WEBPVP8 \xff\xff\xff\xff", 1, 1));
    }
}
