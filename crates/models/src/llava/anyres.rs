//! How LLaVA-NeXT lays a picture of any size out in patches, and which of their features it
//! keeps, as `image_processing_llava_next.py` and `modeling_llava_next.py` do it.

use vlmd_media::Picture;
use vlmd_media::resample::{Filter, pil};

use crate::common::tiles::{Canvas, Features};

const BLACK: u8 = 0;

/// The layout of one picture. Pixels are counted in patches' sides where it says patches, in
/// features otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Plan {
    /// Patches, rows and columns.
    pub(super) patches: (usize, usize),
    /// Rows of features that lie on the picture and not on its padding.
    pub(super) rows: (usize, usize),
    /// Columns of the same.
    pub(super) columns: (usize, usize),
}

impl Plan {
    /// The layout of a picture of `width` by `height` pixels among these sizes, `(height, width)`,
    /// in patches of `side` pixels and `grid` features a side.
    pub(super) fn new(
        (width, height): (usize, usize),
        pinpoints: &[(usize, usize)],
        side: usize,
        grid: usize,
    ) -> Self {
        let (high, wide) = best((width, height), pinpoints);
        let patches = (high / side, wide / side);
        let (rows, columns) = (patches.0 * grid, patches.1 * grid);
        let kept = |all: usize, wanted: usize| {
            let before = all.saturating_sub(wanted) / 2;
            (before, all - before)
        };
        // `int(round(x, 7))` of the reference: what is a whole number up to rounding counts as it.
        let whole = |x: f64| ((x * 1e7).round() / 1e7) as usize;
        let (rows, columns) = if width as f64 / height as f64 > columns as f64 / rows as f64 {
            let wanted = whole(height as f64 * (columns as f64 / width as f64));
            (kept(rows, wanted), (0, columns))
        } else {
            let wanted = whole(width as f64 * (rows as f64 / height as f64));
            ((0, rows), kept(columns, wanted))
        };
        Self {
            patches,
            rows,
            columns,
        }
    }

    /// Features of the patches in the prompt: each row that is kept, and a newline behind it.
    pub(super) fn features(&self) -> usize {
        (self.rows.1 - self.rows.0) * (self.columns.1 - self.columns.0 + 1)
    }

    /// Indices into the features of all patches, `[rows of patches * columns of patches, grid,
    /// grid]`, flat, in the order of the prompt; `newline` where a row ends.
    pub(super) fn order(&self, grid: usize, newline: u32) -> Vec<u32> {
        let features = Features {
            first: 0,
            across: self.patches.1,
            cells: grid,
        };
        let (rows, columns) = (self.rows, self.columns);
        features.read(rows.0..rows.1, columns.0..columns.1, newline)
    }
}

/// The size that keeps most of the picture, and of equals the one that wastes least
/// (`select_best_resolution`).
fn best((width, height): (usize, usize), pinpoints: &[(usize, usize)]) -> (usize, usize) {
    let mut best = None;
    for &(high, wide) in pinpoints {
        let scale = (wide as f64 / width as f64).min(high as f64 / height as f64);
        let scaled = (width as f64 * scale) as usize * (height as f64 * scale) as usize;
        let effective = scaled.min(width * height);
        let wasted = wide * high - effective;
        let better = best.is_none_or(|(most, least, _)| {
            effective > most || (effective == most && wasted < least)
        });
        if better {
            best = Some((effective, wasted, (high, wide)));
        }
    }
    best.map_or((1, 1), |(_, _, size)| size)
}

/// Cuts a picture into patches of `side` pixels, row by row.
///
/// The picture is scaled to fit and stands in the middle, on black. Where what remains is odd the
/// reference's canvas is a pixel too short and its last patches a pixel too narrow: so they are
/// here, and what makes them whole is what makes any picture fit for the tower.
pub(super) fn patches(picture: &Picture, plan: &Plan, side: usize, filter: Filter) -> Vec<Picture> {
    let (high, wide) = (plan.patches.0 * side, plan.patches.1 * side);
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    let (scaled_wide, scaled_high) = scaled((width, height), (wide, high));
    let scaled = pil(picture, scaled_wide as u32, scaled_high as u32, filter);
    let (left, top) = ((wide - scaled_wide) / 2, (high - scaled_high) / 2);
    let (canvas_wide, canvas_high) = (scaled_wide + 2 * left, scaled_high + 2 * top);
    let canvas = Canvas {
        picture: &scaled,
        at: (left, top),
        background: BLACK,
    };
    let mut patches = Vec::with_capacity(plan.patches.0 * plan.patches.1);
    for y in (0..high).step_by(side) {
        for x in (0..wide).step_by(side) {
            let size = (side.min(canvas_wide - x), side.min(canvas_high - y));
            patches.extend(canvas.part((x, y), size));
        }
    }
    patches
}

/// `get_patch_output_size`: as large as fits, the ratio kept.
fn scaled((width, height): (usize, usize), (wide, high): (usize, usize)) -> (usize, usize) {
    let across = wide as f64 / width as f64;
    let down = high as f64 / height as f64;
    let grown = |side: usize, scale: f64| ((side as f64 * scale).ceil() as usize).max(1);
    if across < down {
        (wide, grown(height, across).min(high))
    } else {
        (grown(width, down).min(wide), high)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::Deserialize;

    use super::*;
    use crate::common::levels::COLOURS;

    /// What the reference counts for pictures of some 600 sizes, with views of one side:
    /// `feature_counts.json`, made by `tests/reference/llava.py`.
    #[derive(Deserialize)]
    struct Table {
        image_size: usize,
        patch_size: usize,
        image_grid_pinpoints: Vec<(usize, usize)>,
        /// Width, height, tokens by the processor, features by the model, and what the
        /// processor's pixels are.
        rows: Vec<(usize, usize, usize, usize, Pixels)>,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Pixels {
        Good,
        Wrong,
        Raises,
    }

    impl Table {
        fn plan(&self, size: (usize, usize)) -> Plan {
            let grid = self.image_size / self.patch_size;
            Plan::new(size, &self.image_grid_pinpoints, self.image_size, grid)
        }
    }

    fn tables() -> Vec<Table> {
        #[derive(Deserialize)]
        struct File {
            tables: Vec<Table>,
        }
        let read = |golden| {
            let goldens = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden");
            let bytes = std::fs::read(format!("{goldens}/{golden}/feature_counts.json")).unwrap();
            serde_json::from_slice::<File>(&bytes).unwrap().tables
        };
        let goldens = ["llava_next", "llava_next_vicuna", "llava_next_yi"];
        goldens.into_iter().flat_map(read).collect()
    }

    #[test]
    fn features_are_as_many_as_the_references_for_every_size() {
        for table in tables() {
            let whole = (table.image_size / table.patch_size).pow(2);
            for (width, height, tokens, features, _) in &table.rows {
                let found = whole + table.plan((*width, *height)).features();
                assert_eq!((found, found), (*tokens, *features), "{width} x {height}");
            }
        }
    }

    /// The rule that is followed where the reference fails: the last axis is the colours, however
    /// few rows there are. The reference takes a picture that is 1 or 3 pixels high, as it comes
    /// or scaled for its patches, for one whose first axis they are; and only such a picture.
    #[test]
    fn pictures_on_which_the_reference_fails_are_laid_out_like_any_other() {
        for table in tables() {
            let side = table.image_size;
            for (width, height, _, _, pixels) in &table.rows {
                let plan = table.plan((*width, *height));
                let canvas = (plan.patches.1 * side, plan.patches.0 * side);
                let (_, high) = scaled((*width, *height), canvas);
                let flat = [*height, high].iter().any(|&rows| rows == 1 || rows == 3);
                assert_eq!(flat, *pixels != Pixels::Good, "{width} x {height}");
                if flat {
                    check_patches((*width, *height), &plan, side);
                }
            }
        }
    }

    /// Patches are as many as planned and whole but for the odd pixel, and each pixel of the
    /// scaled picture lies on one of them.
    fn check_patches((width, height): (usize, usize), plan: &Plan, side: usize) {
        let rgb = vec![9; width * height * COLOURS];
        let picture = Picture::from_rgb(width as u32, height as u32, rgb).unwrap();
        let patches = patches(&picture, plan, side, Filter::Bicubic);
        assert_eq!(patches.len(), plan.patches.0 * plan.patches.1);
        let whole = |length: u32| (side - 1..=side).contains(&(length as usize));
        assert!(
            patches
                .iter()
                .all(|p| whole(p.width()) && whole(p.height()))
        );
        let (wide, high) = scaled(
            (width, height),
            (plan.patches.1 * side, plan.patches.0 * side),
        );
        let covered = patches.iter().flat_map(Picture::rgb);
        let covered = covered.filter(|&&level| level == 9).count();
        assert_eq!(covered, wide * high * COLOURS, "{width} x {height}");
    }

    const PINPOINTS: [(usize, usize); 5] =
        [(336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008)];

    proptest! {
        /// Features that are promised and indices that are given agree for every size, and every
        /// index names a feature.
        #[test]
        fn counts_and_indices_agree(width in 1_usize..=2000, height in 1_usize..=2000) {
            let plan = Plan::new((width, height), &PINPOINTS, 336, 24);
            let newline = (plan.patches.0 * plan.patches.1 * 24 * 24) as u32;
            let order = plan.order(24, newline);
            prop_assert_eq!(order.len(), plan.features());
            prop_assert!(order.iter().all(|&index| index <= newline));
            let mut sorted: Vec<u32> = order.into_iter().filter(|&i| i < newline).collect();
            sorted.sort_unstable();
            prop_assert!(sorted.windows(2).all(|pair| pair[0] < pair[1]));
        }

        #[test]
        fn patches_cover_the_layout(width in 1_usize..90, height in 1_usize..90) {
            let small = [(8, 16), (16, 8), (16, 16), (24, 8), (8, 24)];
            check_patches((width, height), &Plan::new((width, height), &small, 8, 2), 8);
        }
    }
}
