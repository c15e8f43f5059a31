//! The OpenAPI document as a page for people.
//!
//! Written out by the server itself: no scripts, nothing loaded from elsewhere, so that it works
//! on machines without a network and under a strict content policy.

use std::fmt::Write as _;

use serde_json::{Map, Value};

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;\
    padding:0 1rem;color:#222}code{background:#f2f2f2;padding:0 .2em}table{border-collapse:\
    collapse;width:100%}td,th{border:1px solid #ddd;padding:.3em .5em;text-align:left;\
    vertical-align:top}h2{margin-top:2.5rem}h3{margin-bottom:.3rem}";

/// Renders an OpenAPI document.
pub(crate) fn render(document: &Value) -> String {
    let info = &document["info"];
    let title = escape(text(&info["title"]));
    let mut page = format!(
        "<!DOCTYPE html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\
         <style>{STYLE}</style></head><body><h1>{title} {}</h1><p>{}</p>\
         <p>The same for programs: <a href=\"/openapi.json\">openapi.json</a></p><h2>Routes</h2>",
        escape(text(&info["version"])),
        escape(text(&info["description"])),
    );
    for (path, item) in fields(&document["paths"]) {
        for (method, operation) in fields(item) {
            operation_section(&mut page, method, path, operation);
        }
    }
    page.push_str("<h2>Schemas</h2>");
    for (name, schema) in fields(&document["components"]["schemas"]) {
        schema_section(&mut page, name, schema);
    }
    page.push_str("</body></html>");
    page
}

fn operation_section(page: &mut String, method: &str, path: &str, operation: &Value) {
    // Writing into a String cannot fail, here and below.
    let _ = write!(
        page,
        "<h3><code>{} {}</code></h3><p>{} {}</p>",
        escape(&method.to_uppercase()),
        escape(path),
        escape(text(&operation["summary"])),
        escape(text(&operation["description"])),
    );
    let body = &operation["requestBody"]["content"]["application/json"]["schema"];
    if !body.is_null() {
        let _ = write!(page, "<p>Body: {}</p>", kind(body));
    }
    page.push_str("<table><tr><th>Status</th><th>Meaning</th><th>Body</th></tr>");
    for (status, response) in fields(&operation["responses"]) {
        let bodies: Vec<_> = fields(&response["content"])
            .map(|(_, content)| kind(&content["schema"]))
            .collect();
        let _ = write!(
            page,
            "<tr><td>{}</td><td>{}</td><td>{}</td></tr>",
            escape(status),
            escape(text(&response["description"])),
            bodies.join(", "),
        );
    }
    page.push_str("</table>");
}

fn schema_section(page: &mut String, name: &str, schema: &Value) {
    let name = escape(name);
    let _ = write!(
        page,
        "<h3 id=\"{name}\">{name}</h3><p>{}</p>",
        escape(text(&schema["description"])),
    );
    if schema["properties"].is_null() {
        let _ = write!(page, "<p>{}</p>", kind(schema));
        return;
    }
    let required = schema["required"].as_array();
    page.push_str("<table><tr><th>Field</th><th>Type</th><th>Meaning</th></tr>");
    for (field, property) in fields(&schema["properties"]) {
        let is_required = required.is_some_and(|names| names.iter().any(|name| name == field));
        let _ = write!(
            page,
            "<tr><td><code>{}</code>{}</td><td>{}</td><td>{}</td></tr>",
            escape(field),
            if is_required { " (required)" } else { "" },
            kind(property),
            escape(text(&property["description"])),
        );
    }
    page.push_str("</table>");
}

/// A schema in a few words, as HTML.
fn kind(schema: &Value) -> String {
    if let Some(reference) = schema["$ref"].as_str() {
        let name = escape(reference.rsplit('/').next().unwrap_or(reference));
        return format!("<a href=\"#{name}\">{name}</a>");
    }
    for union in ["oneOf", "anyOf", "allOf"] {
        if let Some(variants) = schema[union].as_array() {
            return variants.iter().map(kind).collect::<Vec<_>>().join(" or ");
        }
    }
    if let Some(values) = schema["enum"].as_array() {
        let values: Vec<_> = values
            .iter()
            .map(|value| format!("<code>{}</code>", escape(&value.to_string())))
            .collect();
        return values.join(", ");
    }
    let mut words = match &schema["type"] {
        Value::String(name) if name == "array" => format!("array of {}", kind(&schema["items"])),
        Value::String(name) => escape(name),
        Value::Array(names) => {
            let names: Vec<_> = names.iter().map(|name| escape(text(name))).collect();
            names.join(" or ")
        }
        _ => "any".to_owned(),
    };
    for (keyword, sign) in [
        ("minimum", ", at least "),
        ("exclusiveMinimum", ", above "),
        ("maximum", ", at most "),
    ] {
        if !schema[keyword].is_null() {
            let _ = write!(words, "{sign}{}", schema[keyword]);
        }
    }
    words
}

fn fields(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flat_map(Map::iter)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_every_route_and_no_script() {
        let document = crate::openapi();
        let page = render(&document);
        for (path, _) in fields(&document["paths"]) {
            assert!(page.contains(&escape(path)), "{path}");
        }
        assert!(page.contains("max_completion_tokens"));
        assert!(!page.contains("<script") && !page.contains("src="));
    }

    #[test]
    fn links_lead_to_schemas_of_the_page() {
        let page = render(&crate::openapi());
        let links = page.split("href=\"#").skip(1);
        for link in links {
            let name = link.split('"').next().unwrap();
            assert!(page.contains(&format!("id=\"{name}\"")), "{name}");
        }
    }
}
