"""LPIPS: the published arithmetic, weights of the true layout by path, and one line for every file that is none."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models import vgg16

from nuwa.hierarchy import NuwaError
from nuwa.models.perceptual import VGG16, Lpips, layer_distance

HEAD_WIDTHS = (64, 128, 256, 512, 512)


def torchvisions() -> nn.Sequential:
    """The convolutions of torchvision's VGG16, without values; random ones for its whole network take seconds."""
    with torch.device("meta"):
        return vgg16(weights=None).features


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    """Random weights under the names and in the shapes of torchvision's VGG16 and of LPIPS, in half precision."""
    torch.manual_seed(0)
    convolutions = {}
    for name, weight in torchvisions().state_dict().items():
        spread = (2.0 / weight[0].numel()) ** 0.5 if weight.ndim == 4 else 0.1
        convolutions[f"features.{name}"] = (spread * torch.randn(weight.shape)).half()
    heads = {f"lin{n}.model.1.weight": torch.rand(1, width, 1, 1).half() for n, width in enumerate(HEAD_WIDTHS)}
    return convolutions | heads


@pytest.fixture(scope="module")
def weights(state: dict[str, torch.Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lpips") / "lpips.safetensors"
    save_file(state, path)
    return path


def images(count: int = 2, side: int = 24, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def published(state: dict[str, torch.Tensor], images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """LPIPS 0.1 (n,) step by step on torchvision's own layers; relu1_2, 2_2, 3_3, 4_3, 5_3 are 3, 8, 15, 22, 29."""
    features = torchvisions().to_empty(device="cpu").double()
    features.load_state_dict({n.removeprefix("features."): w for n, w in state.items() if n.startswith("features.")})
    shift = torch.tensor([-0.030, -0.088, -0.188]).double()[:, None, None]
    scale = torch.tensor([0.458, 0.448, 0.450]).double()[:, None, None]
    a, b, total = (images.double() - shift) / scale, (targets.double() - shift) / scale, torch.zeros(len(images))
    for number, layer in enumerate(features[:30]):
        a, b = layer(a.clone()), layer(b.clone())
        if number in (3, 8, 15, 22, 29):
            unit_a, unit_b = (each / (each.square().sum(1, keepdim=True).sqrt() + 1e-10) for each in (a, b))
            head = state[f"lin{(3, 8, 15, 22, 29).index(number)}.model.1.weight"].double()
            total = total + (head * (unit_a - unit_b) ** 2).sum(1).mean((1, 2))
    return total


def test_distance_is_the_published_formula_on_torchvisions_network(
    state: dict[str, torch.Tensor], weights: Path
) -> None:
    model = Lpips.from_file(weights)
    found = model(images(), images(seed=1))
    expected = published(state, images(), images(seed=1))
    assert found.shape == (2,)
    assert (found - expected).abs().max() < 1e-5 * expected.max()
    assert expected.min() > 1e-3


def test_equal_images_have_distance_zero_and_others_do_not(weights: Path) -> None:
    model = Lpips.from_file(weights)
    assert model(images(), images()).tolist() == [0, 0]
    assert torch.equal(model(images(), images(seed=1)), model(images(seed=1), images()))
    near, far = images() + 0.01 * images(seed=2), images(seed=1)
    assert (model(near, images()) > 0).all()
    assert (model(near, images()) < model(far, images())).all()


def test_scaling_layer_has_the_published_constants() -> None:
    model = Lpips(((3,),))
    assert model.shift.flatten().tolist() == pytest.approx([-0.030, -0.088, -0.188])
    assert model.scale.flatten().tolist() == pytest.approx([0.458, 0.448, 0.450])
    with torch.no_grad():
        model.features[0].weight.zero_()
        for channel in range(3):
            model.features[0].weight[channel, channel, 1, 1] = 1.0
        model.features[0].bias.zero_()
    features = model.activations(torch.ones(1, 3, 1, 1))[0].flatten().tolist()
    assert features == pytest.approx([1.030 / 0.458, 1.088 / 0.448, 1.188 / 0.450])


def test_one_layer_by_hand() -> None:
    """(3, 4) → (0.6, 0.8); (1, 0) stays; squares (0.16, 0.64) · head (10, 1) = 2.24; the other pixel is equal: 1.12."""
    features = torch.tensor([[[[3.0, 5.0]], [[4.0, 0.0]]]])  # 1 2 1 2: two channels, two pixels
    wanted = torch.tensor([[[[1.0, 0.5]], [[0.0, 0.0]]]])
    head = torch.tensor([10.0, 1.0])[None, :, None, None]
    assert layer_distance(features, wanted, head).tolist() == pytest.approx([1.12])


def test_distance_does_not_depend_on_the_length_of_feature_vectors() -> None:
    features, wanted, head = torch.rand(2, 5, 3, 3), torch.rand(2, 5, 3, 3), torch.rand(1, 5, 1, 1)
    for factor in (7.0, 1e-6):
        assert torch.allclose(layer_distance(factor * features, wanted, head), layer_distance(features, wanted, head))


def test_features_that_are_all_zero_have_a_gradient() -> None:
    """The published code divides by a root of zero there, and its gradient is not a number."""
    features = torch.zeros(1, 4, 2, 2, requires_grad=True)
    layer_distance(features, torch.rand(1, 4, 2, 2), torch.ones(1, 4, 1, 1)).sum().backward()
    assert features.grad is not None
    assert features.grad.isfinite().all()


def test_gradients_reach_the_images_and_neither_targets_nor_weights(weights: Path) -> None:
    model, made, target = Lpips.from_file(weights), images(1).requires_grad_(), images(1, seed=1).requires_grad_()
    model(made, target).sum().backward()
    assert made.grad is not None
    assert made.grad.abs().max() > 0
    assert target.grad is None
    assert not any(weight.requires_grad for weight in model.parameters())


def test_widths_are_those_of_torchvision() -> None:
    ours, theirs = Lpips(VGG16).features, torchvisions()
    shapes = {name: weight.shape for name, weight in ours.state_dict().items()}
    assert shapes == {name: weight.shape for name, weight in theirs.state_dict().items()}
    assert [type(layer) for layer in ours] == [type(layer) for layer in theirs][: len(ours)]


def test_every_layout_that_is_found_in_the_wild_loads_alike(
    state: dict[str, torch.Tensor], weights: Path, tmp_path: Path
) -> None:
    """One .pth file; torchvision's file and the heads' apart in a folder; a state of the lpips package."""
    torch.save(state, tmp_path / "both.pth")
    apart = tmp_path / "apart"
    apart.mkdir()
    classifier = {"classifier.0.weight": torch.zeros(2, 2)}
    torch.save({n: w for n, w in state.items() if n.startswith("features.")} | classifier, apart / "vgg16.pth")
    torch.save({n: w for n, w in state.items() if n.startswith("lin")}, apart / "heads.pth")
    (apart / "README.txt").write_text("where they came from")
    packaged = {}
    for name, weight in state.items():
        if name.startswith("features."):
            number = int(name.split(".")[1])
            group = 1 + sum(number > end for end in (3, 8, 15, 22))
            name = f"net.slice{group}.{name.removeprefix('features.')}"
        packaged[name] = weight
    torch.save(packaged | {"scaling_layer.shift": torch.zeros(1, 3, 1, 1)}, tmp_path / "package.pth")
    expected = Lpips.from_file(weights).state_dict()
    for path in (tmp_path / "both.pth", apart, tmp_path / "package.pth"):
        found = Lpips.from_file(path).state_dict()
        assert found.keys() == expected.keys()
        assert all(torch.equal(weight, expected[name]) for name, weight in found.items()), path


class Unsafe:
    """Would write a file if it were unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (self.path,)  # type: ignore[return-value]


def test_a_file_that_is_none_is_one_line(state: dict[str, torch.Tensor], weights: Path, tmp_path: Path) -> None:
    good = weights.read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(good[: len(good) // 2])
    torch.save({"lin0.model.1.weight": torch.zeros(3)}, tmp_path / "whole.pth")
    pickled = (tmp_path / "whole.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(pickled[: len(pickled) // 2])
    (tmp_path / "text.pth").write_text("no weights")
    (tmp_path / "empty.pth").write_bytes(b"")
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save({"a": Unsafe(tmp_path / "run")}, tmp_path / "unsafe.pth")
    (tmp_path / "folder").mkdir()
    save_file({n: w for n, w in state.items() if n != "features.5.bias"}, tmp_path / "missing.safetensors")
    save_file({n: w for n, w in state.items() if n[:3] != "lin"}, tmp_path / "headless.safetensors")
    save_file(state | {"lin2.model.1.weight": torch.zeros(1, 384, 1, 1)}, tmp_path / "alex.safetensors")
    wrong = {
        "nowhere.pth": "no LPIPS weights at",
        "folder": "no LPIPS weights at",
        "cut.safetensors": "cannot be read",
        "cut.pth": "cannot be read",
        "text.pth": "cannot be read",
        "empty.pth": "cannot be read",
        "unsafe.pth": "cannot be read",
        "list.pth": "something other than named tensors",
        "missing.safetensors": r"features\.5\.bias is missing",
        "headless.safetensors": r"lin0\.model\.1\.weight is missing",
        "alex.safetensors": r"lin2\.model\.1\.weight has shape \(1, 384, 1, 1\), not \(1, 256, 1, 1\)",
    }
    for name, message in wrong.items():
        with pytest.raises(NuwaError, match=message) as caught:
            Lpips.from_file(tmp_path / name)
        assert "\n" not in str(caught.value), name
        assert name in str(caught.value)
        assert "torchvision's VGG16" in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_images_too_small_for_five_resolutions_are_named() -> None:
    with pytest.raises(NuwaError, match="images of 24x12 px are too small"):
        Lpips(((2,), (2,)))(torch.zeros(1, 3, 12, 24), torch.zeros(1, 3, 12, 24))
