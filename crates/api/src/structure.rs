//! How deep and how manifold a JSON body may be.
//!
//! A parsed value takes up to fifty times the bytes that it was written in: two for `0,` make a
//! node of a tree. So bodies are bounded in what they hold, and not in bytes alone, before a tree
//! is made of them.

use memchr::memchr2;

use crate::RequestError;

/// Deepest nesting of arrays and objects in a request body. The parser itself stops at 127.
pub const MAX_JSON_DEPTH: usize = 100;

/// Most elements of arrays and fields of objects in a request body, all together.
pub const MAX_JSON_VALUES: usize = 500_000;

/// Refuses a body that is nested too deep or holds too many values. Looks at nothing else: what is
/// no JSON may pass.
///
/// # Errors
/// [`RequestError::Value`], with the bound.
pub fn check_structure(body: &[u8]) -> Result<(), RequestError> {
    let refuse = |bound: String| {
        Err(RequestError::Value {
            field: "request body".to_owned(),
            bound,
            value: "more".to_owned(),
        })
    };
    let (mut depth, mut values) = (0_usize, 0_usize);
    let mut rest = body;
    while let Some((byte, tail)) = rest.split_first() {
        rest = tail;
        match byte {
            b'"' => rest = after_string(tail),
            b'[' | b'{' => {
                depth = depth.saturating_add(1);
                values = values.saturating_add(1);
                if depth > MAX_JSON_DEPTH {
                    return refuse(format!("nested at most {MAX_JSON_DEPTH} deep"));
                }
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            b',' => values = values.saturating_add(1),
            _ => {}
        }
        if values > MAX_JSON_VALUES {
            return refuse(format!("made of at most {MAX_JSON_VALUES} values"));
        }
    }
    Ok(())
}

/// What follows a string, of which the opening quote has been read.
fn after_string(mut rest: &[u8]) -> &[u8] {
    while let Some(at) = memchr2(b'"', b'\\', rest) {
        let escape = usize::from(rest.get(at) == Some(&b'\\'));
        rest = rest.get(at + 1 + escape..).unwrap_or_default();
        if escape == 0 {
            return rest;
        }
    }
    &[]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn nested(depth: usize) -> String {
        format!("{}{}", "[".repeat(depth), "]".repeat(depth))
    }

    #[test]
    fn depth_is_bounded() {
        for open in ["[", "{\"a\":"] {
            assert!(check_structure(open.repeat(MAX_JSON_DEPTH).as_bytes()).is_ok());
            let error = check_structure(open.repeat(MAX_JSON_DEPTH + 1).as_bytes()).unwrap_err();
            assert!(
                error.to_string().contains("nested at most 100 deep"),
                "{error}"
            );
            assert_eq!(error.code(), "invalid_value");
        }
        let wide = format!("[{}]", vec![nested(MAX_JSON_DEPTH - 1); 1000].join(","));
        assert!(check_structure(wide.as_bytes()).is_ok());
        assert!(serde_json::from_str::<Value>(&nested(MAX_JSON_DEPTH)).is_ok());
        assert!(check_structure("[".repeat(10_000_000).as_bytes()).is_err());
    }

    #[test]
    fn values_are_bounded() {
        let list = |count: usize| format!("[{}0]", "0,".repeat(count - 2));
        assert!(check_structure(list(MAX_JSON_VALUES).as_bytes()).is_ok());
        for body in [
            list(MAX_JSON_VALUES + 2),
            format!("[{}]", "[],".repeat(MAX_JSON_VALUES / 2 + 1)),
            format!("{{{}}}", "\"a\":0,".repeat(MAX_JSON_VALUES + 1)),
        ] {
            let error = check_structure(body.as_bytes()).unwrap_err();
            assert!(
                error.to_string().contains("at most 500000 values"),
                "{error}"
            );
        }
    }

    #[test]
    fn what_stands_in_strings_is_text() {
        let brackets = "[{,".repeat(MAX_JSON_VALUES);
        for text in [&brackets, "\\\"[", "\\\\", "\\u005b", ""] {
            let body = format!("[\"{text}\", {}]", nested(MAX_JSON_DEPTH - 1));
            assert!(check_structure(body.as_bytes()).is_ok(), "{text:.20}");
            let body = format!("[\"{text}\", {}]", nested(MAX_JSON_DEPTH));
            assert!(check_structure(body.as_bytes()).is_err(), "{text:.20}");
        }
        for open in ["\"", "\"[[", "\"\\", "\"\\\\\\"] {
            assert!(check_structure(open.as_bytes()).is_ok());
        }
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<i32>().prop_map(Value::from),
            "[\\\\\"{}\\[\\],:a\u{e9}]{0,12}".prop_map(Value::from),
        ];
        leaf.prop_recursive(5, 60, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::btree_map("[\\\\\"{,]{0,4}", inner, 0..6)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    fn depth(value: &Value) -> usize {
        match value {
            Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
            Value::Object(map) => 1 + map.values().map(depth).max().unwrap_or(0),
            _ => 0,
        }
    }

    proptest! {
        /// However a value is written, it passes to exactly the depth that it leaves room for.
        #[test]
        fn depth_is_that_of_the_parser(value in json()) {
            let around = MAX_JSON_DEPTH - depth(&value);
            for (levels, fits) in [(around, true), (around + 1, false)] {
                let body = format!("{}{value}{}", "[".repeat(levels), "]".repeat(levels));
                prop_assert_eq!(check_structure(body.as_bytes()).is_ok(), fits);
            }
        }

        #[test]
        fn any_bytes_are_read_to_their_end(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = check_structure(&bytes);
        }
    }
}
