"""Hostile and damaged `.nemo` archives, and what a server may answer.

python make.py broken_nemo ../golden/broken_nemo

`manifest.json` lists `{"file", "outcomes", "about"}`; an outcome is `refused`, with a sentence that
names the file and the reason, or `loads`. Whatever the outcome: nothing of an archive is executed
or written outside, and memory and time stay bounded; several of these unfold to much more than
they weigh. What the hostile pickles would call is harmless. The vision tower is that of
`golden/neva`.
"""

import collections
import copy
import gzip
import io
import os
import pickle
import shutil
import tarfile
import zipfile
from pathlib import Path

import torch
import yaml
from torch._utils import _rebuild_tensor_v2

import checkpoint
import nemo_file
import neva_reference
from goldens import write_json
from neva import BASE, PIECES, TOKENIZER
from tokenizers_tiny import sentencepiece_model

LOADS, REFUSED = "loads", "refused"
CONFIG, WEIGHTS = "model_config.yaml", "model_weights.ckpt"
OUTSIDE = "vlmd-escaped.txt"
EMPTY_NOTE = b"This must not appear outside of the archive.\n"
MEBI = 2**20
SIZES = {
    "num_layers": 1,
    "hidden_size": 16,
    "ffn_hidden_size": 16,
    "num_attention_heads": 1,
    "share_embeddings_and_output_weights": True,
}


def good_config(**changes):
    """The configuration of a complete model, as small as they get."""
    config = {**copy.deepcopy(BASE), **SIZES, **changes}
    config["data"]["image_token_len"] = 16
    return config


def good_state():
    """Its weights; embeddings of zeros compress well."""
    config = {**good_config(), "padded_vocab_size": -(-PIECES // 32) * 32}
    state = collections.OrderedDict(
        (name, checkpoint.values(name, shape, 5).to(torch.bfloat16))
        for name, shape in neva_reference.shapes(config)
    )
    state[neva_reference.EMBEDDING].zero_()
    return state


def as_yaml(config):
    """The bytes of a configuration."""
    return yaml.safe_dump(config, sort_keys=True).encode()


def tar(entries):
    """An uncompressed archive of `(TarInfo, data)`."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for entry, data in entries:
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def members(files, *added):
    """The files as tar entries, behind those that are `added`."""
    return [*added, *((tarfile.TarInfo("./" + path), data) for path, data in files.items())]


def special(path, kind, target=""):
    """A tar entry that is no file."""
    entry = tarfile.TarInfo(path)
    entry.type, entry.linkname = kind, target
    return entry, b""


def container_files(files):
    """Archives whose trouble is the container."""
    yield "complete.nemo", nemo_file.archive(files), [LOADS], "nothing is wrong with it"
    for name, path in [("parent", f"../../{OUTSIDE}"), ("absolute", f"/{OUTSIDE}")]:
        note = (tarfile.TarInfo(path), EMPTY_NOTE)
        yield f"{name}_path.nemo", tar(members(files, note)), [REFUSED], f"a member named {path}"
    rest = {path: data for path, data in files.items() if path != WEIGHTS}
    link = special("./" + WEIGHTS, tarfile.SYMTYPE, "/etc/passwd")
    yield "symlink.nemo", tar(members(rest, link)), [REFUSED], "the weights are a symbolic link"
    link = special("./" + WEIGHTS, tarfile.LNKTYPE, "../../etc/passwd")
    yield "hard_link.nemo", tar(members(rest, link)), [REFUSED], "the weights are a hard link"
    link = special("./folder", tarfile.SYMTYPE, "/")
    note = (tarfile.TarInfo(f"./folder/{OUTSIDE}"), EMPTY_NOTE)
    data = tar(members(files, link, note))
    yield "through_symlink.nemo", data, [REFUSED], "a member below a symbolic link to the root"
    pipe = special("./" + WEIGHTS, tarfile.FIFOTYPE)
    yield "pipe.nemo", tar(members(rest, pipe)), [REFUSED], "the weights are a named pipe"
    twice = (tarfile.TarInfo("./" + CONFIG), as_yaml(good_config(num_layers=7)))
    data = tar(members(files, twice))
    yield "twice.nemo", data, [REFUSED, LOADS], "two configurations, the second of which is right"

    good = nemo_file.archive(files)
    yield "truncated.nemo", good[: len(good) // 2], [REFUSED], "cut in the weights"
    wrong = bytearray(good)
    # The first block is that of the folder; in a header the checksum begins at byte 148.
    wrong[512 + 148] ^= 1
    yield "wrong_checksum.nemo", bytes(wrong), [REFUSED], "damaged header of the first file"
    yield "empty.nemo", b"", [REFUSED], "no bytes"
    yield "text.nemo", b"This is not an archive.\n", [REFUSED], "text"
    header = tarfile.TarInfo("./" + WEIGHTS)
    header.size = 2**60
    data = tar(members(rest))[: -tarfile.RECORDSIZE] + header.tobuf(tarfile.GNU_FORMAT) + bytes(99)
    yield "exbibyte.nemo", data, [REFUSED], "a member of an exbibyte, by its header"

    zeros = tarfile.TarInfo("./zeros.bin")
    data = gzip.compress(tar(members(files, (zeros, bytes(32 * MEBI)))), mtime=0)
    yield "bomb.nemo", data, [REFUSED, LOADS], "32 MiB of zeros in 32 KiB"
    crowd = [(tarfile.TarInfo(f"./{index}"), b"") for index in range(4_000)]
    data = gzip.compress(tar(members(files, *crowd)), mtime=0)
    yield "crowd.nemo", data, [REFUSED, LOADS], "4000 empty members"
    data = gzip.compress(good, mtime=0)
    yield "truncated_gzip.nemo", data[: len(data) // 2], [REFUSED], "cut in the compressed stream"


def small(files):
    """A compressed archive, where the container is not the matter."""
    return nemo_file.archive(files, compressed=True)


def config_files(files):
    """Archives whose trouble is the configuration or the tokenizer."""

    def with_config(data):
        return small({**files, CONFIG: data})

    rest = {path: data for path, data in files.items() if path != CONFIG}
    yield "no_config.nemo", small(rest), [REFUSED], "no configuration"
    yield "no_yaml.nemo", with_config(b"{a: [1, 2"), [REFUSED], "a configuration that is no YAML"
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    for level in range(1, 12):
        lines.append(f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]")
    data = with_config("\n".join(lines).encode())
    yield "laughs.nemo", data, [REFUSED], "aliases that unfold to a trillion nodes"
    tag = b"hidden: !!python/object/apply:os.getcwd []\n" + files[CONFIG]
    yield "yaml_tag.nemo", with_config(tag), [REFUSED, LOADS], "a tag that asks for a call"
    deep = b"deep: " + b"[" * 20_000 + b"]" * 20_000 + b"\n" + files[CONFIG]
    yield "deep_yaml.nemo", with_config(deep), [REFUSED], "20000 nested lists"

    changes = {
        "no_layers": ({"num_layers": None}, "the number of layers is missing"),
        "billion_layers": ({"num_layers": 10**9}, "a billion layers"),
        "wide": ({"hidden_size": 2**40}, "a width of 2^40"),
        "negative": ({"num_attention_heads": -1}, "minus one head"),
        "uneven": ({"num_attention_heads": 3}, "heads that do not divide the width"),
        "other_norm": ({"normalization": "batchnorm"}, "a norm that does not exist"),
        "other_positions": ({"position_embedding_type": "alibi"}, "positions of another kind"),
        "other_target": ({"target": "nemo.collections.asr.models.EncDecCTCModel"}, "no NeVA"),
        "other_width": ({"hidden_size": 32}, "weights of another width than configured"),
        "more_layers": ({"num_layers": 2}, "a layer without weights"),
        "more_ranks": ({"tensor_model_parallel_size": 2}, "two ranks, but the weights of one"),
    }
    for name, (change, about) in changes.items():
        config = {key: v for key, v in good_config(**change).items() if v is not None}
        yield f"{name}.nemo", with_config(as_yaml(config)), [REFUSED], about

    for name, path in [("parent", "nemo:../../etc/passwd"), ("absolute", "/etc/passwd")]:
        config = good_config()
        config["tokenizer"]["model"] = path
        data = with_config(as_yaml(config))
        yield f"tokenizer_{name}.nemo", data, [REFUSED], f"the tokenizer is {path}"
    for name, data, about in [
        ("broken", b"\xff" * 64, "a tokenizer that is none"),
        ("cut", files[TOKENIZER][: len(files[TOKENIZER]) // 2], "half a tokenizer"),
    ]:
        data = small({**files, TOKENIZER: data})
        yield f"tokenizer_{name}.nemo", data, [REFUSED], about
    rest = {path: data for path, data in files.items() if path != TOKENIZER}
    yield "no_tokenizer.nemo", small(rest), [REFUSED], "no tokenizer"


class Call:
    """Pickled, this asks the reader to call a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class Storage:
    """A reference to `count` values in the file `key`."""

    def __init__(self, key, count, kind=torch.BFloat16Storage):
        self.reference = "storage", kind, key, "cpu", count


class Pickler(pickle.Pickler):
    """Writes storages as torch does."""

    def persistent_id(self, value):
        return value.reference if isinstance(value, Storage) else None


def tensor(storage, shape, strides=(1,), offset=0):
    """A tensor by its parts, which need not fit."""
    arguments = storage, offset, shape, strides, False, collections.OrderedDict()
    return Call(_rebuild_tensor_v2, *arguments)


def pickled(value):
    """A pickle as torch writes it."""
    buffer = io.BytesIO()
    Pickler(buffer, protocol=2).dump(value)
    return buffer.getvalue()


def zipped(entries, compression=zipfile.ZIP_STORED):
    """A zip without dates."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path, data in entries.items():
            archive.writestr(zipfile.ZipInfo(path), data, compression)
    return buffer.getvalue()


def torch_zip(data, storages=None, **options):
    """A `.ckpt` with this pickle."""
    entries = {"archive/data.pkl": data, "archive/version": b"3\n"}
    for key, values in (storages or {"0": bytes(32)}).items():
        entries[f"archive/data/{key}"] = values
    return zipped(entries, **options)


def pickles():
    """Checkpoints whose trouble is the pickle."""
    name = neva_reference.EMBEDDING
    storage = Storage("0", 16)
    calls = {
        "call": Call(os.getcwd),
        "eval": Call(eval, "1 + 1"),
        "getattr": Call(getattr, Call(getattr, storage, "__class__"), "__name__"),
    }
    for kind, call in calls.items():
        yield f"pickle_{kind}", torch_zip(pickled({name: call})), "a pickle that calls a function"
    counter = collections.Counter("abc")
    yield "pickle_class", torch_zip(pickled({name: counter})), "an object of a foreign class"

    shapes = {
        "expanded": (tensor(storage, (2**40, 2**20), (0, 0)), "2^60 values from a single one"),
        "overflowing": (tensor(storage, (2**62, 4), (4, 1)), "a size beyond 64 bits"),
        "negative": (tensor(storage, (-1,)), "a negative size"),
        "negative_stride": (tensor(storage, (16,), (-1,)), "a negative stride"),
        "beyond": (tensor(storage, (16,), (1,), 8), "values behind the end of the storage"),
        "ranks": (tensor(storage, (4, 4), (1,)), "more sizes than strides"),
        "large_storage": (tensor(Storage("0", 2**40), (16,)), "a storage larger than its file"),
        "no_storage": (tensor(Storage("1", 16), (16,)), "a storage without a file"),
        "storage_path": (tensor(Storage("../../0", 16), (16,)), "a storage with a path for a name"),
        "complex": (tensor(Storage("0", 4, torch.ComplexFloatStorage), (4,)), "complex numbers"),
    }
    for kind, (value, about) in shapes.items():
        yield f"tensor_{kind}", torch_zip(pickled({name: value})), about

    yield "pickle_list", torch_zip(pickled([1, 2, 3])), "a list instead of a dictionary"
    yield "pickle_numbers", torch_zip(pickled({name: 1})), "a number instead of a tensor"
    yield "pickle_loop", torch_zip(b"\x80\x02}q\x00h\x00s."), "a pickle that runs out of stack"
    yield "pickle_cut", torch_zip(pickled({name: tensor(storage, (16,))})[:40]), "a cut pickle"
    deep = b"\x80\x02" + b"]" * 20_000 + b"a" * 19_999 + b"."
    yield "pickle_deep", torch_zip(deep), "20000 nested lists"
    yield "pickle_string", torch_zip(b"\x80\x02\x8d" + (2**60).to_bytes(8, "little")), "a long text"
    yield "pickle_memo", torch_zip(b"\x80\x02}r\xff\xff\xff\xff."), "the four billionth memo"
    yield (
        "pickle_number",
        torch_zip(b"\x80\x02\x8b" + (2**31 - 1).to_bytes(4, "little")),
        ("a number of two billion bytes"),
    )


def weight_files(files):
    """Archives whose trouble is the weights."""

    def with_weights(data):
        return small({**files, WEIGHTS: data})

    rest = {path: data for path, data in files.items() if path != WEIGHTS}
    yield "no_weights.nemo", small(rest), [REFUSED], "no weights"
    good = files[WEIGHTS]
    yield "weights_text.nemo", with_weights(b"no zip\n"), [REFUSED], "weights that are no zip"
    yield "weights_cut.nemo", with_weights(good[: len(good) // 2]), [REFUSED], "half of the zip"
    for kind, data, about in pickles():
        yield f"{kind}.nemo", with_weights(data), [REFUSED], about
    data = zipped({"archive/version": b"3\n"})
    yield "no_pickle.nemo", with_weights(data), [REFUSED], "a zip without a pickle"
    value = tensor(Storage("0", 32 * MEBI), (32 * MEBI,))
    data = torch_zip(
        pickled({neva_reference.EMBEDDING: value}),
        {"0": bytes(64 * MEBI)},
        compression=zipfile.ZIP_DEFLATED,
    )
    yield "zip_bomb.nemo", with_weights(data), [REFUSED], "64 MiB of zeros in 64 KiB"

    state = good_state()
    del state[neva_reference.FINAL_NORM + ".weight"]
    data = with_weights(nemo_file.checkpoint_bytes(state))
    yield "missing_weight.nemo", data, [REFUSED], "a weight is missing"
    state = good_state()
    state[neva_reference.FINAL_NORM + ".weight"] = torch.zeros(17, dtype=torch.bfloat16)
    data = with_weights(nemo_file.checkpoint_bytes(state))
    yield "wrong_shape.nemo", data, [REFUSED], "a weight of another shape"
    state = good_state()
    state["model.something.else"] = torch.zeros(1)
    data = with_weights(nemo_file.checkpoint_bytes(state))
    yield "further_weight.nemo", data, [REFUSED, LOADS], "a weight that the model lacks"


def make(out):
    """Writes the files and `manifest.json` into the new folder `out`."""
    out = Path(out)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    files = {
        CONFIG: as_yaml(good_config()),
        TOKENIZER: sentencepiece_model(PIECES),
        WEIGHTS: nemo_file.checkpoint_bytes(good_state()),
    }
    manifest = []
    for kind in (container_files, config_files, weight_files):
        for name, data, outcomes, about in kind(files):
            (out / name).write_bytes(data)
            manifest.append({"file": name, "outcomes": outcomes, "about": about})
    write_json(out / "manifest.json", manifest, indent=1)
    print(f"{out}: {len(manifest)} files")
