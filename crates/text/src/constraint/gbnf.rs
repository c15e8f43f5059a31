//! Grammars in the notation of llama.cpp (GBNF), rewritten in Lark's.
//!
//! Source of the notation: `grammars/README.md` of llama.cpp. Supported is all of it: rules,
//! strings, classes, `.`, groups, alternatives, `*`, `+`, `?`, `{n}`, `{n,}`, `{n,m}`, comments.

use std::fmt::Write as _;

use super::error::GrammarError;
use super::lark;
use super::limits::{MAX_NESTING, MAX_REPEAT};

/// Whether a rule is defined by `::=`.
pub(super) fn is_gbnf(grammar: &str) -> bool {
    grammar.lines().any(|line| {
        let line = line.trim_start();
        let rest = line.trim_start_matches(is_name);
        rest.len() < line.len() && rest.trim_start().starts_with("::=")
    })
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '-' || c == '_'
}

/// The same grammar for llguidance. The rule `root` becomes `start`.
pub(super) fn to_lark(grammar: &str) -> Result<String, GrammarError> {
    let mut reader = Reader {
        rest: grammar,
        line: 1,
    };
    let mut lark = String::new();
    let mut has_root = false;
    loop {
        reader.skip(true);
        if reader.rest.is_empty() {
            break;
        }
        let name = reader.name()?;
        has_root |= name == "root";
        reader.skip(false);
        if !reader.take("::=") {
            return Err(reader.expected("`::=`"));
        }
        let body = reader.alternatives(0)?;
        // Writing to a string cannot fail.
        let _ = writeln!(lark, "{}: {body}", rule(name));
    }
    if !has_root {
        return Err(GrammarError::Invalid(
            "the grammar must have a rule `root`".into(),
        ));
    }
    Ok(lark)
}

/// Lark tells rules from terminals by their first letter, and has words of its own.
fn rule(name: &str) -> String {
    if name == "root" {
        return "start".to_owned();
    }
    // Unambiguous: `-` and upper case are spelt with a `_` before, and `_` itself as well.
    let mut rule = "r_".to_owned();
    for c in name.chars() {
        match c {
            '-' => rule.push_str("_d"),
            '_' => rule.push_str("__"),
            'A'..='Z' => {
                rule.push_str("_u");
                rule.push(c.to_ascii_lowercase());
            }
            _ => rule.push(c),
        }
    }
    rule
}

#[derive(Debug)]
struct Reader<'g> {
    rest: &'g str,
    /// From 1.
    line: usize,
}

impl<'g> Reader<'g> {
    fn expected(&self, what: &str) -> GrammarError {
        let found: String = self.rest.chars().take(20).collect();
        let found = if found.is_empty() {
            "the end".to_owned()
        } else {
            format!("{found:?}")
        };
        GrammarError::Invalid(format!(
            "line {} of the grammar: expected {what}, got {found}",
            self.line
        ))
    }

    fn next(&mut self) -> Option<char> {
        let mut chars = self.rest.chars();
        let next = chars.next()?;
        self.rest = chars.as_str();
        if next == '\n' {
            self.line = self.line.saturating_add(1);
        }
        Some(next)
    }

    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn take(&mut self, word: &str) -> bool {
        match self.rest.strip_prefix(word) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    /// Leaves out blanks and comments, and line breaks where those say nothing.
    fn skip(&mut self, breaks: bool) {
        while let Some(c) = self.peek() {
            match c {
                ' ' | '\t' | '\r' => {}
                '\n' if breaks => {}
                '#' => {
                    let end = self.rest.find('\n').unwrap_or(self.rest.len());
                    self.rest = self.rest.get(end..).unwrap_or_default();
                    continue;
                }
                _ => return,
            }
            self.next();
        }
    }

    fn name(&mut self) -> Result<&'g str, GrammarError> {
        let rest = self.rest.trim_start_matches(is_name);
        let (name, rest) = self.rest.split_at(self.rest.len() - rest.len());
        if name.is_empty() {
            return Err(self.expected("the name of a rule"));
        }
        self.rest = rest;
        Ok(name)
    }

    fn alternatives(&mut self, depth: usize) -> Result<String, GrammarError> {
        if depth > MAX_NESTING {
            return Err(GrammarError::TooDeep {
                what: "the grammar",
                bound: MAX_NESTING,
            });
        }
        let mut options = vec![self.sequence(depth)?];
        loop {
            self.skip(depth > 0);
            // The next alternative may stand on the next line.
            let before = (self.rest, self.line);
            self.skip(true);
            if !self.take("|") {
                (self.rest, self.line) = before;
                return Ok(options.join(" | "));
            }
            self.skip(true);
            options.push(self.sequence(depth)?);
        }
    }

    fn sequence(&mut self, depth: usize) -> Result<String, GrammarError> {
        let mut items: Vec<String> = Vec::new();
        loop {
            self.skip(depth > 0);
            let item = match self.peek() {
                Some('"') => lark::literal(&self.string()?),
                Some('[') => self.class()?,
                Some('.') => {
                    self.next();
                    "/(?s:.)/".to_owned()
                }
                Some('(') => {
                    self.next();
                    let inner = self.alternatives(depth.saturating_add(1))?;
                    self.skip(true);
                    if !self.take(")") {
                        return Err(self.expected("`)`"));
                    }
                    format!("({inner})")
                }
                Some(c) if is_name(c) => rule(self.name()?),
                _ if items.is_empty() => return Ok("\"\"".to_owned()),
                _ => return Ok(items.join(" ")),
            };
            let item = self.repetitions(item)?;
            items.push(item);
        }
    }

    fn repetitions(&mut self, mut item: String) -> Result<String, GrammarError> {
        loop {
            let suffix = match self.peek() {
                Some(op @ ('*' | '+' | '?')) => {
                    self.next();
                    op.to_string()
                }
                Some('{') => self.counts()?,
                _ => return Ok(item),
            };
            item = format!("({item}){suffix}");
        }
    }

    /// `{n}`, `{n,}` or `{n,m}`.
    fn counts(&mut self) -> Result<String, GrammarError> {
        self.next();
        let least = self.count()?;
        let counts = match (self.take(","), self.peek()) {
            (true, Some('}')) => format!("{{{least},}}"),
            (true, _) => format!("{{{least},{}}}", self.count()?),
            (false, _) => format!("{{{least}}}"),
        };
        if !self.take("}") {
            return Err(self.expected("`}`"));
        }
        Ok(counts)
    }

    fn count(&mut self) -> Result<u64, GrammarError> {
        let rest = self.rest.trim_start_matches(|c: char| c.is_ascii_digit());
        let (digits, rest) = self.rest.split_at(self.rest.len() - rest.len());
        match digits.parse() {
            Ok(count) if count <= MAX_REPEAT => {
                self.rest = rest;
                Ok(count)
            }
            _ => Err(self.expected(&format!("a count between 0 and {MAX_REPEAT}"))),
        }
    }

    fn string(&mut self) -> Result<String, GrammarError> {
        self.next();
        let mut text = String::new();
        loop {
            match self.next() {
                Some('"') => return Ok(text),
                Some('\\') => text.push(self.escape()?),
                Some(c) if c != '\n' => text.push(c),
                _ => return Err(self.expected("`\"` before the end of the line")),
            }
        }
    }

    fn class(&mut self) -> Result<String, GrammarError> {
        self.next();
        let mut class = "/[".to_owned();
        if self.take("^") {
            class.push('^');
        }
        loop {
            let c = match self.next() {
                Some(']') => break,
                // Stands for a range, wherever it is not the first or the last.
                Some('-') if !class.ends_with(['[', '^']) && self.peek() != Some(']') => {
                    class.push('-');
                    continue;
                }
                Some('\\') => self.escape()?,
                Some(c) if c != '\n' => c,
                _ => return Err(self.expected("`]` before the end of the line")),
            };
            let _ = write!(class, "\\x{{{:x}}}", u32::from(c));
        }
        class.push_str("]/");
        Ok(class)
    }

    fn escape(&mut self) -> Result<char, GrammarError> {
        let digits = match self.next() {
            Some('n') => return Ok('\n'),
            Some('r') => return Ok('\r'),
            Some('t') => return Ok('\t'),
            Some(c @ ('"' | '\\' | '[' | ']' | '-' | '^' | '/' | '.')) => return Ok(c),
            Some('x') => 2,
            Some('u') => 4,
            Some('U') => 8,
            _ => return Err(self.expected("one of the escapes \\n \\r \\t \\\" \\\\ \\x \\u \\U")),
        };
        let value = self
            .rest
            .get(..digits)
            .and_then(|digits| u32::from_str_radix(digits, 16).ok())
            .and_then(char::from_u32);
        let Some(value) = value else {
            return Err(self.expected(&format!("{digits} hexadecimal digits of a character")));
        };
        self.rest = self.rest.get(digits..).unwrap_or_default();
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_notations_are_told_apart() {
        assert!(is_gbnf("# c\n  root ::= \"a\""));
        assert!(is_gbnf("root::=\"a\""));
        assert!(!is_gbnf("start: \"a ::= b\" x\nx: /::=/"));
    }

    #[test]
    fn every_construct_has_its_counterpart() {
        let gbnf =
            "# sums\nroot ::= (expr-A \"=\" [^a-z\\]-]+ \"\\n\"){1,3} # end\n  | .?\nexpr-A ::=\n";
        assert_eq!(
            to_lark(gbnf).unwrap(),
            "start: ((r_expr_d_ua \"=\" (/[^\\x{61}-\\x{7a}\\x{5d}\\x{2d}]/)+ \"\\n\")){1,3} \
             | (/(?s:.)/)?\nr_expr_d_ua: \"\"\n"
        );
    }

    #[test]
    fn mistakes_are_told_with_their_line() {
        for (grammar, words) in [
            ("root ::= \"a\nx ::= \"b\"", "line 2"),
            ("root ::= (\"a\"", "`)`"),
            ("root ::= [a", "`]`"),
            ("root ::= \"a\"{9999}", "between 0 and 4096"),
            ("root ::= \"\\q\"", "escapes"),
            ("root ::= \"\\uD800\"", "hexadecimal"),
            ("root ::= \"a\" !", "the name of a rule"),
            ("a ::= \"a\"", "`root`"),
            ("root = \"a\"\na ::= \"b\"", "`::=`"),
        ] {
            let message = to_lark(grammar).unwrap_err().to_string();
            assert!(message.contains(words), "{grammar}: {message}");
        }
        let deep = format!("root ::= {}", "(".repeat(1000));
        assert!(matches!(to_lark(&deep), Err(GrammarError::TooDeep { .. })));
    }
}
