#!/usr/bin/env python3
"""Makes goldens with the reference implementations. See README.md."""

import argparse
import importlib
import os
import warnings

# One thread, so that sums are always taken in the same order; before any library is loaded.
os.environ.update(
    OMP_NUM_THREADS="1",
    MKL_NUM_THREADS="1",
    TOKENIZERS_PARALLELISM="false",
    HF_HUB_OFFLINE="1",
    TRANSFORMERS_VERBOSITY="error",
)


def deterministic():
    """Puts torch on one thread and its deterministic kernels."""
    import torch

    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(0)


# subcommand -> module, class, variants with the default first
MODELS = {
    "llava": ("llava", "Llava", []),
    "llava_next": ("llava", "LlavaNext", ["mistral", "vicuna", "yi"]),
    "mllama": ("mllama", "Mllama", ["instruct", "base"]),
    "kosmos2": ("kosmos2", "Kosmos2", []),
    "neva": ("neva", "Neva", ["nvgpt", "legacy", "tp2", "llama", "pp2", "dist"]),
}


def phi3_v(arguments):
    """Checkpoint and goldens of Phi-3-vision or Phi-3.5-vision."""
    from goldens import make
    from phi3_v import Phi3V

    architecture = Phi3V(arguments.variant, arguments.num_crops)
    make(architecture, arguments.out, arguments.seed, arguments.full)


def model(arguments):
    """Checkpoint and goldens of one of `MODELS`."""
    from goldens import make

    module, name, variants = MODELS[arguments.kind]
    kind = getattr(importlib.import_module(module), name)
    architecture = kind(arguments.variant) if variants else kind()
    make(architecture, arguments.out, arguments.seed, arguments.full)


def resample(arguments):
    """Goldens of Pillow's and torch's resamplers."""
    from resample import make

    make(arguments.out)


def decode(arguments):
    """Picture files of every kind, with the pixels they hold."""
    from decode import make

    make(arguments.out)


def broken(arguments):
    """Hostile and damaged files, with the errors they deserve."""
    from broken import make

    make(arguments.out)


def broken_nemo(arguments):
    """Hostile and damaged .nemo archives, with the outcomes they deserve."""
    from broken_nemo import make

    make(arguments.out)


def torch_files(arguments):
    """Checkpoints of torch.save, with the tensors they hold."""
    from torch_files import make

    make(arguments.out)


def nemo_distributed(arguments):
    """Weights in the distributed formats of Megatron core."""
    from nemo_distributed import make

    make(arguments.out)


def sentencepiece(arguments):
    """Tiny SentencePiece models, with the ids and texts of the sentencepiece library."""
    from sentencepiece_goldens import make

    make(arguments.out)


def beams(arguments):
    """Golden of beam search, with the checkpoint that `llava` has made in the same folder."""
    from beams import make

    make(arguments.out, arguments.out)


def sampling(arguments):
    """Distributions as transformers' logits processors warp them."""
    from sampling import make

    make(arguments.out)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    kinds = parser.add_subparsers(dest="kind", required=True)

    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("out", help="folder to write; an existing one is replaced")
    common.add_argument("--seed", type=int, default=1)
    common.add_argument("--full", action="store_true", help="store every pixel value")

    phi = kinds.add_parser("phi3_v", parents=[common], help=phi3_v.__doc__)
    phi.add_argument("--variant", choices=["phi3", "phi3.5"], default="phi3.5")
    phi.add_argument("--num-crops", type=int, help="the variant's own by default: 16 or 4")
    phi.set_defaults(make=phi3_v)

    for name, (_, _, variants) in MODELS.items():
        other = kinds.add_parser(name, parents=[common], help=f"checkpoint and goldens of {name}")
        if variants:
            other.add_argument("--variant", choices=variants, default=variants[0])
        other.set_defaults(make=model)

    plain = (
        resample,
        decode,
        broken,
        broken_nemo,
        nemo_distributed,
        torch_files,
        sentencepiece,
        beams,
        sampling,
    )
    for kind in plain:
        other = kinds.add_parser(kind.__name__, help=kind.__doc__)
        other.add_argument("out", help="folder to write into")
        other.set_defaults(make=kind)

    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", message="Phi-3-V modifies")
    warnings.filterwarnings("ignore", category=DeprecationWarning, module="PIL|pictures")
    deterministic()
    arguments.make(arguments)


if __name__ == "__main__":
    main()
