//! Pictures in tiles: cut from a canvas as pixels, and put together again as features.

use std::ops::Range;

use vlmd_media::Picture;

use super::levels::COLOURS;

/// A surface with a picture on it.
#[derive(Debug)]
pub(crate) struct Canvas<'a> {
    pub(crate) picture: &'a Picture,
    /// Column and row of the picture's upper left corner.
    pub(crate) at: (usize, usize),
    /// Every colour of what the picture does not cover.
    pub(crate) background: u8,
}

impl Canvas<'_> {
    /// The part of `width` by `height` pixels whose upper left corner is at `(x, y)`; `None` where
    /// it has no pixel.
    pub(crate) fn part(
        &self,
        (x, y): (usize, usize),
        (width, height): (usize, usize),
    ) -> Option<Picture> {
        let picture_width = self.picture.width() as usize;
        let (left, top) = self.at;
        let mut rgb = vec![self.background; width * height * COLOURS];
        // What of the picture lies on this part.
        let columns = x.max(left)..(x + width).min(left + picture_width);
        let rows = y.max(top)..(y + height).min(top + self.picture.height() as usize);
        if !columns.is_empty() {
            for row in rows {
                let source = ((row - top) * picture_width + columns.start - left) * COLOURS;
                let target = ((row - y) * width + columns.start - x) * COLOURS;
                let bytes = columns.len() * COLOURS;
                rgb[target..][..bytes].copy_from_slice(&self.picture.rgb()[source..][..bytes]);
            }
        }
        Picture::from_rgb(width as u32, height as u32, rgb)
    }
}

/// Where the features of a picture's tiles are: tile after tile, and within a tile row by row.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Features {
    /// Index of the first one.
    pub(crate) first: usize,
    /// Tiles side by side.
    pub(crate) across: usize,
    /// Features per side of a tile.
    pub(crate) cells: usize,
}

impl Features {
    /// The indices of these rows and columns, counted across tiles, in the order of reading;
    /// `end` behind each row.
    pub(crate) fn read(&self, rows: Range<usize>, columns: Range<usize>, end: u32) -> Vec<u32> {
        let Self {
            first,
            across,
            cells,
        } = *self;
        let feature = |row: usize, column: usize| {
            let tile = row / cells * across + column / cells;
            (first + (tile * cells + row % cells) * cells + column % cells) as u32
        };
        let mut order = Vec::with_capacity(rows.len() * (columns.len() + 1));
        for row in rows {
            order.extend(columns.clone().map(|column| feature(row, column)));
            order.push(end);
        }
        order
    }
}
