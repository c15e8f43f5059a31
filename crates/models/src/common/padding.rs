//! Tokens of pictures in tiles of which some are filling, for layers that keep padding apart.

/// Tokens of a tile are filled up to a multiple of this. The filling is seen like the rest.
pub(crate) const ALIGNMENT: usize = 8;

/// Which of the tower's tokens are a picture's.
///
/// Tokens come tile by tile, each tile filled up. "Padding" are the fillings and all of the tiles
/// that the picture does not have; padding does not see padding, and that is all that the
/// reference's mask hides.
#[derive(Debug)]
pub(crate) struct Padded {
    tiles: usize,
    max_tiles: usize,
    /// Tokens of a tile.
    pub(crate) tokens: usize,
    /// The same with the filling.
    pub(crate) padded: usize,
}

impl Padded {
    pub(crate) fn new(tiles: usize, max_tiles: usize, tokens: usize) -> Self {
        Self {
            tiles,
            max_tiles,
            tokens,
            padded: tokens.next_multiple_of(ALIGNMENT),
        }
    }

    /// Tokens of all tiles without the filling.
    pub(crate) fn real_tokens(&self) -> usize {
        self.max_tiles * self.tokens
    }

    fn is_padding(&self, index: usize) -> bool {
        index / self.padded >= self.tiles || index % self.padded >= self.tokens
    }

    /// The tokens, those of the picture first.
    pub(crate) fn order(&self) -> Vec<u32> {
        let all = 0..self.max_tiles * self.padded;
        let (padding, own): (Vec<usize>, Vec<usize>) =
            all.partition(|&index| self.is_padding(index));
        own.into_iter()
            .chain(padding)
            .map(|index| index as u32)
            .collect()
    }

    /// Where the first `wanted` tokens, counted without the filling, stand in that order.
    pub(crate) fn tile_rows(&self, wanted: usize) -> Vec<u32> {
        let mut place = vec![0; self.max_tiles * self.padded];
        for (at, index) in self.order().into_iter().enumerate() {
            place[index as usize] = at as u32;
        }
        (0..wanted)
            .map(|token| place[token / self.tokens * self.padded + token % self.tokens])
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pictures_own_tokens_come_first() {
        // Two of three tiles, five tokens each, filled up to eight.
        let layout = Padded::new(2, 3, 5);
        let order = layout.order();
        assert_eq!(order[..10], [0, 1, 2, 3, 4, 8, 9, 10, 11, 12]);
        assert_eq!(order[10..16], [5, 6, 7, 13, 14, 15]);
        assert_eq!(order[16..], [16, 17, 18, 19, 20, 21, 22, 23]);
        assert_eq!(layout.tile_rows(10), (0..10).collect::<Vec<_>>());
        assert_eq!(layout.tile_rows(15)[10..], [16, 17, 18, 19, 20]);
    }
}
