//! JSON, one character at a time.

/// Deeper nesting is refused. As deep as `serde_json` reads.
const MAX_DEPTH: usize = 128;

/// Follows one JSON value of RFC 8259 and tells where its parts begin and end.
///
/// Constant work per character; memory is a byte for each open container.
#[derive(Debug, Default)]
pub(super) struct Scanner {
    /// What is open, outermost first.
    open: Vec<Container>,
    state: State,
}

/// What a character is in the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) kind: Kind,
    /// Containers around what begins or ends; the whole value has 0.
    pub(super) level: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Neither first nor last of anything.
    Inside,
    /// The quote before a field's name.
    NameBegins,
    /// The quote behind it.
    NameEnds,
    /// The first of a value.
    ValueBegins,
    /// The last of a value, except of numbers: they end before the next character.
    ValueEnds,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Container {
    Object,
    Array,
}

#[derive(Debug, Clone, Copy, Default)]
enum State {
    #[default]
    Value,
    /// A value or the end of the array.
    FirstItem,
    /// A name or the end of the object.
    FirstField,
    Field,
    Colon,
    /// A comma or the end of the container.
    Comma,
    Text {
        is_name: bool,
        escape: Escape,
    },
    /// What is still to come of `true`, `false` or `null`.
    Word(&'static str),
    Number(Number),
    End,
}

#[derive(Debug, Clone, Copy)]
enum Escape {
    None,
    Backslash,
    /// Hexadecimal digits to come.
    Digits(u8),
}

/// What a number has so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Number {
    Minus,
    Zero,
    Whole,
    Point,
    Fraction,
    Exponent,
    Sign,
    Power,
}

impl Number {
    /// The number with one more character; `None` if that is not part of it.
    fn push(self, c: char) -> Option<Self> {
        match (self, c) {
            (Self::Minus, '0') => Some(Self::Zero),
            (Self::Minus, '1'..='9') | (Self::Whole, '0'..='9') => Some(Self::Whole),
            (Self::Zero | Self::Whole, '.') => Some(Self::Point),
            (Self::Point | Self::Fraction, '0'..='9') => Some(Self::Fraction),
            (Self::Zero | Self::Whole | Self::Fraction, 'e' | 'E') => Some(Self::Exponent),
            (Self::Exponent, '+' | '-') => Some(Self::Sign),
            (Self::Exponent | Self::Sign | Self::Power, '0'..='9') => Some(Self::Power),
            _ => None,
        }
    }

    fn is_whole(self) -> bool {
        matches!(
            self,
            Self::Zero | Self::Whole | Self::Fraction | Self::Power
        )
    }
}

impl Scanner {
    /// Takes the next character; `None` if there is no JSON that goes on like this.
    pub(super) fn push(&mut self, c: char) -> Option<Event> {
        match self.state {
            State::Text { is_name, escape } => self.text(c, is_name, escape),
            State::Word(rest) => self.word(c, rest),
            State::Number(number) => match number.push(c) {
                Some(number) => self.inside(State::Number(number)),
                None if number.is_whole() => {
                    self.state = self.after();
                    self.push(c)
                }
                None => None,
            },
            state if is_space(c) => self.inside(state),
            State::Value => self.value(c),
            State::FirstItem if c == ']' => self.close(Container::Array),
            State::FirstItem => self.value(c),
            State::FirstField if c == '}' => self.close(Container::Object),
            State::FirstField | State::Field if c == '"' => {
                self.state = State::Text {
                    is_name: true,
                    escape: Escape::None,
                };
                Some(self.event(Kind::NameBegins))
            }
            State::Colon if c == ':' => self.inside(State::Value),
            State::Comma => match (c, self.open.last()?) {
                (',', Container::Object) => self.inside(State::Field),
                (',', Container::Array) => self.inside(State::Value),
                ('}', Container::Object) => self.close(Container::Object),
                (']', Container::Array) => self.close(Container::Array),
                _ => None,
            },
            State::FirstField | State::Field | State::Colon | State::End => None,
        }
    }

    fn event(&self, kind: Kind) -> Event {
        Event {
            kind,
            level: self.open.len(),
        }
    }

    #[expect(
        clippy::unnecessary_wraps,
        reason = "what `push` gives for characters that fit"
    )]
    fn inside(&mut self, state: State) -> Option<Event> {
        self.state = state;
        Some(self.event(Kind::Inside))
    }

    /// What follows a value.
    fn after(&self) -> State {
        if self.open.is_empty() {
            State::End
        } else {
            State::Comma
        }
    }

    fn value(&mut self, c: char) -> Option<Event> {
        let event = self.event(Kind::ValueBegins);
        self.state = match c {
            '{' => self.open(Container::Object, State::FirstField)?,
            '[' => self.open(Container::Array, State::FirstItem)?,
            '"' => State::Text {
                is_name: false,
                escape: Escape::None,
            },
            't' => State::Word("rue"),
            'f' => State::Word("alse"),
            'n' => State::Word("ull"),
            '-' => State::Number(Number::Minus),
            '0' => State::Number(Number::Zero),
            '1'..='9' => State::Number(Number::Whole),
            _ => return None,
        };
        Some(event)
    }

    fn open(&mut self, container: Container, state: State) -> Option<State> {
        if self.open.len() == MAX_DEPTH {
            return None;
        }
        self.open.push(container);
        Some(state)
    }

    fn close(&mut self, container: Container) -> Option<Event> {
        if self.open.pop() != Some(container) {
            return None;
        }
        self.state = self.after();
        Some(self.event(Kind::ValueEnds))
    }

    fn text(&mut self, c: char, is_name: bool, escape: Escape) -> Option<Event> {
        let escape = match (escape, c) {
            (Escape::None, '"') if is_name => {
                self.state = State::Colon;
                return Some(self.event(Kind::NameEnds));
            }
            (Escape::None, '"') => {
                self.state = self.after();
                return Some(self.event(Kind::ValueEnds));
            }
            (Escape::None, '\\') => Escape::Backslash,
            (Escape::None, '\0'..='\u{1f}') => return None,
            (Escape::Backslash, 'u') => Escape::Digits(4),
            (Escape::Backslash, '"' | '\\' | '/' | 'b' | 'f' | 'n' | 'r' | 't')
            | (Escape::None, _) => Escape::None,
            (Escape::Digits(1), c) if c.is_ascii_hexdigit() => Escape::None,
            (Escape::Digits(left), c) if c.is_ascii_hexdigit() => {
                Escape::Digits(left.saturating_sub(1))
            }
            (Escape::Backslash | Escape::Digits(_), _) => return None,
        };
        self.inside(State::Text { is_name, escape })
    }

    fn word(&mut self, c: char, rest: &'static str) -> Option<Event> {
        let rest = rest.strip_prefix(c)?;
        if rest.is_empty() {
            self.state = self.after();
            return Some(self.event(Kind::ValueEnds));
        }
        self.inside(State::Word(rest))
    }
}

/// Whitespace between the parts of a value.
fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many characters of `text` fit, and whether a whole container was among them.
    fn scan(text: &str) -> (usize, bool) {
        let mut scanner = Scanner::default();
        let mut whole = false;
        for (at, c) in text.chars().enumerate() {
            let Some(event) = scanner.push(c) else {
                return (at, whole);
            };
            whole |= event.kind == Kind::ValueEnds && event.level == 0;
        }
        (text.chars().count(), whole)
    }

    #[test]
    fn json_is_followed_to_its_end() {
        for text in [
            "{}",
            "[ ]",
            r#"{"a": [1, -0.5e+10, 0, 1E3, true, false, null], "": {"\u00e9\n": "\"x\\"}}"#,
            "[[], {}, [{\"a\" : \"ü日\"}]]",
        ] {
            assert_eq!(scan(text), (text.chars().count(), true), "{text}");
        }
    }

    #[test]
    fn the_first_character_that_does_not_fit_is_found() {
        for (text, fits) in [
            ("{,", 1),
            ("{\"a\" 1", 5),
            ("{\"a\":1,}", 7),
            ("[1 2", 3),
            ("[01", 2),
            ("[1.]", 3),
            ("[-]", 2),
            ("[1e]", 3),
            ("[tru3", 4),
            ("[\"\\x", 3),
            ("[\"\\u12g", 6),
            ("[\"\n", 2),
            ("[}", 1),
            ("{]", 1),
            ("{}{", 2),
            ("{'", 1),
        ] {
            assert_eq!(scan(text).0, fits, "{text}");
        }
    }

    #[test]
    fn everything_that_serde_json_reads_fits_and_nothing_else() {
        use proptest::prelude::*;
        proptest!(|(text in r#"[\[{]([\[\]{},:"\\u0-9a-e.tr n-]|"a"|true){0,12}"#)| {
            let read = serde_json::from_str::<serde_json::Value>(&text).is_ok();
            let (fits, whole) = scan(&text);
            // A lone surrogate is grammatical, and yet no text.
            let surrogate = text.to_ascii_lowercase().contains("\\ud");
            prop_assert!(surrogate || read == (whole && fits == text.chars().count()));
        });
    }

    #[test]
    fn depth_is_bounded() {
        let deep = "[".repeat(MAX_DEPTH + 1);
        assert_eq!(scan(&deep).0, MAX_DEPTH);
    }
}
