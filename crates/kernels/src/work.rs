//! What the blocks of threads of a card do in a step: the list of work of CUDA's paged attention,
//! and all else that the card must know of the step, packed into one buffer of whole numbers so
//! that one copy brings it there.
//!
//! Nothing in here depends on a model's heads: those are the second dimension of the grids.
//!
//! The buffer holds, in this order:
//!
//! | what | numbers each | order |
//! |---|---|---|
//! | items of decodes | [`ITEM_NUMBERS`] | by row |
//! | items of prefills | [`ITEM_NUMBERS`] | most keys first, so that no long one is begun last |
//! | joins | [`JOIN_NUMBERS`] | by row |
//! | slots | 1 | by row |
//! | blocks of the sequences | 1 | by position |

use crate::ragged::{PAGE_TOKENS, Sequence};
use crate::scratch::SPLIT_PAGES;

/// New rows of a sequence in an item of a prefill: as many as a block has query rows that computes
/// on tensor cores.
pub(crate) const TILE_TOKENS: usize = 64;

/// The index of no partial sum.
pub(crate) const NO_PARTIAL: u32 = u32::MAX;

/// Numbers of an item, of which one is padding; see `Item` in `cuda/paged_attention.cuh`.
pub(crate) const ITEM_NUMBERS: usize = 8;

/// Numbers of a join: a row, its first partial sum, and how many there are.
pub(crate) const JOIN_NUMBERS: usize = 3;

/// See the module.
#[derive(Debug)]
pub(crate) struct Work {
    pub(crate) packed: Vec<u32>,
    pub(crate) counts: Counts,
}

/// How many of each there are in a [`Work`], and so where they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) decodes: usize,
    pub(crate) prefills: usize,
    pub(crate) joins: usize,
    /// Partial sums that the joins take.
    pub(crate) partials: usize,
}

impl Counts {
    /// Where the joins begin.
    pub(crate) fn joins_at(&self) -> usize {
        (self.decodes + self.prefills) * ITEM_NUMBERS
    }

    /// Where the slots begin.
    pub(crate) fn slots_at(&self) -> usize {
        self.joins_at() + self.joins * JOIN_NUMBERS
    }
}

struct Item {
    row: usize,
    rows: usize,
    visible: usize,
    /// Where the blocks of the sequence begin among those of all.
    blocks: usize,
    first_page: usize,
    end_page: usize,
    partial: Option<usize>,
}

struct Join {
    row: usize,
    first_partial: usize,
    partials: usize,
}

impl Work {
    pub(crate) fn new(sequences: &[Sequence], slots: &[u32]) -> Self {
        let mut decodes = Vec::new();
        let mut prefills = Vec::new();
        let mut joins = Vec::new();
        let mut partials = 0;
        let mut blocks = 0;
        for sequence in sequences {
            let pages = sequence.blocks.len();
            let one = |row: usize, rows: usize| Item {
                row: sequence.rows.start + row,
                rows,
                visible: sequence.visible(row),
                blocks,
                first_page: 0,
                end_page: sequence.visible(row + rows - 1).div_ceil(PAGE_TOKENS),
                partial: None,
            };
            if sequence.rows.len() != 1 {
                for row in (0..sequence.rows.len()).step_by(TILE_TOKENS) {
                    let rows = TILE_TOKENS.min(sequence.rows.len() - row);
                    prefills.push(one(row, rows));
                }
            } else if pages <= SPLIT_PAGES {
                decodes.push(one(0, 1));
            } else {
                let first_partial = partials;
                for first_page in (0..pages).step_by(SPLIT_PAGES) {
                    decodes.push(Item {
                        first_page,
                        end_page: pages.min(first_page + SPLIT_PAGES),
                        partial: Some(partials),
                        ..one(0, 1)
                    });
                    partials += 1;
                }
                joins.push(Join {
                    row: sequence.rows.start,
                    first_partial,
                    partials: partials - first_partial,
                });
            }
            blocks += pages;
        }
        prefills.sort_by_key(|item| std::cmp::Reverse(item.end_page));
        let counts = Counts {
            decodes: decodes.len(),
            prefills: prefills.len(),
            joins: joins.len(),
            partials,
        };
        let blocks_at = counts.slots_at() + slots.len();
        let mut packed = Vec::with_capacity(blocks_at + blocks);
        for item in decodes.iter().chain(&prefills) {
            packed.extend(item.numbers(blocks_at));
        }
        for join in &joins {
            packed.extend([join.row, join.first_partial, join.partials].map(|n| n as u32));
        }
        packed.extend(slots);
        packed.extend(sequences.iter().flat_map(|sequence| &sequence.blocks));
        Self { packed, counts }
    }
}

impl Item {
    fn numbers(&self, blocks_at: usize) -> [u32; ITEM_NUMBERS] {
        [
            self.row as u32,
            self.rows as u32,
            self.visible as u32,
            (blocks_at + self.blocks) as u32,
            self.first_page as u32,
            self.end_page as u32,
            self.partial.map_or(NO_PARTIAL, |partial| partial as u32),
            0,
        ]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::parity::Noise;

    /// Sequences of so many new rows and tokens, with blocks that are all different.
    fn sequences(sizes: &[(usize, usize)]) -> Vec<Sequence> {
        let (mut row, mut block) = (0, 100);
        sizes
            .iter()
            .map(|&(rows, kv_len)| {
                let pages = kv_len.div_ceil(PAGE_TOKENS) as u32;
                let sequence = Sequence {
                    rows: row..row + rows,
                    kv_len,
                    blocks: (block..block + pages).collect(),
                };
                row += rows;
                block += pages;
                sequence
            })
            .collect()
    }

    /// For each row the blocks and keys of each that it is told to read, and where its sums go.
    type Read = BTreeMap<usize, Vec<(u32, usize, u32)>>;

    fn read(work: &Work) -> Read {
        let mut read = Read::new();
        let items = work.counts.decodes + work.counts.prefills;
        for item in work.packed.chunks(ITEM_NUMBERS).take(items) {
            let [row, rows, visible, blocks, first, end, partial, 0] = *item else {
                panic!("{item:?} is no item");
            };
            for r in 0..rows {
                // As the kernels do: a row goes as far as it sees.
                for page in first..end {
                    let keys = (visible + r) as usize;
                    let keys = keys.saturating_sub(page as usize * PAGE_TOKENS);
                    if keys > 0 {
                        let block = work.packed[(blocks + page) as usize];
                        let row = read.entry((row + r) as usize).or_default();
                        row.push((block, keys.min(PAGE_TOKENS), partial));
                    }
                }
            }
        }
        read
    }

    #[test]
    fn every_row_reads_every_key_that_it_sees_exactly_once() {
        let mut noise = Noise::new(41);
        for _ in 0..200 {
            let sizes: Vec<_> = (0..1 + noise.below(6))
                .map(|_| {
                    let kv_len = 1 + noise.below(1500);
                    let rows = match noise.below(4) {
                        0 | 1 => 1,
                        2 => kv_len,
                        _ => noise.below(kv_len + 1),
                    };
                    (rows, kv_len)
                })
                .collect();
            let sequences = sequences(&sizes);
            let rows = sizes.iter().map(|size| size.0).sum::<usize>();
            let slots: Vec<u32> = (0..rows as u32).map(|slot| 7 * slot).collect();
            let work = Work::new(&sequences, &slots);
            let mut read = read(&work);
            for sequence in &sequences {
                for row in 0..sequence.rows.len() {
                    let visible = sequence.visible(row);
                    let expected: Vec<(u32, usize)> = (0..visible.div_ceil(PAGE_TOKENS))
                        .map(|page| {
                            let keys = PAGE_TOKENS.min(visible - page * PAGE_TOKENS);
                            (sequence.blocks[page], keys)
                        })
                        .collect();
                    let found = read.remove(&(sequence.rows.start + row)).unwrap();
                    let found: Vec<_> = found.iter().map(|&(block, n, _)| (block, n)).collect();
                    assert_eq!(found, expected, "row {row} of {sizes:?}");
                }
            }
            assert!(read.is_empty(), "{read:?} belong to nobody");
            let slots_at = work.counts.slots_at();
            assert_eq!(work.packed[slots_at..][..rows], slots);
        }
    }

    #[test]
    fn the_splits_of_a_row_are_its_joins_and_no_row_has_one() {
        let pages = |pages: usize| pages * PAGE_TOKENS;
        let sizes = [
            (1, pages(SPLIT_PAGES)),
            (1, pages(SPLIT_PAGES) + 1),
            (2, pages(50)),
            (1, pages(3 * SPLIT_PAGES)),
        ];
        let sequences = sequences(&sizes);
        let work = Work::new(&sequences, &[0; 5]);
        let expected = Counts {
            decodes: 6,
            prefills: 1,
            joins: 2,
            partials: 5,
        };
        assert_eq!(work.counts, expected);
        let joins = &work.packed[work.counts.joins_at()..work.counts.slots_at()];
        assert_eq!(joins, [1, 0, 2, 4, 2, 3]);
        let read = read(&work);
        let partials = |row: usize| {
            let mut all: Vec<u32> = read[&row].iter().map(|&(_, _, partial)| partial).collect();
            all.dedup();
            all
        };
        assert_eq!(partials(0), [NO_PARTIAL]);
        assert_eq!(partials(1), [0, 1]);
        assert_eq!(partials(2), [NO_PARTIAL]);
        assert_eq!(partials(4), [2, 3, 4]);
    }

    #[test]
    fn prefills_are_cut_into_tiles_and_the_longest_begin() {
        let sequences = sequences(&[(131, 500), (72, 700), (0, 9)]);
        let work = Work::new(&sequences, &[0; 203]);
        let prefills: Vec<_> = work
            .packed
            .chunks(ITEM_NUMBERS)
            .take(work.counts.prefills)
            .map(|item| (item[0] as usize, item[1] as usize, item[5]))
            .collect();
        assert_eq!(
            prefills,
            [
                (131, 64, 22),
                (195, 8, 22),
                (64, 64, 16),
                (128, 3, 16),
                (0, 64, 14),
            ]
        );
        assert_eq!(work.counts.decodes, 0);
    }

    #[test]
    fn a_step_without_sequences_has_no_work() {
        let work = Work::new(&[], &[]);
        assert!(work.packed.is_empty());
        assert_eq!((work.counts.decodes, work.counts.prefills), (0, 0));
    }
}
