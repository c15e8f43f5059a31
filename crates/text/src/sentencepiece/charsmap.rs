//! The compiled rules by which a model normalises characters (`precompiled_charsmap`).
//!
//! A blob is the size of a trie in bytes (u32), the trie, and the replacements, each ended by a NUL.
//! The trie is a double array of darts-clone: a unit of 32 bits is one byte of a key, and tells where
//! its children are; the value of a key is the offset of its replacement.

/// The longest replacement that is accepted, in bytes, so that a text cannot grow without bound.
/// The longest of NFKC has 33.
const MAX_REPLACEMENT: usize = 256;

/// Units come in blocks of this many; so does the child of a unit, whatever its byte.
const BLOCK: usize = 256;

/// How many rules are looked at for one place in a text (`Normalizer::kMaxTrieResultsSize`).
const MAX_RULES: usize = 32;

/// Rules that replace strings by others.
#[derive(Debug)]
pub(super) struct Charsmap {
    units: Vec<Unit>,
    replacements: String,
}

#[derive(Debug, Clone, Copy)]
struct Unit(u32);

impl Unit {
    /// Whether a key ends here; the child for the byte 0 then has its value.
    fn has_value(self) -> bool {
        self.0 >> 8 & 1 == 1
    }

    fn value(self) -> usize {
        (self.0 & 0x7fff_ffff) as usize
    }

    /// The byte that leads here; more than a byte where the unit is a value.
    fn label(self) -> u32 {
        self.0 & 0x8000_00ff
    }

    fn is_value(self) -> bool {
        self.label() > 0xff
    }

    /// To be combined with the place of the unit by exclusive or, as is the byte of the child.
    fn offset(self) -> usize {
        ((self.0 >> 10) << ((self.0 & 1 << 9) >> 6)) as usize
    }
}

impl Charsmap {
    /// Reads a blob and checks that no text can lead out of it.
    pub(super) fn new(blob: &[u8]) -> Result<Self, &'static str> {
        let (size, rest) = blob.split_first_chunk().ok_or("is too short")?;
        let size = u32::from_le_bytes(*size) as usize;
        let (trie, replacements) = rest
            .split_at_checked(size)
            .ok_or("is shorter than its trie")?;
        let (units, odd) = trie.as_chunks::<4>();
        let units: Vec<Unit> = units
            .iter()
            .map(|unit| Unit(u32::from_le_bytes(*unit)))
            .collect();
        if units.is_empty() || !units.len().is_multiple_of(BLOCK) || !odd.is_empty() {
            return Err("has a trie that is not made of whole blocks");
        }
        let replacements = str::from_utf8(replacements)
            .map_err(|_| "has replacements that are not UTF-8")?
            .to_owned();
        if !replacements.ends_with('\0') {
            return Err("has a replacement without an end");
        }
        if replacements
            .split('\0')
            .any(|text| text.len() > MAX_REPLACEMENT)
        {
            return Err("has a replacement of more than 256 bytes");
        }
        let charsmap = Self {
            units,
            replacements,
        };
        if !charsmap.is_sound() {
            return Err("has a trie that leads out of itself");
        }
        Ok(charsmap)
    }

    /// As darts-clone's `validate`: every child is inside, every value is where one is expected,
    /// and means the beginning of a character.
    fn is_sound(&self) -> bool {
        let inside = |at: usize, unit: Unit| (at ^ unit.offset()) | (BLOCK - 1) < self.units.len();
        let is_root = |unit: Unit| unit.label() == 0 && !unit.has_value() && unit.offset() != 0;
        self.units.iter().enumerate().all(|(at, &unit)| {
            if unit.is_value() {
                at != 0
                    && unit.value() < self.replacements.len()
                    && self.replacements.is_char_boundary(unit.value())
            } else {
                let value = || self.units.get(at ^ unit.offset());
                (at != 0 || is_root(unit))
                    && inside(at, unit)
                    && (!unit.has_value() || value().is_some_and(|value| value.is_value()))
            }
        })
    }

    /// The rule for the longest beginning of `text`: how many bytes of it, and what replaces them.
    pub(super) fn longest(&self, text: &str) -> Option<(usize, &str)> {
        let (length, value) = self
            .rules(text)
            .filter(|(length, _)| text.is_char_boundary(*length))
            .take(MAX_RULES)
            .last()?;
        let replacement = self.replacements.get(value..)?.split('\0').next()?;
        Some((length, replacement))
    }

    fn rules<'t>(&'t self, text: &'t str) -> impl Iterator<Item = (usize, usize)> + 't {
        let mut at = self.units.first().map_or(0, |root| root.offset());
        text.bytes()
            .zip(1..)
            .map_while(move |(byte, length)| {
                at ^= usize::from(byte);
                let unit = *self.units.get(at)?;
                (unit.label() == u32::from(byte)).then_some(())?;
                at ^= unit.offset();
                let value = unit.has_value().then(|| self.units.get(at)).flatten();
                Some((length, value))
            })
            .filter_map(|(length, value)| Some((length, value?.value())))
    }
}
