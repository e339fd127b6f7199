"""Missing, damaged and unknown model files: all named at once, each with the command or flag that puts it right."""

import dataclasses
import json
import re
from pathlib import Path

import pytest

from curation import profiles
from curation.config import CurationConfig
from curation.model_config import (
    AestheticsConfig,
    CaptionConfig,
    EmbedConfig,
    MergeConfig,
    TextConfig,
    VideoCaptionConfig,
)
from curation.model_files import ModelFileError, check_model_files, embedding_dim, transformers_files
from curation.stages.video_caption import VideoCaptioner
from tests.curation import small_captioners


def complaint(config: CurationConfig, stages: set[str] | None = None) -> str:
    with pytest.raises(ModelFileError) as raised:
        check_model_files(config, stages)
    return str(raised.value)


def test_the_demo_has_all_it_needs() -> None:
    check_model_files(profiles.demo())


def test_svd_names_all_that_is_missing_with_the_command_that_gets_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    message = complaint(profiles.svd())
    for number, (field, paths, command) in enumerate(SVD, 1):
        listed = ", ".join(f"models/{path}" for path in paths)
        assert f"({number}) {field}: {listed} missing, run {command}" in message
    assert f"({len(SVD) + 1})" not in message
    assert "--profile FILE.json" in message
    assert "\n" not in message


CLIP, COCA, BLIP2 = "clip-vit-l-14-openai", "coca-vit-l-14-mscoco", "blip2-opt-2.7b"
COCA_REPOSITORY = "laion/mscoco_finetuned_CoCa-ViT-L-14-laion2B-s13B-b90k"
OPEN_CLIP = ("open_clip_config.json", "open_clip_model.safetensors")
SVD = [
    (
        "text.weights_dir",
        ["easyocr/craft_mlt_25k.pth"],
        "mkdir -p models/easyocr && curl -L -o /tmp/craft.zip https://",
    ),
    (
        "caption.weights",
        [f"{COCA}/{name}" for name in OPEN_CLIP],
        f"hf download {COCA_REPOSITORY} --include 'open_clip*' --local-dir models/{COCA};",
    ),
    (
        "video_caption.weights",
        [f"{BLIP2}/{name}" for name in ("config.json", "model.safetensors", "processor_config.json")],
        f"hf download Salesforce/{BLIP2} --local-dir models/{BLIP2};",
    ),
    (
        "embed.weights",
        [f"{CLIP}/{name}" for name in OPEN_CLIP],
        f"hf download timm/vit_large_patch14_clip_224.openai --include 'open_clip*' --local-dir models/{CLIP};",
    ),
    (
        "aesthetics.head",
        ["sa_0_4_vit_l_14_linear.pth"],
        "curl -L --create-dirs -o models/sa_0_4_vit_l_14_linear.pth https://github.com/LAION-AI/aesthetic-predictor/",
    ),
]


@pytest.mark.parametrize(
    ("stage", "num"), [("text", 1), ("caption", 2), ("video_caption", 3), ("merge", 0), ("embed", 2), ("aesthetics", 1)]
)
def test_only_the_stages_that_run_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, num: int
) -> None:
    monkeypatch.chdir(tmp_path)
    if num == 0:
        check_model_files(profiles.svd(), {stage})
        return
    listed = complaint(profiles.svd(), {stage}).partition(" missing, ")[0]
    assert len(re.findall(r"models/\S+", listed)) == num


def test_one_folder_of_two_stages_is_named_for_both(tmp_path: Path) -> None:
    gone = CurationConfig(embed=EmbedConfig(weights=tmp_path), caption=CaptionConfig(weights=tmp_path))
    message = complaint(gone, {"embed", "caption"})
    assert "embed.weights: " in message
    assert "caption.weights: " in message


def test_damage_is_named_with_what_is_missing(model_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.safetensors").write_bytes(b"\x08\x00")
    config = CurationConfig(
        embed=EmbedConfig(weights=model_folder / "coca"),
        aesthetics=AestheticsConfig(head=tmp_path / "cut.safetensors"),
        text=TextConfig(detector="easyocr"),
    )
    message = complaint(config)
    assert "cut.safetensors not a whole safetensors file" in message
    assert "text.weights_dir: models/easyocr/craft_mlt_25k.pth missing" in message


def test_names_that_open_clip_does_not_know(tmp_path: Path) -> None:
    unknown = EmbedConfig(architecture="ViT-Q-99", weights=tmp_path / "w.pt")
    message = complaint(CurationConfig(embed=unknown), {"embed"})
    assert "ViT-Q-99.json missing, which open_clip does not have" in message
    assert "w.pt missing, put it there" in message
    with pytest.raises(ModelFileError, match="knows no architecture 'ViT-Q-99'"):
        embedding_dim(unknown)
    assert embedding_dim(EmbedConfig(architecture="ViT-L-14-quickgelu", weights=tmp_path)) == 768


def test_a_tag_is_found_in_the_cache_and_never_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached = tmp_path / "open_clip_model.safetensors"
    asked: list[tuple[str, str]] = []

    def cache(repository: str, name: str) -> str | None:
        asked.append((repository, name))
        return str(cached) if cached.is_file() and name == cached.name else None

    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", cache)
    monkeypatch.setenv("HOME", str(tmp_path))
    config = CurationConfig(embed=EmbedConfig(architecture="ViT-B-32-quickgelu", weights=Path("openai")))
    message = complaint(config, {"embed"})
    assert "embed.weights: openai missing, run python -c" in message
    assert "open_clip.create_model('ViT-B-32-quickgelu', pretrained='openai')" in message.replace("'\"'\"'", "'")
    assert asked[0] == ("timm/vit_base_patch32_clip_224.openai", "open_clip_model.safetensors")
    from safetensors.numpy import save_file

    save_file({}, cached)
    check_model_files(config, {"embed"})


def test_a_hub_name_is_found_in_the_cache_and_never_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_captioners.save_qwen2_vl(tmp_path / "snapshot")
    config = VideoCaptionConfig(model="transformers", weights=Path("owner/captioner"))
    message = complaint(CurationConfig(video_caption=config), {"video_caption"})
    assert "video_caption.weights: owner/captioner/config.json" in message
    assert "run hf download owner/captioner on each node" in re.sub(" +", " ", message)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, local_files_only: tmp_path / "snapshot")
    check_model_files(CurationConfig(video_caption=config), {"video_caption"})
    assert VideoCaptioner(config).config == config


def test_shards_are_all_looked_for(tmp_path: Path) -> None:
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-1.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    names = [path.name for path in transformers_files(tmp_path)]
    assert names[2:4] == ["model-1.safetensors", "model-2.safetensors"]


def test_a_broken_description_is_one_line(tmp_path: Path) -> None:
    for text in ("{", "[]", '{"model_cfg": {}}', '{"model_cfg": {"embed_dim": "wide"}}'):
        (tmp_path / "open_clip_config.json").write_text(text)
        with pytest.raises(ModelFileError, match=r"open_clip_config\.json"):
            embedding_dim(EmbedConfig(weights=tmp_path))


def test_merging_needs_no_files() -> None:
    config = dataclasses.replace(profiles.demo(), merge=MergeConfig(llm_url="http://localhost:1/v1", llm_model="m"))
    check_model_files(config)
