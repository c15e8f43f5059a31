//! Typed access to the fields of a JSON object, with the path kept for error messages.
//!
//! `null` counts as absent everywhere: several clients send every field they know of.

use std::fmt;
use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use crate::RequestError;

/// Longest piece of a value that an error message repeats, in characters.
///
/// Long enough to recognise a value, short enough that no picture ends up in a log.
const SHOWN_CHARS: usize = 48;

/// Largest magnitude below which every integer is exact in a double.
const EXACT_FLOAT: f64 = 9_007_199_254_740_992.0;

/// A bound on a number that is not an integer.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Bounds {
    /// From the first to the second, both allowed.
    Closed(f64, f64),
    /// Above the first, up to the second.
    Above(f64, f64),
}

impl Bounds {
    fn contain(self, value: f64) -> bool {
        match self {
            Self::Closed(min, max) => (min..=max).contains(&value),
            Self::Above(min, max) => value > min && value <= max,
        }
    }
}

impl fmt::Display for Bounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed(min, max) => write!(f, "between {min} and {max}"),
            Self::Above(min, max) => write!(f, "greater than {min} and at most {max}"),
        }
    }
}

/// The fields of one JSON object that have not been read yet.
#[derive(Debug)]
pub(crate) struct Fields {
    map: Map<String, Value>,
    path: String,
}

impl Fields {
    /// Takes `value` as an object. `path` is empty for the request body itself.
    pub(crate) fn new(value: Value, path: String) -> Result<Self, RequestError> {
        match value {
            Value::Object(map) => Ok(Self { map, path }),
            other => {
                let field = if path.is_empty() {
                    "request body".to_owned()
                } else {
                    path
                };
                Err(wrong_type(field, "an object", &other))
            }
        }
    }

    /// Path of this object.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// Path of the field `name` of this object.
    pub(crate) fn at(&self, name: &str) -> String {
        if self.path.is_empty() {
            name.to_owned()
        } else {
            format!("{}.{name}", self.path)
        }
    }

    /// Looks at a field without taking it.
    pub(crate) fn peek(&self, name: &str) -> Option<&Value> {
        self.map.get(name).filter(|value| !value.is_null())
    }

    /// Takes a field as it is.
    pub(crate) fn take(&mut self, name: &str) -> Option<Value> {
        self.map.remove(name).filter(|value| !value.is_null())
    }

    /// Refuses the request for lack of the field `name`.
    pub(crate) fn missing(&self, name: &str) -> RequestError {
        RequestError::Missing {
            field: self.at(name),
        }
    }

    pub(crate) fn boolean(&mut self, name: &str) -> Result<Option<bool>, RequestError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(value)),
            Some(other) => Err(wrong_type(self.at(name), "true or false", &other)),
        }
    }

    pub(crate) fn string(&mut self, name: &str) -> Result<Option<String>, RequestError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(value)) => Ok(Some(value)),
            Some(other) => Err(wrong_type(self.at(name), "a string", &other)),
        }
    }

    pub(crate) fn array(&mut self, name: &str) -> Result<Option<Vec<Value>>, RequestError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Array(value)) => Ok(Some(value)),
            Some(other) => Err(wrong_type(self.at(name), "an array", &other)),
        }
    }

    pub(crate) fn object(
        &mut self,
        name: &str,
    ) -> Result<Option<Map<String, Value>>, RequestError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Object(value)) => Ok(Some(value)),
            Some(other) => Err(wrong_type(self.at(name), "an object", &other)),
        }
    }

    /// A number within `bounds`, narrowed to the engine's precision.
    pub(crate) fn number(
        &mut self,
        name: &str,
        bounds: Bounds,
    ) -> Result<Option<f32>, RequestError> {
        self.take(name)
            .map(|value| number(&self.at(name), &value, bounds))
            .transpose()
    }

    /// An integer within `range`. `16.0` counts as 16: some clients know only floats.
    pub(crate) fn integer<T: TryFrom<i64>>(
        &mut self,
        name: &str,
        range: RangeInclusive<i64>,
    ) -> Result<Option<T>, RequestError> {
        self.take(name)
            .map(|value| integer(&self.at(name), &value, range))
            .transpose()
    }
}

/// Reads one number; see [`Fields::number`].
pub(crate) fn number(field: &str, value: &Value, bounds: Bounds) -> Result<f32, RequestError> {
    let number = value
        .as_f64()
        .ok_or_else(|| wrong_type(field.to_owned(), "a number", value))?;
    if !bounds.contain(number) {
        return Err(out_of_range(field, bounds.to_string(), value));
    }
    // Doubles that are tiny but not 0 would become 0 here, and leave an open interval.
    let narrow = number as f32;
    match bounds {
        Bounds::Above(min, _) if f64::from(narrow) <= min => Ok(narrow.next_up()),
        _ => Ok(narrow),
    }
}

/// Reads one integer; see [`Fields::integer`].
pub(crate) fn integer<T: TryFrom<i64>>(
    field: &str,
    value: &Value,
    range: RangeInclusive<i64>,
) -> Result<T, RequestError> {
    let Value::Number(number) = value else {
        return Err(wrong_type(field.to_owned(), "an integer", value));
    };
    let whole = match (number.as_i64(), number.as_u64(), number.as_f64()) {
        (Some(whole), ..) => Some(whole),
        (None, Some(_), _) => None,
        (None, None, Some(float)) if float.fract() == 0.0 => {
            (float.abs() <= EXACT_FLOAT).then_some(float as i64)
        }
        _ => return Err(wrong_type(field.to_owned(), "an integer", value)),
    };
    whole
        .filter(|whole| range.contains(whole))
        .and_then(|whole| T::try_from(whole).ok())
        .ok_or_else(|| {
            let bound = format!("between {} and {}", range.start(), range.end());
            out_of_range(field, bound, value)
        })
}

/// A value of another type than it must have.
pub(crate) fn wrong_type(field: String, expected: &'static str, value: &Value) -> RequestError {
    RequestError::Type {
        field,
        expected,
        found: show(value),
    }
}

/// A value of the right type out of its range.
pub(crate) fn out_of_range(
    field: impl Into<String>,
    bound: impl Into<String>,
    value: &Value,
) -> RequestError {
    RequestError::Value {
        field: field.into(),
        bound: bound.into(),
        value: show(value),
    }
}

/// A value as error messages show it: scalars shortened, containers by their kind.
pub(crate) fn show(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Array(items) => format!("an array of {}", items.len()),
        Value::Object(_) => "an object".to_owned(),
        Value::String(text) => {
            let mut shown: String = text.chars().take(SHOWN_CHARS).collect();
            if shown.len() < text.len() {
                shown.push_str("...");
            }
            format!("{shown:?}")
        }
        Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(value: Value) -> Fields {
        let object = Map::from_iter([("x".to_owned(), value)]);
        Fields::new(Value::Object(object), "nvext".into()).unwrap()
    }

    #[test]
    fn integers_may_be_written_as_floats() {
        for (value, expected) in [(json!(7), 7), (json!(7.0), 7), (json!(-1e0), -1)] {
            assert_eq!(
                read(value).integer::<i64>("x", -1..=10).unwrap(),
                Some(expected)
            );
        }
    }

    #[test]
    fn fractions_and_texts_are_no_integers() {
        for value in [json!(7.5), json!("7"), json!(true), json!([7])] {
            let error = read(value).integer::<i64>("x", 0..=10).unwrap_err();
            assert_eq!(error.code(), "invalid_type", "{error}");
            assert_eq!(error.param(), Some("nvext.x"));
        }
    }

    #[test]
    fn integers_beyond_any_machine_word_are_out_of_range() {
        for value in [json!(u64::MAX), json!(1e300), json!(-1e300), json!(11)] {
            let error = read(value).integer::<i64>("x", 0..=10).unwrap_err();
            assert_eq!(error.code(), "invalid_value", "{error}");
        }
    }

    #[test]
    fn open_bounds_hold_after_narrowing() {
        let above = |value| read(value).number("x", Bounds::Above(0.0, 1.0));
        assert_eq!(above(json!(1e-60)).unwrap(), Some(f32::from_bits(1)));
        assert_eq!(
            above(json!(-1e-60)).unwrap_err().to_string(),
            "`nvext.x` must be greater than 0 and at most 1, got -1e-60"
        );
    }

    #[test]
    fn null_counts_as_absent() {
        assert_eq!(read(Value::Null).boolean("x").unwrap(), None);
        assert!(read(Value::Null).peek("x").is_none());
    }

    #[test]
    fn long_values_are_shortened() {
        let shown = show(&json!("ü".repeat(1000)));
        assert_eq!(shown.chars().count(), SHOWN_CHARS + 5);
    }
}
