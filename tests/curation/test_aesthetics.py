"""LAION-form heads: known answers of the real ones, folding of stacks, refusals."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from curation.model_config import AestheticsConfig
from curation.stages.aesthetics import AestheticHead, AestheticHeadError, fold

# LAION's heads applied to LAION's own mean embeddings of pictures rated k.
V1, IMPROVED = "laion-aesthetic-v1/sa_0_4", "improved-aesthetic/sac+logos+ava1-l14-linearMSE.pth"
KNOWN = [
    (f"{V1}_vit_b_32_linear.pth", "vit_b_32", {0: -1.4700, 2: 1.9900, 4: 5.0874, 6: 7.6682, 8: 9.9166}),
    (f"{V1}_vit_l_14_linear.pth", "vit_l_14", {0: -2.4579, 2: 1.8951, 4: 5.0997, 6: 7.7870, 8: 10.2264}),
    (IMPROVED, "vit_l_14", {0: 1.6555, 2: 3.0698, 4: 4.2380, 6: 5.0731, 8: 5.5767}),
]


@pytest.mark.parametrize(("head", "model", "scores"), KNOWN)
def test_laion_heads_give_their_known_scores(
    media: Callable[[str], Path], head: str, model: str, scores: dict[int, float]
) -> None:
    scale: Literal["laion-v1", "laion-improved"] = "laion-improved" if head == IMPROVED else "laion-v1"
    loaded = AestheticHead.load(AestheticsConfig(head=media(head), scale=scale))
    for rating, expected in scores.items():
        embedding = np.load(media(f"laion-aesthetic-v1/{model}_embeddings_rating{rating}.npy")).reshape(1, -1)
        assert loaded.score(embedding)[0] == pytest.approx(expected, abs=1e-3)


def test_stack_of_layers_equals_its_layers_one_after_another() -> None:
    torch.manual_seed(0)
    stack = torch.nn.Sequential(*[torch.nn.Linear(a, b) for a, b in [(12, 9), (9, 7), (7, 1)]]).double()
    state = {
        f"layers.{number}.{key}": value.numpy()
        for number, layer in zip((2, 10, 20), stack, strict=True)  # 10 comes after 2
        for key, value in layer.state_dict().items()
    }
    weight, bias = fold(state, Path("head"))
    x = torch.randn(5, 12, dtype=torch.float64)
    np.testing.assert_allclose(x.numpy() @ weight + bias, stack(x)[:, 0].detach().numpy(), atol=1e-12)


def test_safetensors_head(tmp_path: Path) -> None:
    layer = {"weight": np.array([[1.0, 2.0]], np.float32), "bias": np.array([0.5], np.float32)}
    save_file(layer, tmp_path / "h.safetensors")
    head = AestheticHead.load(AestheticsConfig(head=tmp_path / "h.safetensors"))
    np.testing.assert_allclose(head.score(np.array([[1, 0], [0, 1]], np.float32)), [1.5, 2.5])
    with pytest.raises(AestheticHeadError, match="width 2, the CLIP model gives 3"):
        head.score(np.zeros((1, 3), np.float32))


def test_unreadable_heads_are_one_line(tmp_path: Path) -> None:
    for name, content in [("cut.safetensors", b"\x08\x00"), ("cut.pth", b"PK\x03\x04"), ("none.pth", None)]:
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(AestheticHeadError, match=re.escape(name)):
            AestheticHead.load(AestheticsConfig(head=path))


class Malicious:
    """Writes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("zipped", [True, False])
def test_pickled_code_is_not_run(tmp_path: Path, zipped: bool) -> None:
    mark, head = tmp_path / "mark", tmp_path / "head.pth"
    layer = {"weight": torch.ones(1, 512), "bias": torch.zeros(1)}
    torch.save({**layer, "extra": Malicious(mark)}, head, _use_new_zipfile_serialization=zipped)
    with pytest.raises(AestheticHeadError, match=r"head\.pth is not a readable aesthetic head"):
        AestheticHead.load(AestheticsConfig(head=head))
    assert not mark.exists()
    torch.load(head, weights_only=False)
    assert mark.exists(), "the file would have done harm"


@pytest.mark.parametrize(
    ("scale", "widths", "known"),
    [("laion-v1", [6, 1], "own"), ("laion-improved", [768, 1], "laion-v1 or own"), ("laion-v1", [500, 1], "own")],
)
def test_a_head_is_not_taken_for_one_of_another_scale(
    tmp_path: Path, scale: Literal["laion-v1", "laion-improved"], widths: list[int], known: str
) -> None:
    path = tmp_path / "h.safetensors"
    save_file({"weight": np.ones((1, widths[0]), np.float32), "bias": np.zeros(1, np.float32)}, path)
    with pytest.raises(AestheticHeadError, match=f"is no {scale} head .* set aesthetics.scale to {known}$"):
        AestheticHead.load(AestheticsConfig(head=path, scale=scale))
    assert AestheticHead.load(AestheticsConfig(head=path)).score(np.ones((1, widths[0]), np.float32)) == widths[0]


@pytest.mark.parametrize("content", [[1, 2], {"weight": "text"}, {"layer": torch.ones(3)}, torch.ones(2)])
def test_files_of_something_else_are_one_line(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "head.pth")
    with pytest.raises(AestheticHeadError, match=r"head\.pth"):
        AestheticHead.load(AestheticsConfig(head=tmp_path / "head.pth"))
