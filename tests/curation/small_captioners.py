"""Small random models of transformers, saved with their processors as real ones are."""

from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

IMAGE, PAD, START, END = "<image>", "<pad>", "<s>", "</s>"
MERGED = "<|image_pad|>"
CHAT = (
    "{% for message in messages %}{% for part in message.content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %} answer{% endif %}"
)


def tokenizer(*special: str) -> PreTrainedTokenizerFast:
    """Words of one letter and number, like b7; unknown words are x0."""
    words = [PAD, START, END, *special, "x0", "answer", *(f"{letter}{n}" for letter in "abcde" for n in range(10))]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="x0"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token=PAD,
        bos_token=START,
        eos_token=END,
        unk_token="x0",
        additional_special_tokens=list(special),
    )


def save_blip2(folder: Path, image_token: bool = True) -> None:
    """BLIP-2 over OPT; without `image_token` as folders were before transformers 4.46, VideoBLIP's among them."""
    words = tokenizer(IMAGE) if image_token else tokenizer()
    config = transformers.Blip2Config(
        vision_config={
            "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
            "image_size": 28, "patch_size": 14,
        },
        qformer_config={
            "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
            "encoder_hidden_size": 32, "vocab_size": len(words),
        },
        text_config={
            "model_type": "opt", "hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
            "vocab_size": len(words), "word_embed_proj_dim": 32,
            "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
        },
        num_query_tokens=4,
        image_token_index=words.convert_tokens_to_ids(IMAGE) if image_token else None,
    )  # fmt: skip
    _save(transformers.Blip2ForConditionalGeneration, config, folder)
    pictures = transformers.BlipImageProcessor(size={"height": 28, "width": 28})
    transformers.Blip2Processor(pictures, words, num_query_tokens=4 if image_token else None).save_pretrained(folder)


def save_qwen2_vl(folder: Path, chat_template: str | None = CHAT) -> None:
    """Qwen2-VL, which takes several pictures of any size and is asked through a chat template."""
    words = tokenizer(MERGED, "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
    ids = {name: words.convert_tokens_to_ids(f"<|{name}|>") for name in ("image_pad", "video_pad", "vision_start")}
    config = transformers.Qwen2VLConfig(
        text_config={
            "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
            "num_key_value_heads": 2, "vocab_size": len(words), "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
            "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
        },
        vision_config={"embed_dim": 32, "hidden_size": 32, "depth": 2, "num_heads": 2, "mlp_ratio": 2},
        image_token_id=ids["image_pad"],
        video_token_id=ids["video_pad"],
        vision_start_token_id=ids["vision_start"],
    )  # fmt: skip
    _save(transformers.Qwen2VLForConditionalGeneration, config, folder)
    pictures = transformers.Qwen2VLImageProcessor(min_pixels=28 * 28, max_pixels=56 * 56)
    videos = transformers.Qwen2VLVideoProcessor()
    processor = transformers.Qwen2VLProcessor(pictures, words, videos, chat_template=chat_template)
    processor.save_pretrained(folder)


IMAGES_AND_TEXT = (
    "{% for message in messages %}{% for part in message.content %}"
    "{% if part.type == 'image' %}<image>{% else %}{{ part.text }}{% endif %}{% endfor %}{% endfor %} answer"
)
SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
SMALL_TEXT = {**SMALL, "num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def save_llava_onevision(folder: Path) -> None:
    """LLaVA-OneVision: SigLIP features of every picture among Qwen2's words."""
    words = tokenizer(IMAGE, "<video>")
    vision = {
        **SMALL,
        "model_type": "siglip_vision_model",
        "image_size": 28,
        "patch_size": 14,
        "vision_use_head": False,
    }
    grids = [[28, 28], [56, 56]]
    config = transformers.LlavaOnevisionConfig(
        vision_config=vision,
        text_config={**SMALL_TEXT, "model_type": "qwen2", "vocab_size": len(words)},
        image_token_index=words.convert_tokens_to_ids(IMAGE),
        video_token_index=words.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=grids,
    )
    _save(transformers.LlavaOnevisionForConditionalGeneration, config, folder)
    pictures = transformers.LlavaOnevisionImageProcessor(size={"height": 28, "width": 28}, image_grid_pinpoints=grids)
    transformers.LlavaOnevisionProcessor(
        pictures,
        words,
        transformers.LlavaOnevisionVideoProcessor(),
        num_image_tokens=4,
        vision_feature_select_strategy="full",
        chat_template=IMAGES_AND_TEXT,
    ).save_pretrained(folder)


def save_idefics3(folder: Path) -> None:
    """Idefics3, SmolVLM's elder twin, whose processor would cut every picture to tiles."""
    tiles = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    words = tokenizer(IMAGE, "<fake_token_around_image>", "<global-img>", "<end_of_utterance>", *tiles)
    config = transformers.Idefics3Config(
        vision_config={**SMALL, "image_size": 28, "patch_size": 7},
        text_config={**SMALL_TEXT, "model_type": "llama", "vocab_size": len(words)},
        image_token_id=words.convert_tokens_to_ids(IMAGE),
        pad_token_id=0,
    )
    _save(transformers.Idefics3ForConditionalGeneration, config, folder)
    pictures = transformers.Idefics3ImageProcessor(size={"longest_edge": 56}, max_image_size={"longest_edge": 28})
    processor = transformers.Idefics3Processor(pictures, words, image_seq_len=4, chat_template=IMAGES_AND_TEXT)
    processor.save_pretrained(folder)


def _save(kind: type[transformers.PreTrainedModel], config: transformers.PretrainedConfig, folder: Path) -> None:
    """Random weights, spread out so that pictures differ in what is said of them."""
    torch.manual_seed(0)
    model = kind(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.4)
    model.generation_config = transformers.GenerationConfig(bos_token_id=1, eos_token_id=2, pad_token_id=0)
    model.save_pretrained(folder)
