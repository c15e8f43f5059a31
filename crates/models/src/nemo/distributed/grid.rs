//! Whether chunks make up a tensor.

use std::collections::BTreeMap;

/// Why they do not, as the end of a sentence about them.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum GridError {
    #[error("have other numbers of dimensions than the shape {0:?}")]
    Dimensions(Vec<usize>),
    #[error("do not cover axis {axis} of the shape {shape:?} exactly once")]
    Axis { axis: usize, shape: Vec<usize> },
    #[error("are {found}, but a grid of them has {expected}")]
    Holes { found: usize, expected: usize },
}

/// Checks that chunks of distinct `(offsets, sizes)` are the cells of a grid that fills `shape`.
pub(super) fn check<'a>(
    shape: &[usize],
    chunks: impl ExactSizeIterator<Item = (&'a [usize], &'a [usize])>,
) -> Result<(), GridError> {
    let found = chunks.len();
    // Per axis the sizes at each offset. Two of them at one offset can not both fit.
    let mut axes: Vec<BTreeMap<usize, usize>> = vec![BTreeMap::new(); shape.len()];
    for (offsets, sizes) in chunks {
        if offsets.len() != shape.len() || sizes.len() != shape.len() {
            return Err(GridError::Dimensions(shape.to_vec()));
        }
        for (axis, (cells, (&at, &size))) in
            axes.iter_mut().zip(offsets.iter().zip(sizes)).enumerate()
        {
            if *cells.entry(at).or_insert(size) != size {
                let shape = shape.to_vec();
                return Err(GridError::Axis { axis, shape });
            }
        }
    }
    let mut expected: usize = 1;
    for (axis, (cells, &size)) in axes.iter().zip(shape).enumerate() {
        let end = cells.iter().try_fold(0_usize, |end, (&at, &size)| {
            if at == end {
                at.checked_add(size)
            } else {
                None
            }
        });
        if end != Some(size) {
            let shape = shape.to_vec();
            return Err(GridError::Axis { axis, shape });
        }
        expected = expected.saturating_mul(cells.len());
    }
    if found != expected {
        return Err(GridError::Holes { found, expected });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(shape: &[usize], chunks: &[(&[usize], &[usize])]) -> Result<(), GridError> {
        super::check(shape, chunks.iter().copied())
    }

    #[test]
    fn grids_fill_their_shape() {
        check(&[], &[(&[], &[])]).unwrap();
        check(&[4], &[(&[0], &[4])]).unwrap();
        check(&[0], &[(&[0], &[0])]).unwrap();
        // Rows of 1 and 3, columns of 2 and 1.
        let uneven: [(&[usize], &[usize]); 4] = [
            (&[0, 0], &[1, 2]),
            (&[0, 2], &[1, 1]),
            (&[1, 0], &[3, 2]),
            (&[1, 2], &[3, 1]),
        ];
        check(&[4, 3], &uneven).unwrap();
        let holes = GridError::Holes {
            found: 3,
            expected: 4,
        };
        assert_eq!(check(&[4, 3], &uneven[1..]), Err(holes));
    }

    #[test]
    fn what_leaves_gaps_or_overlaps_is_refused() {
        let axis = |axis, shape: &[usize]| {
            let shape = shape.to_vec();
            Err(GridError::Axis { axis, shape })
        };
        assert_eq!(check(&[4], &[]), axis(0, &[4]));
        assert_eq!(check(&[4], &[(&[0], &[3])]), axis(0, &[4]));
        assert_eq!(check(&[4], &[(&[1], &[3])]), axis(0, &[4]));
        assert_eq!(check(&[4], &[(&[0], &[5])]), axis(0, &[4]));
        assert_eq!(check(&[4], &[(&[0], &[2]), (&[1], &[3])]), axis(0, &[4]));
        assert_eq!(check(&[4], &[(&[0], &[2]), (&[0], &[4])]), axis(0, &[4]));
        let huge = [(&[0][..], &[usize::MAX][..]), (&[usize::MAX], &[2])];
        assert_eq!(check(&[1], &huge), axis(0, &[1]));
        let rows: [(&[usize], &[usize]); 2] = [(&[0, 0], &[2, 2]), (&[0, 3], &[2, 1])];
        assert_eq!(check(&[2, 4], &rows), axis(1, &[2, 4]));
        let dimensions = GridError::Dimensions(vec![4]);
        assert_eq!(check(&[4], &[(&[0, 0], &[4, 1])]), Err(dimensions));
        let none = GridError::Holes {
            found: 0,
            expected: 1,
        };
        assert_eq!(check(&[], &[]), Err(none));
    }
}
