"""One device: batches run when collected, in order; memory that does not suffice is one clear line."""

import pytest
import torch

from nuwa.generate.executors import LocalExecutor
from nuwa.generate.long_video import frame_plan, generate_latents
from nuwa.generate.windows import WindowTask
from nuwa.hierarchy import NuwaError, Window, plan
from tests.nuwa.fake_sampler import FakeSampler

TASKS = [WindowTask(Window(1, n, 4 * n, 1), ("a star",) * 5) for n in range(4)]


def test_batches_come_back_whole_and_in_order() -> None:
    executor = LocalExecutor(FakeSampler(batch=3))
    executor.submit(TASKS[:3], pixels=True)
    executor.submit(TASKS[3:], pixels=False)
    first, second = executor.collect(), executor.collect()
    assert [window for window, _ in (*first, *second)] == [task.window for task in TASKS]
    assert all(result.pixels is not None for _, result in first)
    assert second[0][1].pixels is None
    assert (executor.batch, executor.in_flight) == (3, 1)


@pytest.mark.parametrize("batch", [1, 3, 8, 64, 300])
@pytest.mark.parametrize("frames", [16, 226, 256, 1024, 3376])
def test_batches_of_a_whole_video_are_those_of_the_formula(frames: int, batch: int) -> None:
    """Σ_k ⌈w_k/B⌉ batches , each S evaluations of the denoiser: full but for the last of each level."""
    fake = FakeSampler(batch)
    generate_latents(frame_plan(["a star"] * frames, 16), LocalExecutor(fake))
    for level, windows in enumerate(plan(frames, 16)):
        sizes = [len(tasks) for tasks in fake.batches if tasks[0].window.level == level]
        assert len(sizes) == -(-len(windows) // batch)
        assert sorted(sizes)[1:] == [batch] * (len(sizes) - 1)


def test_memory_that_does_not_suffice_is_one_line() -> None:
    class Full(FakeSampler):
        pipe = torch.nn.Identity()

        def sample(self, tasks, pixels):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")

    Full.pipe.device = torch.device("cuda", 0)
    executor = LocalExecutor(Full(batch=8))
    executor.submit(TASKS, pixels=False)
    with pytest.raises(NuwaError, match="batch of 8 windows does not fit into the memory of cuda:0; give a smaller"):
        executor.collect()


def test_memory_that_does_not_suffice_to_decode_is_one_line() -> None:
    class Full(FakeSampler):
        pipe = torch.nn.Identity()

        def decode(self, latents):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")

    Full.pipe.device = torch.device("cuda", 0)
    with pytest.raises(NuwaError, match="decoding 16 frames does not fit into the memory of cuda:0; give") as caught:
        LocalExecutor(Full()).decode(torch.zeros(1, 4, 16, 8, 8))
    assert "\n" not in str(caught.value)


def test_what_has_not_begun_is_withdrawn() -> None:
    executor = LocalExecutor(FakeSampler(batch=2))
    assert executor.withdraw() == []
    executor.submit(TASKS[:2], pixels=False)
    executor.submit(TASKS[2:], pixels=False)
    executor.collect()
    assert executor.withdraw() == [task.window for task in TASKS[2:]]
    assert executor.withdraw() == []
    assert len(executor.sampler.batches) == 1
