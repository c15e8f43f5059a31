//! What values of NIM's variables mean, as values of our flags.

/// What a reader makes of a value: those of the flag, none if the flag is to stay as it is.
pub(super) type Read = Result<Option<Vec<String>>, String>;

/// A share above 0 and at most 1.
///
/// # Errors
/// For any other text.
pub(super) fn share(text: &str) -> Result<f64, String> {
    match text.trim().parse::<f64>() {
        Ok(share) if share > 0.0 && share <= 1.0 => Ok(share),
        Ok(percent) if percent > 1.0 && percent <= 100.0 => Err(format!(
            "expected a share above 0 and at most 1, such as {} for {text} per cent",
            percent / 100.0
        )),
        _ => Err("expected a share above 0 and at most 1".to_owned()),
    }
}

/// The path of a route.
///
/// # Errors
/// For a text that does not begin like one.
pub(super) fn path(text: &str) -> Result<String, String> {
    match text.trim().trim_end_matches('/') {
        path if path.len() > 1 && path.starts_with('/') => Ok(path.to_owned()),
        _ => Err("expected a path, such as /v1/responses".to_owned()),
    }
}

/// A truth value, in the ways that containers are given them.
pub(super) fn boolean(text: &str) -> Result<bool, String> {
    match text.trim().to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" | "y" | "t" => Ok(true),
        "0" | "false" | "no" | "off" | "n" | "f" => Ok(false),
        _ => Err("expected 1 or 0, true or false".to_owned()),
    }
}

/// One value.
fn one(value: impl Into<String>) -> Read {
    Ok(Some(vec![value.into()]))
}

/// The value as it is: the flag's parser looks at it.
pub(super) fn plain(text: &str) -> Read {
    one(text.trim())
}

/// Whether Kubernetes has put the address of a service into a variable, as it does for one whose
/// name makes the same variable: a service `nim-server` has `NIM_SERVER_PORT=tcp://10.0.0.1:8000`.
pub(super) fn is_service_link(text: &str) -> bool {
    ["tcp://", "udp://", "sctp://"]
        .iter()
        .any(|protocol| text.starts_with(protocol))
}

/// A port, unless it is the address of a service.
pub(super) fn port(text: &str) -> Read {
    if is_service_link(text) {
        return Ok(None);
    }
    plain(text)
}

/// A list with commas, or as JSON.
pub(super) fn list(text: &str) -> Read {
    let text = text.trim();
    let items: Vec<String> = if text.starts_with('[') {
        serde_json::from_str(text).map_err(|error| format!("expected a list of texts: {error}"))?
    } else {
        text.split(',').map(|item| item.trim().to_owned()).collect()
    };
    let items: Vec<String> = items.into_iter().filter(|item| !item.is_empty()).collect();
    Ok((!items.is_empty()).then_some(items))
}

/// On or off.
pub(super) fn switch(text: &str) -> Read {
    one(boolean(text)?.to_string())
}

/// On or off, the other way round.
pub(super) fn inverse(text: &str) -> Read {
    one((!boolean(text)?).to_string())
}

/// A number of tokens, where -1 and `auto` leave the choice to the server.
pub(super) fn length(text: &str) -> Read {
    match text.trim() {
        "-1" | "auto" => Ok(None),
        number => one(number),
    }
}

/// Levels of Python's logging.
pub(super) fn log_level(text: &str) -> Read {
    one(match text.trim().to_ascii_uppercase().as_str() {
        "DEFAULT" | "INFO" | "" => "info",
        "TRACE" => "trace",
        "DEBUG" => "debug",
        "WARNING" | "WARN" => "warn",
        "ERROR" | "CRITICAL" | "FATAL" => "error",
        _ => {
            return Err(
                "expected DEFAULT, TRACE, DEBUG, INFO, WARNING, ERROR or CRITICAL".to_owned(),
            );
        }
    })
}

/// JSON lines, or text.
pub(super) fn json_lines(text: &str) -> Read {
    one(if boolean(text)? { "json" } else { "text" })
}

/// Traces, or none.
pub(super) fn tracing(text: &str) -> Read {
    one(if boolean(text)? { "on" } else { "off" })
}

/// Whether a route is to be left out.
pub(super) fn responses(text: &str) -> Read {
    Ok(boolean(text)?.then(|| vec!["/v1/responses".to_owned()]))
}

/// Where a model is: a directory, a name, or a URI.
pub(super) fn model(text: &str) -> Read {
    let text = text.trim();
    let Some((scheme, rest)) = text.split_once("://") else {
        return one(text);
    };
    match scheme {
        "hf" | "huggingface" => one(rest),
        "file" => one(rest),
        // ngc://ORG/TEAM/MODEL:VERSION; NIM's own are in the team `nim`, under the model's owner.
        "ngc" => {
            let name = rest.split(':').next().unwrap_or(rest);
            one(name.strip_prefix("nim/").unwrap_or(name))
        }
        _ => Err(format!(
            "`{scheme}://` is not fetched from; expected a directory, a name of the catalog, \
             `hf://OWNER/NAME`, or `ngc://nim/OWNER/NAME:VERSION` of what a container has fetched"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(read: Read) -> Option<String> {
        read.unwrap().map(|values| values.join("|"))
    }

    #[test]
    fn truth_has_many_spellings_and_nonsense_none() {
        for yes in ["1", "true", "True", " YES ", "on"] {
            assert_eq!(boolean(yes), Ok(true), "{yes}");
        }
        for no in ["0", "false", "FALSE", "no", "off"] {
            assert_eq!(boolean(no), Ok(false), "{no}");
        }
        for odd in ["", "2", "maybe", "enabled"] {
            assert!(boolean(odd).is_err(), "{odd}");
        }
    }

    #[test]
    fn shares_are_no_percentages() {
        assert_eq!(share("0.9"), Ok(0.9));
        assert_eq!(share("1"), Ok(1.0));
        assert!(share("90").unwrap_err().contains("0.9 for 90 per cent"));
        for odd in ["0", "-0.1", "101", "nan", "inf", "", "half"] {
            assert!(share(odd).is_err(), "{odd}");
        }
    }

    #[test]
    fn models_are_named_by_uri() {
        for (uri, name) in [
            ("/models/mine", "/models/mine"),
            ("file:///models/mine", "/models/mine"),
            (
                "hf://microsoft/kosmos-2-patch14-224",
                "microsoft/kosmos-2-patch14-224",
            ),
            (
                "ngc://nim/meta/llama-3.2-11b-vision-instruct:hf-1",
                "meta/llama-3.2-11b-vision-instruct",
            ),
            ("microsoft/kosmos-2", "microsoft/kosmos-2"),
        ] {
            assert_eq!(said(model(uri)).as_deref(), Some(name), "{uri}");
        }
        for uri in ["s3://bucket/model", "gs://b/m", "modelscope://a/b"] {
            let scheme = uri.split_once("://").unwrap().0;
            assert!(model(uri).unwrap_err().contains(scheme), "{uri}");
        }
    }

    #[test]
    fn lists_are_of_commas_or_json() {
        assert_eq!(said(list("a, b,,c")).as_deref(), Some("a|b|c"));
        assert_eq!(said(list(r#"["*"]"#)).as_deref(), Some("*"));
        assert_eq!(said(list(" , ")), None);
        assert!(list("[1").is_err());
    }

    #[test]
    fn levels_are_those_of_python() {
        for (level, ours) in [
            ("DEFAULT", "info"),
            ("warning", "warn"),
            ("CRITICAL", "error"),
            ("Trace", "trace"),
        ] {
            assert_eq!(said(log_level(level)).as_deref(), Some(ours), "{level}");
        }
        assert!(log_level("LOUD").unwrap_err().contains("CRITICAL"));
        assert_eq!(said(length("-1")), None);
        assert_eq!(said(length("4096")).as_deref(), Some("4096"));
    }
}
