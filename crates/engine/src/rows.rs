//! What a model said of the next tokens, as it came to the host.

use vlmd_kernels::Draw;

/// What a sequence needs of the rows of logits that it wants.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Need {
    /// A token from each row for each of its voices, drawn where the logits are.
    Tokens {
        /// `[rows, voices]`; rows are counted from the sequence's first.
        draws: Vec<Draw>,
        voices: usize,
    },
    /// The logits themselves.
    Logits,
}

/// What came of the rows that a step wanted, in their order.
#[derive(Debug)]
pub(crate) struct Logits {
    /// `[rows, vocab]` of the sequences that need logits.
    pub(crate) values: Vec<f32>,
    /// Length of a row.
    pub(crate) vocab: usize,
    /// What was drawn for the others; `None` where logits were no numbers.
    pub(crate) drawn: Vec<Option<u32>>,
}

impl Logits {
    /// Of a step that wants none.
    pub(crate) const NONE: Self = Self {
        values: Vec::new(),
        vocab: 1,
        drawn: Vec::new(),
    };

    /// To be handed out.
    pub(crate) fn parts(&mut self) -> Parts<'_> {
        Parts {
            values: &mut self.values,
            vocab: self.vocab,
            drawn: &self.drawn,
        }
    }
}

/// What of [`Logits`] has not been taken yet.
#[derive(Debug)]
pub(crate) struct Parts<'a> {
    values: &'a mut [f32],
    vocab: usize,
    drawn: &'a [Option<u32>],
}

impl<'a> Parts<'a> {
    /// Logits in all.
    pub(crate) fn logits(&self) -> usize {
        self.values.len()
    }

    /// What came of the next sequence's `rows`, given what it needed of them.
    pub(crate) fn take(&mut self, need: &Need, rows: usize) -> Rows<'a> {
        match need {
            Need::Tokens { voices, .. } => {
                let ids = self.drawn.split_off(..rows * voices);
                Rows::Drawn {
                    ids: ids.unwrap_or_default(),
                    voices: *voices,
                    voice: 0,
                }
            }
            Need::Logits => {
                let values = self.values.split_off_mut(..rows * self.vocab);
                Rows::All {
                    values: values.unwrap_or_default(),
                    vocab: self.vocab,
                }
            }
        }
    }
}

/// Rows of one sequence, one after the other.
#[derive(Debug)]
pub(crate) enum Rows<'a> {
    All {
        /// `[rows, vocab]`.
        values: &'a mut [f32],
        vocab: usize,
    },
    Drawn {
        /// `[rows, voices]`.
        ids: &'a [Option<u32>],
        voices: usize,
        /// Whose they are.
        voice: usize,
    },
}

/// One row, to choose by.
#[derive(Debug)]
pub(crate) enum Row<'a> {
    /// By id.
    All(&'a mut [f32]),
    /// The choice is made; `None` where the logits were no numbers.
    Drawn(Option<u32>),
}

impl<'a> Rows<'a> {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::All { values, vocab } => values.len() / vocab,
            Self::Drawn { ids, voices, .. } => ids.len() / voices,
        }
    }

    /// Without the first `rows`. There are at least so many.
    pub(crate) fn skip(self, rows: usize) -> Self {
        match self {
            Self::All { values, vocab } => Self::All {
                values: &mut values[rows * vocab..],
                vocab,
            },
            Self::Drawn { ids, voices, voice } => Self::Drawn {
                ids: &ids[rows * voices..],
                voices,
                voice,
            },
        }
    }

    /// One after the other.
    pub(crate) fn into_iter(self) -> impl Iterator<Item = Row<'a>> {
        let (all, drawn) = match self {
            Self::All { values, vocab } => (Some(values.chunks_exact_mut(vocab)), None),
            Self::Drawn { ids, voices, voice } => {
                let own = ids.iter().skip(voice).step_by(voices);
                (None, Some(own))
            }
        };
        let drawn = drawn.into_iter().flatten().map(|id| Row::Drawn(*id));
        all.into_iter().flatten().map(Row::All).chain(drawn)
    }

    /// The same for another voice, the first being 0. `room` is for what it uses up.
    pub(crate) fn of_voice<'b>(&'b self, voice: usize, room: &'b mut Vec<f32>) -> Rows<'b> {
        match self {
            Self::All { values, vocab } => {
                room.clear();
                room.extend_from_slice(values);
                Rows::All {
                    values: room,
                    vocab: *vocab,
                }
            }
            Self::Drawn { ids, voices, .. } => Rows::Drawn {
                ids,
                voices: *voices,
                voice,
            },
        }
    }

    /// The rows of which all logits are here.
    pub(crate) fn all(&self) -> impl Iterator<Item = &[f32]> {
        let (values, vocab): (&[f32], _) = match self {
            Self::All { values, vocab } => (values, *vocab),
            Self::Drawn { .. } => (&[], 1),
        };
        values.chunks_exact(vocab)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everyone_gets_its_own() {
        let mut logits = Logits {
            values: vec![0.0, 1.0, 2.0, 3.0, 4.0, 5.0],
            vocab: 2,
            drawn: vec![Some(7), Some(8), None, Some(9)],
        };
        let tokens = |voices| Need::Tokens {
            draws: Vec::new(),
            voices,
        };
        let mut parts = logits.parts();
        assert_eq!(parts.logits(), 6);
        let ids = |rows: Rows<'_>| -> Vec<Option<u32>> {
            let id = |row| match row {
                Row::Drawn(id) => id,
                Row::All(_) => unreachable!("they were drawn"),
            };
            rows.into_iter().map(id).collect()
        };
        let room = &mut Vec::new();
        let first = parts.take(&Need::Logits, 1);
        assert_eq!(
            (first.len(), first.all().next()),
            (1, Some(&[0.0, 1.0][..]))
        );
        let one = parts.take(&tokens(1), 1);
        assert_eq!(one.len(), 1);
        assert_eq!(ids(one), [Some(7)]);
        let others = parts.take(&tokens(3), 1);
        assert_eq!((others.len(), others.all().count()), (1, 0));
        assert_eq!(ids(others.of_voice(1, room)), [None]);
        assert_eq!(ids(others.of_voice(2, room)), [Some(9)]);
        assert_eq!(ids(others), [Some(8)]);
        assert_eq!(parts.take(&tokens(1), 0).len(), 0);
        let last = parts.take(&Need::Logits, 2);
        let copy = last.of_voice(1, room).skip(1);
        assert_eq!(copy.all().collect::<Vec<_>>(), [&[4.0, 5.0]]);
        assert_eq!(last.skip(1).len(), 1);
    }

    #[test]
    fn each_voice_has_every_row() {
        let ids = [Some(1), Some(2), Some(3), Some(4)];
        for (voice, own) in [(0, [1, 3]), (1, [2, 4])] {
            let rows = Rows::Drawn {
                ids: &ids,
                voices: 2,
                voice,
            };
            assert_eq!(rows.len(), 2);
            let found = rows.into_iter().map(|row| match row {
                Row::Drawn(id) => id.unwrap(),
                Row::All(_) => unreachable!("they were drawn"),
            });
            assert_eq!(found.collect::<Vec<_>>(), own);
        }
    }
}
