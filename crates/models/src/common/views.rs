//! Views of pictures on their way into a tower.

use std::ops::Range;

use candle_core::{DType, Device, Result, Tensor, bail};
use vlmd_backend::{ImageInput, Pixels};
use vlmd_kernels::{level_patches, value_patches};

/// What pictures consist of, one after the other, all of one height and width.
#[derive(Debug)]
pub(crate) struct Views(Vec<Pixels>);

impl Views {
    /// Those of these pictures, whose pixels are shared and not copied.
    pub(crate) fn of(images: &[&ImageInput]) -> Self {
        let pixels = images.iter().flat_map(|image| &image.pixels);
        Self(pixels.cloned().collect())
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.0.iter().map(Pixels::count).sum()
    }

    /// Some of them as rows of patches, `[views, patches, 3 * patch * patch]`, in the order of a
    /// convolution's weight: see [`level_patches`].
    ///
    /// Pixels come to the device as they are and become numbers there, in one go for as many as
    /// have one form.
    pub(crate) fn patches(
        &self,
        views: Range<usize>,
        patch: usize,
        dtype: DType,
        device: &Device,
    ) -> Result<Tensor> {
        let runs = self.within(&views)?;
        let cut = |run: &[Pixels]| match together(run)? {
            Pixels::Levels { levels, table } => level_patches(
                &levels.to_device(device)?,
                &table.tensor(device)?,
                patch,
                dtype,
            ),
            Pixels::Values(values) => value_patches(&values.to_device(device)?, patch, dtype),
        };
        let parts = runs
            .chunk_by(are_alike)
            .map(cut)
            .collect::<Result<Vec<_>>>()?;
        Tensor::cat(&parts, 0)
    }

    /// Those from `views.start` to `views.end`.
    fn within(&self, views: &Range<usize>) -> Result<Vec<Pixels>> {
        let mut found = Vec::new();
        let mut first = 0;
        for pixels in &self.0 {
            let end = first + pixels.count();
            let wanted = views.start.max(first)..views.end.min(end);
            if !wanted.is_empty() {
                found.push(pixels.narrow(wanted.start - first, wanted.len())?);
            }
            first = end;
        }
        if views.is_empty() || views.end > first {
            bail!("of {first} views there are no {views:?}");
        }
        Ok(found)
    }
}

/// Whether two have one form, and where that is levels, what they become.
fn are_alike(a: &Pixels, b: &Pixels) -> bool {
    match (a, b) {
        (Pixels::Levels { table: a, .. }, Pixels::Levels { table: b, .. }) => a == b,
        (Pixels::Values(_), Pixels::Values(_)) => true,
        _ => false,
    }
}

/// Pixels of one form as one. A single one is not copied.
fn together(run: &[Pixels]) -> Result<Pixels> {
    let tensors: Vec<&Tensor> = run
        .iter()
        .map(|(Pixels::Levels { levels: all, .. } | Pixels::Values(all))| all)
        .collect();
    let all = Tensor::cat(&tensors, 0)?;
    Ok(match run.first() {
        Some(Pixels::Levels { table, .. }) => Pixels::Levels {
            levels: all,
            table: table.clone(),
        },
        _ => Pixels::Values(all),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use vlmd_backend::LevelTable;

    use super::*;

    const SIDE: usize = 4;

    fn table(step: f32) -> LevelTable {
        LevelTable::new(std::array::from_fn(|colour| {
            std::array::from_fn(|level| (colour * 256 + level) as f32 * step)
        }))
    }

    /// Pictures of views of these forms: 0 and 1 are two tables, 2 is values.
    fn pictures(forms: &[(u8, usize)]) -> Vec<ImageInput> {
        let tables = [table(0.5), table(0.25)];
        let mut next = 0_usize;
        let picture = |&(form, count): &(u8, usize)| {
            let shape = [count, SIDE, SIDE, 3];
            let levels: Vec<u8> = (next..next + shape.iter().product::<usize>())
                .map(|at| (at * 31) as u8)
                .collect();
            next += levels.len();
            let pixels = match tables.get(usize::from(form)) {
                Some(table) => Pixels::Levels {
                    levels: Tensor::from_vec(levels, &shape, &Device::Cpu).unwrap(),
                    table: table.clone(),
                },
                None => {
                    let values = levels.into_iter().map(f32::from).collect();
                    let shape = [count, 3, SIDE, SIDE];
                    Pixels::Values(Tensor::from_vec(values, &shape, &Device::Cpu).unwrap())
                }
            };
            ImageInput::new(vec![pixels], (1, 1), 1).unwrap()
        };
        forms.iter().map(picture).collect()
    }

    fn numbers(tensor: &Tensor) -> Vec<f32> {
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }

    proptest! {
        /// Any stretch of views of any forms is what their values are, cut.
        #[test]
        fn a_stretch_is_cut_like_its_values(
            forms in prop::collection::vec((0_u8..3, 1_usize..4), 1..5),
            start in 0_usize..12,
            len in 1_usize..9,
        ) {
            let images = pictures(&forms);
            let views = Views::of(&images.iter().collect::<Vec<_>>());
            let count = forms.iter().map(|(_, count)| count).sum::<usize>();
            prop_assert_eq!(views.count(), count);
            let wanted = start..start + len;
            let found = views.patches(wanted.clone(), 2, DType::F32, &Device::Cpu);
            if wanted.end > count {
                let error = found.unwrap_err().to_string();
                prop_assert!(error.contains("there are no"), "{}", error);
                return Ok(());
            }
            let values: Vec<Tensor> = images
                .iter()
                .flat_map(|image| &image.pixels)
                .map(|pixels| pixels.values().unwrap())
                .collect();
            let values = Tensor::cat(&values, 0).unwrap();
            let values = values.narrow(0, start, len).unwrap();
            let expected = value_patches(&values, 2, DType::F32).unwrap();
            let found = found.unwrap();
            prop_assert_eq!(found.dims(), expected.dims());
            prop_assert_eq!(numbers(&found), numbers(&expected));
        }
    }

    #[test]
    fn no_views_are_no_stretch() {
        let images = pictures(&[(0, 2)]);
        let views = Views::of(&[&images[0]]);
        assert!(views.patches(1..1, 2, DType::F32, &Device::Cpu).is_err());
    }
}
