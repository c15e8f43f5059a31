//! The only tokens that an answer may have.

/// Makes every token impossible that is not among `allowed`, which is in ascending order. Ids
/// beyond the vocabulary allow nothing.
pub(super) fn keep_only(logits: &mut [f32], allowed: &[u32]) {
    let mut rest = logits;
    let mut first = 0;
    for &id in allowed {
        let id = id as usize;
        let Some(between) = id.checked_sub(first).filter(|gap| *gap < rest.len()) else {
            // Named twice, or beyond the vocabulary.
            continue;
        };
        let (ruled_out, kept) = rest.split_at_mut(between);
        ruled_out.fill(f32::NEG_INFINITY);
        rest = &mut kept[1..];
        first = id + 1;
    }
    rest.fill(f32::NEG_INFINITY);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_allowed_stays_as_it_is() {
        for (allowed, kept) in [
            (&[0, 3, 4][..], &[0, 3, 4][..]),
            (&[1], &[1]),
            (&[2, 2, 5, u32::MAX], &[2]),
            (&[5, 6], &[]),
            (&[], &[]),
            (&[0, 1, 2, 3, 4], &[0, 1, 2, 3, 4]),
        ] {
            let mut logits = [1.0, 2.0, 3.0, 4.0, 5.0];
            keep_only(&mut logits, allowed);
            for (id, (&found, logit)) in (0_u32..).zip(logits.iter().zip([1.0, 2.0, 3.0, 4.0, 5.0]))
            {
                let expected = if kept.contains(&id) {
                    logit
                } else {
                    f32::NEG_INFINITY
                };
                assert_eq!(found, expected, "{allowed:?}: {id}");
            }
        }
    }
}
