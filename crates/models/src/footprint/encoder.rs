//! Encoding of pictures.

use vlmd_kernels::{Attended, attention_scratch};

use super::{Compute, DecoderShape, product, sum};
use crate::common::clip::Geometry;
use crate::common::levels::COLOURS;
use crate::common::padding::{ALIGNMENT, Padded};
use crate::common::stages::MOST_ITEMS;

/// Widths of a tower.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TowerShape {
    pub(crate) hidden: usize,
    pub(crate) heads: usize,
    /// Inner width of a layer's MLP.
    pub(crate) inner: usize,
}

impl TowerShape {
    /// Numbers that the two halves of a layer make for each token of a piece: its input, normed,
    /// and what attention gives, by heads and in rows; its output and the sums, the MLP's input,
    /// inner values with three more of them for the activation, and output.
    fn layer(&self) -> usize {
        sum([product([10, self.hidden]), product([4, self.inner])])
    }

    fn attended(&self, rows: usize, keys: usize) -> Attended {
        Attended {
            rows,
            keys,
            heads: self.heads,
            kv_heads: self.heads,
            head_dim: self.hidden.checked_div(self.heads).unwrap_or(self.hidden),
        }
    }
}

/// How pictures become features.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum EncoderShape {
    /// Square views, each by itself, which a projector takes to the decoder's width.
    Views(ViewShape),
    /// Tiles that all see each other, to keys and values that the decoder looks at.
    Tiles(TileShape),
}

/// See [`EncoderShape::Views`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ViewShape {
    pub(crate) tower: TowerShape,
    pub(crate) geometry: Geometry,
    /// Views of the largest picture.
    pub(crate) most: usize,
    /// Rows that the projector gives for a view.
    pub(crate) projected: usize,
    /// Features of the largest picture in the prompt.
    pub(crate) features: usize,
    /// Width and height in pixels of a picture that becomes so many views and features.
    pub(crate) largest: (usize, usize),
}

impl ViewShape {
    /// Bytes of encoding the views of a call.
    ///
    /// All of its views are there between two layers, twice while the pieces of the next state
    /// are put together; a piece of at most [`MOST_ITEMS`] views has a layer's inner tensors
    /// beside them. In the end the pictures' features stand beside what the projector gave.
    pub(super) fn encoding_bytes(
        &self,
        call_pixels: usize,
        text_hidden: usize,
        compute: Compute,
    ) -> usize {
        let size = compute.size();
        let side = self.geometry.side();
        let pixels = product([side, side]);
        let views = self.most.max(call_pixels / pixels.max(1)).max(1);
        let piece = views.min(MOST_ITEMS);
        let tokens = self.geometry.features(true);
        let hidden = self.tower.hidden;
        let states = product([3, views, tokens, hidden, size]);
        // Values as they came, at most, and rows of patches, twice where some views have 8 bits a
        // colour and others not.
        let numbers = product([COLOURS, pixels]);
        let rows = sum([product([2, numbers]), product([4, tokens, hidden])]);
        let embed = product([
            piece,
            sum([product([numbers, size_of::<f32>()]), product([rows, size])]),
        ]);
        let layer = sum([
            // Queries, keys and values, which attention reads where they are.
            product([piece, tokens, 3, hidden, size]),
            product([piece, tokens, self.tower.layer(), size]),
            attention_scratch(
                compute.place,
                piece,
                self.tower.attended(tokens, tokens),
                compute.activations,
            ),
        ]);
        // Features twice as they come, and in the decoder's width for each layer and activation.
        let project = product([
            piece,
            sum([
                product([2, tokens, hidden]),
                product([6, self.projected.max(1), text_hidden]),
            ]),
            size,
        ]);
        let features = self
            .features
            .saturating_mul(views.div_ceil(self.most.max(1)));
        let arrange = product([
            2,
            sum([features, product([views, self.projected])]),
            text_hidden,
            size,
        ]);
        states.saturating_add(embed.max(layer).max(project).max(arrange))
    }
}

/// See [`EncoderShape::Tiles`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TileShape {
    pub(crate) tower: TowerShape,
    /// Pixels per side of a tile.
    pub(crate) tile: usize,
    /// Tiles of the largest canvas, all of which are computed for any picture.
    pub(crate) tiles: usize,
    /// Tokens of a tile without the filling.
    pub(crate) tile_tokens: usize,
    /// Inner states that are part of features.
    pub(crate) inner_states: usize,
}

impl TileShape {
    /// Features of a picture of all tiles.
    pub(super) fn features(&self) -> usize {
        self.tiles.saturating_mul(self.tile_tokens)
    }

    /// Bytes of encoding one picture: a call's pictures are encoded one after the other, and what
    /// is finished is in the decoder's store already.
    ///
    /// All tokens are there between two halves of a layer, with the inner states that become
    /// part of features, and with queries, keys and values, which are put together from pieces; a
    /// piece of at most [`MOST_ITEMS`] blocks has the inner tensors of half a layer beside them.
    pub(super) fn encoding_bytes(&self, decoder: &DecoderShape, compute: Compute) -> usize {
        let size = compute.size();
        let TowerShape { hidden, .. } = self.tower;
        let padded = Padded::new(self.tiles, self.tiles, self.tile_tokens).padded;
        let tokens = self.tiles.saturating_mul(padded);
        let rows = product([MOST_ITEMS, padded / ALIGNMENT]).min(tokens);
        let inner_states = product([self.inner_states, tokens, hidden, size]);
        let states = product([3, tokens, hidden, size]);
        let numbers = product([COLOURS, self.tile, self.tile]);
        // Levels and rows of patches.
        let embed = product([
            self.tiles.min(MOST_ITEMS),
            sum([product([2, numbers]), product([7, padded, hidden])]),
            size,
        ]);
        let layer = sum([
            // Queries, keys and values, twice while pieces are put together.
            product([2, 3, tokens, hidden, size]),
            product([rows, self.tower.layer(), size]),
            attention_scratch(
                compute.place,
                1,
                self.tower.attended(rows, tokens),
                compute.activations,
            ),
        ]);
        let features = self.features();
        let combine = sum([
            product([rows, 3, self.inner_states.saturating_add(1), hidden, size]),
            product([2, features, decoder.hidden, size]),
        ]);
        // Those of all layers, and once more while they are put together.
        let shown = product([4, decoder.looking, features, decoder.key_width(), size]);
        let keys = sum([shown, product([features, decoder.hidden, size])]);
        states
            .saturating_add(inner_states)
            .saturating_add(embed.max(layer).max(combine).max(keys))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::DType;
    use vlmd_kernels::Place;

    use super::*;

    const CLIP_L: TowerShape = TowerShape {
        hidden: 1024,
        heads: 16,
        inner: 4096,
    };

    fn views(most: usize) -> ViewShape {
        ViewShape {
            tower: CLIP_L,
            geometry: Geometry {
                hidden: 1024,
                patch: 14,
                grid: 24,
            },
            most,
            projected: 144,
            features: 757,
            largest: (336, 336),
        }
    }

    #[test]
    fn a_call_has_the_views_of_its_pixels_or_of_one_picture() {
        let cpu = Compute::of(Place::Cpu, None);
        let view = 336 * 336;
        let states = |views: usize| 3 * views * 577 * 1024 * 4;
        let layer = 8 * 577 * (3 * 1024 + 10 * 1024 + 4 * 4096) * 4;
        let bytes = |most, call| views(most).encoding_bytes(call, 3072, cpu);
        assert_eq!(bytes(5, 40 * view), states(40) + layer);
        assert_eq!(bytes(17, view), states(17) + layer);
        // On a card nothing is beside them but what few rows would make of splits of the keys.
        let cuda = Compute::of(Place::Cuda, Some(DType::F32));
        let splits = 8 * 32 * 16 * 3 * (64 + 2) * 4;
        let on_card = views(17).encoding_bytes(view, 3072, cuda);
        assert_eq!(on_card, states(17) + layer + splits);
        // Heads that no kernel takes make scores, 2^26 at a time, and copies of all in a piece.
        let odd = ViewShape {
            tower: TowerShape {
                heads: 8 * 32,
                ..CLIP_L
            },
            ..views(17)
        };
        let scores = (1 << 26) * 24 + 8 * 3 * 577 * 1024 * 4;
        let by_candle = odd.encoding_bytes(view, 3072, cuda);
        assert_eq!(by_candle, states(17) + layer + scores);
    }

    #[test]
    fn tiles_of_llama_take_what_their_tokens_say() {
        let tiles = TileShape {
            tower: TowerShape {
                hidden: 1280,
                heads: 16,
                inner: 5120,
            },
            tile: 560,
            tiles: 4,
            tile_tokens: 1601,
            inner_states: 5,
        };
        let decoder = DecoderShape {
            vocab_size: 128_256,
            hidden: 4096,
            inner: 14_336,
            heads: 32,
            kv_heads: 8,
            head_dim: 128,
            looking: 8,
        };
        assert_eq!(tiles.features(), 6404);
        let tokens = 4 * 1608;
        let states = (3 + 5) * tokens * 1280 * 4;
        let layer = 6 * tokens * 1280 * 4 + 8 * 201 * (10 * 1280 + 4 * 5120) * 4;
        let keys = 4 * 8 * 6404 * 1024 * 4 + 6404 * 4096 * 4;
        let cpu = Compute::of(Place::Cpu, None);
        let bytes = tiles.encoding_bytes(&decoder, cpu);
        assert_eq!(bytes, states + layer.max(keys));
        // A card takes half of that in bf16: scores of all tokens are never there.
        let cuda = Compute::of(Place::Cuda, Some(DType::BF16));
        assert_eq!(tiles.encoding_bytes(&decoder, cuda), bytes / 2);
    }
}
