//! The `generation` tag, which marks the text that a model is trained on and renders as its body.
//!
//! minijinja has no tags but its own.

/// `source` with `{% generation %}` blocks made into blocks that minijinja knows and that do as
/// little: `{% if true %}`. Whitespace around them is treated as around any block.
pub(super) fn without_tags(source: &str) -> String {
    let mut result = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start);
        result.push_str(before);
        // Behind the opening: `{%}` is none and an end in one.
        let after = &tag[2..];
        let Some((inner, behind)) = after.split_once("%}") else {
            rest = tag;
            break;
        };
        let name = inner.trim_matches(|c: char| c.is_whitespace() || c == '-' || c == '+');
        let known = match name {
            "generation" => "if true",
            "endgeneration" => "endif",
            _ => {
                // Not the whole tag: a string in it may hold what looks like the end of one.
                result.push_str("{%");
                rest = after;
                continue;
            }
        };
        result.push_str("{%");
        result.push_str(&inner.replacen(name, known, 1));
        result.push_str("%}");
        rest = behind;
    }
    result.push_str(rest);
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_exchanged_and_all_else_stays() {
        for (source, expected) in [
            (
                "a{% generation %}b{%- endgeneration -%}c",
                "a{% if true %}b{%- endif -%}c",
            ),
            ("{%}", "{%}"),
            ("{%} }x{% generation %}", "{%} }x{% if true %}"),
            ("{%}{%%}{% generation", "{%}{%%}{% generation"),
            ("{% if x == '%}' %}", "{% if x == '%}' %}"),
        ] {
            assert_eq!(without_tags(source), expected);
        }
    }
}
