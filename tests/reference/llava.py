"""LLaVA-1.5 and LLaVA-NeXT, run with transformers 4.51.

python make.py llava ../golden/llava --seed 1
python make.py llava_next ../golden/llava_next --seed 1
python make.py llava_next ../golden/llava_next_vicuna --seed 2 --variant vicuna
python make.py llava_next ../golden/llava_next_yi --seed 3 --variant yi
"""

import copy
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import numpy as np
import torch
import transformers
from transformers.image_utils import ChannelDimension
from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

import checkpoint
import pictures
from conversations import (
    CHANNELS_LAST,
    FLAT_CASES,
    ORDER_CASES,
    PICTURE_CASES,
    RARE_PICTURE_CASES,
    SYSTEM_IMAGE,
    TEXT_CASES,
)
from goldens import Architecture, traced, write_json
from tokenizers_tiny import sentencepiece_bpe, special

PIECES = 480
VOCABULARY = 512
# The flattest pictures, on which the reference's processor may fail.
FLAT = 15

# Our own renderings of what the models' templates do: images before text within a message.
IMAGES = (
    "{% for part in m['content'] | selectattr('type', 'equalto', 'image') %}"
    "{{ '<image>\n' }}{% endfor %}"
)
TEXTS = "m['content'] | selectattr('type', 'equalto', 'text') | map(attribute='text') | join('')"

# Like the real one it calls a method of Python's strings, and marks the assistant's words with
# `generation`, a tag of transformers' own.
VICUNA_1_5 = (
    "{% for m in messages %}"
    "{% if m['role'] != 'system' %}{{ m['role'].upper() + ': ' }}{% endif %}"
    + IMAGES
    + "{% for part in m['content'] | selectattr('type', 'equalto', 'text') %}"
    "{% if m['role'] == 'assistant' %}"
    "{% generation %}{{ part['text'] + ' ' }}{% endgeneration %}"
    "{% else %}{{ part['text'] + ' ' }}{% endif %}"
    "{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
MISTRAL = (
    "{% for m in messages %}{% set texts = "
    + TEXTS
    + " %}{% if m['role'] == 'system' %}{{ '<<SYS>>\n' + texts + '\n<</SYS>>\n\n' }}"
    "{% elif m['role'] == 'user' %}{{ '[INST] ' }}" + IMAGES + "{{ texts + ' [/INST]' }}"
    "{% elif m['role'] == 'assistant' %}{{ ' ' + texts + '</s> ' }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}"
    "{% endif %}{% endfor %}"
)
VICUNA_1_6 = (
    "{% if messages[0]['role'] != 'system' %}"
    '{{ "A chat between a curious human and an artificial intelligence assistant. '
    "The assistant gives helpful, detailed, and polite answers to the human's questions. \" }}"
    "{% endif %}{% for m in messages %}"
    "{% if m['role'] != 'system' %}{{ m['role'] | upper + ': ' }}{% endif %}"
    + IMAGES
    + "{{ ("
    + TEXTS
    + ") + ('</s>' if m['role'] == 'assistant' else ' ') }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
CHATML = (
    "{% if messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nAnswer the questions.<|im_end|>' }}{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    + IMAGES
    + "{{ ("
    + TEXTS
    + ") + '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

SMALL_VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 56,
    "patch_size": 14,
    "projection_dim": 32,
    "vocab_size": 100,
}
SMALL_TEXT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
}
VARIANTS = {
    # As many key heads as query heads.
    "llava": {
        "template": VICUNA_1_5,
        "text": {**SMALL_TEXT, "model_type": "llama"},
        "vision": SMALL_VISION,
    },
    "mistral": {
        "template": MISTRAL,
        "text": {
            **SMALL_TEXT,
            "model_type": "mistral",
            "num_key_value_heads": 2,
            "rope_theta": 1000000.0,
            "sliding_window": None,
        },
        "vision": SMALL_VISION,
    },
    # An odd number of patches on each side, and wider heads in the tower.
    "vicuna": {
        "template": VICUNA_1_6,
        "text": {**SMALL_TEXT, "model_type": "llama", "num_hidden_layers": 2},
        "vision": {**SMALL_VISION, "hidden_size": 48, "image_size": 70},
    },
    # Smaller patches; a single key head, wider than hidden / heads; no BOS, stops of its own.
    "yi": {
        "template": CHATML,
        "text": {
            **SMALL_TEXT,
            "model_type": "llama",
            "hidden_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 3,
            "num_key_value_heads": 1,
            "head_dim": 24,
            "rope_theta": 5000000.0,
        },
        "vision": {**SMALL_VISION, "image_size": 48, "patch_size": 12},
    },
}

# How checkpoints written by transformers 4.52 and later may name the weights: prefixes, first
# match. The goldens have the older names.
KEY_RENAMES = [
    ["language_model.model.", "model.language_model."],
    ["language_model.lm_head.", "lm_head."],
    ["vision_tower.", "model.vision_tower."],
    ["multi_modal_projector.", "model.multi_modal_projector."],
    ["image_newline", "model.image_newline"],
]

# What the configurations on the hub say, defaults left out.
HUB_CONFIGS = {
    "llava": {
        "image_token_index": 32000,
        "model_type": "llava",
        "pad_token_id": 32001,
        "projector_hidden_act": "gelu",
        "text_config": {
            "max_position_embeddings": 4096,
            "model_type": "llama",
            "rms_norm_eps": 1e-05,
            "vocab_size": 32064,
        },
        "vision_config": {
            "hidden_size": 1024,
            "image_size": 336,
            "intermediate_size": 4096,
            "model_type": "clip_vision_model",
            "num_attention_heads": 16,
            "num_hidden_layers": 24,
            "patch_size": 14,
            "projection_dim": 768,
            "vocab_size": 32000,
        },
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
    },
    "llava_next": {
        "image_token_index": 32000,
        "model_type": "llava_next",
        "text_config": {
            "intermediate_size": 14336,
            "max_position_embeddings": 32768,
            "model_type": "mistral",
            "num_key_value_heads": 8,
            "rms_norm_eps": 1e-05,
            "rope_theta": 1000000.0,
            "sliding_window": None,
            "vocab_size": 32064,
        },
        "use_image_newline_parameter": True,
        "vision_config": {
            "hidden_size": 1024,
            "image_size": 336,
            "intermediate_size": 4096,
            "model_type": "clip_vision_model",
            "num_attention_heads": 16,
            "num_hidden_layers": 24,
            "patch_size": 14,
        },
    },
}
# What a server reads of them.
TEXT_FIELDS = [
    "attention_bias",
    "head_dim",
    "hidden_act",
    "hidden_size",
    "intermediate_size",
    "max_position_embeddings",
    "mlp_bias",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "rms_norm_eps",
    "rope_scaling",
    "rope_theta",
    "tie_word_embeddings",
    "vocab_size",
]
VISION_FIELDS = [
    "hidden_act",
    "hidden_size",
    "image_size",
    "intermediate_size",
    "layer_norm_eps",
    "num_attention_heads",
    "num_channels",
    "num_hidden_layers",
    "patch_size",
]
OUTER_FIELDS = [
    "image_grid_pinpoints",
    "image_token_index",
    "multimodal_projector_bias",
    "projector_hidden_act",
    "tie_word_embeddings",
    "vision_feature_layer",
    "vision_feature_select_strategy",
]


def pinpoints(side):
    """The grids of the real models, for views of `side` pixels."""
    grids = [(1, 2), (2, 1), (2, 2), (3, 1), (1, 3)]
    return [[height * side, width * side] for height, width in grids]


def resolved(config):
    """The fields that count, after the reference has filled in its defaults."""

    def chosen(part, fields):
        return {name: getattr(part, name) for name in fields if hasattr(part, name)}

    return {
        **chosen(config, OUTER_FIELDS),
        "text_config": chosen(config.text_config, TEXT_FIELDS),
        "vision_config": chosen(config.vision_config, VISION_FIELDS),
    }


def without_defaults(config_class, full):
    """A configuration without the fields that the reference fills in by itself."""

    def read(fields):
        # The reference writes into what it reads.
        config = config_class.from_dict(copy.deepcopy(fields)).to_dict()
        config.pop("_attn_implementation_autoset", None)
        return config

    smallest = copy.deepcopy(full)
    complete = read(smallest)
    for part in (smallest, smallest["text_config"], smallest["vision_config"]):
        kept = {"model_type"} | ({"architectures", "torch_dtype"} if part is smallest else set())
        for name in sorted(set(part) - kept):
            value = part.pop(name)
            if read(smallest) != complete:
                part[name] = value
    return smallest


class Llava(Architecture):
    """LLaVA-1.5 as `goldens` wants it."""

    name = "llava"
    full_pixels = 0
    stride = 5
    normalisation = (pictures.CLIP_MEAN, pictures.CLIP_STD)
    config_class = transformers.LlavaConfig
    model_class = transformers.LlavaForConditionalGeneration

    def __init__(self, variant="llava"):
        self.variant = variant
        self.settings = VARIANTS[variant]
        self.side = self.settings["vision"]["image_size"]
        self.added = ["<image>", "<pad>"]
        if variant == "yi":
            self.added += ["<|im_start|>", "<|im_end|>"]
        self.image_token_id = PIECES
        self.header = {"variant": variant, "key_renames": KEY_RENAMES}

    def build(self, out, seed):
        self._processor().save_pretrained(out)
        self.processor = transformers.AutoProcessor.from_pretrained(out, use_fast=False)
        self.tokenizer = self.processor.tokenizer
        config = self.config_class(
            vision_config={**self.settings["vision"], "model_type": "clip_vision_model"},
            text_config=dict(self.settings["text"]),
            image_token_index=self.image_token_id,
            pad_token_id=PIECES + 1,
            **self._config_options(),
        )
        self.model = self.model_class._from_config(config, attn_implementation="eager")
        checkpoint.initialise(self.model, seed)
        # The image token must not be generated: the reference would look for its features.
        with torch.no_grad():
            self.model.language_model.lm_head.weight[self.image_token_id] = 0
        end = PIECES + 3 if self.variant == "yi" else 2
        self.model.generation_config = transformers.GenerationConfig(
            bos_token_id=1, eos_token_id=end, pad_token_id=PIECES + 1
        )
        self.model.generation_config.save_pretrained(out)
        self._save_configs(out)
        return self.model

    def _config_options(self):
        return {}

    def _save_configs(self, out):
        """Once as the hub has it, without defaults, and once with every field spelt out."""
        config = self.model.config
        config.architectures = [self.model_class.__name__]
        config.torch_dtype = "bfloat16"
        full = config.to_dict()
        full.pop("_attn_implementation_autoset")
        write_json(out / "config_full.json", full)
        write_json(out / "config.json", without_defaults(self.config_class, full))
        self.header["same_config"] = ["config.json", "config_full.json"]
        hub = HUB_CONFIGS[self.name]
        self.header["hub_config"] = {
            "config": hub,
            "resolved": resolved(self.config_class.from_dict(hub)),
        }

    def _tokenizer(self):
        yi = self.variant == "yi"
        added = [special(token) for token in self.added]
        tokenizer = transformers.LlamaTokenizerFast(
            tokenizer_object=sentencepiece_bpe(PIECES, added, prefix=not yi),
            bos_token="<s>",
            eos_token="<|im_end|>" if yi else "</s>",
            unk_token="<unk>",
            pad_token="<pad>",
            legacy=False,
            add_bos_token=not yi,
            padding_side="left",
            clean_up_tokenization_spaces=False,
        )
        tokenizer.init_kwargs["image_token"] = "<image>"
        return tokenizer

    def _processor(self):
        return transformers.LlavaProcessor(
            self._image_processor(transformers.CLIPImageProcessor),
            self._tokenizer(),
            **self._processor_options(),
        )

    def _processor_options(self):
        return {
            "patch_size": self.settings["vision"]["patch_size"],
            "vision_feature_select_strategy": "default",
            "num_additional_image_tokens": 1,
            "chat_template": self.settings["template"],
        }

    def _image_processor(self, kind, **options):
        return kind(
            size={"shortest_edge": self.side},
            crop_size={"height": self.side, "width": self.side},
            image_mean=pictures.CLIP_MEAN,
            image_std=pictures.CLIP_STD,
            resample=3,
            **options,
        )

    def cases(self):
        flat = [replace(case, patch=CHANNELS_LAST) for case in FLAT_CASES]
        rare = RARE_PICTURE_CASES if self.name == "llava" else []
        return TEXT_CASES + PICTURE_CASES + rare + flat + ORDER_CASES + [SYSTEM_IMAGE]

    def prompt(self, case):
        return self.processor.apply_chat_template(
            case.messages, add_generation_prompt=True, tokenize=False
        )

    def inputs(self, prompt, images, patch=None):
        options = {"input_data_format": ChannelDimension.LAST} if patch else {}
        inputs = self.processor(images=images or None, text=prompt, return_tensors="pt", **options)
        return dict(inputs)

    def image_lengths(self, inputs):
        """Features of each image."""
        side = self.side // self.settings["vision"]["patch_size"]
        return [side * side] * len(inputs.get("pixel_values", ()))

    def image_spans(self, ids, inputs):
        spans, start = [], 0
        for length in self.image_lengths(inputs):
            start = ids.index(self.image_token_id, start)
            if ids[start : start + length] != [self.image_token_id] * length:
                raise AssertionError(f"no run of {length} image tokens at {start}")
            spans.append([start, length])
            start += length
        if self.image_token_id in ids[start:]:
            raise AssertionError("image tokens without an image")
        return spans

    def trace(self):
        """CLIP's patches and their projection, all views of all images in one row."""
        model = self.model
        return traced(
            {
                model.vision_tower: lambda _, output: {
                    "vision_features": output.hidden_states[-2][:, 1:]
                },
                model.multi_modal_projector: lambda _, output: {"image_embeddings": output},
            }
        )


class LlavaNext(Llava):
    """LLaVA-NeXT: several views of an image, unpadded, with a newline behind each row."""

    name = "llava_next"
    config_class = transformers.LlavaNextConfig
    model_class = transformers.LlavaNextForConditionalGeneration

    def __init__(self, variant="mistral"):
        super().__init__(variant)

    def _config_options(self):
        return {
            "image_grid_pinpoints": pinpoints(self.side),
            "use_image_newline_parameter": True,
        }

    def _processor(self):
        processor = self._image_processor(
            transformers.LlavaNextImageProcessor, image_grid_pinpoints=pinpoints(self.side)
        )
        return transformers.LlavaNextProcessor(
            processor, self._tokenizer(), **self._processor_options()
        )

    def cases(self):
        if self.variant == "mistral":
            return super().cases()
        names = ("text_turns", "one_image", "portrait", "wide", "images_in_turns", "system_image")
        return [
            replace(case, stride=None, trace=False)
            for case in super().cases()
            if case.name in names
        ]

    def inputs(self, prompt, images, patch=None):
        with self._padding_channels_last() if patch else nullcontext():
            return super().inputs(prompt, images, patch)

    @contextmanager
    def _padding_channels_last(self):
        """The processor's padding guesses the order of the axes even if it has been told."""
        processor = self.processor.image_processor
        original = processor.pad

        def pad(image, padding, **options):
            options["input_data_format"] = ChannelDimension.LAST
            return original(image, padding, **options)

        processor.pad = pad
        try:
            yield
        finally:
            del processor.pad

    def image_lengths(self, inputs):
        return [self._tokens(*size) for size in inputs.get("image_sizes", torch.empty(0)).tolist()]

    def _tokens(self, height, width, side=None):
        """Image tokens by the processor."""
        side = side or self.side
        count = self.processor._get_number_of_features(height, width, side, side)
        return count - 1

    def _features(self, height, width):
        """Features by the model, which gets views of ones."""
        config = self.model.config
        side = config.vision_config.image_size
        patches = (side // config.vision_config.patch_size) ** 2
        size = torch.tensor([height, width])
        views = image_size_to_num_patches(size, config.image_grid_pinpoints, side)
        _, lengths = self.model.pack_image_features(
            [torch.ones(views, patches, 1)],
            [size],
            vision_feature_select_strategy="default",
            image_newline=torch.ones(1),
        )
        return int(lengths[0])

    def extras(self, out):
        """`feature_counts.json`: how many tokens and features pictures of many sizes have."""
        sides = [self.side, 336] if self.variant == "mistral" else [self.side]
        tables = [self._feature_counts(side) for side in sides]
        for table in tables:
            rows = table["rows"]
            unequal = sum(row[2] != row[3] for row in rows)
            failed = sum(row[4] != "good" for row in rows)
            print(f"{len(rows)} sizes: {unequal} counts unequal, {failed} pictures failed")
        write_json(out / "feature_counts.json", {"tables": tables}, indent=None)

    def _feature_counts(self, side):
        """A row for each size, with views of `side` pixels."""
        config, processor = self.model.config, self.processor.image_processor
        config.vision_config.image_size = side
        config.image_grid_pinpoints = processor.image_grid_pinpoints = pinpoints(side)
        processor.size = {"shortest_edge": side}
        processor.crop_size = {"height": side, "width": side}
        rows = []
        for width, height in pictures.sizes():
            tokens = self._tokens(height, width, side)
            features = self._features(height, width)
            rows.append([width, height, tokens, features, self._pixels_are(width, height)])
        return {
            "image_size": side,
            "patch_size": config.vision_config.patch_size,
            "image_grid_pinpoints": config.image_grid_pinpoints,
            "columns": ["width", "height", "tokens", "features", "reference_pixels"],
            "rows": rows,
        }

    def _pixels_are(self, width, height):
        """Whether the processor `raises` on a picture of this size, or is `wrong` or `good`."""
        if height > FLAT:
            return "good"
        image = pictures.draw(width, height, 17)
        processor = self.processor.image_processor
        with self._padding_channels_last():
            right = processor(image, input_data_format=ChannelDimension.LAST)["pixel_values"]
        try:
            given = processor(image)["pixel_values"]
        except Exception:  # whatever it is, it is the finding
            return "raises"
        return "good" if np.array_equal(given, right) else "wrong"
