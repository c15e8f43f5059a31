//! Prompts that end in the middle of a message, whose text the answer continues.
//!
//! As `continue_final_message` of transformers (`utils/chat_template_utils.py`): a mark is put
//! behind the text of the last message, the template runs, and the prompt ends where the mark came
//! out.

use crate::shield::SENTINEL;

/// Shielded text has one sentinel at a time, and never two side by side.
const MARK: [char; 2] = [SENTINEL; 2];

/// Puts the mark behind `text`, which is shielded already. The blank behind it tells whether the
/// template takes blanks off the ends of messages.
pub fn mark_end(text: &mut String) {
    text.extend(MARK);
    text.push(' ');
}

/// The beginning of a rendered prompt up to the mark; `None` where the template has left it out.
/// Blanks in front of it go if the template has taken off the one behind it.
#[must_use]
pub fn cut_at_mark(prompt: &str) -> Option<&str> {
    let mark: String = MARK.into_iter().collect();
    let (head, tail) = prompt.rsplit_once(mark.as_str())?;
    Some(if tail.starts_with(' ') {
        head
    } else {
        head.trim_end()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marked(text: &str) -> String {
        let mut text = text.to_owned();
        mark_end(&mut text);
        text
    }

    #[test]
    fn a_prompt_ends_with_the_text_as_the_template_leaves_it() {
        let kept = format!("<a>{}<end>\n", marked("The answer is "));
        assert_eq!(cut_at_mark(&kept), Some("<a>The answer is "));
        let trimmed = format!("<a>{}<end>\n", marked("The answer is ").trim());
        assert_eq!(cut_at_mark(&trimmed), Some("<a>The answer is"));
        assert_eq!(cut_at_mark("<a>The answer is<end>"), None);
        assert_eq!(cut_at_mark(&marked("")), Some(""));
    }

    #[test]
    fn a_broken_literal_before_the_mark_stays_broken() {
        let broken = format!("<{SENTINEL}");
        assert_eq!(cut_at_mark(&marked(&broken)), Some(broken.as_str()));
    }
}
