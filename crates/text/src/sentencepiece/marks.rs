//! Characters that no shielded symbol may contain.

use std::borrow::Cow;
use std::ops::Range;

use crate::shield::SENTINEL;

/// Stretches of a text, in order and apart from each other.
///
/// [`Tokenizer::shield`](crate::Tokenizer::shield) puts a sentinel behind the first character of
/// each literal; that character is marked here, and the sentinel gone.
#[derive(Debug, Default)]
pub(super) struct Marks(Vec<Range<usize>>);

impl Marks {
    /// `text` without sentinels, and the characters before them.
    pub(super) fn take(text: &str) -> (Cow<'_, str>, Self) {
        let mut marks = Self::default();
        if !text.contains(SENTINEL) {
            return (Cow::Borrowed(text), marks);
        }
        let mut clean = String::with_capacity(text.len());
        for (index, part) in text.split(SENTINEL).enumerate() {
            if index > 0
                && let Some(marked) = clean.chars().next_back()
            {
                marks.push(clean.len() - marked.len_utf8()..clean.len());
            }
            clean.push_str(part);
        }
        (Cow::Owned(clean), marks)
    }

    /// Adds a stretch that does not begin before those that are there.
    pub(super) fn push(&mut self, stretch: Range<usize>) {
        let last = self.0.last().map_or(0, |last| last.end);
        if last < stretch.end {
            self.0.push(stretch.start.max(last)..stretch.end);
        }
    }

    /// Whether any of `range` is marked.
    pub(super) fn touch(&self, range: &Range<usize>) -> bool {
        let next = self.0.partition_point(|mark| mark.end <= range.start);
        self.0.get(next).is_some_and(|mark| mark.start < range.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_character_before_a_sentinel_is_marked() {
        let text = format!("{SENTINEL}aé{SENTINEL}{SENTINEL}<{SENTINEL}b");
        let (clean, marks) = Marks::take(&text);
        assert_eq!(clean, "aé<b");
        assert_eq!(marks.0, [1..3, 3..4]);
        assert!(marks.touch(&(0..2)) && marks.touch(&(3..5)) && marks.touch(&(0..5)));
        assert!(!marks.touch(&(0..1)) && !marks.touch(&(4..5)));
    }

    #[test]
    fn text_without_sentinels_is_borrowed() {
        let (clean, marks) = Marks::take("abc");
        assert!(matches!(clean, Cow::Borrowed("abc")));
        assert!(!marks.touch(&(0..3)));
    }
}
