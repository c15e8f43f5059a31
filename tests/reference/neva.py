"""NeVA in `.nemo` archives, computed by `neva_reference.py`.

python make.py neva ../golden/neva --seed 1
python make.py neva ../golden/neva_legacy --seed 2 --variant legacy
python make.py neva ../golden/neva_tp2 --seed 3 --variant tp2
python make.py neva ../golden/neva_llama --seed 4 --variant llama
python make.py neva ../golden/neva_pp2 --seed 5 --variant pp2
python make.py neva ../golden/neva_dist --seed 6 --variant dist
"""

import copy
from contextlib import contextmanager
from dataclasses import replace

import sentencepiece
import torch
import transformers
import yaml
from PIL import Image
from transformers.image_utils import ChannelDimension

import checkpoint
import nemo_file
import neva_prompts
import neva_reference
import pictures
from conversations import (
    CHANNELS_LAST,
    FLAT_CASES,
    IMAGE,
    ORDER_CASES,
    PICTURE_CASES,
    QUESTION,
    SYSTEM_IMAGE,
    TEXT_CASES,
    assistant,
    user,
)
from goldens import Architecture, write_json
from tokenizers_tiny import sentencepiece_model

PIECES = 400
# Between the reference and transformers, in logits.
TRANSFORMERS_TOLERANCE = 1e-4
TOKENIZER = "5d41402abc4b2a76b9719d911017c592_tokenizer.model"
LABELS = (
    "quality:9,toxicity:0,humor:1,creativity:6,helpfulness:9,correctness:9,coherence:9,"
    "complexity:2,verbosity:0"
)

BASE = {
    "target": "nemo.collections.multimodal.models.multimodal_llm.neva.neva_model.MegatronNevaModel",
    "precision": "bf16",
    "mcore_gpt": True,
    "transformer_engine": True,
    "megatron_amp_O2": False,
    "tensor_model_parallel_size": 1,
    "pipeline_model_parallel_size": 1,
    "encoder_seq_length": 4096,
    "max_position_embeddings": 4096,
    "position_embedding_type": "rope",
    "rotary_percentage": 0.5,
    "rotary_base": 10000,
    "num_layers": 2,
    "hidden_size": 48,
    "ffn_hidden_size": 96,
    "num_attention_heads": 3,
    "num_query_groups": None,
    "kv_channels": None,
    "normalization": "layernorm1p",
    "layernorm_epsilon": 1e-5,
    "bias": False,
    "activation": "squared-relu",
    "share_embeddings_and_output_weights": False,
    "make_vocab_size_divisible_by": 32,
    "tokenizer": {
        "library": "sentencepiece",
        "type": None,
        "model": f"nemo:{TOKENIZER}",
        "sentencepiece_legacy": False,
    },
    "mm_cfg": {
        "llm": {"from_pretrained": None, "freeze": False, "model_type": "nvgpt"},
        "vision_encoder": {
            "from_pretrained": "openai/clip-vit-large-patch14-336",
            "from_hf": True,
            "patch_dim": 14,
            "crop_size": [56, 56],
            "hidden_size": 32,
            "vision_select_layer": -2,
            "class_token_length": 1,
            "freeze": True,
        },
        "mm_mlp_adapter_type": "mlp2x_gelu",
        "use_im_start_end": False,
    },
    "data": {
        "conv_template": "nv_steerlm",
        "image_aspect_ratio": "square",
        "is_multimodal": True,
        "sep_image_conv_front": False,
        "image_folder": None,
    },
}

VARIANTS = {
    # The shape of the published ones, with what Transformer Engine leaves in a checkpoint.
    "nvgpt": {
        "config": {
            "num_layers": 3,
            "hidden_size": 64,
            "ffn_hidden_size": 256,
            "num_attention_heads": 4,
            "num_query_groups": 2,
        },
        "extra_state": True,
        "whole_clip": True,
    },
    # NeMo's own layers from before Megatron core: other names, biases everywhere.
    "legacy": {
        "config": {"mcore_gpt": False, "bias": True, "rotary_percentage": 1.0},
        "mm_cfg": {"use_im_start_end": True},
        "data": {"conv_template": "nv_dpo"},
        "compressed": True,
    },
    # Two ranks, of whose parts the gated layer's are not simply halves; a head tied to the
    # embeddings, wide heads, another prefix, a tokenizer that adds no blank.
    "tp2": {
        "config": {
            "tensor_model_parallel_size": 2,
            "megatron_amp_O2": True,
            "num_attention_heads": 4,
            "num_query_groups": 2,
            "kv_channels": 24,
            "normalization": "rmsnorm",
            "activation": "fast-swiglu",
            "rotary_percentage": 1.0,
            "share_embeddings_and_output_weights": True,
        },
        "llm": {"model_type": "llama_2"},
        "data": {"conv_template": "v1", "image_aspect_ratio": "pad"},
        "prefix": False,
    },
    # Two stages of a pipeline, of two ranks each; a layer norm, and biases.
    "pp2": {
        "config": {
            "tensor_model_parallel_size": 2,
            "pipeline_model_parallel_size": 2,
            "num_layers": 4,
            "num_attention_heads": 4,
            "normalization": "layernorm",
            "bias": True,
        },
    },
    # Written by two ranks together, with layers stacked.
    "dist": {
        "config": {
            "num_attention_heads": 4,
            "num_query_groups": 2,
            "normalization": "rmsnorm",
            "activation": "fast-swiglu",
            "rotary_percentage": 1.0,
        },
        "mm_cfg": {"mm_mlp_adapter_type": "mlp3x_gelu"},
        "distributed": "torch_dist",
    },
    # A tower that was trained, and therefore lies in the archive: the folder's is another one.
    "llama": {
        "config": {
            "normalization": "rmsnorm",
            "activation": "fast-swiglu",
            "rotary_percentage": 1.0,
            "rotary_base": 1000000,
        },
        "mm_cfg": {"mm_mlp_adapter_type": "linear"},
        "tower": {"freeze": False, "crop_size": [42, 42]},
        "llm": {"model_type": "llama_2"},
        "data": {"conv_template": "llama_2"},
    },
}
FEW_CASES = ("text_turns", "one_image", "rgba", "images_in_turns", "system_image")
MORE_CASES = FEW_CASES + (
    "text_only",
    "system_text",
    "portrait",
    "thin_1x1000",
    "wide",
    "gray",
    "palette",
    "exif_jpeg",
    "flat_1000x1",
    "text_then_image",
    "image_between_texts",
    "two_images_adjacent",
    "many_turns",
)
# What the templates are tried on.
CONVERSATIONS = {
    "text": [user("Hello there")],
    "image": [user(IMAGE, QUESTION)],
    "image_between_texts": [user("Look at this: ", IMAGE, " Then count to 3.")],
    "two_images": [user(IMAGE, IMAGE, "Compare the two.")],
    "turns": [user(IMAGE, QUESTION), assistant("A dog."), user("Zwölf Boxkämpfer? 日本")],
    "three_turns": [
        user("Hello there"),
        assistant("Hello."),
        user(IMAGE, "And this?"),
        assistant("A chart."),
        user("Thank you"),
    ],
    "system": [{"role": "system", "content": [{"type": "text", "text": "You are terse."}]}]
    + [user(IMAGE, QUESTION)],
    "labels": [user(IMAGE, QUESTION), {"role": "assistant", "content": [], "labels": LABELS}],
    "labels_in_turns": [
        user(IMAGE, QUESTION),
        {**assistant("A dog."), "labels": LABELS},
        user("Are you sure?"),
    ],
}


def configuration(variant):
    """The `model_config.yaml` of a variant."""
    settings = VARIANTS[variant]
    config = copy.deepcopy(BASE)
    config.update(settings.get("config", {}))
    config["mm_cfg"].update(settings.get("mm_cfg", {}))
    config["mm_cfg"]["vision_encoder"].update(settings.get("tower", {}))
    config["mm_cfg"]["llm"].update(settings.get("llm", {}))
    config["data"].update(settings.get("data", {}))
    vision = config["mm_cfg"]["vision_encoder"]
    config["data"]["image_token_len"] = (vision["crop_size"][0] // vision["patch_dim"]) ** 2
    return config


def square(image):
    """The picture in the middle of a square of CLIP's mean colour."""
    side = max(image.size)
    colour = tuple(int(mean * 255) for mean in pictures.CLIP_MEAN)
    ground = Image.new("RGB", (side, side), colour)
    ground.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return ground


def padded(config):
    """NeMo fills the vocabulary up, so that every rank has its share."""
    multiple = config["make_vocab_size_divisible_by"] * config["tensor_model_parallel_size"]
    return -(-PIECES // multiple) * multiple


class Neva(Architecture):
    """The architecture as `goldens` wants it."""

    name = "neva"
    full_pixels = 0
    stride = 5
    logit_steps = 8
    # The reference has no cache.
    no_cache_steps_with_images = 0
    normalisation = (pictures.CLIP_MEAN, pictures.CLIP_STD)

    def __init__(self, variant="nvgpt"):
        self.variant = variant
        self.settings = VARIANTS[variant]
        self.config = configuration(variant)
        self.template = self.config["data"]["conv_template"]
        self.image_length = self.config["data"]["image_token_len"]
        self.header = {"variant": variant, "archive": "neva.nemo", "vision_tower": "clip"}

    def build(self, out, seed):
        data = sentencepiece_model(PIECES, self.settings.get("prefix", True))
        self.tokenizer = sentencepiece.SentencePieceProcessor(model_proto=data)
        sized = {**self.config, "padded_vocab_size": padded(self.config)}
        state = self._state(sized, seed)
        self._write_tower(out / "clip", seed)
        if not self.config["mm_cfg"]["vision_encoder"]["freeze"]:
            checkpoint.initialise(self.tower, seed + 1000)
            for name, tensor in self.tower.state_dict().items():
                state[neva_reference.TOWER + name] = tensor
        files = {
            "model_config.yaml": yaml.safe_dump(self.config, sort_keys=True).encode(),
            TOKENIZER: data,
            **nemo_file.weights(self.config, state, self.settings),
        }
        compressed = self.settings.get("compressed", False)
        (out / "neva.nemo").write_bytes(nemo_file.archive(files, compressed))
        self.check = neva_reference.as_transformers(sized, state)
        ids = {
            "start": self.tokenizer.piece_to_id("<extra_id_4>"),
            "end": self.tokenizer.piece_to_id("<extra_id_5>"),
            "pieces": PIECES,
            "stops": self._stops(),
        }
        self.header["special_ids"] = {
            f"<extra_id_{index}>": self.tokenizer.piece_to_id(f"<extra_id_{index}>")
            for index in range(8)
        }
        self.model = neva_reference.Reference(sized, state, self.tower, ids)
        return self.model

    def _stops(self):
        if self.template in neva_prompts.LLAMA_TEMPLATES:
            return [self.tokenizer.eos_id()]
        return [self.tokenizer.eos_id(), self.tokenizer.piece_to_id(neva_prompts.SEPARATOR)]

    def _ids(self, prompt):
        return neva_prompts.encode(self.template, self.tokenizer, prompt)

    def _state(self, config, seed):
        state = {}
        for name, shape in neva_reference.shapes(config):
            tensor = checkpoint.values(name, shape, seed)
            norm = "norm" in name and name.endswith("weight")
            if norm and config["normalization"] == "layernorm1p":
                tensor = tensor - 1
            if name == neva_reference.EMBEDDING and config["share_embeddings_and_output_weights"]:
                # Else every token is followed by itself.
                tensor = tensor / 4
            state[name] = tensor.to(torch.bfloat16).float()
        return state

    def _write_tower(self, folder, seed):
        """CLIP as on the hub: the whole of it with older settings, or the tower alone."""
        vision = self.config["mm_cfg"]["vision_encoder"]
        side = vision["crop_size"][0]
        settings = {
            "hidden_size": vision["hidden_size"],
            "intermediate_size": 64,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "image_size": side,
            "patch_size": vision["patch_dim"],
            "projection_dim": 16,
        }
        folder.mkdir()
        processor = {
            "crop_size": {"height": side, "width": side},
            "do_center_crop": True,
            "do_convert_rgb": True,
            "do_normalize": True,
            "do_rescale": True,
            "do_resize": True,
            "image_mean": pictures.CLIP_MEAN,
            "image_processor_type": "CLIPImageProcessor",
            "image_std": pictures.CLIP_STD,
            "resample": 3,
            "rescale_factor": 1 / 255,
            "size": {"shortest_edge": side},
        }
        if self.settings.get("whole_clip"):
            text = {
                "hidden_size": 16,
                "intermediate_size": 16,
                "num_hidden_layers": 1,
                "num_attention_heads": 1,
                "vocab_size": 16,
                "max_position_embeddings": 4,
                "projection_dim": 16,
            }
            config = transformers.CLIPConfig(
                vision_config=settings, text_config=text, projection_dim=16
            )
            model = transformers.CLIPModel._from_config(config, attn_implementation="eager")
            for name in ("do_convert_rgb", "do_rescale", "image_processor_type", "rescale_factor"):
                del processor[name]
            processor.update(
                crop_size=side, size=side, feature_extractor_type="CLIPFeatureExtractor"
            )
        else:
            config = transformers.CLIPVisionConfig(**settings)
            model = transformers.CLIPVisionModel._from_config(config, attn_implementation="eager")
        checkpoint.initialise(model, seed)
        checkpoint.save(model, folder / "model.safetensors")
        model.config.architectures = [type(model).__name__]
        model.config.torch_dtype = "bfloat16"
        model.config.save_pretrained(folder)
        write_json(folder / "preprocessor_config.json", processor)
        self.tower = transformers.CLIPVisionModel.from_pretrained(
            folder, torch_dtype=torch.float32, attn_implementation="eager"
        )
        self.processor = transformers.CLIPImageProcessor.from_pretrained(folder)

    def save(self, model, out):
        """The archive has been written already."""

    def cases(self):
        names = MORE_CASES if self.variant == "nvgpt" else FEW_CASES
        cases = [*TEXT_CASES, *PICTURE_CASES, *FLAT_CASES, *ORDER_CASES, SYSTEM_IMAGE]
        chosen = []
        for case in cases:
            if case.name in names:
                flat = case in FLAT_CASES
                traced = case.trace and self.variant == "nvgpt"
                chosen.append(
                    replace(
                        case,
                        patch=CHANNELS_LAST if flat else None,
                        stride=case.stride if traced else None,
                        trace=traced,
                    )
                )
        return chosen

    def _image(self, start_end=None):
        if start_end is None:
            start_end = self.config["mm_cfg"]["use_im_start_end"]
        return neva_prompts.image_tokens(self.image_length, start_end)

    def prompt(self, case):
        return neva_prompts.render(self.template, case.messages, self._image())

    def inputs(self, prompt, images, patch=None):
        inputs = {"input_ids": torch.tensor([self._ids(prompt)])}
        if images:
            inputs["pixel_values"] = torch.cat([self._pixels(image, patch) for image in images])
        self.last_inputs = inputs
        return inputs

    def _pixels(self, image, patch):
        if self.config["data"]["image_aspect_ratio"] == "pad":
            image = square(image)
        options = {"input_data_format": ChannelDimension.LAST} if patch else {}
        return self.processor(image, return_tensors="pt", **options)["pixel_values"]

    def choose(self, ids, logits):
        return logits[:PIECES].argmax()

    def image_spans(self, ids, inputs):
        if "pixel_values" not in inputs:
            return []
        return [list(span) for span in self.model.spans(ids, self.image_length)]

    def encode(self, out, case, prompt):
        return self._ids(prompt)

    def decode(self, ids):
        return self.tokenizer.decode(ids)

    @torch.no_grad()
    def finish(self, record):
        """Transformers' layers have to agree with the reference."""
        ids, pixels = self.last_inputs["input_ids"][0], self.last_inputs.get("pixel_values")
        embedded = self.model.embed(ids, pixels)
        logits, _ = self.model.language(embedded)
        others = self.check(inputs_embeds=embedded[None]).logits[0]
        difference = float((logits - others).abs().max())
        if not difference < TRANSFORMERS_TOLERANCE:
            raise AssertionError(f"{record['name']}: transformers differs by {difference}")
        record["transformers_max_difference"] = difference

    def extras(self, out):
        """`prompts.json`: every template on several conversations, and the ids."""
        if self.variant != "nvgpt":
            return
        prompts = []
        # `nvgpt` is another name of `nv_steerlm`.
        for template in sorted(set(neva_prompts.TEMPLATES) - {"nvgpt"}):
            for start_end in (False, True):
                image = self._image(start_end)
                for name, messages in CONVERSATIONS.items():
                    prompt = neva_prompts.render(template, messages, image)
                    prompts.append(
                        {
                            "name": name,
                            "conv_template": template,
                            "use_im_start_end": start_end,
                            "image_token_len": self.image_length,
                            "messages": messages,
                            "prompt": prompt,
                            "input_ids": neva_prompts.encode(template, self.tokenizer, prompt),
                        }
                    )
        write_json(out / "prompts.json", prompts, indent=None)

    @contextmanager
    def trace(self):
        """CLIP's patches and their projection."""
        inner = {}
        vision, project = self.model.vision, self.model.project

        def kept(name, function):
            def call(argument):
                inner[name] = function(argument).contiguous()
                return inner[name]

            return call

        self.model.vision = kept("vision_features", vision)
        self.model.project = kept("image_embeddings", project)
        try:
            yield inner
        finally:
            del self.model.vision, self.model.project
