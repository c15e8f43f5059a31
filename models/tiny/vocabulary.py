"""Builds the tokenizer: the structure of Phi-3's (SentencePiece BPE with byte fallback), with a small vocabulary.

Merges are learnt from the questions and answers in lower case only, so that capitals and digits stay single
tokens and reading is character by character. Capitalised words of ordinary sentences ("There", "What") get
their merges afterwards, from the lower-case remainder, so none of them ever joins two capitals.
"""

from __future__ import annotations

import json
import re
from collections import Counter

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

SPECIALS = (
    "<|endoftext|>", "<|assistant|>", "<|placeholder1|>", "<|placeholder2|>", "<|placeholder3|>", "<|placeholder4|>",
    "<|system|>", "<|end|>", "<|placeholder5|>", "<|placeholder6|>", "<|user|>", "<|placeholder7|>", "<|image|>",
)  # fmt: skip
"""Added tokens in the order of Phi-3's ids."""
NO_STRIP = {"<|endoftext|>", "<|system|>", "<|end|>", "<|user|>"}
"""The others swallow white space that follows them, as in Phi-3: `<|assistant|>` eats its newline."""
CHAT_TEMPLATE = (
    "{% for message in messages %}{{'<|' + message['role'] + '|>' + '\n' + message['content'] + '<|end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt and messages[-1]['role'] != 'assistant' %}"
    "{{- '<|assistant|>\n' -}}{% endif %}"
)
MAX_MERGES = 330
MAX_SPACED = 250


def learn_merges(words: Counter[str], limit: int) -> list[tuple[str, str]]:
    """Plain BPE over whole words; ties are broken by spelling, so the result depends on the words alone."""
    split = {w: tuple(w) for w in words}
    merges: list[tuple[str, str]] = []
    while len(merges) < limit:
        pairs: Counter[tuple[str, str]] = Counter()
        for w, parts in split.items():
            for pair in zip(parts, parts[1:]):
                pairs[pair] += words[w]
        if not pairs:
            break
        best = min(pairs, key=lambda p: (-pairs[p], p))
        merges.append(best)
        split = {w: join(parts, best) for w, parts in split.items()}
    return merges


def join(parts: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    """The parts with every occurrence of the pair merged."""
    out, i = [], 0
    while i < len(parts):
        if parts[i : i + 2] == pair:
            out.append(parts[i] + parts[i + 1])
            i += 2
        else:
            out.append(parts[i])
            i += 1
    return tuple(out)


def build(sentences: list[str], vocab_size: int) -> Tokenizer:
    """The tokenizer for a model with `vocab_size` rows; some rows at the end may stay unused."""
    counts = Counter(w for s in sentences for w in re.findall(r"[A-Za-z]+", s))
    lower: Counter[str] = Counter()
    for w, n in counts.items():
        if not w.isupper():
            lower[w.lower()] += n
    merges = learn_merges(lower, MAX_MERGES)

    def pieces(word: str) -> tuple[str, ...]:
        parts = tuple(word)
        for pair in merges:
            if len(parts) == 1:
                break
            parts = join(parts, pair)
        return parts

    by_use = sorted(lower, key=lambda w: (-lower[w], w))
    whole = [w for w in by_use if len(pieces(w)) == 1][:MAX_SPACED]
    capital = sorted({w for w in counts if re.fullmatch(r"[A-Z][a-z]+", w) and len(pieces(w[1:])) == 1})
    merges += [("▁", w) for w in whole]
    for w in capital:
        merges += [(w[0], w[1:]), ("▁", w)]
    characters = ["▁"] + [chr(c) for c in range(33, 127)]
    tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)] + characters
    tokens += [a + b for a, b in merges if len(a + b) > 1]
    vocab = {t: i for i, t in enumerate(dict.fromkeys(tokens))}
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)]
    )
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in ("<unk>", "<s>", "</s>")])
    tokenizer.add_special_tokens(
        [AddedToken(t, normalized=False, special=True, rstrip=t not in NO_STRIP) for t in SPECIALS]
    )
    if tokenizer.get_vocab_size() > vocab_size:
        raise ValueError(f"{tokenizer.get_vocab_size()} tokens do not fit into {vocab_size} rows")
    return tokenizer


def tokenizer_config(tokenizer: Tokenizer) -> dict:
    """`tokenizer_config.json` for a tokenizer made by `build`."""
    added = json.loads(tokenizer.to_str())["added_tokens"]
    fields = ("content", "lstrip", "normalized", "rstrip", "single_word", "special")
    return {
        "add_bos_token": True,
        "add_eos_token": False,
        "added_tokens_decoder": {str(t["id"]): {k: t[k] for k in fields} for t in added},
        "bos_token": "<s>",
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|endoftext|>",
        "legacy": False,
        "model_max_length": 2048,
        "pad_token": "<|endoftext|>",
        "padding_side": "right",
        "tokenizer_class": "LlamaTokenizer",
        "unk_token": "<unk>",
        "use_default_system_prompt": False,
    }
