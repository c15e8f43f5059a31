"""Tiny SentencePiece models of every kind, with what the sentencepiece library makes of texts.

python make.py sentencepiece ../golden/sentencepiece

`texts.json` is a list of texts. For each model there are `NAME.model` and `NAME.json`, with

- `encode`: the ids of each text,
- `shielded`: the ids of each text for a model whose symbols are never found in texts, as far as a
  server does not let users write them; `null` where these are the ids above,
- `decoded`: the text of the ids of each text; `null` where it is the text itself,
- `decode`: `[ids, text]` of further lists of ids, which no text has,
- `behind_unknown`: the ids of each text behind 9000 times `Ж`, for models without bytes,
- `loads`: how many bytes of the file are a model to the library, where its end is cut off.
"""

import io
import json
import random
import shutil
import tempfile
import unicodedata
from pathlib import Path

import sentencepiece
from sentencepiece import sentencepiece_model_pb2 as pb

from tokenizers_tiny import corpus, sentencepiece_model

EXTRA = [f"<extra_id_{index}>" for index in range(8)]
# One within another, one with a blank, words, and what is no markup.
ODD_SYMBOLS = ["<a>", "<a><b>", "<b>", "[b]", "the", "their", "a b", "  ", "\n", "=", "é"]
SPECIAL = {"unk_id": 0, "bos_id": 1, "eos_id": 2, "pad_id": 3}
NFKC_RANGES = [
    (0xA0, 0x180),
    (0x2000, 0x2070),
    (0x2100, 0x2140),
    (0x2460, 0x2474),
    (0x3000, 0x3001),
    (0xFB00, 0xFB07),
    (0xFDFA, 0xFDFB),
    (0xFF01, 0xFF5F),
]
# Unknown characters in front of a text, so many that Unigram must not simply add up their scores.
UNKNOWN, TIMES = "\u0416", 9000


def rules():
    """The kinds of rules that `nmt_nfkc` has, and some of its rules: it weighs 240 kB."""
    table = {}
    for first, end in NFKC_RANGES:
        for code in range(first, end):
            normal = unicodedata.normalize("NFKC", chr(code))
            if normal != chr(code):
                table[chr(code)] = normal
    for letter in "aeiouAEIOUcnCN":
        for mark in "\u0300\u0301\u0308\u0327":
            composed = unicodedata.normalize("NFKC", letter + mark)
            if len(composed) == 1:
                table[letter + mark] = composed
    table.update({"\t": " ", "\n": " ", "\r": " ", "\u200b": " "})
    table.update({"\x01": "", "\u200d": "", "\ufeff": ""})
    # Beginnings of one another, and one that makes blanks.
    table.update({"..": ".", "...": "…", "(c)": "©", "%%": " % "})
    lines = (
        "\t".join(" ".join(f"{ord(c):X}" for c in side) for side in rule)
        for rule in sorted(table.items())
    )
    return "\n".join(lines) + "\n"


def train(size, rule=None, **options):
    """A model trained on the corpus; `rule` is the text of a table of rules."""
    model = io.BytesIO()
    with tempfile.NamedTemporaryFile("w", suffix=".tsv", encoding="utf-8") as table:
        if rule is None:
            options["normalization_rule_name"] = "identity"
        else:
            table.write(rule)
            table.flush()
            options["normalization_rule_tsv"] = table.name
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(corpus()),
            model_writer=model,
            vocab_size=size,
            num_threads=1,
            minloglevel=2,
            **SPECIAL,
            **options,
        )
    proto = pb.ModelProto.FromString(model.getvalue())
    # The name of a temporary file.
    proto.trainer_spec.ClearField("model_prefix")
    proto.normalizer_spec.ClearField("normalization_rule_tsv")
    return proto


def odd(model_type):
    """A model that no training yields: equal scores, unused pieces, pieces without their parts."""
    is_bpe = model_type == pb.TrainerSpec.BPE
    proto = pb.ModelProto()
    proto.trainer_spec.model_type = model_type
    proto.trainer_spec.unk_surface = "(?)" if is_bpe else ""
    proto.normalizer_spec.remove_extra_whitespaces = False
    proto.normalizer_spec.escape_whitespaces = is_bpe
    kinds = pb.ModelProto.SentencePiece

    def add(score, *pieces, kind=kinds.NORMAL):
        for piece in pieces:
            proto.pieces.add(piece=piece, score=score, type=kind)

    add(0, "▁?", kind=kinds.UNKNOWN)
    add(0, "<s>", "</s>", "he", "x", kind=kinds.CONTROL)
    add(0, *ODD_SYMBOLS, "notation", kind=kinds.USER_DEFINED)
    add(-1.5, *"▁ abcdehirnot<>")
    # "q" and "ü" are in no piece alone; the merges of "aaa" overlap in every way; shielded symbols
    # must not be merged from their parts.
    add(-0.5, "aa", "aaa", "ab", "ba", "aba", "qü", "aqü", "▁▁", "▁▁▁", "▁a", "<a", "b>", "cnoto")
    add(-0.25, "bc", "bcd", "nd", "ind", "z", kind=kinds.UNUSED)
    # Zeros have an order.
    add(-0.0, "bcde", "be", "ab<")
    add(0, "ca", "ea")
    add(0.125, "rind", "nota", "tion")
    add(0.5, "abcde")
    # Next to equal to its letters, and so bad that an unknown character is almost better.
    add(-3.006, "ot")
    add(-6, "qc")
    return proto


def models():
    """Name and model."""
    nemo = {prefix: pb.ModelProto.FromString(sentencepiece_model(420, prefix)) for prefix in (1, 0)}
    yield "nemo", nemo[True]
    yield "nemo_no_prefix", nemo[False]
    bpe = {"model_type": "bpe", "character_coverage": 0.98}
    yield "bpe_rules", train(200, rules(), user_defined_symbols=ODD_SYMBOLS, **bpe)
    yield (
        "bpe_suffix",
        train(
            220,
            user_defined_symbols=EXTRA,
            treat_whitespace_as_suffix=True,
            allow_whitespace_only_pieces=True,
            split_by_whitespace=False,
            **bpe,
        ),
    )
    yield "bpe_odd", odd(pb.TrainerSpec.BPE)
    unigram = {"model_type": "unigram", "character_coverage": 0.98}
    yield "unigram_rules", train(220, rules(), user_defined_symbols=ODD_SYMBOLS, **unigram)
    yield (
        "unigram_bytes",
        train(
            480,
            user_defined_symbols=[*EXTRA, "\n"],
            byte_fallback=True,
            remove_extra_whitespaces=False,
            **unigram,
        ),
    )
    yield "unigram_odd", odd(pb.TrainerSpec.UNIGRAM)


def texts():
    """What the models are asked to take apart."""
    chosen = [
        "",
        " ",
        "  ",
        "   \t  ",
        "\n",
        "\n\n",
        "▁",
        "▁▁a",
        "a",
        " a",
        "  a  ",
        "a  b   c    d",
        "<extra_id_0>",
        "<extra_id_0>System\n",
        " <extra_id_0>",
        "<extra_id_0> ",
        "<extra_id_1><extra_id_2>",
        "<extra_id_1> <extra_id_2>  <extra_id_3>",
        "<extra_id_1>User\nWhat is this?\n<extra_id_1>Assistant\n",
        "<extra_id_9><extra_id_1><extra_id_",
        "<<extra_id_1>>",
        "<extra_id_1",
        "＜extra_id_1＞",
        "<s>",
        "</s><s><unk><pad>",
        "a<s>b</s>",
        "<0x41><0x0A>",
        "<unk>",
        "<a><b><a> <b>[b]",
        "＜a＞＜b＞[ｂ]",
        "<a\u200d><\x01b>",
        "the their theirs therein the",
        "a b a  b a   b",
        "a\u200bb",
        "aaaaaaa aaaaa aaa",
        "ababababa abaaba",
        "abcdeabcdea bcdabcd",
        "qü aqü aaqüqü q ü",
        "rind ind nd rindind",
        "bea beabea ab<ab<a>",
        "z az zz",
        "ot otot",
        "notation nota tion",
        "qcnoto qc cnoto",
        "xhexhe hex",
        "ﬁre ™ ① ２３ ﷺ …",
        "... .. ..... (c) (c",
        "100%% %%% a%%",
        "e\u0301e\u0301\u0301 é e\u0301",
        "\u3000wide\u3000 \u00a0blank\r\nline",
        "\ufeffa\ufeff",
        "\x00a\x00",
        "你好😀😀 안녕",
        "👨\u200d👩\u200d👧",
        "\U0010ffff\ufffd\ufffe",
    ]
    yield from chosen
    yield from (line.strip() for line in corpus()[:12])
    yield " ".join(["word"] * 40)
    picks = random.Random(1)
    snippets = [
        *EXTRA[:4],
        *ODD_SYMBOLS,
        *("<s>", "</s>", "<", ">", "<a", "a>", "extra", "_id_", "[", "]", "%%", "."),
        *("▁", " ", " ", "  ", "    ", "\t", "\u200b", "\u200d", "\u3000", "\x00", "\x01"),
        *("and", "image", "a", "b", "ab", "bc", "bcde", "aa", "in", "ind", "r", "q", "qü", "he"),
        *("1", "12.50", "ﬁ", "＜", "ａ", "＞", "\u0301", "e", "ß", "Köln", "你", "😀", "ж"),
    ]
    for _ in range(220):
        yield "".join(picks.choices(snippets, k=picks.randint(1, 12)))


def is_shielded(symbol):
    """Whether a server keeps users from writing a symbol: markup, as `is_markup` in `vlmd`."""
    symbol = symbol.replace("▁", " ")
    pairs = ("<>", "[]", "{}")
    looks_so = any(symbol.startswith(pair[0]) and symbol.endswith(pair[1]) for pair in pairs)
    return looks_so and len(symbol) > 2 and not any(c.isspace() for c in symbol)


def without_symbols(proto):
    """The same model, where shielded symbols are never found in a text."""
    plain = pb.ModelProto.FromString(proto.SerializeToString())
    for piece in plain.pieces:
        if piece.type == piece.USER_DEFINED and is_shielded(piece.piece):
            piece.type = piece.CONTROL
    return plain


def processor(proto):
    """The library's tokenizer."""
    return sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())


def loads(data):
    """The lengths at which the beginning of a file is taken for a whole one."""
    lengths = []
    for length in range(1, len(data)):
        try:
            sentencepiece.SentencePieceProcessor(model_proto=data[:length])
        except RuntimeError:
            continue
        lengths.append(length)
    return lengths


def random_ids(proto, count):
    """Ids in orders that encoding does not yield: bytes cut short, symbols, blanks first."""
    picks = random.Random(2)
    by_kind = {}
    for index, piece in enumerate(proto.pieces):
        by_kind.setdefault(piece.type, []).append(index)
    blanks = [index for index, piece in enumerate(proto.pieces) if piece.piece.startswith("▁")]
    # The bytes of two characters, if there are any.
    spelt = {piece.piece: index for index, piece in enumerate(proto.pieces)}
    some = [spelt[name] for byte in "é你".encode() if (name := f"<0x{byte:02X}>") in spelt]
    groups = [*by_kind.values(), blanks or [0], some or [0]]
    for _ in range(count):
        length = picks.randint(0, 12)
        yield [picks.choice(picks.choice(groups)) for _ in range(length)]


def lines(items):
    """A JSON list with a line for each item."""
    return "[\n" + ",\n".join(json.dumps(item) for item in items) + "\n]"


def make(out):
    """Writes all files into the new folder `out`."""
    out = Path(out)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    asked = list(texts())
    (out / "texts.json").write_text(lines(asked) + "\n", encoding="utf-8")
    for name, proto in models():
        data = proto.SerializeToString(deterministic=True)
        (out / f"{name}.model").write_bytes(data)
        tokenizer, plain = processor(proto), processor(without_symbols(proto))
        encoded = [tokenizer.encode(text) for text in asked]
        shielded = [plain.encode(text) for text in asked]
        decoded = [tokenizer.decode(ids) for ids in encoded]
        further = list(random_ids(proto, 120))
        behind = [] if proto.trainer_spec.byte_fallback else asked
        golden = {
            "encode": encoded,
            "shielded": [b if a != b else None for a, b in zip(encoded, shielded, strict=True)],
            "decoded": [b if a != b else None for a, b in zip(asked, decoded, strict=True)],
            "decode": [[ids, tokenizer.decode(ids)] for ids in further],
            "behind_unknown": [tokenizer.encode(UNKNOWN * TIMES + text) for text in behind],
            "loads": loads(data),
        }
        fields = (f"{json.dumps(key)}: {lines(value)}" for key, value in golden.items())
        (out / f"{name}.json").write_text("{\n" + ",\n".join(fields) + "\n}\n", encoding="utf-8")
        print(f"{out / name}: {len(proto.pieces)} pieces, {len(data)} bytes")
