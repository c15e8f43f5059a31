//! The machine that runs a pickle.

use std::collections::HashMap;

use super::{Node, NodeId, PickleError, Value, find, shown};
use crate::torch::globals::Global;

/// Most instructions of one pickle. A tensor takes about 35.
pub(super) const MAX_INSTRUCTIONS: usize = 1 << 21;

/// Most values on the stack. Python's pickler puts at most a thousand entries of one container
/// there before it stores them.
pub(super) const MAX_STACK: usize = 1 << 16;

/// Newest protocol there is.
const MAX_PROTOCOL: u8 = 5;

type Result<T, E = PickleError> = std::result::Result<T, E>;

/// The state between two instructions.
pub(super) struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    stack: Vec<Value<'a>>,
    /// Lengths that the stack had.
    marks: Vec<usize>,
    memo: HashMap<u32, Value<'a>>,
    nodes: Vec<Node<'a>>,
}

impl<'a> Machine<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            at: 0,
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
            nodes: Vec::new(),
        }
    }

    /// Runs to the end: all nodes, and the value of the pickle.
    pub(super) fn run(mut self) -> Result<(Vec<Node<'a>>, Value<'a>)> {
        for _ in 0..MAX_INSTRUCTIONS {
            if let Some(root) = self.step()? {
                return Ok((self.nodes, root));
            }
            if self.stack.len() + self.marks.len() > MAX_STACK {
                let limit = format!("{MAX_STACK} values on its stack");
                return Err(PickleError::TooLarge(limit));
            }
        }
        let limit = format!("{MAX_INSTRUCTIONS} instructions");
        Err(PickleError::TooLarge(limit))
    }

    /// One instruction; the value of the pickle if it was the last.
    fn step(&mut self) -> Result<Option<Value<'a>>> {
        match self.byte()? {
            b'.' => return self.pop().map(Some),
            b'(' => self.marks.push(self.stack.len()),
            b'0' => {
                self.pop()?;
            }
            b'1' => {
                self.pop_mark()?;
            }
            // The length of a frame only says how far to read ahead.
            0x95 => {
                self.length(8)?;
            }
            0x80 => {
                let protocol = self.byte()?;
                if protocol > MAX_PROTOCOL {
                    return Err(PickleError::Protocol(protocol));
                }
            }

            // Single values.
            b'N' | 0x88 | 0x89 => self.stack.push(Value::Opaque),
            b'G' => self.opaque(8)?,
            b'F' => {
                self.line()?;
                self.stack.push(Value::Opaque);
            }
            b'K' => self.unsigned(1)?,
            b'M' => self.unsigned(2)?,
            b'J' => self.signed(4)?,
            0x8a => {
                let len = self.length(1)?;
                self.signed(len)?;
            }
            0x8b => {
                let len = self.length(4)?;
                self.signed(len)?;
            }
            b'I' | b'L' => self.decimal()?,
            b'X' | b'T' => self.text(4)?,
            0x8c | b'U' => self.text(1)?,
            0x8d => self.text(8)?,
            b'C' => self.bytes(1)?,
            b'B' => self.bytes(4)?,
            0x8e | 0x96 => self.bytes(8)?,

            // Containers.
            b')' => self.tuple(0)?,
            0x85 => self.tuple(1)?,
            0x86 => self.tuple(2)?,
            0x87 => self.tuple(3)?,
            b't' | 0x91 => {
                let values = self.pop_mark()?;
                self.push(Node::Tuple(values.into()))?;
            }
            b']' | 0x8f => self.push(Node::List(Vec::new()))?,
            b'l' => {
                let values = self.pop_mark()?;
                self.push(Node::List(values))?;
            }
            b'a' => {
                let value = self.pop()?;
                self.list()?.push(value);
            }
            b'e' | 0x90 => {
                let values = self.pop_mark()?;
                self.list()?.extend(values);
            }
            b'}' => self.push(Node::Dict(Vec::new()))?,
            b'd' => {
                let values = self.pop_mark()?;
                self.push(Node::Dict(Vec::new()))?;
                self.set_items(&values)?;
            }
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.set_items(&[key, value])?;
            }
            b'u' => {
                let values = self.pop_mark()?;
                self.set_items(&values)?;
            }

            // Values seen before.
            b'p' => {
                let key = self.memo_line()?;
                self.memoize(key)?;
            }
            b'q' => {
                let key = self.number(1)?;
                self.memoize(key)?;
            }
            b'r' => {
                let key = self.number(4)?;
                self.memoize(key)?;
            }
            0x94 => self.memoize(self.memo.len() as u64)?,
            b'g' => {
                let key = self.memo_line()?;
                self.recall(key)?;
            }
            b'h' => {
                let key = self.number(1)?;
                self.recall(key)?;
            }
            b'j' => {
                let key = self.number(4)?;
                self.recall(key)?;
            }

            // Calls, none of which is made.
            b'c' => {
                let module = self.line()?;
                let name = self.line()?;
                self.global(module, name)?;
            }
            0x93 => {
                let (Value::Text(name), Value::Text(module)) = (self.pop()?, self.pop()?) else {
                    return Err(self.damaged("the name of a function is no text"));
                };
                self.global(module, name)?;
            }
            b'R' | 0x81 => {
                let arguments = self.pop()?;
                self.make(arguments)?;
            }
            0x92 => {
                // Named arguments: of what is read here nothing takes any.
                self.pop()?;
                let arguments = self.pop()?;
                self.make(arguments)?;
            }
            b'b' => {
                let attributes = self.pop()?;
                self.build(attributes)?;
            }
            b'Q' => {
                let id = self.pop()?;
                self.push(Node::Persistent(id))?;
            }
            other => return Err(PickleError::Instruction(other)),
        }
        Ok(None)
    }

    fn damaged(&self, reason: &'static str) -> PickleError {
        PickleError::Damaged {
            at: self.at,
            reason,
        }
    }

    // What is read from the pickle.

    fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let rest = self.bytes.get(self.at..).ok_or(PickleError::Cut)?;
        let taken = rest.get(..len).ok_or(PickleError::Cut)?;
        self.at += len;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8> {
        self.take(1)?.first().copied().ok_or(PickleError::Cut)
    }

    /// An unsigned number of `len` bytes, at most eight.
    fn number(&mut self, len: usize) -> Result<u64> {
        let little = self.take(len)?.iter().rev();
        Ok(little.fold(0, |number, &byte| number << 8 | u64::from(byte)))
    }

    /// A length that is stored in `len` bytes and does not reach beyond the pickle.
    fn length(&mut self, len: usize) -> Result<usize> {
        let length = usize::try_from(self.number(len)?).map_err(|_| PickleError::Cut)?;
        if length > self.bytes.len() - self.at {
            return Err(PickleError::Cut);
        }
        Ok(length)
    }

    /// Text up to the end of the line.
    fn line(&mut self) -> Result<&'a str> {
        let rest = self.bytes.get(self.at..).ok_or(PickleError::Cut)?;
        let len = rest.iter().position(|&byte| byte == b'\n');
        let line = self.take(len.ok_or(PickleError::Cut)?)?;
        self.byte()?;
        std::str::from_utf8(line).map_err(|_| self.damaged("text is not UTF-8"))
    }

    fn text(&mut self, len: usize) -> Result<()> {
        let len = self.length(len)?;
        let text = std::str::from_utf8(self.take(len)?);
        let text = text.map_err(|_| self.damaged("text is not UTF-8"))?;
        self.stack.push(Value::Text(text));
        Ok(())
    }

    fn bytes(&mut self, len: usize) -> Result<()> {
        let len = self.length(len)?;
        self.opaque(len)
    }

    fn opaque(&mut self, len: usize) -> Result<()> {
        self.take(len)?;
        self.stack.push(Value::Opaque);
        Ok(())
    }

    /// An integer of one or two bytes.
    fn unsigned(&mut self, len: usize) -> Result<()> {
        let number = self.number(len)?.cast_signed();
        self.stack.push(Value::Int(number));
        Ok(())
    }

    /// An integer of any length in two's complement.
    fn signed(&mut self, len: usize) -> Result<()> {
        if len > size_of::<i64>() {
            return self.opaque(len);
        }
        let number = self.number(len)?.cast_signed();
        // Moves the sign to the top bit and back. An integer of no bytes is zero.
        let unused = 64 - 8 * u32::try_from(len).unwrap_or(0);
        let moved = number.checked_shl(unused).unwrap_or(0);
        self.stack
            .push(Value::Int(moved.checked_shr(unused).unwrap_or(0)));
        Ok(())
    }

    /// An integer in digits, `L` behind it or not. Booleans are `00` and `01` there.
    fn decimal(&mut self) -> Result<()> {
        let line = self.line()?;
        let digits = line.strip_suffix('L').unwrap_or(line);
        let number = digits.parse().map_or(Value::Opaque, Value::Int);
        self.stack.push(number);
        Ok(())
    }

    fn memo_line(&mut self) -> Result<u64> {
        let line = self.line()?;
        line.parse()
            .map_err(|_| self.damaged("the number of a value is none"))
    }

    // The stack.

    fn top(&self) -> Result<Value<'a>> {
        // What lies below a mark is out of reach.
        if self.stack.len() <= self.marks.last().copied().unwrap_or(0) {
            return Err(self.damaged("a value is missing"));
        }
        let top = self.stack.last().copied();
        top.ok_or_else(|| self.damaged("a value is missing"))
    }

    fn pop(&mut self) -> Result<Value<'a>> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    /// All values from the last mark on.
    fn pop_mark(&mut self) -> Result<Vec<Value<'a>>> {
        let mark = self.marks.pop();
        let mark = mark.filter(|&mark| mark <= self.stack.len());
        let mark = mark.ok_or_else(|| self.damaged("a mark is missing"))?;
        Ok(self.stack.split_off(mark))
    }

    fn push(&mut self, node: Node<'a>) -> Result<()> {
        let id = u32::try_from(self.nodes.len());
        let id = id.map_err(|_| self.damaged("there are too many values"))?;
        self.nodes.push(node);
        self.stack.push(Value::Node(NodeId(id)));
        Ok(())
    }

    fn tuple(&mut self, len: usize) -> Result<()> {
        let mut values = Vec::with_capacity(len);
        for _ in 0..len {
            values.push(self.pop()?);
        }
        values.reverse();
        self.push(Node::Tuple(values.into()))
    }

    /// The node on top of the stack.
    fn top_node(&mut self) -> Result<Option<&mut Node<'a>>> {
        Ok(match self.top()? {
            Value::Node(NodeId(id)) => usize::try_from(id)
                .ok()
                .and_then(|id| self.nodes.get_mut(id)),
            _ => None,
        })
    }

    fn list(&mut self) -> Result<&mut Vec<Value<'a>>> {
        let none = self.damaged("something is added to what is no list");
        match self.top_node()? {
            Some(Node::List(values)) => Ok(values),
            _ => Err(none),
        }
    }

    fn set_items(&mut self, values: &[Value<'a>]) -> Result<()> {
        let uneven = self.damaged("a key has no value");
        let none = self.damaged("something is set in what is no dictionary");
        let (pairs, rest) = values.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(uneven);
        }
        match self.top_node()? {
            Some(Node::Dict(entries)) => {
                entries.extend(pairs.iter().map(|&[key, value]| (key, value)));
                Ok(())
            }
            _ => Err(none),
        }
    }

    fn memoize(&mut self, key: u64) -> Result<()> {
        let key = u32::try_from(key).map_err(|_| self.damaged("a value has too high a number"))?;
        let top = self.top()?;
        self.memo.insert(key, top);
        Ok(())
    }

    fn recall(&mut self, key: u64) -> Result<()> {
        let key = u32::try_from(key).ok();
        let value = key.and_then(|key| self.memo.get(&key).copied());
        let value = value.ok_or_else(|| self.damaged("there is no value of that number"))?;
        self.stack.push(value);
        Ok(())
    }

    fn global(&mut self, module: &str, name: &str) -> Result<()> {
        let global = Global::find(module, name)
            .ok_or_else(|| PickleError::Global(shown(&format!("{module}.{name}"))))?;
        self.stack.push(Value::Global(global));
        Ok(())
    }

    fn make(&mut self, arguments: Value<'a>) -> Result<()> {
        let Value::Global(of) = self.pop()? else {
            return Err(self.damaged("something is called that is no function"));
        };
        match of {
            // Its entries follow, as those of a plain one do.
            Global::OrderedDict => match find(&self.nodes, arguments) {
                Some(Node::Tuple(none)) if none.is_empty() => self.push(Node::Dict(Vec::new())),
                _ => Err(self.damaged("an ordered dictionary is made of something")),
            },
            _ => self.push(Node::Made {
                of,
                arguments,
                state: Value::Opaque,
            }),
        }
    }

    fn build(&mut self, attributes: Value<'a>) -> Result<()> {
        let none = self.damaged("attributes are set of what has none");
        match self.top_node()? {
            Some(Node::Made { state, .. }) => *state = attributes,
            // The versions of a module's parts.
            Some(Node::Dict(_)) => {}
            _ => return Err(none),
        }
        Ok(())
    }
}
