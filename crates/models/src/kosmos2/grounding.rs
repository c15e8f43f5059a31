//! What an answer points at: `post_process_generation` of `processing_kosmos2.py`.
//!
//! The model writes `<phrase> a dog</phrase><object><patch_index_0010><patch_index_0500></object>`
//! for a dog in a box whose corners are in two cells of a grid, counted row by row.

use crate::{Entity, Grounded};

/// Cells per side of the grid over a picture.
const GRID: u64 = 32;

const PHRASE: [&str; 2] = ["<phrase>", "</phrase>"];
const OBJECT: [&str; 2] = ["<object>", "</object>"];
const NEXT_BOX: &str = "</delimiter_of_multi_objects/>";

/// Two cells, of a box's upper left and lower right corner.
type Cells = (u64, u64);

/// What Python's `str.strip` takes off.
pub(super) fn is_blank(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// An answer without markup, and the boxes of what it names.
///
/// Spans are as the reference gives them: those of boxes without a phrase are empty, and lie at
/// -1 where the answer's blanks are taken off in front of them.
pub(super) fn ground(answer: &str) -> Grounded {
    let answer = answer
        .rsplit(super::processor::IMAGE_END)
        .next()
        .unwrap_or_default();
    let clean = without_tags(answer);
    let cut = leading_blanks(&clean);
    let mut entities = Vec::new();
    for found in find(answer) {
        let place = |at: usize| without_tags(&answer[..at]).chars().count() as i64 - cut;
        let mut entity = |phrase: &str, boxes: &[Cells]| {
            let trailing = phrase.chars().rev().take_while(|&c| is_blank(c)).count() as i64;
            entities.push(Entity {
                span: (
                    place(found.span.0) + leading_blanks(phrase),
                    place(found.span.1) - trailing,
                ),
                phrase: phrase.trim_matches(is_blank).to_owned(),
                boxes: boxes.iter().copied().map(corners).collect(),
            });
        };
        match found.phrase {
            Some(phrase) => entity(phrase, &found.boxes),
            // Boxes alone are named after their cells.
            None => found.boxes.iter().for_each(|&(first, last)| {
                entity(
                    &format!("<patch_index_{first}><patch_index_{last}>"),
                    &[(first, last)],
                );
            }),
        }
    }
    Grounded {
        text: clean.trim_matches(is_blank).to_owned(),
        entities,
    }
}

fn leading_blanks(text: &str) -> i64 {
    text.chars().take_while(|&c| is_blank(c)).count() as i64
}

/// Takes out everything from a `<` to the next `>` of the same line.
fn without_tags(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(open) = rest.find('<') {
        clean.push_str(&rest[..open]);
        rest = &rest[open..];
        match rest.find(['>', '\n']) {
            Some(end) if rest[end..].starts_with('>') => rest = &rest[end + 1..],
            _ => {
                clean.push('<');
                rest = &rest[1..];
            }
        }
    }
    clean.push_str(rest);
    clean
}

/// Boxes in an answer, with the phrase that stands right before them.
struct Found<'a> {
    phrase: Option<&'a str>,
    /// Bytes of the phrase, or where the boxes begin.
    span: (usize, usize),
    boxes: Vec<Cells>,
}

/// All boxes that are written as they should be, from left to right.
fn find(answer: &str) -> Vec<Found<'_>> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(next) = answer[at..].find('<').map(|open| at + open) {
        let rest = &answer[next..];
        let after = if let Some((phrase, boxes, after)) = phrase_with_boxes(rest) {
            let start = next + PHRASE[0].len();
            found.push(Found {
                phrase: Some(phrase),
                span: (start, start + phrase.len()),
                boxes,
            });
            after
        } else if let Some((boxes, after)) = boxes(rest) {
            found.push(Found {
                phrase: None,
                span: (next, next),
                boxes,
            });
            after
        } else {
            &rest[1..]
        };
        at = answer.len() - after.len();
    }
    found
}

/// `<phrase>…</phrase>` with boxes right behind, and what follows.
fn phrase_with_boxes(text: &str) -> Option<(&str, Vec<Cells>, &str)> {
    let text = text.strip_prefix(PHRASE[0])?;
    let (phrase, rest) = text.split_at(text.find('<')?);
    let (boxes, rest) = boxes(rest.strip_prefix(PHRASE[1])?)?;
    (!phrase.is_empty()).then_some((phrase, boxes, rest))
}

/// `<object>…</object>`, and what follows.
fn boxes(text: &str) -> Option<(Vec<Cells>, &str)> {
    let mut rest = text.strip_prefix(OBJECT[0])?;
    let mut boxes = Vec::new();
    loop {
        let (first, after) = cell(rest)?;
        let (last, after) = cell(after)?;
        boxes.push((first, last));
        if let Some(after) = after.strip_prefix(OBJECT[1]) {
            return Some((boxes, after));
        }
        rest = after.strip_prefix(NEXT_BOX)?;
    }
}

/// `<patch_index_0000>`, and what follows.
fn cell(text: &str) -> Option<(u64, &str)> {
    let (number, rest) = text.strip_prefix(super::prompt::PATCH)?.split_once('>')?;
    let digits = number.bytes().all(|byte| byte.is_ascii_digit());
    Some((number.parse().ok().filter(|_| digits)?, rest))
}

/// `[left, top, right, bottom]` of a box, as shares of the picture's sides. Its corners are in the
/// middle of their cells, but for boxes that are in one row or column: those have all of it.
fn corners((first, last): Cells) -> [f64; 4] {
    let (left, top) = (first % GRID, first / GRID);
    let (right, bottom) = (last % GRID, last / GRID);
    let [near, far] = if left == right || top == bottom {
        [0.0, 1.0]
    } else {
        [0.5, 0.5]
    };
    [(left, near), (top, near), (right, far), (bottom, far)]
        .map(|(cell, within)| (cell as f64 + within) / GRID as f64)
}
