//! Small tokenizers of the kinds that served models have, and texts that try them.

use std::collections::HashSet;
use std::sync::{Arc, LazyLock};

use proptest::prelude::*;
use serde_json::{Value, json};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

use crate::tokenizer::Tokenizer;

/// A tokenizer in several forms.
pub(crate) struct Kit {
    pub(crate) name: &'static str,
    pub(crate) json: Value,
    pub(crate) tokenizer: Arc<Tokenizer>,
    /// The library's own, from the same file.
    pub(crate) library: tokenizers::Tokenizer,
    /// The library's own, without the added tokens that are shielded.
    pub(crate) without_control_tokens: tokenizers::Tokenizer,
    /// Ids that only a template may write. The unknown token is not one of them: it also stands for
    /// characters that the vocabulary lacks.
    pub(crate) control: HashSet<u32>,
}

impl Kit {
    fn new(name: &'static str, json: Value) -> Self {
        let library = library(name, &json);
        let tokens = json["added_tokens"].as_array().expect("an array");
        let is_control = |token: &Value| token["special"] == true || token["content"] == "</s>";
        let control = tokens
            .iter()
            .filter(|token| is_control(token))
            .map(|token| token["content"].as_str().expect("a string"))
            .filter(|&token| token != "<unk>" && token != "[UNK]")
            .map(|token| library.token_to_id(token).expect(token))
            .collect();
        let mut rest = json.clone();
        let tokens = rest["added_tokens"].as_array_mut().expect("an array");
        tokens.retain(|token| !is_control(token));
        Self {
            name,
            tokenizer: Arc::new(Tokenizer::from_bytes(json.to_string().as_bytes()).expect(name)),
            without_control_tokens: self::library(name, &rest),
            control,
            library,
            json,
        }
    }

    /// A tokenizer of its own, to be changed.
    pub(crate) fn fresh(&self) -> Tokenizer {
        Tokenizer::from_bytes(self.json.to_string().as_bytes()).expect(self.name)
    }
}

fn library(name: &str, json: &Value) -> tokenizers::Tokenizer {
    let mut library = tokenizers::Tokenizer::from_bytes(json.to_string()).expect(name);
    library.with_truncation(None).expect("none is valid");
    library
}

pub(crate) fn kits() -> [&'static Kit; 4] {
    [&SENTENCE_PIECE, &BYTE_LEVEL, &UNIGRAM, &WORD_PIECE]
}

pub(crate) static SENTENCE_PIECE: LazyLock<Kit> = LazyLock::new(sentence_piece);
pub(crate) static BYTE_LEVEL: LazyLock<Kit> = LazyLock::new(byte_level);
pub(crate) static UNIGRAM: LazyLock<Kit> = LazyLock::new(unigram);
pub(crate) static WORD_PIECE: LazyLock<Kit> = LazyLock::new(word_piece);

/// Flags are letters: `s`pecial, `l`strip, `r`strip, `w`hole word, `n`ormalized.
fn added(id: usize, content: &str, flags: &str) -> Value {
    json!({
        "id": id,
        "content": content,
        "special": flags.contains('s'),
        "lstrip": flags.contains('l'),
        "rstrip": flags.contains('r'),
        "single_word": flags.contains('w'),
        "normalized": flags.contains('n'),
    })
}

/// Added tokens with all flags, numbered from `first`.
fn control_tokens(first: usize) -> Vec<Value> {
    [
        ("<|user|>", "s"),
        ("<|assistant|>", "sr"),
        ("<|end|>", "s"),
        ("<|image|>", "sr"),
        ("<mask>", "sl"),
        ("<sep>", "slr"),
        ("<word>", "sw"),
        ("<|en", "s"),
        ("yesterday", "n"),
        ("  ", ""),
    ]
    .iter()
    .enumerate()
    .map(|(index, (content, flags))| added(first + index, content, flags))
    .collect()
}

fn beginning(token: &str, id: usize) -> Value {
    json!({
        "type": "TemplateProcessing",
        "single": [
            {"SpecialToken": {"id": token, "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
        ],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {token: {"id": token, "ids": [id], "tokens": [token]}},
    })
}

fn bpe(vocab: Vec<String>, merges: &[[&str; 2]], more: &Value) -> Value {
    let vocab: serde_json::Map<String, Value> = vocab
        .into_iter()
        .chain(merges.iter().map(|pair| pair.concat()))
        .enumerate()
        .map(|(id, token)| (token, id.into()))
        .collect();
    let mut model = json!({"type": "BPE", "vocab": vocab, "merges": merges});
    let fields = model.as_object_mut().expect("an object");
    fields.extend(more.as_object().expect("an object").clone());
    model
}

/// Llama 2, Phi-3: no pre-tokenizer, byte fallback, a space in front of every piece.
fn sentence_piece() -> Kit {
    let mut vocab: Vec<String> = ["<unk>", "<s>", "</s>"].map(str::to_owned).into();
    vocab.extend((0..=255u8).map(|byte| format!("<0x{byte:02X}>")));
    vocab.extend(('a'..='z').chain("▁<>|/_.,'é你".chars()).map(String::from));
    let merges = [
        ["▁", "t"],
        ["h", "e"],
        ["▁t", "he"],
        ["▁", "▁"],
        ["e", "n"],
        ["en", "d"],
        ["|", ">"],
        ["<", "|"],
    ];
    let size = vocab.len() + merges.len();
    let mut tokens = vec![
        added(0, "<unk>", "s"),
        added(1, "<s>", "s"),
        added(2, "</s>", "r"),
        added(size, "<norm>", "sn"),
    ];
    tokens.extend(control_tokens(size + 1));
    Kit::new(
        "SentencePiece BPE",
        json!({
            "version": "1.0",
            "truncation": {"max_length": 4, "strategy": "LongestFirst", "stride": 0, "direction": "Right"},
            "padding": null,
            "added_tokens": tokens,
            "normalizer": {"type": "Sequence", "normalizers": [
                {"type": "Prepend", "prepend": "▁"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
            ]},
            "pre_tokenizer": null,
            "post_processor": beginning("<s>", 1),
            "decoder": {"type": "Sequence", "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ]},
            "model": bpe(vocab, &merges, &json!({
                "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true,
            })),
        }),
    )
}

/// Llama 3, Qwen: every byte is a character of the vocabulary.
fn byte_level() -> Kit {
    let mut alphabet: Vec<char> = ByteLevel::alphabet().into_iter().collect();
    alphabet.sort_unstable();
    let vocab: Vec<String> = alphabet.into_iter().map(String::from).collect();
    let merges = [
        ["Ġ", "t"],
        ["h", "e"],
        ["Ġt", "he"],
        ["Ã", "©"],
        ["e", "n"],
        ["|", ">"],
        ["ð", "Ł"],
        ["ä", "½"],
    ];
    let size = vocab.len() + merges.len();
    let mut tokens = control_tokens(size);
    tokens.push(added(size + tokens.len(), "<|begin|>", "s"));
    Kit::new(
        "byte-level BPE",
        json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": tokens,
            "normalizer": null,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
                {
                    "type": "Split",
                    "pattern": {"Regex": r" ?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"},
                    "behavior": "Isolated",
                    "invert": false,
                },
                {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
            ]},
            "post_processor": beginning("<|begin|>", size + tokens.len() - 1),
            "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
            "model": bpe(vocab, &merges, &json!({"ignore_merges": true})),
        }),
    )
}

/// XLM-R, Kosmos-2: pieces with scores, control tokens among them, compatibility normalisation.
fn unigram() -> Kit {
    let mut vocab: Vec<(String, f64)> = ["<s>", "<pad>", "</s>", "<unk>"]
        .map(|token| (token.to_owned(), 0.0))
        .into();
    let letters = ('a'..='z').chain("▁<>|/_.,é你".chars()).map(String::from);
    vocab.extend(letters.map(|letter| (letter, -9.0)));
    vocab.extend([
        ("▁the".to_owned(), -3.0),
        ("end".to_owned(), -4.0),
        ("▁ab".to_owned(), -5.0),
    ]);
    let size = vocab.len();
    let mut tokens = vec![
        added(0, "<s>", "s"),
        added(2, "</s>", "s"),
        added(3, "<unk>", "s"),
        added(size, "<norm>", "sn"),
    ];
    tokens.extend(control_tokens(size + 1));
    Kit::new(
        "Unigram",
        json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": tokens,
            "normalizer": {"type": "NFKC"},
            "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": true},
            "post_processor": beginning("<s>", 0),
            "decoder": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": true},
            "model": {"type": "Unigram", "unk_id": 3, "vocab": vocab, "byte_fallback": false},
        }),
    )
}

/// BERT: lower case, no spaces in the vocabulary, a decoder that tidies up.
fn word_piece() -> Kit {
    let mut vocab: Vec<String> = ["[UNK]", "[CLS]", "[SEP]"].map(str::to_owned).into();
    vocab.extend(('a'..='z').chain("<>|/_.,'é你".chars()).map(String::from));
    vocab.extend(('a'..='z').map(|letter| format!("##{letter}")));
    vocab.extend(["the", "end", "##nd", "n't", "?"].map(str::to_owned));
    let size = vocab.len();
    let ids: serde_json::Map<String, Value> = vocab
        .into_iter()
        .enumerate()
        .map(|(id, token)| (token, id.into()))
        .collect();
    let mut tokens = vec![
        added(0, "[UNK]", "s"),
        added(1, "[CLS]", "s"),
        added(2, "[SEP]", "s"),
        added(size, "<norm>", "sn"),
    ];
    tokens.extend(control_tokens(size + 1));
    Kit::new(
        "WordPiece",
        json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": tokens,
            "normalizer": {
                "type": "BertNormalizer",
                "clean_text": true,
                "handle_chinese_chars": true,
                "strip_accents": null,
                "lowercase": true,
            },
            "pre_tokenizer": {"type": "BertPreTokenizer"},
            "post_processor": beginning("[CLS]", 1),
            "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
            "model": {
                "type": "WordPiece",
                "unk_token": "[UNK]",
                "continuing_subword_prefix": "##",
                "max_input_chars_per_word": 100,
                "vocab": ids,
            },
        }),
    )
}

/// Text made of control tokens, parts of them, spaces, and characters of every width.
pub(crate) fn text() -> impl Strategy<Value = String> {
    let snippets = [
        "<|user|>",
        "<|assistant|>",
        "<|end|>",
        "<|image|>",
        "<mask>",
        "<sep>",
        "<word>",
        "<norm>",
        "<NORM>",
        "＜ｎｏｒｍ＞",
        "</s>",
        "<s>",
        "[SEP]",
        "<unk>",
        "yesterday",
        "Yesterday",
        "<|en",
        "<|",
        "|>",
        "<",
        ">",
        "end",
        "d|>",
        " ",
        "  ",
        "\n",
        "\t",
        "\u{3000}",
        "the",
        " the",
        "ab",
        "_",
        "'",
        "é",
        "e\u{301}",
        "你",
        "😀",
        "ǅ",
        "\u{FFFD}",
        "\u{200D}",
        "\u{0}",
    ];
    prop::collection::vec(prop::sample::select(snippets.to_vec()), 0..14)
        .prop_map(|parts| parts.concat())
}
