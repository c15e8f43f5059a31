//! What a model said of the next tokens, as it came to the host.

use vlmd_kernels::{Highest, MOST_HIGHEST};

/// The logits of a step's wanted rows.
#[derive(Debug)]
pub(crate) enum Logits {
    /// `[rows, vocab]`.
    All {
        /// Row-major.
        values: Vec<f32>,
        /// Length of a row.
        vocab: usize,
    },
    /// Of each row the highest, where no choice asks for more.
    Highest {
        /// `[rows, count]`.
        found: Highest,
        /// Of each row.
        count: usize,
    },
}

/// How many of the highest logits decide a choice; `None` where all may.
///
/// Ordered by how much has to be brought to the host: what two choices need is the greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Need {
    Highest(usize),
    All,
}

impl Need {
    /// So many, if a device can give so many.
    pub(crate) fn of(count: usize) -> Self {
        if count <= MOST_HIGHEST {
            Self::Highest(count)
        } else {
            Self::All
        }
    }
}

impl Logits {
    /// Of a step that wants none.
    pub(crate) const NONE: Self = Self::All {
        values: Vec::new(),
        vocab: 1,
    };

    pub(crate) fn rows(&mut self) -> Rows<'_> {
        match self {
            Self::All { values, vocab } => Rows::All {
                values,
                vocab: *vocab,
            },
            Self::Highest { found, count } => Rows::Highest {
                ids: &found.ids,
                logits: &mut found.logits,
                count: *count,
            },
        }
    }
}

/// Some rows of [`Logits`], one after the other.
#[derive(Debug)]
pub(crate) enum Rows<'a> {
    All {
        values: &'a mut [f32],
        vocab: usize,
    },
    Highest {
        ids: &'a [u32],
        logits: &'a mut [f32],
        count: usize,
    },
}

/// One row, to choose by.
#[derive(Debug)]
pub(crate) enum Row<'a> {
    /// By id.
    All(&'a mut [f32]),
    /// The highest first.
    Highest {
        ids: &'a [u32],
        logits: &'a mut [f32],
    },
}

impl<'a> Rows<'a> {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::All { values, vocab } => values.len() / vocab,
            Self::Highest { ids, count, .. } => ids.len() / count,
        }
    }

    /// Logits in all.
    pub(crate) fn logits(&self) -> usize {
        match self {
            Self::All { values, .. } => values.len(),
            Self::Highest { logits, .. } => logits.len(),
        }
    }

    /// The first `rows` and the others. There are at least so many.
    pub(crate) fn split_at(self, rows: usize) -> (Self, Self) {
        match self {
            Self::All { values, vocab } => {
                let (first, rest) = values.split_at_mut(rows * vocab);
                let all = |values| Self::All { values, vocab };
                (all(first), all(rest))
            }
            Self::Highest { ids, logits, count } => {
                let (first_ids, ids) = ids.split_at(rows * count);
                let (first_logits, logits) = logits.split_at_mut(rows * count);
                let highest = |ids, logits| Self::Highest { ids, logits, count };
                (highest(first_ids, first_logits), highest(ids, logits))
            }
        }
    }

    /// One after the other.
    pub(crate) fn into_iter(self) -> impl Iterator<Item = Row<'a>> {
        let (all, highest) = match self {
            Self::All { values, vocab } => (Some(values.chunks_exact_mut(vocab)), None),
            Self::Highest { ids, logits, count } => {
                let rows = ids.chunks_exact(count).zip(logits.chunks_exact_mut(count));
                (None, Some(rows))
            }
        };
        let highest = highest.into_iter().flatten();
        let highest = highest.map(|(ids, logits)| Row::Highest { ids, logits });
        all.into_iter().flatten().map(Row::All).chain(highest)
    }

    /// The same once more.
    pub(crate) fn to_logits(&self) -> Logits {
        match self {
            Self::All { values, vocab } => Logits::All {
                values: values.to_vec(),
                vocab: *vocab,
            },
            Self::Highest { ids, logits, count } => Logits::Highest {
                found: Highest {
                    ids: ids.to_vec(),
                    logits: logits.to_vec(),
                },
                count: *count,
            },
        }
    }

    /// The rows of which all logits are here.
    pub(crate) fn all(&self) -> impl Iterator<Item = &[f32]> {
        let (values, vocab): (&[f32], _) = match self {
            Self::All { values, vocab } => (values, *vocab),
            Self::Highest { .. } => (&[], 1),
        };
        values.chunks_exact(vocab)
    }
}
