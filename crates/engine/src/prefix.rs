//! By what a full block of the KV cache is known.
//!
//! Keys and values at a position depend on everything before it. So a block's key is the end of
//! a chain: a digest over the key of the block before it, its own tokens, and whatever else its
//! tokens look at. What must be in there, and why:
//!
//! - the **tokens**, fillers of pictures included;
//! - each **picture whose features stand in the block**, with the row of the first: fillers are
//!   the same for all pictures. What is seen across a picture's own tokens in both directions is
//!   covered, too, because its key covers all of its features;
//! - what tokens **look at by cross-attention**: every picture, in order, and how much of it.
//!   Since such a span goes on to the end of the answer, the picture enters every later block;
//! - a **salt**, so that who does not know it can neither use a prefix nor learn from the time
//!   that an answer takes whether somebody else has used it (CVE-2025-46570);
//! - whether the sequence counts as **long**, where a model then computes other keys.
//!
//! BLAKE3, which is collision resistant: a collision would answer from somebody else's prompt
//! (CVE-2025-25183).

use blake3::Hasher;
use vlmd_backend::{BLOCK_TOKENS, CrossSpan, ImageKey, ImageSpan};

/// The key of a full block, given everything before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct BlockKey([u8; 32]);

impl BlockKey {
    #[cfg(test)]
    pub(crate) fn test(n: u32) -> Self {
        let mut key = [0; 32];
        key[..4].copy_from_slice(&n.to_le_bytes());
        Self(key)
    }
}

/// The keys of a sequence's full blocks, as far as its tokens are known.
#[derive(Debug, Clone)]
pub(crate) struct Chain {
    root: [u8; 32],
    keys: Vec<BlockKey>,
}

/// What the tokens of a sequence look at beside each other.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sights<'a> {
    pub(crate) spans: &'a [ImageSpan],
    pub(crate) cross: &'a [CrossSpan],
    /// Of each picture.
    pub(crate) images: &'a [ImageKey],
}

impl Chain {
    /// Of a sequence without tokens. `long` is whether the model computes it as a long one.
    pub(crate) fn new(salt: &[u8], long: bool) -> Self {
        let mut hasher = Hasher::new_derive_key("vlmd 2026 prefix of a sequence");
        number(&mut hasher, salt.len());
        hasher.update(salt);
        number(&mut hasher, usize::from(long));
        Self {
            root: *hasher.finalize().as_bytes(),
            keys: Vec::new(),
        }
    }

    /// Adds the keys of the blocks that `tokens` have filled since.
    pub(crate) fn extend(&mut self, tokens: &[u32], sights: Sights<'_>) {
        let known = self.keys.len();
        for (index, block) in tokens.chunks_exact(BLOCK_TOKENS).enumerate().skip(known) {
            let parent = self.keys.last().map_or(self.root, |key| key.0);
            let key = block_key(&parent, block, index * BLOCK_TOKENS, sights);
            self.keys.push(key);
        }
    }

    /// Of the full blocks, in order.
    pub(crate) fn keys(&self) -> &[BlockKey] {
        &self.keys
    }
}

/// The key of the block that begins at position `first`.
fn block_key(parent: &[u8; 32], tokens: &[u32], first: usize, sights: Sights<'_>) -> BlockKey {
    let mut hasher = Hasher::new_derive_key("vlmd 2026 block of a sequence");
    hasher.update(parent);
    number(&mut hasher, tokens.len());
    for token in tokens {
        hasher.update(&token.to_le_bytes());
    }
    let end = first + tokens.len();
    let image = |hasher: &mut Hasher, index: usize| {
        // `prompt::check` has seen that there is such a picture.
        if let Some(key) = sights.images.get(index) {
            hasher.update(key.as_bytes());
        }
    };
    for span in sights.spans {
        let range = span.tokens.start.max(first)..span.tokens.end.min(end);
        if range.is_empty() {
            continue;
        }
        hasher.update(b"stands");
        image(&mut hasher, span.image);
        number(&mut hasher, range.start - span.tokens.start);
        number(&mut hasher, range.start - first);
        number(&mut hasher, range.len());
    }
    for span in sights.cross {
        let range = span.tokens.start.max(first)..span.tokens.end.min(end);
        if range.is_empty() {
            continue;
        }
        hasher.update(b"looked at");
        number(&mut hasher, range.start - first);
        number(&mut hasher, range.len());
        number(&mut hasher, usize::from(span.unseen));
        number(&mut hasher, span.images.len());
        for seen in &span.images {
            image(&mut hasher, seen.image);
            number(&mut hasher, seen.visible);
        }
    }
    BlockKey(*hasher.finalize().as_bytes())
}

fn number(hasher: &mut Hasher, n: usize) {
    hasher.update(&(n as u64).to_le_bytes());
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use candle_core::{Device, Tensor};
    use vlmd_backend::{CrossImage, ImageInput, Pixels};

    use super::*;

    fn image(value: f32) -> ImageKey {
        let pixels = Tensor::full(value, (1, 3, 2, 2), &Device::Cpu).unwrap();
        let pixels = vec![Pixels::Values(pixels)];
        ImageInput::new(pixels, (2, 2), 4).unwrap().key()
    }

    fn keys(salt: &str, long: bool, tokens: &[u32], sights: Sights<'_>) -> Vec<BlockKey> {
        let mut chain = Chain::new(salt.as_bytes(), long);
        chain.extend(tokens, sights);
        chain.keys().to_vec()
    }

    const NOTHING: Sights<'_> = Sights {
        spans: &[],
        cross: &[],
        images: &[],
    };

    #[test]
    fn a_chain_is_the_same_however_its_tokens_came() {
        let tokens: Vec<u32> = (0..150).collect();
        let whole = keys("", false, &tokens, NOTHING);
        assert_eq!(whole.len(), 4);
        let mut chain = Chain::new(b"", false);
        for known in 0..=tokens.len() {
            chain.extend(&tokens[..known], NOTHING);
            assert_eq!(chain.keys(), &whole[..known / BLOCK_TOKENS]);
        }
    }

    #[test]
    fn whatever_a_block_depends_on_changes_its_key_and_all_after_it() {
        let tokens: Vec<u32> = (0..128).collect();
        let images = [image(1.0), image(2.0)];
        let stands = |image, start, end| ImageSpan {
            image,
            tokens: start..end,
        };
        let looks = |image, visible, start, unseen| CrossSpan {
            images: vec![CrossImage { image, visible }],
            tokens: start..usize::MAX,
            unseen,
        };
        let with_spans = |spans: &[ImageSpan]| {
            keys(
                "",
                false,
                &tokens,
                Sights {
                    spans,
                    cross: &[],
                    images: &images,
                },
            )
        };
        let with_cross = |cross: &[CrossSpan]| {
            keys(
                "",
                false,
                &tokens,
                Sights {
                    spans: &[],
                    cross,
                    images: &images,
                },
            )
        };
        let plain = keys("", false, &tokens, NOTHING);
        let mut changed = tokens.clone();
        changed[40] = 7;
        // The first block that differs, then the keys.
        let variants = [
            (0, plain.clone()),
            (0, keys("salt", false, &tokens, NOTHING)),
            (0, keys("", true, &tokens, NOTHING)),
            (1, keys("", false, &changed, NOTHING)),
            (1, with_spans(&[stands(0, 40, 44)])),
            (1, with_spans(&[stands(1, 40, 44)])),
            (1, with_spans(&[stands(0, 41, 45)])),
            (1, with_spans(&[stands(0, 62, 66)])),
            (1, with_cross(&[looks(0, 4, 40, false)])),
            (1, with_cross(&[looks(1, 4, 40, false)])),
            (1, with_cross(&[looks(0, 3, 40, false)])),
            (1, with_cross(&[looks(0, 4, 41, false)])),
            (1, with_cross(&[looks(0, 4, 40, true)])),
            // In the third block nothing but the picture that is looked at tells them apart.
            (2, with_cross(&[looks(0, 4, 64, false)])),
            (2, with_cross(&[looks(1, 4, 64, false)])),
        ];
        let mut seen: Vec<HashSet<BlockKey>> = vec![HashSet::new(); 4];
        for (number, (first, keys)) in variants.iter().enumerate() {
            for (block, key) in keys.iter().enumerate() {
                let new = seen[block].insert(*key);
                assert_eq!(new, block >= *first, "variant {number}, block {block}");
            }
        }
    }
}
