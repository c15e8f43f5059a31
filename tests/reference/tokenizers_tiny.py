"""Tiny tokenizers with the structure of the real ones, trained on `corpus.txt`."""

import json
import math
from collections import Counter
from pathlib import Path

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

CORPUS = Path(__file__).with_name("corpus.txt")


def corpus():
    """The training lines, each with a trailing blank so that words meet their separator."""
    lines = CORPUS.read_text(encoding="utf-8").splitlines()
    return [line + " " for line in lines]


def special(text, **flags):
    """A special token as the hub's tokenizer.json files declare it."""
    return AddedToken(text, normalized=False, special=True, **flags)


# Llama 3's special tokens as far as a model of 16 has them; the real one has 256.
LLAMA3_SPECIAL = [
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|reserved_special_token_0|>",
    "<|reserved_special_token_1|>",
    "<|finetune_right_pad_id|>",
    "<|step_id|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eom_id|>",
    "<|eot_id|>",
    "<|python_tag|>",
    "<|reserved_special_token_2|>",
    "<|reserved_special_token_3|>",
    "<|reserved_special_token_4|>",
    "<|reserved_special_token_5|>",
    "<|reserved_special_token_6|>",
]
LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def byte_level_bpe(size):
    """Llama-3 shape: BPE over bytes, words by a regular expression.

    The last of `size` ids are the special tokens; `<|image|>` comes behind them, with the id `size`
    for which there is an embedding but no logit.
    """
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA3_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    pieces = size - len(LLAMA3_SPECIAL)
    trainer = trainers.BpeTrainer(
        vocab_size=pieces,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    if tokenizer.get_vocab_size() != pieces:
        raise ValueError(f"the corpus yields {tokenizer.get_vocab_size()} of {pieces} tokens")
    tokenizer.add_special_tokens([special(text) for text in LLAMA3_SPECIAL])
    tokenizer.add_special_tokens([special("<|image|>")])
    begin = LLAMA3_SPECIAL[0]
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single=f"{begin} $A",
                pair=f"{begin} $A {begin}:1 $B:1",
                special_tokens=[(begin, pieces)],
            ),
        ]
    )
    return tokenizer


def unigram(size):
    """XLM-R shape, as Kosmos-2 has it: a unigram model with `<s> <pad> </s> <unk>` at 0..3.

    The library's trainer gives other scores in each run, hence this count of substrings.
    """
    words = [word for line in corpus() for word in line.split()]
    counts = Counter(
        f"▁{word}"[start:end]
        for word in words
        for start in range(len(word) + 1)
        for end in range(start + 1, min(start + 8, len(word) + 1) + 1)
    )
    single = sorted(piece for piece in counts if len(piece) == 1)
    longer = sorted(
        (piece for piece in counts if len(piece) > 1),
        key=lambda piece: (-counts[piece] * (len(piece) - 1), piece),
    )
    reserved = ["<s>", "<pad>", "</s>", "<unk>"]
    pieces = single + longer[: size - len(reserved) - len(single)]
    total = sum(counts.values())
    scores = [(piece, round(math.log(counts[piece] / total), 3)) for piece in pieces]
    tokenizer = Tokenizer(models.Unigram([(piece, 0.0) for piece in reserved] + scores, unk_id=3))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]
    )
    metaspace = {"replacement": "▁", "prepend_scheme": "always"}
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(**metaspace)
    tokenizer.decoder = decoders.Metaspace(**metaspace)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    return tokenizer


def sentencepiece_model(size, prefix=True):
    """A `tokenizer.model` as NeMo uses: BPE with byte fallback and `<extra_id_0>` to `_7`."""
    import io

    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus()),
        model_writer=model,
        model_type="bpe",
        vocab_size=size,
        byte_fallback=True,
        character_coverage=0.998,
        num_threads=1,
        user_defined_symbols=[f"<extra_id_{index}>" for index in range(8)] + ["\n"],
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=prefix,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=3,
        minloglevel=2,
    )
    return model.getvalue()


def sentencepiece_bpe(size, added, prefix=True):
    """Llama-2 / Phi-3 shape: BPE over `▁`-joined text with byte fallback and a leading `<s>`.

    Ids 0..2 are `<unk> <s> </s>`, 3..258 the bytes; `added` follow at `size`. Without `prefix` it
    has the shape of Yi: neither a `▁` before the text nor an `<s>`.
    """
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    blanks = normalizers.Replace(" ", "▁")
    before = [normalizers.Prepend("▁")] if prefix else []
    tokenizer.normalizer = normalizers.Sequence([*before, blanks])
    # Only while training: without it merges would cross words.
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="never")
    reserved = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=reserved, show_progress=False)
    tokenizer.train_from_iterator(corpus(), trainer)

    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if token["id"] < 3]
    state["pre_tokenizer"] = None
    tokenizer = Tokenizer.from_str(json.dumps(state))
    if tokenizer.get_vocab_size() != size:
        raise ValueError(f"the corpus yields {tokenizer.get_vocab_size()} of {size} tokens")

    strip = [decoders.Strip(" ", 1, 0)] if prefix else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    if prefix:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)]
        )
    tokenizer.add_special_tokens(added)
    return tokenizer
