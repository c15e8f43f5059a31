//! What a JPEG file must be beyond what its decoder insists on.

/// Scans of one file. Encoders write about ten; each costs a pass over the whole picture, and can
/// be a few bytes long. The decoder has the same bound, for progressive files only.
const MAX_SCANS: usize = 100;

/// Start of scan, with a header and entropy-coded data behind it.
const SOS: u8 = 0xda;
/// End of image.
const EOI: u8 = 0xd9;

/// Walks over a file's markers to its end.
///
/// The decoder fills up what is missing with grey, as a viewer should. A model would describe the
/// grey, so a file without an end is refused here.
///
/// # Errors
/// What is wrong, for the client.
pub(super) fn check(bytes: &[u8]) -> Result<(), &'static str> {
    let mut rest = bytes;
    let mut scans = 0;
    while let Some((marker, tail)) = next_marker(rest) {
        rest = tail;
        match marker {
            EOI => return Ok(()),
            // Without a segment: TEM, restarts, the start of the image.
            0x01 | 0xd0..=0xd8 => continue,
            SOS => scans += 1,
            _ => {}
        }
        if scans > MAX_SCANS {
            return Err("it has too many scans");
        }
        // The length counts its own two bytes. What follows a scan's header is searched for the
        // next marker, as are stray bytes between segments.
        let length = rest
            .first_chunk()
            .map_or(0, |length| u16::from_be_bytes(*length));
        rest = rest.get(usize::from(length)..).unwrap_or_default();
    }
    Err("it is cut off")
}

/// The next marker and what follows it.
///
/// `0xff` is followed by 0 where it is a byte of entropy-coded data, and by itself where it is
/// padding before a marker.
fn next_marker(bytes: &[u8]) -> Option<(u8, &[u8])> {
    let mut rest = bytes;
    loop {
        let at = rest.iter().position(|byte| *byte == 0xff)?;
        rest = &rest[at + 1..];
        match rest.split_first()? {
            (0x00, tail) => rest = tail,
            (0xff, _) => {}
            (marker, tail) => return Some((*marker, tail)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: &[u8] = b"\xff\xd8";
    const SCAN: &[u8] = b"\xff\xda\x00\x03\x00\x12\xff\x00\x34\xff\xd3\x56";
    const END: &[u8] = b"\xff\xd9";
    /// An application segment that holds the end of a thumbnail.
    const APP: &[u8] = b"\xff\xe1\x00\x06\xff\xd9\xff\xd9";

    #[test]
    fn a_file_needs_its_end() {
        assert_eq!(check(&[START, APP, SCAN, END].concat()), Ok(()));
        assert_eq!(
            check(&[START, b"\xff\xff", APP, b"stray", SCAN, END].concat()),
            Ok(())
        );
        for parts in [
            &[START, APP, SCAN][..],
            &[START, APP, SCAN, b"\xff"],
            &[START, b"\xff\xe1"],
            &[START, b"\xff\xe1\xff\xff\xff\xd9"],
            &[START],
            &[],
        ] {
            assert_eq!(check(&parts.concat()), Err("it is cut off"), "{parts:?}");
        }
    }

    #[test]
    fn scans_are_counted() {
        let file = |scans| [START, &SCAN.repeat(scans), END].concat();
        assert_eq!(check(&file(MAX_SCANS)), Ok(()));
        assert_eq!(check(&file(MAX_SCANS + 1)), Err("it has too many scans"));
    }
}
