"""Feature networks: published architectures, weights by path, and what is told of files that do not fit."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from nuwa.evaluate.clip_model import OpenClipModel, ToyImageFeatures, clipsim
from nuwa.evaluate.features import ToyVideoFeatures
from nuwa.evaluate.i3d import I3D, I3DFeatures, MaxPoolSame
from nuwa.evaluate.inception import InceptionFeatures, fid_inception, torchvision_inception
from nuwa.evaluate.mmd import polynomial_mmd
from nuwa.hierarchy import NuwaError

DEMO_COCA = Path(__file__).parents[2] / "demo" / "weights" / "coca"


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def published_count(channels: int) -> int:
    """Parameters by the table of Inception v1 (arXiv 1409.4842), its square kernels made cubic, and 400 classes."""
    table = (  # in, 1×1, 3×3 reduced, 3×3, 5×5 reduced, 5×5 (3×3×3 in I3D), pool projection
        (192, 64, 96, 128, 16, 32, 32),
        (256, 128, 128, 192, 32, 96, 64),
        (480, 192, 96, 208, 16, 48, 64),
        (512, 160, 112, 224, 24, 64, 64),
        (512, 128, 128, 256, 24, 64, 64),
        (512, 112, 144, 288, 32, 64, 64),
        (528, 256, 160, 320, 32, 128, 128),
        (832, 256, 160, 320, 32, 128, 128),
        (832, 384, 192, 384, 48, 128, 128),
    )
    convolutions = [(channels, 64, 343), (64, 64, 1), (64, 192, 27)]
    for inside, one, reduced, three, reduced_2, five, pool in table:
        convolutions += [(inside, one, 1), (inside, reduced, 1), (reduced, three, 27)]
        convolutions += [(inside, reduced_2, 1), (reduced_2, five, 27), (inside, pool, 1)]
    return sum(i * o * k + 2 * o for i, o, k in convolutions) + 1024 * 400 + 400


def test_i3d_has_the_parameters_of_the_published_network() -> None:
    """Two-Stream I3D has 25 M (arXiv 1705.07750, Table 1): one stream of colour, one of flow."""
    colour, flow = I3D(), I3D(channels=2)
    assert parameters(colour) == published_count(3) == 12_697_264
    assert round((parameters(colour) + parameters(flow)) / 1e6) == 25
    assert set(list(colour.state_dict())[:2]) == {"Conv3d_1a_7x7.conv3d.weight", "Conv3d_1a_7x7.bn.weight"}
    assert colour.state_dict()["logits.conv3d.weight"].shape == (400, 1024, 1, 1, 1)


def test_pooling_pads_as_tensorflow_does() -> None:
    """SAME puts the odd zero behind: of 5 values at stride 2 with kernel 2, the last is pooled alone."""
    video = torch.arange(1.0, 6.0).reshape(1, 1, 5, 1, 1)
    pooled = MaxPoolSame((2, 1, 1), (2, 1, 1))(video)
    assert pooled.flatten().tolist() == [2.0, 4.0, 5.0]
    assert MaxPoolSame((3, 1, 1), (2, 1, 1))(video[:, :, :4]).flatten().tolist() == [3.0, 4.0]


def seeded_i3d() -> I3D:
    """Weights of a size that lets features reach the end."""
    torch.manual_seed(0)
    model = I3D()
    for module in model.modules():
        if isinstance(module, nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    return model.eval()


def test_i3d_weights_load_from_a_file_and_give_the_same_features(tmp_path: Path) -> None:
    model = seeded_i3d()
    state = {key: value for key, value in model.state_dict().items() if not key.endswith("num_batches_tracked")}
    torch.save({"state_dict": state}, tmp_path / "rgb.pt")
    save_file(state, tmp_path / "rgb.safetensors")
    features = I3DFeatures.from_file(tmp_path / "rgb.pt")
    video = torch.rand(1, 3, 9, 224, 224, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.inference_mode():
        expected = model(video)
    assert torch.equal(features(video), expected)
    assert expected.shape == (1, 400)
    assert not features.toy
    assert features.name.startswith("I3D logits, Kinetics-400 RGB, weights rgb.pt")
    again = I3DFeatures.from_file(tmp_path / "rgb.safetensors").model.state_dict()
    assert all(torch.equal(again[key], value) for key, value in state.items())


def test_i3d_sees_the_order_of_frames_and_takes_any_size() -> None:
    features = I3DFeatures(seeded_i3d(), "I3D")
    video = torch.rand(1, 3, 10, 32, 48, generator=torch.Generator().manual_seed(1)) * 2 - 1
    forwards, backwards = features(video), features(video.flip(2))
    assert forwards.shape == (1, 400)
    assert (forwards - backwards).norm() > 0.01 * forwards.norm()


def test_i3d_averages_pairs_of_frames_before_it_averages_over_time() -> None:
    """The last average takes two frames of the features, so of three the middle one counts twice."""
    model = I3D(classes=1)
    for name, _ in list(model.named_children())[:-1]:
        setattr(model, name, nn.Identity())
    nn.init.constant_(model.logits.conv3d.weight, 1 / 1024)
    nn.init.zeros_(model.logits.conv3d.bias)
    for frame, share in enumerate((0.25, 0.5, 0.25)):
        features = torch.zeros(1, 1024, 3, 7, 7)
        features[:, :, frame] = 1.0
        assert model(features).item() == pytest.approx(share, rel=1e-5)


def test_fids_inception_differs_from_torchvisions_in_its_poolings_only() -> None:
    ours, theirs = fid_inception().eval(), torchvision_inception().eval()
    assert parameters(ours) == parameters(theirs) == 21_785_568
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}
    inputs = torch.rand(1, 192, 6, 6, generator=torch.Generator().manual_seed(0))
    ours.Mixed_5b.load_state_dict(theirs.Mixed_5b.state_dict())
    with torch.inference_mode():
        same, different = theirs.Mixed_5b(inputs), ours.Mixed_5b(inputs)
    assert torch.equal(same[..., 1:-1, 1:-1], different[..., 1:-1, 1:-1])
    assert torch.equal(same[:, :-32], different[:, :-32])
    assert not torch.allclose(same[:, -32:, 0], different[:, -32:, 0])
    deep = torch.rand(1, 2048, 4, 4, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        pooled = ours.Mixed_7c(deep)[:, -192:]
        expected = ours.Mixed_7c.branch_pool(functional.max_pool2d(deep, 3, 1, 1))
    assert torch.equal(pooled, expected)


@pytest.mark.parametrize(("classes", "said"), [(1000, "which is not FID's own"), (1008, "FID's own Inception")])
def test_inception_weights_say_which_of_the_two_they_are(classes: int, said: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = (fid_inception() if classes == 1008 else torchvision_inception()).eval()
    state = model.state_dict() | {"fc.weight": torch.zeros(classes, 2048), "fc.bias": torch.zeros(classes)}
    if classes == 1000:
        state |= {"AuxLogits.fc.bias": torch.zeros(1000)}
    torch.save(state, tmp_path / "inception.pth")
    features = InceptionFeatures.from_file(tmp_path / "inception.pth")
    images = torch.rand(1, 3, 299, 299, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.inference_mode():
        assert torch.equal(features(images), model(images))
    assert features(images[..., :64, :48]).shape == (1, 2048)
    assert said in features.name
    assert not features.toy


def test_files_that_are_no_weights_are_told_in_one_line(tmp_path: Path) -> None:
    script = tmp_path / "i3d_torchscript.pt"
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), str(script))
    torch.save(nn.Linear(2, 2), tmp_path / "pickled.pt")
    torch.save({"epoch": 3}, tmp_path / "numbers.pt")
    (tmp_path / "text.pt").write_text("no weights")
    (tmp_path / "text.safetensors").write_text("no weights")
    whole = I3D().state_dict()
    torch.save({key: value for key, value in whole.items() if "Mixed_5c" not in key}, tmp_path / "cut.pt")
    torch.save(whole | {"logits.conv3d.weight": torch.zeros(600, 1024, 1, 1, 1)}, tmp_path / "600.pt")
    torch.save(whole | {"logits.conv3d.bias": torch.full((400,), torch.nan)}, tmp_path / "nan.pt")
    for name, line in (
        ("nothing.pt", "no weights of I3D"),
        ("i3d_torchscript.pt", "it is TorchScript"),
        ("pickled.pt", "pickled models hold code, which is not run"),
        ("numbers.pt", "something other than named tensors"),
        ("text.pt", "cannot be read"),
        ("text.safetensors", "cannot be read"),
        ("cut.pt", "Mixed_5c.b0.conv3d.weight is missing"),
        ("600.pt", "logits.conv3d.weight has another shape"),
        ("nan.pt", "not finite"),
    ):
        with pytest.raises(NuwaError, match=line) as error:
            I3DFeatures.from_file(tmp_path / name)
        assert "\n" not in str(error.value)
    with pytest.raises(NuwaError, match=r"0 classes in fc\.bias"):
        InceptionFeatures.from_file(tmp_path / "cut.pt")


def test_toy_video_features_are_the_same_everywhere_and_say_toy() -> None:
    video = torch.rand(2, 3, 8, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    first, second = ToyVideoFeatures(), ToyVideoFeatures()
    assert torch.equal(first(video), second(video))
    assert first(video).shape == (2, first.width)
    assert first.name.startswith("toy")
    assert not torch.allclose(first(video), first(video.flip(2)), rtol=1e-3)  # it sees time
    assert torch.allclose(first(video)[:1], first(video[:1]), atol=1e-6)
    assert first(video[:, :, :4]).shape == (2, first.width)
    with pytest.raises(NuwaError, match="width 0"):
        ToyVideoFeatures(0)


def test_toy_video_features_see_noise_that_changes_from_frame_to_frame() -> None:
    """Still videos of one colour each; the more noise, the further from another set of clean ones."""
    generator, features = torch.Generator().manual_seed(1), ToyVideoFeatures()
    colours = torch.rand(2, 24, 3, 1, 1, 1, generator=generator) - 0.5
    clean, other = (colour.expand(24, 3, 4, 16, 16) for colour in colours)
    noise = torch.randn(24, 3, 4, 16, 16, generator=generator)
    apart = [
        polynomial_mmd(features(clean).double().numpy(), features(other + amount * noise).double().numpy())
        for amount in (0.0, 0.1, 0.3)
    ]
    assert apart[0] < apart[1] < apart[2]
    assert apart[2] > 5 * abs(apart[0])


@pytest.fixture(scope="module")
def coca() -> OpenClipModel:
    return OpenClipModel.from_folder(DEMO_COCA)


def test_clipsim_is_a_hundred_times_the_cosine(coca: OpenClipModel) -> None:
    one, two = functional.normalize(torch.tensor([[3.0, 4.0], [1.0, 0.0]])), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert clipsim(one, two).tolist() == pytest.approx([60.0, 0.0])


def test_the_demo_model_tells_prompts_apart(coca: OpenClipModel) -> None:
    from demo import world
    from demo.drawing import background

    places = [f"a red star in the {place}" for place in world.PLACES]
    pictures = torch.stack([torch.from_numpy(background(place, 64, 64).copy()) for place in world.PLACES])
    images = coca.embed_images(pictures.permute(0, 3, 1, 2) / 127.5 - 1)
    texts = coca.embed_prompts(places)
    assert torch.allclose(images.norm(dim=1), torch.ones(len(places)), atol=1e-5)
    assert torch.allclose(texts.norm(dim=1), torch.ones(len(places)), atol=1e-5)
    assert coca.width == texts.shape[1]
    similar = texts @ images.T
    assert (similar.argmax(dim=1) == torch.arange(len(places))).float().mean() >= 0.8


def test_embeddings_are_open_clips_own(coca: OpenClipModel) -> None:
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    byte = ((image + 1) * 127.5).round() / 127.5 - 1
    with torch.inference_mode():
        expected = coca.model.encode_image(byte, normalize=True)
    assert torch.allclose(coca.embed_images(image), expected, atol=1e-4)


def test_toy_image_features_have_unit_mean_square_and_say_toy(coca: OpenClipModel) -> None:
    features = ToyImageFeatures(coca)
    found = features(torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1)
    assert found.shape == (3, features.width)
    assert found.square().mean(dim=1).tolist() == pytest.approx([1.0] * 3, rel=1e-5)
    assert features.name.startswith("toy")


def test_folders_that_are_no_open_clip_model_are_told(tmp_path: Path) -> None:
    with pytest.raises(NuwaError, match=r"no open_clip_config.json in .*; give --clip the folder"):
        OpenClipModel.from_folder(tmp_path)
    (tmp_path / "open_clip_config.json").write_text("{}")
    with pytest.raises(NuwaError, match="cannot be loaded as an open_clip model"):
        OpenClipModel.from_folder(tmp_path)
