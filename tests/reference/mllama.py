"""Llama-3.2-Vision, run with transformers 4.51; later ones compute other vision states.

python make.py mllama ../golden/mllama --seed 1
python make.py mllama ../golden/mllama_base --seed 2 --variant base
"""

from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
import transformers
from transformers.models.mllama.image_processing_mllama import (
    get_image_size_fit_to_canvas,
    get_optimal_tiled_canvas,
)

import checkpoint
import pictures
import tools
from conversations import (
    ASK,
    FLAT_CASES,
    ORDER_CASES,
    PICTURE_CASES,
    QUESTION,
    TEXT_CASES,
    user,
)
from goldens import Architecture, Case, traced, write_json
from tokenizers_tiny import LLAMA3_SPECIAL, byte_level_bpe

VOCABULARY = 384
TEMPLATE = Path(__file__).with_name("mllama_chat_template.jinja")
# The template prints a date: today's, unless it is given one.
DATE = "26 Jul 2024"

VARIANTS = {
    "instruct": {
        "vision": {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 4,
            "num_global_layers": 2,
            "num_attention_heads": 2,
            "image_size": 56,
            "patch_size": 14,
            "max_num_tiles": 4,
            "intermediate_layers_indices": [1, 3],
            "vision_output_dim": 96,
        },
        "text": {
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 5,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "cross_attention_layers": [1, 3],
        },
    },
    # No template; other tiles, and fewer; the first and the last layer take intermediate states
    # and images; a single key head.
    "base": {
        "vision": {
            "hidden_size": 48,
            "intermediate_size": 96,
            "num_hidden_layers": 3,
            "num_global_layers": 1,
            "num_attention_heads": 3,
            "image_size": 42,
            "patch_size": 14,
            "max_num_tiles": 3,
            "intermediate_layers_indices": [0, 1, 2],
            "vision_output_dim": 192,
        },
        "text": {
            "hidden_size": 48,
            "intermediate_size": 96,
            "num_hidden_layers": 4,
            "num_attention_heads": 3,
            "num_key_value_heads": 1,
            "cross_attention_layers": [0, 3],
        },
    },
}

# How checkpoints written by transformers 4.52 and later may name the weights: prefixes, first
# match. The goldens have the older names.
KEY_RENAMES = [
    ["language_model.model.", "model.language_model."],
    ["language_model.lm_head.", "lm_head."],
    ["vision_model.", "model.vision_model."],
    ["multi_modal_projector.", "model.multi_modal_projector."],
]

BASE_CASES = [
    ("text_only", "<|begin_of_text|>The image shows", []),
    ("image_before_begin", "<|image|><|begin_of_text|>The image shows", ["a_97x41.png"]),
    ("image_after_begin", "<|begin_of_text|><|image|>The image shows", ["a_97x41.png"]),
    (
        "images_between_texts",
        "<|begin_of_text|>First <|image|> a cat, then <|image|><|image|> a dog",
        ["g_square_56.png", "c_1x1000.png", "i_wide_640x100.png"],
    ),
]


def plain_system(case):
    """The template takes a system message only as a string."""
    messages = [
        {**message, "content": message["content"][0]["text"]}
        if message["role"] == "system"
        else message
        for message in case.messages
    ]
    return replace(case, messages=messages)


class Mllama(Architecture):
    """The architecture as `goldens` wants it.

    Rows of text before the first image see no image. Transformers lets them attend to all vision
    tokens alike; Meta's own code, with which the weights were trained, drops what they attend to.
    Results with the suffix `_meta` are by the latter.
    """

    name = "mllama"
    add_special_tokens = False
    full_pixels = 0
    stride = 5
    # The model's own settings sample.
    generate_options = {"temperature": None, "top_p": None}
    normalisation = (pictures.CLIP_MEAN, pictures.CLIP_STD)

    def __init__(self, variant="instruct"):
        self.variant = variant
        self.settings = VARIANTS[variant]
        self.header = {"variant": variant, "key_renames": KEY_RENAMES, "date_string": DATE}

    def build(self, out, seed):
        tokenizer = transformers.PreTrainedTokenizerFast(
            tokenizer_object=byte_level_bpe(VOCABULARY),
            bos_token="<|begin_of_text|>",
            eos_token="<|end_of_text|>" if self.variant == "base" else "<|eot_id|>",
            pad_token="<|finetune_right_pad_id|>",
            clean_up_tokenization_spaces=True,
            model_input_names=["input_ids", "attention_mask"],
            model_max_length=131072,
        )
        tile = self.settings["vision"]["image_size"]
        image_processor = transformers.MllamaImageProcessor(
            size={"height": tile, "width": tile},
            max_image_tiles=self.settings["vision"]["max_num_tiles"],
            image_mean=pictures.CLIP_MEAN,
            image_std=pictures.CLIP_STD,
            resample=2,
        )
        template = None if self.variant == "base" else TEMPLATE.read_text(encoding="utf-8")
        processor = transformers.MllamaProcessor(image_processor, tokenizer, template)
        processor.save_pretrained(out)
        self.processor = transformers.AutoProcessor.from_pretrained(out)
        self.tokenizer = self.processor.tokenizer
        self.model = transformers.MllamaForConditionalGeneration._from_config(
            self._config(), attn_implementation="eager"
        )
        checkpoint.initialise(self.model, seed)
        self.model.generation_config = transformers.GenerationConfig(
            do_sample=True, temperature=0.6, top_p=0.9, **self._ids()
        )
        self.model.generation_config.save_pretrained(out)
        self.model.config.architectures = ["MllamaForConditionalGeneration"]
        self.model.config.torch_dtype = "bfloat16"
        self.model.config.save_pretrained(out)
        return self.model

    def _ids(self):
        def id_of(token):
            return VOCABULARY - len(LLAMA3_SPECIAL) + LLAMA3_SPECIAL.index(token)

        ends = ["<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"]
        return {
            "bos_token_id": id_of("<|begin_of_text|>"),
            "eos_token_id": [id_of(end) for end in (ends[:1] if self.variant == "base" else ends)],
            "pad_token_id": id_of("<|finetune_right_pad_id|>"),
        }

    def _config(self):
        vision = self.settings["vision"]
        tiles = range(1, vision["max_num_tiles"] + 1)
        ratios = [[h, w] for h in tiles for w in tiles if h * w <= vision["max_num_tiles"]]
        return transformers.MllamaConfig(
            image_token_index=VOCABULARY,
            vision_config={**vision, "supported_aspect_ratios": ratios},
            text_config={
                **self.settings["text"],
                **self._ids(),
                "vocab_size": VOCABULARY,
                "rope_theta": 500000.0,
                # So short an original context that the factors differ within small prompts.
                "rope_scaling": {
                    "factor": 8.0,
                    "high_freq_factor": 4.0,
                    "low_freq_factor": 1.0,
                    "original_max_position_embeddings": 64,
                    "rope_type": "llama3",
                },
                "max_position_embeddings": 131072,
                "rms_norm_eps": 1e-5,
                "tie_word_embeddings": False,
            },
        )

    def cases(self):
        if self.variant == "base":
            return [
                Case(name, [], images, options={"raw_prompt": prompt})
                for name, prompt, images in BASE_CASES
            ]
        cases = TEXT_CASES + PICTURE_CASES + FLAT_CASES + ORDER_CASES
        return [plain_system(case) for case in cases]

    def refused(self):
        if self.variant == "base":
            return [Case("no_template", [user(QUESTION)])]
        system = {"role": "system", "content": "You are terse."}
        return [Case("system_image", [system, ASK], ["a_97x41.png"])]

    def prompt(self, case):
        if "raw_prompt" in case.options:
            return case.options["raw_prompt"]
        # The processor's own method passes no date on.
        return self.tokenizer.apply_chat_template(
            case.messages,
            chat_template=self.processor.chat_template,
            add_generation_prompt=True,
            tokenize=False,
            date_string=DATE,
        )

    def inputs(self, prompt, images, patch=None):
        inputs = self.processor(
            images=[images] if images else None,
            text=prompt,
            add_special_tokens=False,
            return_tensors="pt",
        )
        return dict(inputs)

    def model_inputs(self, inputs, length):
        extra = super().model_inputs(inputs, length)
        mask = extra.get("cross_attention_mask")
        if mask is not None:
            # Generated tokens see what the last token of the prompt sees.
            more = [mask[:, -1:]] * (length - mask.shape[1])
            extra["cross_attention_mask"] = torch.cat([mask, *more], dim=1)
        return extra

    def modes(self, case, prompt_len):
        return {"meta": self._rows_without_image_dropped()} if case.images else {}

    @contextmanager
    def _rows_without_image_dropped(self):
        """Multiplies the attention's output by the row mask, as the reference does with the MLP."""
        hooks = []
        for layer in self.model.language_model.model.layers:
            if hasattr(layer, "cross_attn"):
                hooks += drop_rows(layer)
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def trace(self):
        """What the tower gives, tiles that do not exist included, and its projection."""
        model = self.model
        return traced(
            {
                model.vision_model: lambda _, output: {"vision_features": output[0]},
                model.multi_modal_projector: lambda _, output: {"cross_attention_states": output},
            }
        )

    def extras(self, out):
        """`canvases.json`: tiles and resized size of pictures of many sizes.

        `tools.json`: conversations with tools.
        """
        if self.variant == "instruct":
            tools.make(
                out / "tools.json",
                self.tokenizer,
                self.processor.chat_template,
                date_string=DATE,
            )
        sizes = [(self.settings["vision"]["image_size"], self.settings["vision"]["max_num_tiles"])]
        if self.variant == "instruct":
            sizes.append((560, 4))
        write_json(
            out / "canvases.json", {"tables": [canvases(*size) for size in sizes]}, indent=None
        )


def drop_rows(layer):
    """Hooks by which rows that see no image get nothing from the cross attention."""
    seen = {}

    def before_layer(module, arguments, options):
        seen["rows"] = options.get("full_text_row_masked_out_mask")

    def behind_attention(module, arguments, output):
        attended, *rest = output
        rows = seen["rows"]
        return (attended if rows is None else attended * rows[:, 0], *rest)

    return [
        layer.register_forward_pre_hook(before_layer, with_kwargs=True),
        layer.cross_attn.register_forward_hook(behind_attention),
    ]


def canvases(tile, tiles):
    """Rows of width, height, tiles down, tiles across, and height and width after resizing."""
    rows = []
    for width, height in pictures.sizes():
        canvas = get_optimal_tiled_canvas(height, width, tiles, tile)
        resized = get_image_size_fit_to_canvas(height, width, *canvas, tile)
        down, across = (side // tile for side in canvas)
        rows.append([width, height, int(down), int(across), *map(int, resized)])
    return {"tile_size": tile, "max_image_tiles": tiles, "rows": rows}
