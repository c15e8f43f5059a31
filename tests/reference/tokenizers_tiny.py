"""Tiny tokenizers with the structure of the real ones, trained on `corpus.txt`."""

import json
from pathlib import Path

from tokenizers import (
    AddedToken,
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


def sentencepiece_bpe(size, added):
    """Llama-2 / Phi-3 shape: BPE over `▁`-joined text with byte fallback and a leading `<s>`.

    Ids 0..2 are `<unk> <s> </s>`, 3..258 the bytes; `added` follow at `size`.
    """
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
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

    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)]
    )
    tokenizer.add_special_tokens(added)
    return tokenizer
