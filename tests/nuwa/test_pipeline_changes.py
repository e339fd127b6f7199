"""A pipeline folder that training replaces while others read it: weights and hash of one state, never of two."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest

from nuwa.generate import pipeline_folder
from nuwa.generate.pipeline import NuwaXLPipeline
from nuwa.generate.pipeline_folder import load_pipeline, save_pipeline, stored_pipeline, weights_fingerprint
from nuwa.hierarchy import NuwaError
from tests.nuwa import stack
from tests.nuwa.test_pipeline import assert_same_weights


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_pipeline(stack.build(), tmp_path / "model")
    return tmp_path / "model"


def test_weights_that_were_asked_for_are_loaded_or_none(folder: Path) -> None:
    """Else a video that goes on after another training would be made of two models."""
    begun_with = weights_fingerprint(folder)
    assert_same_weights(load_pipeline(folder, weights_sha256=begun_with), stack.build())
    save_pipeline(stack.build(seed=1), folder)
    with pytest.raises(NuwaError, match=r"model has changed since this video was begun; put .* there") as caught:
        load_pipeline(folder, weights_sha256=begun_with)
    assert "\n" not in str(caught.value)


def test_weights_and_their_hash_are_of_one_state(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaced between the two: neither the old weights under the new hash nor the other way round."""
    begun_with, new = weights_fingerprint(folder), stack.build(seed=1)
    read = pipeline_folder._read

    def replaced_after(kind: type[NuwaXLPipeline], path: Path) -> NuwaXLPipeline:
        found = read(kind, path)
        save_pipeline(new, folder)
        monkeypatch.setattr(pipeline_folder, "_read", read)
        return found

    monkeypatch.setattr(pipeline_folder, "_read", replaced_after)
    with pytest.raises(NuwaError, match="changed since this video was begun"):
        load_pipeline(folder, weights_sha256=begun_with)
    assert_same_weights(load_pipeline(folder, weights_sha256=weights_fingerprint(folder)), new)


def test_a_file_written_anew_while_it_is_read_is_read_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copied over the old one, as `cp -r` does: the folder itself stays the same."""
    new = stack.build(seed=1)
    save_pipeline(new, folder.parent / "new")
    calls: list[Path] = []
    read = pipeline_folder._read

    def copied_meanwhile(kind: type[NuwaXLPipeline], path: Path) -> NuwaXLPipeline:
        calls.append(path)
        found = read(kind, path)
        if len(calls) == 1:
            shutil.copytree(folder.parent / "new", folder, dirs_exist_ok=True)
        return found

    monkeypatch.setattr(pipeline_folder, "_read", copied_meanwhile)
    assert_same_weights(load_pipeline(folder), new)
    assert len(calls) == 2


def test_a_folder_that_never_stays_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fingerprint, count = pipeline_folder._fingerprint, 0

    def touching(path: Path, class_name: str) -> str:
        nonlocal count
        count += 1
        os.utime(folder / "vae/config.json", ns=(count, count))
        return fingerprint(path, class_name)

    monkeypatch.setattr(pipeline_folder, "_fingerprint", touching)
    with pytest.raises(NuwaError, match="changed 5 times while it was read") as caught:
        weights_fingerprint(folder)
    assert "\n" not in str(caught.value)


def test_the_fingerprint_holds_no_file_in_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names and hashes of weights and configs, without those of the tokenizer; weights may be larger than the RAM."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.suffix in (".json", ".safetensors")):
        if path.parent not in (folder, folder / "tokenizer"):
            digest.update(f"{path.relative_to(folder)}\0".encode() + hashlib.sha256(path.read_bytes()).digest())

    def whole(path: Path) -> bytes:
        raise AssertionError(path)

    monkeypatch.setattr(Path, "read_bytes", whole)
    assert weights_fingerprint(folder) == digest.hexdigest()


def test_what_a_folder_holds_is_known_without_loading(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(pipeline_folder, "_read")
    stored = stored_pipeline(folder)
    assert (stored.window_length, stored.train_fps, stored.height, stored.width) == (5, 8.0, 16, 16)
    assert stored.weights_sha256 == weights_fingerprint(folder)
    index = folder / "model_index.json"
    entries = json.loads(index.read_text())
    index.write_text(json.dumps({key: entries[key] for key in entries if key != "window_length"}))
    assert stored_pipeline(folder).window_length == 16
    for wrong in ("5", 0, 2.5, None):
        index.write_text(json.dumps({**entries, "window_length": wrong}))
        with pytest.raises(NuwaError, match=r"model_index\.json: window_length is .*, which is no size"):
            stored_pipeline(folder)


def test_a_file_that_cannot_be_read_is_named(folder: Path) -> None:
    weights = next((folder / "vae").glob("*.safetensors"))
    weights.unlink()
    weights.mkdir()
    for read in (weights_fingerprint, stored_pipeline, load_pipeline):
        with pytest.raises(NuwaError, match=rf"{weights.name} (cannot be read|is missing)") as caught:
            read(folder)
        assert "\n" not in str(caught.value)
