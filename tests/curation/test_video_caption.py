"""Video captions: CoCa's grid, and models of transformers read from folders as save_pretrained writes them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from curation.config import CurationConfig
from curation.model_config import VideoCaptionConfig
from curation.model_files import ModelFileError
from curation.openclip import OpenClip, load_open_clip
from curation.stages.video_caption import JoinedFrames, TransformersWriter, VideoCaptioner, grid, square
from tests.curation import small_captioners

SAVERS: dict[str, Callable[[Path], None]] = {
    "blip2": small_captioners.save_blip2,
    "qwen2_vl": small_captioners.save_qwen2_vl,
    "llava_onevision": small_captioners.save_llava_onevision,
    "idefics3": small_captioners.save_idefics3,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("captioners")
    for name, save in SAVERS.items():
        save(root / name)
    return root


def clips(num: int = 7) -> dict[str, np.ndarray]:
    """Clips (4 h w 3) of two shapes by their ids, each of one colour that changes over time."""
    rng = np.random.default_rng(4)
    sizes = [(48, 64), (64, 48)]
    return {f"clip-{i}": rng.integers(0, 255, (4, *sizes[i % 2], 3), dtype=np.uint8) for i in range(num)}


def captions(captioner: VideoCaptioner, keys: list[str]) -> dict[str, str]:
    footage = clips()
    for clip in footage.values():
        clip.flags.writeable = False  # as in a row of a table
    return dict(zip(keys, captioner.captions([footage[key] for key in keys], keys), strict=True))


def configs(folders: Path, shipped: Path, **values: int) -> list[VideoCaptionConfig]:
    made = [VideoCaptionConfig(model="transformers", weights=folders / name, **values) for name in SAVERS]
    return [VideoCaptionConfig(weights=shipped, **values), *made]


def test_shuffling_and_splitting_moves_and_changes_nothing(folders: Path, random_config: CurationConfig) -> None:
    keys = sorted(clips())
    shuffled = [keys[i] for i in np.random.default_rng(1).permutation(len(keys))]
    for config in configs(folders, random_config.caption.weights, batch_size=16):
        together = captions(VideoCaptioner(config), keys)
        assert len(set(together.values())) > 3, "captions too much alike to tell anything"
        assert all(together.values())
        for size in (1, 2):
            parts = VideoCaptioner(VideoCaptionConfig(**{**vars(config), "batch_size": size}))
            assert captions(parts, shuffled) == together


def test_a_failed_batch_is_captioned_alike_when_tried_again(
    folders: Path, random_config: CurationConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = sorted(clips())
    for config in configs(folders, random_config.caption.weights, batch_size=2):
        captioner = VideoCaptioner(config)
        undisturbed, write, calls = captions(captioner, keys), captioner._write, []

        def fails_second(batch: list[np.ndarray], write=write, calls=calls) -> list[str]:  # type: ignore[no-untyped-def]
            calls.append(len(batch))
            if len(calls) == 2:
                raise RuntimeError("out of memory")
            return write(batch)

        monkeypatch.setattr(captioner, "_write", fails_second)
        with pytest.raises(RuntimeError, match="out of memory"):
            captions(captioner, keys)
        assert captions(captioner, keys[::-1]) == undisturbed


def test_frames_are_not_cut_to_tiles(folders: Path) -> None:
    writer = TransformersWriter(VideoCaptionConfig(model="transformers", weights=folders / "idefics3"))
    assert (writer._asked([clips()["clip-0"]])["input_ids"] == writer.model.config.image_token_id).sum() == 4 * 4


@pytest.mark.parametrize("name", sorted(set(SAVERS) - {"blip2"}))
def test_order_of_frames_matters_to_a_chat_model(folders: Path, name: str) -> None:
    captioner = VideoCaptioner(VideoCaptionConfig(model="transformers", weights=folders / name))
    footage = list(clips().values())
    backwards = [np.ascontiguousarray(clip[::-1]) for clip in footage]
    keys = sorted(clips())
    assert captioner.captions(footage, keys) != captioner.captions(backwards, keys)


@pytest.mark.parametrize("name", sorted(SAVERS))
def test_the_prompt_is_asked(folders: Path, name: str) -> None:
    spoken = [
        captions(VideoCaptioner(VideoCaptionConfig(model="transformers", weights=folders / name, prompt=p)), ["clip-0"])
        for p in ("a1 b2 c3", "d4 d4 e5")
    ]
    assert spoken[0] != spoken[1]


def test_blip2_of_one_frame_says_what_transformers_says(folders: Path) -> None:
    """A clip of a single frame is BLIP-2 as it is."""
    writer = TransformersWriter(VideoCaptionConfig(model="transformers", weights=folders / "blip2", max_tokens=9))
    frame = clips()["clip-0"][:1]
    ours = writer([frame])
    model, processor = writer.model, writer.processor
    model.vision_model = model.vision_model.vision_model
    inputs = processor(images=Image.fromarray(frame[0]), text="", return_tensors="pt")
    out = model.generate(**inputs, max_new_tokens=9, min_new_tokens=4, do_sample=False)
    words = processor.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert ours == [" ".join(words[0].split())]


def test_frames_are_joined_in_order() -> None:
    """The tokens of frame 1 follow those of frame 0 of the same clip."""

    class Vision(torch.nn.Module):
        def forward(self, pixels: torch.Tensor, return_dict: bool, interpolate_pos_encoding: bool) -> object:
            hidden = pixels[:, :2, 0, :1]  # two tokens of width 1 per frame: its first two channels
            return type("Output", (), {"last_hidden_state": hidden})()

    pixels = torch.arange(2 * 3 * 3, dtype=torch.float32).reshape(2, 3, 3, 1, 1)
    joined = JoinedFrames(Vision())(pixels).last_hidden_state
    assert joined[..., 0].tolist() == [[0, 1, 3, 4, 6, 7], [9, 10, 12, 13, 15, 16]]


def test_folders_without_an_image_token_are_read_too(tmp_path: Path) -> None:
    small_captioners.save_blip2(tmp_path, image_token=False)
    captioner = VideoCaptioner(VideoCaptionConfig(model="transformers", weights=tmp_path))
    assert len(set(captions(captioner, sorted(clips())).values())) > 3


def test_lengths_are_kept(folders: Path) -> None:
    for name in SAVERS:
        config = VideoCaptionConfig(model="transformers", weights=folders / name, min_tokens=2, max_tokens=3)
        assert all(len(text.split()) <= 3 for text in captions(VideoCaptioner(config), sorted(clips())).values())


def test_folders_that_are_no_captioner_are_one_line(folders: Path, tmp_path: Path) -> None:
    def message(folder: Path) -> str:
        with pytest.raises(ModelFileError) as raised:
            VideoCaptioner(VideoCaptionConfig(model="transformers", weights=folder))
        return str(raised.value)

    assert "config.json is missing" in message(tmp_path / "nowhere")
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text(json.dumps({"model_type": "bert"}))
    assert "holds a bert model, which reads no pictures" in message(other)
    (other / "config.json").write_text("{")
    assert "cannot be loaded" in message(other)
    for name, damage in DAMAGE.items():
        folder = tmp_path / name
        shutil.copytree(folders / "qwen2_vl", folder)
        damage(folder)
        assert EXPECTED[name] in message(folder)


def _without(*names: str) -> Callable[[Path], None]:
    return lambda folder: [(folder / name).unlink(missing_ok=True) for name in names] and None


DAMAGE: dict[str, Callable[[Path], None]] = {
    "no weights": _without("model.safetensors"),
    "cut weights": lambda folder: (folder / "model.safetensors").write_bytes(b"\x10\x00") and None,
    "other weights": lambda folder: (
        shutil.copy(folder.parent / "blip2.safetensors", folder / "model.safetensors") and None
    ),
    "no processor": _without("processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json"),
    "no chat": lambda folder: small_captioners.save_qwen2_vl(folder, None) or (folder / "chat_template.jinja").unlink(),
}
EXPECTED = {
    "no weights": "model.safetensors missing",
    "cut weights": "cannot be loaded",
    "other weights": "of another model",
    "no processor": "has no processor",
    "no chat": "without a chat template",
}


@pytest.fixture(autouse=True)
def _blip2_weights(folders: Path, tmp_path: Path) -> None:
    shutil.copy(folders / "blip2" / "model.safetensors", tmp_path / "blip2.safetensors")


def test_a_clip_without_frames_is_named(random_config: CurationConfig) -> None:
    captioner = VideoCaptioner(VideoCaptionConfig(weights=random_config.caption.weights))
    with pytest.raises(ValueError, match="clip-9 has no frames"):
        captioner.captions([np.zeros((0, 4, 4, 3), np.uint8)], ["clip-9"])


def test_grid_reads_like_text_and_repeats_the_last() -> None:
    frames = [np.full((2, 3, 3), value, np.uint8) for value in range(1, 8)]
    assert grid(frames[:3])[:, :, 0].tolist() == [[1, 1, 1, 2, 2, 2]] * 2 + [[3, 3, 3, 3, 3, 3]] * 2
    assert grid(frames)[::2, ::3, 0].tolist() == [[1, 3], [5, 7]]
    wide = np.arange(12, dtype=np.uint8).reshape(2, 6, 1).repeat(3, 2)
    assert square(wide)[:, :, 0].tolist() == [[2, 3], [8, 9]]


def test_stages_of_one_process_share_the_model(random_config: CurationConfig) -> None:
    def loaded() -> OpenClip:
        return load_open_clip(VideoCaptionConfig(weights=random_config.caption.weights))

    assert loaded() is load_open_clip(random_config.caption)
