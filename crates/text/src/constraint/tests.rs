mod calls;
mod hostile;

use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::{Detokenizer, Tokenizer};

/// A real vocabulary.
struct Model {
    name: &'static str,
    tokenizer: Arc<Tokenizer>,
    vocab_size: usize,
    stop: u32,
    compiler: GrammarCompiler,
}

impl Model {
    fn new(name: &'static str, stop: &str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../..")
            .join(name);
        let bytes = std::fs::read(path).unwrap();
        let tokenizer = if name.ends_with(".model") {
            Tokenizer::from_sentencepiece(&bytes)
        } else {
            Tokenizer::from_bytes(&bytes)
        };
        let tokenizer = Arc::new(tokenizer.unwrap());
        let stop = tokenizer.token_to_id(stop).unwrap();
        // Rows of logits are often longer than vocabularies.
        let vocab_size = tokenizer.vocab_size() + 40;
        Self {
            name,
            compiler: GrammarCompiler::new(&tokenizer, vocab_size, &[stop]),
            tokenizer,
            vocab_size,
            stop,
        }
    }

    fn start(&self, source: &GrammarSource) -> Matcher {
        let grammar = self.compiler.compile(source);
        grammar
            .unwrap_or_else(|error| panic!("{}: {source:?}: {error}", self.name))
            .start()
    }

    fn allowed(&self, matcher: &mut Matcher) -> Vec<u32> {
        let mut logits = vec![0.0; self.vocab_size];
        matcher.mask(&mut logits).unwrap();
        let ids = (0..).zip(logits);
        ids.filter(|(_, logit)| *logit == 0.0)
            .map(|(id, _)| id)
            .collect()
    }

    fn text(&self, ids: &[u32]) -> String {
        let mut detokenizer = Detokenizer::new(Arc::clone(&self.tokenizer), true);
        let mut text = String::new();
        for id in ids {
            text.extend(detokenizer.push(*id).unwrap());
        }
        text.extend(detokenizer.flush().unwrap());
        text
    }

    /// An answer whose tokens are drawn from those that are allowed, or forced. Once it is long it
    /// closes what is open in JSON, and ends where it may.
    fn walk(&self, source: &GrammarSource, seed: u64) -> String {
        const LONG: usize = 60;
        const TOO_LONG: usize = 4000;
        let mut state = seed | 1;
        let mut random = move |bound: usize| {
            // Knuth's multiplier for a generator of 64 bits.
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 33) as usize % bound
        };
        let mut matcher = self.start(source);
        let mut ids = Vec::new();
        while !matcher.is_complete() {
            assert!(
                ids.len() < TOO_LONG,
                "{}: {source:?} does not end",
                self.name
            );
            let forced = matcher.forced().unwrap();
            if !forced.is_empty() && random(2) == 0 {
                for id in forced {
                    matcher.accept(id).unwrap();
                    ids.push(id);
                }
                continue;
            }
            let allowed = self.allowed(&mut matcher);
            assert!(!allowed.is_empty(), "{}: {source:?} is stuck", self.name);
            let may_end = allowed.contains(&self.stop);
            let long = ids.len() > LONG;
            let closing = |text: &str| {
                let ids = self.tokenizer.encode(text, false).unwrap();
                let last = ids.last().copied();
                last.filter(|id| long && allowed.contains(id))
            };
            let id = if may_end && (long || random(3) == 0) {
                self.stop
            } else if let Some(id) = ["\"", "}", "]"].into_iter().find_map(closing) {
                id
            } else {
                allowed[random(allowed.len())]
            };
            matcher.accept(id).unwrap();
            if id == self.stop {
                break;
            }
            ids.push(id);
        }
        self.text(&ids)
    }
}

/// Byte fallback with a blank in front, byte level, scores without bytes, and ours.
static MODELS: LazyLock<[Model; 7]> = LazyLock::new(|| {
    [
        Model::new("models/tiny/tokenizer.json", "<|end|>"),
        Model::new("tests/golden/phi3_v/tokenizer.json", "<|end|>"),
        Model::new("tests/golden/llava/tokenizer.json", "</s>"),
        Model::new("tests/golden/mllama/tokenizer.json", "<|eot_id|>"),
        Model::new("tests/golden/sentencepiece/nemo.model", "</s>"),
        Model::new("tests/golden/sentencepiece/unigram_bytes.model", "</s>"),
        Model::new("tests/golden/sentencepiece/nemo_no_prefix.model", "</s>"),
    ]
});

fn schema() -> Value {
    json!({
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 8},
            "size": {"$ref": "#/$defs/size"},
            "tags": {"type": "array", "items": {"enum": ["a", 1, null]}, "minItems": 1, "maxItems": 3},
            "code": {"type": "string", "pattern": "^[a-z]{2}-\\d{1,3}$"},
        },
        "required": ["name", "tags"],
        "additionalProperties": false,
        "$defs": {"size": {"anyOf": [{"type": "integer", "minimum": 1, "maximum": 99}, {"type": "null"}]}},
    })
}

const LARK: &str = "start: item (\",\" item){0,4}\nitem: /[a-z]{1,3}/ | \"(\" item \")\"\n";
const GBNF: &str = "root ::= sum \"=\" num\nsum ::= num (\"+\" num){1,3}\nnum ::= [0-9]{1,3}\n";

fn is_item(text: &str) -> bool {
    let inner = text
        .strip_prefix('(')
        .and_then(|rest| rest.strip_suffix(')'));
    match inner {
        Some(inner) => is_item(inner),
        None => (1..=3).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_lowercase()),
    }
}

fn is_number(text: &str) -> bool {
    (1..=3).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit())
}

/// A language and whether a text belongs to it, by other means than the parser's.
type Language = (GrammarSource, fn(&str) -> bool);

fn languages() -> [Language; 6] {
    let choices = ["yes", "yes, please", "no", "ja é 你", "a\"b\\"];
    [
        (GrammarSource::JsonObject, |text| {
            match serde_json::from_str::<Value>(text) {
                Ok(value) => value.is_object(),
                // JSON all the same.
                Err(error) => error.to_string().starts_with("number out of range"),
            }
        }),
        (GrammarSource::JsonSchema(schema()), |text| {
            serde_json::from_str(text).is_ok_and(|value| jsonschema::is_valid(&schema(), &value))
        }),
        (
            GrammarSource::Regex(r"^(\d{1,2}/)?[A-F]+ \w{0,3}é?$".into()),
            |text| {
                let rest = text.split_once('/').map_or(text, |(number, rest)| {
                    assert!(number.len() <= 2 && number.parse::<u8>().is_ok(), "{text}");
                    rest
                });
                let (letters, word) = rest.split_once(' ').unwrap();
                let word = word.strip_suffix('é').unwrap_or(word);
                letters.bytes().all(|b| (b'A'..=b'F').contains(&b))
                    && word.len() <= 3
                    && word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
            },
        ),
        (
            GrammarSource::Choice(choices.map(str::to_owned).into()),
            |text| ["yes", "yes, please", "no", "ja é 你", "a\"b\\"].contains(&text),
        ),
        (GrammarSource::Lark(LARK.into()), |text| {
            text.split(',').all(is_item)
        }),
        (GrammarSource::Lark(GBNF.into()), |text| {
            let (sum, result) = text.split_once('=').unwrap();
            is_number(result)
                && (2..=4).contains(&sum.split('+').count())
                && sum.split('+').all(is_number)
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn whatever_allowed_tokens_are_drawn_the_answer_belongs_to_the_language(seed: u64) {
        for model in &*MODELS {
            for (source, belongs) in languages() {
                let text = model.walk(&source, seed);
                prop_assert!(belongs(&text), "{}: {source:?}: {text:?}", model.name);
            }
        }
    }
}

#[test]
fn an_answer_may_begin_with_the_token_that_the_tokenizer_begins_it_with() {
    let choices = ["the picture", "a circle", "nothing"];
    let source = GrammarSource::Choice(choices.map(str::to_owned).into());
    for model in &*MODELS {
        let mut matcher = model.start(&source);
        let allowed = model.allowed(&mut matcher);
        for text in choices {
            let first = model.tokenizer.encode(text, false).unwrap()[0];
            // A blank alone is no text.
            if !model.text(&[first]).is_empty() {
                assert!(allowed.contains(&first), "{}: {text}", model.name);
                matcher.fork().accept(first).unwrap();
            }
        }
    }
}

#[test]
fn an_end_is_allowed_exactly_where_the_language_has_one() {
    let source = GrammarSource::Regex("a{2}b?".into());
    for model in &*MODELS {
        let mut matcher = model.start(&source);
        assert!(!model.allowed(&mut matcher).contains(&model.stop));
        for id in matcher.forced().unwrap() {
            matcher.accept(id).unwrap();
        }
        while !model.allowed(&mut matcher).contains(&model.stop) {
            let id = model.allowed(&mut matcher)[0];
            matcher.accept(id).unwrap();
        }
        let mut other = matcher.fork();
        matcher.accept(model.stop).unwrap();
        assert!(matcher.is_complete());
        matcher.accept(model.stop).unwrap();
        assert!(matcher.forced().unwrap().is_empty());
        // The other one goes on.
        assert!(!other.is_complete());
        assert!(model.allowed(&mut other).len() >= 2, "{}", model.name);
        assert!(other.accept(u32::MAX).is_err());
    }
}

#[test]
fn what_must_come_is_forced() {
    for model in &*MODELS {
        let mut matcher = model.start(&GrammarSource::Choice(vec!["the picture is round".into()]));
        let mut ids = Vec::new();
        while !matcher.is_complete() {
            let mut forced = matcher.forced().unwrap();
            if forced.is_empty() {
                forced.push(model.allowed(&mut matcher)[0]);
            }
            for id in forced {
                matcher.accept(id).unwrap();
                ids.push(id);
            }
        }
        ids.retain(|id| *id != model.stop);
        assert_eq!(model.text(&ids), "the picture is round", "{}", model.name);
    }
}

#[test]
fn control_tokens_never_come() {
    for model in &*MODELS {
        let mut matcher = model.start(&GrammarSource::Regex("(?s:.){0,9}".into()));
        for id in model.allowed(&mut matcher) {
            assert!(
                !model.tokenizer.is_special(id) || id == model.stop,
                "{}: {id}",
                model.name
            );
        }
    }
}

#[test]
fn blanks_between_tokens_of_json_end() {
    let model = &MODELS[0];
    let blank = model.tokenizer.token_to_id("<0x20>").unwrap();
    let mut matcher = model.start(&GrammarSource::JsonObject);
    let brace = model.tokenizer.token_to_id("{").unwrap();
    matcher.accept(brace).unwrap();
    let mut blanks = 0;
    while model.allowed(&mut matcher).contains(&blank) {
        matcher.accept(blank).unwrap();
        blanks += 1;
        assert!(blanks < 40);
    }
}

#[test]
fn names_of_properties_have_one_spelling() {
    let model = &MODELS[0];
    let schema = json!({"properties": {"a": {"const": 1}}, "type": "object"});
    let mut matcher = model.start(&GrammarSource::JsonSchema(schema));
    for byte in ["{", "<0x22>", "<0x5C>"] {
        let id = model.tokenizer.token_to_id(byte).unwrap();
        matcher.accept(id).unwrap();
    }
    let allowed = model.allowed(&mut matcher);
    let is_allowed = |token| allowed.contains(&model.tokenizer.token_to_id(token).unwrap());
    assert!(is_allowed("n") && !is_allowed("u"));
}

#[test]
fn equal_sources_are_compiled_once() {
    let model = &MODELS[0];
    let source = GrammarSource::Regex("once [a-z]{3}".into());
    assert!(model.compiler.cached(&source).is_none());
    model.compiler.compile(&source).unwrap();
    assert!(model.compiler.cached(&source).is_some());
}

#[test]
fn properties_come_in_the_order_of_the_schema() {
    let model = &MODELS[0];
    for (first, second) in [("b", "a"), ("a", "b")] {
        let schema = json!({
            "type": "object",
            "properties": {first: {"const": 1}, second: {"const": 2}},
            "required": ["a", "b"],
            "additionalProperties": false,
        });
        let text = model.walk(&GrammarSource::JsonSchema(schema), 7);
        let place = |name| text.find(&format!("\"{name}\"")).unwrap();
        assert!(place(first) < place(second), "{text}");
    }
}

#[test]
fn sources_that_say_no_language_are_refused() {
    let model = &MODELS[0];
    let long = "x".repeat(MAX_SOURCE_BYTES + 1);
    let regex = |regex: &str| GrammarSource::Regex(regex.to_owned());
    let lark = |grammar: &str| GrammarSource::Lark(grammar.to_owned());
    let schema = GrammarSource::JsonSchema;
    for (source, words) in [
        (regex(""), "empty"),
        (regex("(a"), "unclosed group"),
        (regex(r"(a)\1"), "backreferences"),
        (regex("a(?=b)"), "look-around"),
        (regex(&long), "131072 bytes"),
        (GrammarSource::Choice(Vec::new()), "at least one"),
        (
            GrammarSource::Choice(vec!["a".into(), String::new()]),
            "string 1",
        ),
        (
            GrammarSource::Choice(vec!["a".into(); MAX_CHOICES + 1]),
            "4096 strings",
        ),
        (lark(""), "start"),
        (lark("start: \"a"), "1("),
        (lark("start: other"), "other"),
        (lark(&long), "131072 bytes"),
        (schema(json!("string")), "an object"),
        (schema(json!(false)), "an object"),
        (schema(json!({"type": "text"})), "type"),
        (
            schema(json!({"type": "string", "format": "color"})),
            "color",
        ),
        (schema(json!({"$ref": "#/$defs/none"})), "none"),
        (
            schema(json!({"type": "integer", "minimum": 3, "maximum": 2})),
            "2",
        ),
        (
            schema(json!({"oneOf": [{"type": "integer"}, {"type": "number"}]})),
            "oneOf",
        ),
        (
            schema(json!({"allOf": [{"type": "null"}, {"type": "string"}]})),
            "nsatisfiable",
        ),
        (schema(json!({"not": {"type": "null"}})), "`not`"),
    ] {
        let error = model.compiler.compile(&source);
        let message = error
            .err()
            .unwrap_or_else(|| panic!("{words}: compiles"))
            .to_string();
        assert!(message.contains(words), "{words}: {message}");
        assert!(!message.contains('<'), "{message}");
    }
}

/// Schemas and the like made to take for ever: they compile, or are refused, in time. The bound is
/// for builds without optimisation on a busy machine.
#[test]
fn nothing_takes_for_ever() {
    for (name, source) in hostile::sources() {
        let model = &MODELS[0];
        model.compiler.prepare().unwrap();
        let start = Instant::now();
        let compiled = model.compiler.compile(&source);
        let time = start.elapsed();
        eprintln!("{name}: {time:?} {:?}", compiled.as_ref().map(|_| ()));
        assert!(time < Duration::from_secs(10), "{name}: {time:?}");
        let Ok(grammar) = compiled else { continue };
        let mut matcher = grammar.start();
        for _ in 0..20 {
            let mut logits = vec![0.0; model.vocab_size];
            let start = Instant::now();
            let masked = matcher.mask(&mut logits);
            let time = start.elapsed();
            assert!(
                time < Duration::from_secs(5),
                "{name}: a mask took {time:?}"
            );
            let Some(id) = logits.iter().position(|logit| *logit == 0.0) else {
                break;
            };
            if masked.is_err() || matcher.accept(id as u32).is_err() || matcher.is_complete() {
                break;
            }
        }
    }
}

/// Whether a model may say the text.
fn may_say(model: &Model, source: &GrammarSource, text: &str) -> bool {
    let mut matcher = model.start(source);
    let ids = model.tokenizer.encode(text, false).unwrap();
    // A space that the tokenizer puts in front is no part of the text.
    let own = ids
        .into_iter()
        .skip_while(|id| model.text(&[*id]).is_empty());
    let mut ids = own.chain([model.stop]);
    ids.all(|id| model.allowed(&mut matcher).contains(&id) && matcher.accept(id).is_ok())
}

#[test]
fn names_that_fit_a_pattern_have_its_schema_and_others_that_of_the_rest() {
    let schema = |additional: Value| {
        GrammarSource::JsonSchema(json!({
            "type": "object",
            "properties": {"name": {"type": "boolean"}},
            "patternProperties": {"^x": {"type": "boolean"}},
            "additionalProperties": additional,
        }))
    };
    let model = &MODELS[0];
    let numbers = schema(json!({"type": "integer"}));
    for (text, allowed) in [
        (r#"{"xa": true}"#, true),
        (r#"{"xa": 5}"#, false),
        (r#"{"ya": 5}"#, true),
        (r#"{"ya": true}"#, false),
        (r#"{"name": true}"#, true),
        (r#"{"name": 5}"#, false),
    ] {
        assert_eq!(may_say(model, &numbers, text), allowed, "{text}");
    }
    assert!(!may_say(model, &schema(false.into()), r#"{"ya": 5}"#));
    let forbidden = GrammarSource::JsonSchema(json!({
        "type": "object", "patternProperties": {"^x": false},
    }));
    let error = model.compiler.compile(&forbidden).unwrap_err();
    assert!(matches!(error, GrammarError::Keyword { .. }), "{error}");
}
