//! Lists of a response's input items, page by page.

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::RequestError;

/// Most items of a page, as at OpenAI.
pub const MAX_PAGE: usize = 100;
/// Items of a page where a request does not say it, as at OpenAI.
pub const DEFAULT_PAGE: usize = 20;

/// A page of items.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = ResponseInputItems)]
pub struct InputItems {
    /// Always `list`.
    #[schema(value_type = String)]
    pub object: &'static str,
    /// The items, each with its `id`.
    #[schema(value_type = Vec<Object>)]
    pub data: Vec<Value>,
    /// Of the first one; null without any.
    pub first_id: Option<String>,
    /// Of the last one.
    pub last_id: Option<String>,
    /// Whether others come behind them.
    pub has_more: bool,
}

/// In which order items are listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = ResponseItemOrder)]
#[serde(rename_all = "lowercase")]
pub enum ItemOrder {
    /// The oldest come first.
    Asc,
    /// The newest come first.
    Desc,
}

/// Which items of a list are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Which come first.
    pub order: ItemOrder,
    /// The id of the item behind which the page begins.
    pub after: Option<String>,
    /// Most items of it.
    pub limit: usize,
}

impl Page {
    /// Reads what a query says; `value` gives the value of a name in it.
    ///
    /// # Errors
    /// For a `limit` that is none from 1 to 100, and an `order` that is neither `asc` nor `desc`.
    pub fn read<'q>(value: impl Fn(&str) -> Option<&'q str>) -> Result<Self, RequestError> {
        let refused = |field: &str, bound: String, value: &str| RequestError::Value {
            field: field.to_owned(),
            bound,
            value: format!("{:?}", value.chars().take(48).collect::<String>()),
        };
        let limit = match value("limit") {
            None => DEFAULT_PAGE,
            Some(text) => text
                .parse()
                .ok()
                .filter(|limit| (1..=MAX_PAGE).contains(limit))
                .ok_or_else(|| {
                    refused("limit", format!("an integer from 1 to {MAX_PAGE}"), text)
                })?,
        };
        let order = match value("order") {
            None | Some("desc") => ItemOrder::Desc,
            Some("asc") => ItemOrder::Asc,
            Some(other) => return Err(refused("order", "`asc` or `desc`".into(), other)),
        };
        Ok(Self {
            order,
            after: value("after").map(str::to_owned),
            limit,
        })
    }

    /// The page of `items`, which come oldest first.
    ///
    /// # Errors
    /// When no item has the id `after`.
    pub fn of(&self, mut items: Vec<Value>) -> Result<InputItems, RequestError> {
        if self.order == ItemOrder::Desc {
            items.reverse();
        }
        let id = |item: &Value| item["id"].as_str().map(str::to_owned);
        let start = match &self.after {
            None => 0,
            Some(after) => {
                let found = items.iter().position(|item| item["id"] == **after);
                found.map(|at| at + 1).ok_or_else(|| RequestError::Value {
                    field: "after".into(),
                    bound: "the id of one of the items".into(),
                    value: format!("{:?}", after.chars().take(48).collect::<String>()),
                })?
            }
        };
        let mut data = items.split_off(start);
        let has_more = data.len() > self.limit;
        data.truncate(self.limit);
        Ok(InputItems {
            object: "list",
            first_id: data.first().and_then(id),
            last_id: data.last().and_then(id),
            data,
            has_more,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(query: &[(&str, &'static str)]) -> Result<Page, RequestError> {
        Page::read(|name| {
            let found = query.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| *value)
        })
    }

    fn page(query: &[(&str, &'static str)]) -> Result<InputItems, RequestError> {
        let items = (1..=5).map(|id| json!({"id": format!("i{id}")}));
        read(query)?.of(items.collect())
    }

    fn ids(page: &InputItems) -> Vec<&str> {
        page.data
            .iter()
            .map(|i| i["id"].as_str().unwrap())
            .collect()
    }

    #[test]
    fn pages_follow_each_other_in_both_directions() {
        let all = page(&[]).unwrap();
        assert_eq!(ids(&all), ["i5", "i4", "i3", "i2", "i1"]);
        assert!(!all.has_more);
        let first = page(&[("order", "asc"), ("limit", "2")]).unwrap();
        assert_eq!(ids(&first), ["i1", "i2"]);
        assert_eq!(first.last_id.as_deref(), Some("i2"));
        assert!(first.has_more);
        let next = page(&[("order", "asc"), ("limit", "3"), ("after", "i2")]).unwrap();
        assert_eq!(ids(&next), ["i3", "i4", "i5"]);
        assert!(!next.has_more);
        let none = page(&[("after", "i1")]).unwrap();
        assert_eq!((none.first_id, none.last_id), (None, None));
    }

    #[test]
    fn what_is_no_page_is_refused_by_name() {
        for (query, field) in [
            (("limit", "0"), "limit"),
            (("limit", "101"), "limit"),
            (("limit", "x"), "limit"),
            (("order", "up"), "order"),
            (("after", "i9"), "after"),
        ] {
            assert_eq!(page(&[query]).unwrap_err().param(), Some(field));
        }
    }
}
