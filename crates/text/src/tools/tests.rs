use proptest::prelude::*;

use super::*;

const FAMILIES: [ToolFamily; 3] = [
    ToolFamily::Llama3Json,
    ToolFamily::Hermes,
    ToolFamily::Mistral,
];

fn names() -> Arc<BTreeSet<String>> {
    Arc::new(["look", "say-it"].map(str::to_owned).into())
}

/// Pieces of `parts`, which together are one answer; neighbours of a kind joined.
fn parse<'t>(family: ToolFamily, parts: impl IntoIterator<Item = &'t str>) -> Vec<Piece> {
    let mut parser = ToolParser::new(family, names());
    let mut pieces: Vec<Piece> = parts
        .into_iter()
        .flat_map(|part| parser.push(part))
        .collect();
    pieces.extend(parser.finish());
    pieces.into_iter().fold(Vec::new(), |mut joined, piece| {
        match (joined.last_mut(), piece) {
            (Some(Piece::Text(last)), Piece::Text(more))
            | (Some(Piece::Arguments(last)), Piece::Arguments(more)) => last.push_str(&more),
            (_, piece) => joined.push(piece),
        }
        joined
    })
}

/// Calls and text as one would write them down: `text`, `name(arguments)`.
fn shown(family: ToolFamily, answer: &str) -> String {
    let shown = parse(family, [answer])
        .into_iter()
        .map(|piece| match piece {
            Piece::Text(text) => format!("`{text}`"),
            Piece::CallStart { name } => format!("{name}("),
            Piece::Arguments(arguments) => arguments,
            Piece::CallEnd => ")".to_owned(),
        });
    shown.collect()
}

#[test]
fn calls_of_llama() {
    for (answer, expected) in [
        (
            r#"{"name": "look", "parameters": {"at": "a {cat}"}}"#,
            r#"look({"at": "a {cat}"})"#,
        ),
        (
            r#" <|python_tag|>{"type": "function", "name": "look", "parameters": {}}"#,
            "look({})",
        ),
        (
            r#"{"parameters": {"n": 1}, "name": "look", "x": [2]}"#,
            r#"look({"n": 1})"#,
        ),
        (
            "{\"name\": \"look\", \"parameters\": {\"a\": 1}}; {\"name\": \"say-it\", \"arguments\": {}}\n\
             {\"name\": \"look\"} ",
            r#"look({"a": 1})say-it({})look({})"#,
        ),
        (
            r#"Let me see. <|python_tag|>{"name": "look", "parameters": {}}"#,
            "`Let me see.`look({})",
        ),
        (r#"{"name": "look", "parameters": null}"#, "look({})"),
        // No calls.
        ("", ""),
        (" \n", "` \n`"),
        ("A cat; a dog.", "`A cat; a dog.`"),
        (r#"{"name": "Felix"}"#, r#"`{"name": "Felix"}`"#),
        (
            r#"{"name": "look", "parameters": 7}"#,
            r#"`{"name": "look", "parameters": 7}`"#,
        ),
        (r#"{"name": look}"#, r#"`{"name": look}`"#),
        (r#"{"x": {"name": "look"}}"#, r#"`{"x": {"name": "look"}}`"#),
        (r#"See {"name": "look"}"#, r#"`See {"name": "look"}`"#),
        ("<|python_tag|>print(1)", "`<|python_tag|>print(1)`"),
        ("<|python", "`<|python`"),
        // What comes behind a call.
        (
            r#"{"name": "look", "parameters": {}}; then <b>."#,
            "look({})`; then <b>.`",
        ),
        (
            r#"{"name": "look", "parameters": {}} {"name": "Felix"}"#,
            r#"look({})` {"name": "Felix"}`"#,
        ),
        // Calls that break off.
        (r#"{"name": "look", "parameters": {"at"#, r#"look({"at)"#),
        (
            r#"{"name": "look", "parameters": {"at": 1 x}}"#,
            r#"look({"at": 1 )`x}}`"#,
        ),
        (r#"{"name": "look", "parameters": {}"#, "look({})"),
        (r#"{"name": "look""#, r#"`{"name": "look"`"#),
    ] {
        assert_eq!(shown(ToolFamily::Llama3Json, answer), expected, "{answer}");
    }
}

#[test]
fn calls_of_hermes() {
    for (answer, expected) in [
        (
            "<tool_call>\n{\"name\": \"look\", \"arguments\": {\"n\": 1}}\n</tool_call>",
            r#"look({"n": 1})"#,
        ),
        (
            "I look.\n<tool_call>{\"name\": \"look\", \"arguments\": {}}</tool_call>\n\
             <tool_call>{\"arguments\": {}, \"name\": \"say-it\"}</tool_call>\n",
            "`I look.`look({})say-it({})",
        ),
        (
            "<tool_call>{\"name\": \"look\", \"arguments\": {}}</tool_call>\n\nDone. ",
            "look({})`\n\nDone. `",
        ),
        // A mark that is missing, at the end or before more.
        (
            "<tool_call>{\"name\": \"look\", \"arguments\": {}}",
            "look({})",
        ),
        ("<tool_call>{\"name\": \"look\"}</tool", "look({})"),
        (
            "<tool_call>{\"name\": \"look\"} <tool_call>{\"name\": \"look\"}",
            "look({})look({})",
        ),
        (
            "<tool_call>{\"name\": \"look\"}</tool!",
            "look({})`</tool!`",
        ),
        // No calls.
        ("<tool_call>", "`<tool_call>`"),
        ("<tool_call> look", "`<tool_call> look`"),
        (
            " <tool_call>{\"name\": \"Felix\"}</tool_call>",
            "` <tool_call>{\"name\": \"Felix\"}</tool_call>`",
        ),
        (
            "{\"name\": \"look\", \"arguments\": {}}",
            "`{\"name\": \"look\", \"arguments\": {}}`",
        ),
        ("a < b <tool_<tool_c", "`a < b <tool_<tool_c`"),
        // A call after what was none.
        (
            "<tool_call>{<tool_call>{\"name\": \"look\"}</tool_call>",
            "`<tool_call>{`look({})",
        ),
        ("<<tool_call>{\"name\": \"look\"}", "`<`look({})"),
    ] {
        assert_eq!(shown(ToolFamily::Hermes, answer), expected, "{answer}");
    }
}

#[test]
fn calls_of_mistral() {
    for (answer, expected) in [
        (
            r#"[TOOL_CALLS] [{"name": "look", "arguments": {"n": [1]}}]"#,
            r#"look({"n": [1]})"#,
        ),
        (
            r#"So: [TOOL_CALLS][{"name": "look", "arguments": {}} , {"name": "say-it", "arguments": {}, "id": "a"}] "#,
            "`So:`look({})say-it({})",
        ),
        (r#"[TOOL_CALLS][{"name": "look"}"#, "look({})"),
        (
            r#"[TOOL_CALLS][{"name": "look"}] Well."#,
            "look({})` Well.`",
        ),
        (
            r#"[TOOL_CALLS][{"name": "look"}, Well."#,
            "look({})`, Well.`",
        ),
        (r"[TOOL_CALLS][]", "`[TOOL_CALLS][]`"),
        (r"[TOOL_CALLS]", "`[TOOL_CALLS]`"),
        (r"[TOOL_CALLS] look", "`[TOOL_CALLS] look`"),
        (
            r#"[TOOL_CALLS][{"name": "Felix"}]"#,
            r#"`[TOOL_CALLS][{"name": "Felix"}]`"#,
        ),
        (r#"[{"name": "look"}]"#, r#"`[{"name": "look"}]`"#),
    ] {
        assert_eq!(shown(ToolFamily::Mistral, answer), expected, "{answer}");
    }
}

#[test]
fn what_is_held_is_bounded() {
    for family in FAMILIES {
        let mut parser = ToolParser::new(family, names());
        let lead = match family {
            ToolFamily::Llama3Json => "",
            ToolFamily::Hermes => "<tool_call>",
            ToolFamily::Mistral => "[TOOL_CALLS][",
        };
        let answer = format!("{lead}{{\"x\": \"{}", "y".repeat(call::MAX_HELD));
        let pieces = parser.push(&answer);
        let [Piece::Text(text)] = pieces.as_slice() else {
            panic!("{family:?}: {} pieces", pieces.len());
        };
        assert!(answer.starts_with(text.as_str()) && text.len() >= call::MAX_HELD);

        let spaces = format!("{lead}{}", " ".repeat(2 * call::MAX_HELD));
        let mut parser = ToolParser::new(family, names());
        assert!(!parser.push(&spaces).is_empty(), "{family:?}");
    }
}

#[test]
fn an_answer_of_a_megabyte_is_read_at_once() {
    // Quadratic work would take minutes.
    let start = std::time::Instant::now();
    for family in FAMILIES {
        for unit in [
            "<tool_call>{",
            "[TOOL_CALLS][",
            "{\"name\":",
            " ",
            "<|python_tag|>{\"",
            "[{",
        ] {
            let answer = unit.repeat((1 << 20) / unit.len());
            assert_eq!(shown(family, &answer), format!("`{answer}`"));
        }
    }
    assert!(start.elapsed().as_secs() < 30);
}

#[test]
fn families_are_told_by_their_templates() {
    for (source, family) in [
        ("{% for t in tools %}", None),
        ("{{ toolset }} [TOOL_CALLS]", None),
        ("{{ messages }}", None),
        ("{{ tools }} [TOOL_CALLS]", Some(ToolFamily::Mistral)),
        (
            "{% if tools %}<tool_call>{% endif %}",
            Some(ToolFamily::Hermes),
        ),
        (
            "{{ '<|start_header_id|>' }}{%- if tools is not none %}{{ '\"parameters\": ' }}",
            Some(ToolFamily::Llama3Json),
        ),
    ] {
        assert_eq!(ToolFamily::of_template(source), family, "{source}");
    }
}

/// Bits of which answers are made, those of all families among them.
fn answer() -> impl Strategy<Value = String> {
    let bits = prop_oneof![
        4 => prop::sample::select(vec![
            "<tool_call>", "</tool_call>", "[TOOL_CALLS]", "<|python_tag|>", "[", "]", "{", "}",
            ",", ";", ":", "\"", "\\", " ", "\n", "\"name\"", "\"arguments\"", "\"parameters\"",
            "\"look\"", "\"Felix\"", "1", "null", "<", "ü",
        ])
        .prop_map(str::to_owned),
        3 => prop::sample::select(vec![
            r#"{"name": "look", "arguments": {"a": ["b", {"c": null}]}}"#,
            r#"{"parameters": {"a": "\"é"}, "name": "say-it"}"#,
            r#"{"name": "look"}"#,
            r#"{"name": "Felix", "arguments": {}}"#,
        ])
        .prop_map(str::to_owned),
        1 => any::<String>(),
    ];
    prop::collection::vec(bits, 0..12).prop_map(|bits| bits.concat())
}

proptest! {
    #[test]
    fn cutting_changes_nothing(answer in answer(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8)) {
        let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(answer.len() + 1)).collect();
        at.retain(|&at| answer.is_char_boundary(at));
        at.extend([0, answer.len()]);
        at.sort_unstable();
        let parts: Vec<&str> = at.windows(2).map(|pair| &answer[pair[0]..pair[1]]).collect();
        let letters: Vec<String> = answer.chars().map(String::from).collect();
        for family in FAMILIES {
            let whole = parse(family, [answer.as_str()]);
            prop_assert_eq!(&parse(family, parts.iter().copied()), &whole);
            prop_assert_eq!(&parse(family, letters.iter().map(String::as_str)), &whole);
        }
    }

    #[test]
    fn calls_are_well_formed_and_text_keeps_its_order(answer in answer()) {
        for family in FAMILIES {
            let mut rest = answer.as_str();
            let mut is_open = false;
            let pieces = parse(family, [answer.as_str()]);
            let calls = pieces.contains(&Piece::CallEnd);
            if !calls {
                let expected: Vec<Piece> = [answer.clone()].into_iter().filter(|a| !a.is_empty()).map(Piece::Text).collect();
                prop_assert_eq!(&pieces, &expected);
            }
            for piece in pieces {
                match piece {
                    Piece::CallStart { name } => {
                        prop_assert!(!is_open && names().contains(&name));
                        is_open = true;
                    }
                    Piece::CallEnd => {
                        prop_assert!(is_open);
                        is_open = false;
                    }
                    Piece::Text(text) => {
                        prop_assert!(!is_open);
                        let at = rest.find(&text);
                        prop_assert!(at.is_some());
                        rest = &rest[at.unwrap() + text.len()..];
                    }
                    Piece::Arguments(arguments) => {
                        prop_assert!(is_open);
                        prop_assert_eq!(arguments.chars().next(), Some('{'));
                    }
                }
            }
            prop_assert!(!is_open);
        }
    }

    #[test]
    fn without_functions_everything_is_text(answer in answer()) {
        for family in FAMILIES {
            let mut parser = ToolParser::new(family, Arc::default());
            let pieces = parser.push(&answer).into_iter().chain(parser.finish());
            let text: String = pieces.map(|piece| match piece {
                Piece::Text(text) => text,
                other => panic!("{other:?}"),
            }).collect();
            prop_assert_eq!(text, answer.clone());
        }
    }
}
