"""Profile svd end to end at small size: every model in the file format of the real one, read from a JSON profile."""

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import save_file

from curation import config_json, openclip, profiles
from curation.analyse import decode_pass
from curation.config import CurationConfig
from curation.model_config import CaptionConfig, EmbedConfig
from curation.model_files import CRAFT_FILE, check_model_files, embedding_dim
from curation.profiles import svd
from curation.stages.aesthetics import AestheticHead
from curation.stages.caption import Captioner
from curation.stages.embed import FrameEmbedder, clip_embedding, similarity
from curation.stages.merge import Merger, choose
from curation.stages.text import TextDetector
from curation.stages.video_caption import VideoCaptioner
from curation.video import write_video
from tests.curation import generated_craft, small_captioners

VISION = {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16}
TEXT = {"context_length": 76, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
CLIP = {
    "embed_dim": 768,
    "quick_gelu": True,
    "vision_cfg": VISION,
    "text_cfg": {**TEXT, "context_length": 77},
}
COCA = {
    "embed_dim": 32,
    "vision_cfg": {**VISION, "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
    "text_cfg": {**TEXT, "embed_cls": True, "output_tokens": True},
    "multimodal_cfg": {**TEXT, "attn_pooler_heads": 2},
    "custom_text": True,
}
PREPROCESS = {"mean": [0.48, 0.46, 0.41], "std": [0.27, 0.26, 0.28], "resize_mode": "shortest"}


def save_open_clip(folder: Path, name: str, description: dict[str, object]) -> None:
    """A folder as on the hub: open_clip_config.json beside its weights, no tokenizer (open_clip's own is meant)."""
    folder.mkdir(parents=True)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": description, "preprocess_cfg": PREPROCESS}))
    registered = folder / f"{name}.json"
    registered.write_text(json.dumps(description))
    open_clip.add_model_config(registered)
    registered.unlink()
    torch.manual_seed(0)
    model = open_clip.create_model(name)
    for parameter in model.parameters():  # open_clip leaves some to whatever memory holds
        if not torch.isfinite(parameter).all() or parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    save_file(
        {key: value.contiguous() for key, value in model.state_dict().items()}, folder / "open_clip_model.safetensors"
    )


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """models/ with a small model under every name that profile svd uses."""
    folder = tmp_path_factory.mktemp("svd") / "models"
    save_open_clip(folder / "clip-vit-l-14-openai", "small_clip", CLIP)
    save_open_clip(folder / "coca-vit-l-14-mscoco", "small_coca", COCA)
    small_captioners.save_blip2(folder / "blip2-opt-2.7b")
    head = {"weight": torch.randn(1, 768, generator=torch.Generator().manual_seed(0)), "bias": torch.tensor([5.0])}
    torch.save(head, folder / "sa_0_4_vit_l_14_linear.pth")
    (folder / "easyocr").mkdir()
    generated_craft.save(folder / "easyocr" / CRAFT_FILE)
    return folder


@pytest.fixture
def config(models: Path, monkeypatch: pytest.MonkeyPatch) -> CurationConfig:
    """Profile svd, written to JSON and read back, in a working directory with these models."""
    import easyocr

    md5 = hashlib.md5((models / "easyocr" / CRAFT_FILE).read_bytes()).hexdigest()
    monkeypatch.setitem(easyocr.easyocr.detection_models["craft"], "md5sum", md5)
    monkeypatch.setattr("curation.model_files.CRAFT_MD5", md5)
    monkeypatch.chdir(models.parent)
    written = config_json.to_json(profiles.svd())
    return config_json.from_json(written, CurationConfig)


def clips() -> dict[str, np.ndarray]:
    """Four clips of four frames (160 160 3), each with a rectangle of its own that moves."""
    made = {}
    for number in range(4):
        frames = [generated_craft.rectangle(20 + 9 * number + t, 50, 80 + t, 80) for t in range(4)]
        made[f"clip-{number}"] = np.stack(frames)
    return made


def test_all_stages_of_svd_run_on_models_in_the_real_files_formats(config: CurationConfig) -> None:
    check_model_files(config)
    keys, footage = sorted(clips()), [clips()[key] for key in sorted(clips())]
    frames = [frame for clip in footage for frame in clip[[0, 1, 3]]]
    areas = TextDetector(config.text).area_frac(frames[::6])  # CRAFT is slow
    assert all(0.02 < area < 0.4 for area in areas)
    images = Captioner(config.caption).captions([clip[1] for clip in footage], keys)
    videos = VideoCaptioner(config.video_caption).captions(footage, keys)
    merged = Merger(config.merge).merge(list(zip(images, videos, strict=True)))
    chosen = [choose(*texts, config.choice) for texts in zip(images, videos, merged, strict=True)]
    assert chosen == videos
    assert all(images)
    assert all(videos)
    embedder = FrameEmbedder(config.embed)
    embeddings = embedder.images(frames)
    assert embeddings.shape == (12, embedding_dim(config.embed)) == (12, 768)
    scores = AestheticHead.load(config.aesthetics).score(embeddings)
    assert np.isfinite(scores).all()
    fit = similarity(clip_embedding(embeddings[:3]), embedder.texts(chosen[:1])[0])
    assert -1 <= fit <= 1


def test_preparation_is_that_of_the_folder(config: CurationConfig) -> None:
    assert FrameEmbedder(config.embed).clip.crops
    picture = generated_craft.rectangle(0, 0, 0, 0)
    prepared = openclip.load_open_clip(config.embed).pictures([picture])[0, :, 0, 0]
    expected = (np.array([20, 20, 70]) / 255 - PREPROCESS["mean"]) / PREPROCESS["std"]
    np.testing.assert_allclose(prepared, expected, atol=0.02)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_captioners_run_in_half_precision(
    config: CurationConfig, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    """As on a GPU, here on the CPU."""
    for module in ("curation.openclip", "curation.stages.video_caption"):
        monkeypatch.setattr(f"{module}.placement", lambda name: (torch.device("cpu"), dtype))
    keys, footage = ["clip-0", "clip-1"], [clips()["clip-0"], clips()["clip-1"]]
    writer = VideoCaptioner(dataclasses.replace(config.video_caption, max_tokens=6))
    assert len(writer.captions(footage, keys)) == 2
    for decoding in ("greedy", "top_k", "beam"):
        captioner = Captioner(dataclasses.replace(config.caption, decoding=decoding, max_tokens=6))
        assert captioner.clip.dtype == dtype
        assert all(captioner.captions([clip[1] for clip in footage], keys))


def test_pictures_of_a_large_square_film_stay_under_two_megabytes(tmp_path: Path) -> None:
    """Square frames are the largest there are; three key frames and the captioner's leave the decoder, nothing else."""
    write_video(tmp_path / "film.mp4", np.zeros((24, 640, 640, 3), np.uint8), fps=8.0)
    analysis = decode_pass({"source_uri": str(tmp_path / "film.mp4"), "source_sha256": "0" * 64}, svd())
    (clip,) = analysis.clips
    assert clip.frames.shape == (3, 400, 400, 3)
    assert clip.frames.nbytes + clip.grid.nbytes <= 2 << 20


@pytest.mark.slow
def test_a_named_architecture_with_the_path_of_a_checkpoint(tmp_path: Path) -> None:
    """open_clip's smallest, 43 M weights: slow to make and to load. Pickled checkpoints hold tensors only."""
    torch.manual_seed(0)
    model = open_clip.create_model("ViT-S-32-alt")
    torch.save({"state_dict": model.state_dict()}, tmp_path / "epoch_1.pt")
    config = EmbedConfig(architecture="ViT-S-32-alt", weights=tmp_path / "epoch_1.pt")
    check_model_files(CurationConfig(embed=config), {"embed"})
    embedder = FrameEmbedder(config)
    picture = generated_craft.rectangle(10, 10, 90, 90)
    direct = model.eval().encode_image(embedder.clip.pictures([picture]), normalize=True)
    np.testing.assert_allclose(embedder.images([picture]), direct.detach().numpy(), atol=1e-5)
    torch.save({"state_dict": {"code": tmp_path}}, tmp_path / "code.pt")
    with pytest.raises(openclip.ModelFileError, match=r"code\.pt cannot be loaded as the open_clip model ViT-S-32-alt"):
        FrameEmbedder(dataclasses.replace(config, weights=tmp_path / "code.pt"))
    with pytest.raises(openclip.ModelFileError, match="is not a CoCa model"):
        Captioner(CaptionConfig(architecture="ViT-S-32-alt", weights=tmp_path / "epoch_1.pt"))
