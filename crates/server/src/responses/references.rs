//! Items of kept responses that stand in the input of others by their ids (`item_reference`).

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

/// An item, as far as it is looked at.
#[derive(Debug, Deserialize)]
struct Named<'a> {
    #[serde(borrow)]
    id: Option<Cow<'a, str>>,
}

/// The items of these ids in `turns`, each of which is a JSON array. Where an id comes more than
/// once, the first counts. Takes as long as reading all of them, where an id is not found.
pub(crate) fn find(turns: &[Arc<str>], ids: &HashSet<String>) -> HashMap<String, Value> {
    let mut found = HashMap::new();
    for turn in turns {
        if found.len() == ids.len() {
            break;
        }
        let named: Vec<Named<'_>> = serde_json::from_str(turn).unwrap_or_default();
        let is_wanted = |item: &Named<'_>| {
            let id = item.id.as_deref();
            id.is_some_and(|id| ids.contains(id) && !found.contains_key(id))
        };
        if !named.iter().any(is_wanted) {
            continue;
        }
        let items: Vec<Value> = serde_json::from_str(turn).unwrap_or_default();
        for item in items {
            if let Some(id) = item["id"].as_str().filter(|id| ids.contains(*id)) {
                found.entry(id.to_owned()).or_insert(item);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_are_found_wherever_they_are() {
        let turns: Vec<Arc<str>> = [
            r#"[{"id": "a", "n": 1}, {"n": 0}, {"id": "\u0062", "n": 2}]"#,
            r#"[{"id": null}, {"id": "c", "n": 3}, {"id": "a", "n": 4}]"#,
        ]
        .map(Arc::from)
        .into();
        let ids = ["a", "b", "c", "d"].map(str::to_owned).into();
        let found = find(&turns, &ids);
        let number = |id: &str| found.get(id).map(|item| item["n"].as_i64().unwrap());
        assert_eq!(
            ["a", "b", "c", "d"].map(number),
            [Some(1), Some(2), Some(3), None]
        );
    }
}
