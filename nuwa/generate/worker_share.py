"""How much of a cluster each worker asks for, so that all of them run at once and nothing lies idle."""

from collections.abc import Sequence

from nuwa.hierarchy import NuwaError

Node = dict[str, float]
"""What a node offers, by Ray's names."""


def worker_device(device: str, nodes: Sequence[Node]) -> str:
    has_gpu = any(node.get("GPU", 0) > 0 for node in nodes)
    if device == "cuda" and not has_gpu:
        raise NuwaError("device cuda: the cluster offers no GPU; use cpu or auto")
    return "cuda" if has_gpu and device != "cpu" else "cpu"


def worker_share(nodes: Sequence[Node], workers: int, device: str) -> dict[str, float]:
    """Resources of each of `workers` actors: as much of the cluster as lets all of them run at once.

    On GPUs one whole GPU, or an equal part where there are more workers, and at most one CPU beside it.
    """
    if device == "cuda":
        nodes = [node for node in nodes if node.get("GPU", 0) > 0]
        devices = [1.0 for node in nodes for _ in range(int(node["GPU"]))]  # a part is always of one device
        cpus = min(1.0, fair_share([node.get("CPU", 0) for node in nodes], workers))
        return {"num_gpus": fair_share(devices, workers), "num_cpus": cpus}
    return {"num_gpus": 0, "num_cpus": fair_share([node.get("CPU", 0) for node in nodes], workers)}


def fair_share(amounts: Sequence[float], workers: int) -> float:
    """The largest amount that each of `workers` can have of one node; Ray counts in ones, below one in 1/10 000."""
    parts = {amount / k for amount in amounts for k in range(1, workers + 1) if amount > 0}
    shares = {float(int(part)) if part > 1 else int(part * 10_000) / 10_000 for part in parts}
    fitting = [share for share in shares if share and sum(int(amount / share + 1e-9) for amount in amounts) >= workers]
    return max(fitting, default=0.0)
