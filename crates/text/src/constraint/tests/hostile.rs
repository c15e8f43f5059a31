//! Sources that would take for ever, or more than there is.

use super::*;

fn nested(depth: usize, wrap: impl Fn(Value) -> Value) -> Value {
    (0..depth).fold(json!({"type": "null"}), |inner, _| wrap(inner))
}

pub(super) fn sources() -> Vec<(&'static str, GrammarSource)> {
    let schema = GrammarSource::JsonSchema;
    let words = |count: usize| {
        (0..count)
            .map(|i| format!("word {i} of many"))
            .collect::<Vec<_>>()
    };
    let options = |count: usize| -> Vec<Value> {
        (0..count)
            .map(|i| json!({"type": "object", "properties": {format!("p{i}"): {"type": "string"}}}))
            .collect()
    };
    let properties: serde_json::Map<String, Value> = (0..1500)
        .map(|i| {
            (
                format!("property{i}"),
                json!({"type": "integer", "minimum": i}),
            )
        })
        .collect();
    let cross: Vec<Value> = (0..40).map(|_| json!({"anyOf": options(4)})).collect();
    let chain: serde_json::Map<String, Value> = (0..40)
        .map(|i| {
            let next = json!({"$ref": format!("#/$defs/d{}", i + 1)});
            (
                format!("d{i}"),
                json!({"allOf": [next, next], "anyOf": [next, next]}),
            )
        })
        .chain([("d40".to_owned(), json!({"type": "object"}))])
        .collect();
    let alternatives = (0..3000)
        .map(|i| format!("x{i}y*"))
        .collect::<Vec<_>>()
        .join("|");
    vec![
        ("huge enum", schema(json!({"enum": words(5000)}))),
        ("huge choice", GrammarSource::Choice(words(4000))),
        (
            "many properties",
            schema(
                json!({"type": "object", "properties": properties, "additionalProperties": false}),
            ),
        ),
        (
            "deep items",
            schema(nested(60, |inner| json!({"type": "array", "items": inner}))),
        ),
        (
            "deep optional",
            schema(nested(
                10,
                |inner| json!({"type": "object", "properties": {"a": inner, "b": inner}}),
            )),
        ),
        (
            "deep anyOf",
            schema(nested(
                10,
                |inner| json!({"anyOf": [inner, {"items": inner}]}),
            )),
        ),
        ("cross product", schema(json!({"allOf": cross}))),
        (
            "chain of references",
            schema(json!({"$defs": chain, "$ref": "#/$defs/d0"})),
        ),
        ("reference to itself", schema(json!({"$ref": "#"}))),
        (
            "references in a circle",
            schema(
                json!({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}),
            ),
        ),
        (
            "allOf in a circle",
            schema(json!({"allOf": [{"$ref": "#"}, {"$ref": "#"}], "type": "object"})),
        ),
        (
            "long strings",
            schema(json!({"type": "string", "minLength": 4000, "maxLength": 4096})),
        ),
        (
            "many long strings",
            schema(
                json!({"type": "object", "properties": (0..200).map(|i| (format!("s{i}"), json!({"type": "string", "maxLength": 4000 - i}))).collect::<serde_json::Map<_, _>>()}),
            ),
        ),
        (
            "long arrays",
            schema(nested(
                6,
                |inner| json!({"type": "array", "items": inner, "minItems": 4000, "maxItems": 4096}),
            )),
        ),
        (
            "exponential states",
            GrammarSource::Regex("(.*a.{14}){1,3}".into()),
        ),
        (
            "intersections",
            schema(
                json!({"allOf": (0..12).map(|i| json!({"type": "string", "pattern": format!("(a|b)*a(a|b){{{}}}c", 8 + i)})).collect::<Vec<_>>()}),
            ),
        ),
        (
            "pattern and length",
            schema(
                json!({"type": "string", "pattern": "^(a|aa|[^b]a)*$", "minLength": 3000, "maxLength": 4000}),
            ),
        ),
        (
            "nested stars",
            GrammarSource::Regex(format!("{}a{}", "(".repeat(50), "*)".repeat(50))),
        ),
        (
            "deep brackets",
            GrammarSource::Regex(format!("{}a{}", "(".repeat(5000), ")".repeat(5000))),
        ),
        (
            "repetitions",
            GrammarSource::Regex("((a{9}b?){9}c?){99}".into()),
        ),
        (
            "unicode classes",
            GrammarSource::Regex(r"(\p{L}\p{N}\P{M}){500}".into()),
        ),
        ("alternatives", GrammarSource::Regex(alternatives)),
        (
            "pattern properties",
            schema(
                json!({"type": "object", "patternProperties": (0..40).map(|i| (format!("^(a|b){{{i}}}x.*y$"), json!({"type": "string"}))).collect::<serde_json::Map<_, _>>()}),
            ),
        ),
        (
            "multiples",
            schema(json!({"type": "integer", "multipleOf": 99_999_999})),
        ),
        (
            "largest multiples",
            schema(json!({"type": "integer", "multipleOf": 9973})),
        ),
        (
            "mixed multiples",
            schema(
                json!({"allOf": [{"type": "number", "multipleOf": 0.0001}, {"type": "number", "multipleOf": 9973}]}),
            ),
        ),
        (
            "small multiples",
            schema(
                json!({"type": "number", "multipleOf": 1e-30, "minimum": -1e300, "maximum": 1e300}),
            ),
        ),
        (
            "ambiguous grammar",
            GrammarSource::Lark("start: a\na: a a | \"x\" | \"\"\n".into()),
        ),
        (
            "endless grammar",
            GrammarSource::Lark("start: a\na: a\n".into()),
        ),
        (
            "long rule",
            GrammarSource::Lark(format!(
                "start: {}",
                "(\"a\" | \"b\"){0,4000} ".repeat(2000)
            )),
        ),
        (
            "repeated rule",
            GrammarSource::Lark(format!(
                "start: {}\"a\"{}",
                "(".repeat(12),
                "){4000}".repeat(12)
            )),
        ),
    ]
}
