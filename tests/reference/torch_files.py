"""Checkpoints that `torch.save` writes, of every kind that is read and of some that are not.

`manifest.json` lists `{"file", "tensors", "about"}` with the dtype, shape and little-endian bytes
in hexadecimal of each tensor that the file stands for, or `{"file", "refused", "about"}` with a
part of the sentence that it deserves.
"""

import collections
import io
import pickle
import shutil
import struct
import zipfile
from pathlib import Path

import torch

from goldens import write_json

# How safetensors calls the types.
NAMES = {
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.float32: "F32",
    torch.float64: "F64",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.uint8: "U8",
    torch.uint16: "U16",
    torch.uint32: "U32",
    torch.uint64: "U64",
    torch.int8: "I8",
    torch.int16: "I16",
    torch.int32: "I32",
    torch.int64: "I64",
    torch.bool: "BOOL",
}


def values(*shape, dtype=torch.float32):
    """Small numbers that every type has."""
    count = 1
    for size in shape:
        count *= size
    return (torch.arange(count) % 7).to(dtype).reshape(shape)


def described(tensors):
    """What the manifest says of tensors."""

    def one(tensor):
        row = tensor.detach().clone(memory_format=torch.contiguous_format).reshape(-1)
        data = row.view(torch.uint8).numpy().tobytes() if row.numel() else b""
        return {
            "dtype": NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "bytes": data.hex(),
        }

    return {name: one(tensor) for name, tensor in tensors.items()}


def saved(value, **options):
    """The bytes of a checkpoint."""
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def rewritten(data, change, compression=zipfile.ZIP_STORED):
    """A checkpoint with `change` applied to the dictionary of its files."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    change(files)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content, compression)
    return buffer.getvalue()


def with_zip64(data):
    """A zip with the long form of its end, as zips beyond four gigabytes have it."""
    end = data.rindex(b"PK\x05\x06")
    count, size, start = struct.unpack("<HII", data[end + 10 : end + 20])
    long_end = struct.pack("<4sQ2H2I4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, size, start)
    locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, end, 1)
    short = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 2**32 - 1, 2**32 - 1, 0)
    return data[:end] + long_end + locator + short


class Small(torch.nn.Module):
    """A module with a buffer."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(3, 2)
        self.register_buffer("steps", torch.tensor(5))
        for parameter in self.parameters():
            parameter.data = values(*parameter.shape)


def read_files():
    """Checkpoints with the tensors that they stand for."""
    plain = {f"all.{name}": values(2, 3, dtype=dtype) for dtype, name in NAMES.items()}
    yield "types", saved(plain), plain, "every type"
    few = collections.OrderedDict([("b", values(2, 2)), ("a", values(3, dtype=torch.bfloat16))])
    for protocol in range(1, 6):
        data = saved(few, pickle_protocol=protocol)
        yield f"protocol{protocol}", data, few, f"pickled by protocol {protocol}"
    module = Small()
    yield "module", saved(module.state_dict()), module.state_dict(), "the state of a module"
    parameters = dict(module.state_dict(keep_vars=True))
    parameters["linear.weight"].note = "with an attribute"
    yield "parameters", saved(parameters), parameters, "parameters that want gradients"

    base = values(4, 6)
    views = {
        "base": base,
        "rows": base[1:3],
        "row": base[2],
        "inside": base[3, 2:5],
        "value": base[1, 1],
        "column of a row": base[2:3, ::2][:, 1:2],
        "again": base,
        "nothing": base[:, :0],
        "empty": torch.zeros(0),
        "scalar": torch.tensor(2.5),
    }
    yield "views", saved(views), views, "tensors that share a storage"

    lightning = {
        "epoch": 3,
        "global_step": 2**40,
        "seed": 2**63 + 5,
        "pytorch-lightning_version": "2.0.7",
        "state_dict": few,
        "loops": {"fit": {"progress": [1.5, None, True, (1, 2, 3, 4)], "names": {"a"}}},
        "optimizer_states": [{"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": []}],
        "dtype": torch.bfloat16,
        "device": torch.device("cpu"),
        "shape": torch.Size([2, 3]),
        "bytes": b"\x00\xff",
        "stream": io.BytesIO(b"state"),
    }
    yield "lightning", saved(lightning), few, "a checkpoint of Lightning"
    mixed = {"a": few["a"], 7: few["b"], "n": None, "nested": {"b": few["b"]}}
    yield "mixed", saved(mixed), {"a": few["a"]}, "keys that are no names, values no tensors"
    yield "zip64", with_zip64(saved(few)), few, "the long form of a zip's end"


def refused_files():
    """Checkpoints with a part of the sentence that they deserve."""
    wide = values(2, 3)
    yield "transposed", saved({"a": wide.t()}), "row by row", "columns before rows"
    yield "expanded", saved({"a": torch.ones(1).expand(3)}), "row by row", "one value many times"
    # Its storages go by their addresses: only a beginning is the same each time.
    parts = torch.serialization.MAGIC_NUMBER, torch.serialization.PROTOCOL_VERSION, {}, {}, []
    old = b"".join(pickle.dumps(part, protocol=2) for part in parts)
    yield "old", old, "before 1.6", "the format before zips"
    yield "tensor", saved(wide), "dictionary", "a tensor alone"
    yield "numbers", saved({"a": 1}), "no tensor", "no tensor"
    sparse = torch.eye(2).to_sparse()
    yield "sparse", saved({"a": sparse}), "_rebuild_sparse_tensor", "a sparse tensor"
    module = torch.nn.Linear(2, 2)
    yield "object", saved(module), "torch.nn.modules.linear.Linear", "a whole module"

    def big_endian(files):
        files["archive/byteorder"] = b"big"

    def without_storage(files):
        del files["archive/data/0"]

    def with_other_pickle(files):
        files["other/data.pkl"] = files["archive/data.pkl"]

    def unchanged(files):
        pass

    good = saved({"a": wide})
    yield "big_endian", rewritten(good, big_endian), "little-endian", "numbers of other machines"
    yield "no_storage", rewritten(good, without_storage), "storage `0`", "a storage is missing"
    yield "two_pickles", rewritten(good, with_other_pickle), "one `data.pkl`", "two pickles"
    packed = rewritten(good, unchanged, zipfile.ZIP_DEFLATED)
    yield "compressed", packed, "compressed", "compressed files"


def make(out):
    """Writes the files and `manifest.json` into the new folder `out`."""
    out = Path(out)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    manifest = []
    for name, data, tensors, about in read_files():
        (out / f"{name}.pt").write_bytes(data)
        tensors = described(tensors)
        manifest.append({"file": f"{name}.pt", "tensors": tensors, "about": about})
    for name, data, words, about in refused_files():
        (out / f"{name}.pt").write_bytes(data)
        manifest.append({"file": f"{name}.pt", "refused": words, "about": about})
    write_json(out / "manifest.json", manifest, indent=1)
    print(f"{out}: {len(manifest)} files")
