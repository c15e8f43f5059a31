//! Pixels of a picture: 8-bit levels with what they stand for, or values.

use std::fmt;
use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor, bail};

/// Colours of a pixel.
const COLOURS: usize = 3;

/// Levels of a colour.
const LEVELS: usize = 256;

/// What each level of each colour becomes. A clone shares it.
#[derive(Clone, PartialEq)]
pub struct LevelTable(Arc<[[f32; LEVELS]; COLOURS]>);

impl fmt::Debug for LevelTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LevelTable").finish_non_exhaustive()
    }
}

impl LevelTable {
    /// Takes what the levels of red, green and blue become.
    #[must_use]
    pub fn new(rows: [[f32; LEVELS]; COLOURS]) -> Self {
        Self(Arc::new(rows))
    }

    /// By colour and level.
    #[must_use]
    pub fn rows(&self) -> &[[f32; LEVELS]; COLOURS] {
        &self.0
    }

    /// The same as `[3, 256]`, f32.
    ///
    /// # Errors
    /// When the device fails.
    pub fn tensor(&self, device: &Device) -> Result<Tensor> {
        Tensor::from_slice(self.0.as_flattened(), (COLOURS, LEVELS), device)
    }
}

/// Parts of a picture that have the same form.
#[derive(Debug, Clone)]
pub enum Pixels {
    /// As resamplers give them, not yet normalised: that is done on the device, to which a
    /// quarter of the bytes go.
    Levels {
        /// `[n, height, width, 3]`, u8, on the CPU.
        levels: Tensor,
        /// What they become.
        table: LevelTable,
    },
    /// `[n, 3, height, width]`, f32, on the CPU: normalised, and then computed with.
    Values(Tensor),
}

impl Pixels {
    /// Pictures or parts of one, and their height and width in pixels.
    ///
    /// # Errors
    /// When they are not what they should be, or there are none.
    pub(crate) fn check(&self) -> Result<(usize, (usize, usize))> {
        let (name, tensor, dtype) = match self {
            Self::Levels { levels, .. } => ("levels", levels, DType::U8),
            Self::Values(values) => ("values", values, DType::F32),
        };
        if tensor.dtype() != dtype || !tensor.device().is_cpu() {
            bail!(
                "pixels in {name} must be {dtype:?} on the CPU, not {:?} on {:?}",
                tensor.dtype(),
                tensor.device().location()
            );
        }
        let (count, height, width, colours) = match self {
            Self::Levels { levels, .. } => levels.dims4()?,
            Self::Values(values) => {
                let (count, colours, height, width) = values.dims4()?;
                (count, height, width, colours)
            }
        };
        if colours != COLOURS || tensor.elem_count() == 0 {
            bail!(
                "pixels in {name} must be of {COLOURS} colours and at least one, not {:?}",
                tensor.dims()
            );
        }
        Ok((count, (height, width)))
    }

    /// How many parts there are.
    #[must_use]
    pub fn count(&self) -> usize {
        let (Self::Levels { levels: all, .. } | Self::Values(all)) = self;
        all.dims().first().copied().unwrap_or(0)
    }

    /// Bytes in memory, but for the table, which many share.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let (Self::Levels { levels: all, .. } | Self::Values(all)) = self;
        all.elem_count().saturating_mul(all.dtype().size_in_bytes())
    }

    /// `count` of the parts, from `first` on.
    ///
    /// # Errors
    /// When there are not so many.
    pub fn narrow(&self, first: usize, count: usize) -> Result<Self> {
        Ok(match self {
            Self::Levels { levels, table } => Self::Levels {
                levels: levels.narrow(0, first, count)?,
                table: table.clone(),
            },
            Self::Values(values) => Self::Values(values.narrow(0, first, count)?),
        })
    }

    /// What an encoder computes with, `[n, 3, height, width]`, f32.
    ///
    /// # Errors
    /// When the pixels are not those of an [`ImageInput`](crate::ImageInput).
    pub fn values(&self) -> Result<Tensor> {
        let (levels, table) = match self {
            Self::Levels { levels, table } => (levels, table),
            Self::Values(values) => return Ok(values.clone()),
        };
        let by_colour = levels.permute((0, 3, 1, 2))?;
        let (count, _, height, width) = by_colour.dims4()?;
        let planes = by_colour.reshape((count, COLOURS, height * width))?;
        let mut values = Vec::with_capacity(levels.elem_count());
        for picture in planes.to_vec3::<u8>()? {
            for (plane, becomes) in picture.iter().zip(table.rows()) {
                values.extend(plane.iter().map(|&level| becomes[usize::from(level)]));
            }
        }
        Tensor::from_vec(values, (count, COLOURS, height, width), &Device::Cpu)
    }

    /// Feeds everything that tells these pixels from others to `hasher`, each with its length.
    pub(crate) fn digest(&self, hasher: &mut blake3::Hasher) -> Result<()> {
        let (Self::Levels { levels: all, .. } | Self::Values(all)) = self;
        hasher.update(&[u8::from(matches!(self, Self::Levels { .. }))]);
        for &dim in [all.rank()].iter().chain(all.dims()) {
            hasher.update(&(dim as u64).to_le_bytes());
        }
        let all = all.flatten_all()?;
        match self {
            Self::Levels { table, .. } => {
                hasher.update(bytemuck::cast_slice(table.rows().as_flattened()));
                hasher.update(&all.to_vec1::<u8>()?);
            }
            Self::Values(_) => {
                hasher.update(bytemuck::cast_slice(&all.to_vec1::<f32>()?));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> LevelTable {
        LevelTable::new(std::array::from_fn(|colour| {
            std::array::from_fn(|level| (1000 * colour + level) as f32)
        }))
    }

    #[test]
    fn levels_become_what_the_table_says_colour_by_colour() {
        let levels: Vec<u8> = (0..2 * 2 * 3 * 3).map(|at| at * 7).collect();
        let levels = Tensor::from_vec(levels, (2, 2, 3, 3), &Device::Cpu).unwrap();
        let pixels = Pixels::Levels {
            levels,
            table: table(),
        };
        let values = pixels.values().unwrap();
        assert_eq!(values.dims(), [2, 3, 2, 3]);
        let found = values.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        // The first picture's red, then its green.
        let (red, green) = ([0., 21., 42., 63., 84., 105.], [1007., 1028., 1049.]);
        assert_eq!(found[..6], red);
        assert_eq!(found[6..9], green);
        let second = pixels.narrow(1, 1).unwrap();
        assert_eq!(
            (second.count(), second.bytes(), pixels.bytes()),
            (1, 18, 36)
        );
        let second = second.values().unwrap().flatten_all().unwrap();
        assert_eq!(second.to_vec1::<f32>().unwrap(), found[18..]);
        let as_values = Pixels::Values(values);
        assert_eq!(as_values.bytes(), 4 * 36);
        assert_eq!(as_values.narrow(0, 2).unwrap().count(), 2);
        assert!(as_values.narrow(1, 2).is_err());
    }

    #[test]
    fn a_table_is_a_tensor_by_colours() {
        let tensor = table().tensor(&Device::Cpu).unwrap();
        let rows = tensor.to_vec2::<f32>().unwrap();
        assert_eq!((rows.len(), rows[0].len()), (3, 256));
        assert_eq!((rows[1][0], rows[2][255]), (1000., 2255.));
        assert!(table() == table());
    }

    #[test]
    fn what_no_encoder_takes_is_refused_with_the_reason() {
        let zeros = |shape: &[usize], dtype| Tensor::zeros(shape, dtype, &Device::Cpu).unwrap();
        let values = |shape: &[usize], dtype| Pixels::Values(zeros(shape, dtype));
        let levels = |shape: &[usize], dtype| Pixels::Levels {
            levels: zeros(shape, dtype),
            table: table(),
        };
        let cases = [
            (values(&[1, 3, 2, 4], DType::F64), "must be F32"),
            (values(&[1, 2, 4, 3], DType::F32), "not [1, 2, 4, 3]"),
            (values(&[0, 3, 2, 4], DType::F32), "at least one"),
            (values(&[3, 2, 4], DType::F32), "rank"),
            (levels(&[1, 2, 4, 3], DType::F32), "must be U8"),
            (levels(&[1, 3, 2, 4], DType::U8), "not [1, 3, 2, 4]"),
            (levels(&[1, 0, 4, 3], DType::U8), "at least one"),
        ];
        for (pixels, reason) in cases {
            let error = pixels.check().unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
        let sides = |pixels: Pixels| pixels.check().unwrap();
        assert_eq!(sides(values(&[5, 3, 2, 4], DType::F32)), (5, (2, 4)));
        assert_eq!(sides(levels(&[5, 2, 4, 3], DType::U8)), (5, (2, 4)));
    }
}
