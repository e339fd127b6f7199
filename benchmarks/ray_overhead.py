"""Ray's share of the time: the whole command beside the same functions in a plain loop on as many processes."""

import dataclasses
import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.films import many_inputs, toon_films
from benchmarks.kills import curate_command
from benchmarks.plain_loop import loop_seconds
from benchmarks.processes import Process, descendants
from benchmarks.results import REPOSITORY, table, verdict
from curation import profiles
from curation.config import CurationConfig
from curation.config_json import to_json

WORKERS = 2
FEW = 8 * WORKERS
"""Inputs of the small job, whose time tells start-up from steady state."""
FILM_S = 30.0
"""As `demo.footage` films them."""
RAY_PROGRAMS = ("raylet/raylet", "gcs/gcs_server", "ray::")


def config() -> CurationConfig:
    """Profile demo without media: those are written by tasks of their own after all videos are measured."""
    demo = profiles.demo()
    return dataclasses.replace(demo, runs=dataclasses.replace(demo.runs, min_frames=10**9))


@dataclass(frozen=True)
class Ran:
    """Wall time of a command in s, and Ray's programs seen below it."""

    wall_s: float
    ray_programs: frozenset[str]


def job(inputs: Path, output: Path, profile: Path) -> Ran:
    """Run the command of the job once. Raises RuntimeError with the end of its log when it fails."""
    log = output.with_name(f"{output.name}.log")
    began, seen = time.perf_counter(), set[str]()
    with log.open("ab") as file:
        command = curate_command(inputs, output, ["--profile", str(profile)])
        one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
        running = subprocess.Popen(command, stdout=file, stderr=file, cwd=REPOSITORY, env=one_thread)
        while running.poll() is None:
            seen |= _ray_programs(descendants(running.pid))
            time.sleep(0.1)
    if running.returncode:
        raise RuntimeError(f"the job ended with {running.returncode}: {log.read_text()[-600:]}")
    return Ran(time.perf_counter() - began, frozenset(seen))


def _ray_programs(processes: list[Process]) -> set[str]:
    return {name for process in processes for name in RAY_PROGRAMS if name in process.command}


def report(folder: Path, films_folder: Path, minutes: float) -> list[str]:
    """Run loop and job on as many inputs as keep the loop busy for `minutes`; the table and its bars."""
    os.environ["OMP_NUM_THREADS"] = "1"
    films = toon_films(films_folder / "half_minute", 8, FILM_S)
    few = many_inputs(films, folder / "few", FEW)
    loop_few = loop_seconds(few, config(), WORKERS)
    many = many_inputs(films, folder / "many", max(2 * FEW, round(1.05 * 60 * minutes / loop_few * FEW)))
    loop_many = loop_seconds(many, config(), WORKERS)
    profile = folder / "profile.json"
    profile.write_text(to_json(config()), "utf-8")
    before = job(few[0].parent, folder / "out_before", profile)
    ray_many = job(many[0].parent, folder / "out_many", profile)
    again = job(many[0].parent, folder / "out_many", profile)
    after = job(few[0].parent, folder / "out_after", profile)
    ray_few_s = min(before.wall_s, after.wall_s)  # start-up varies by seconds
    return _lines(len(many), loop_few, loop_many, ray_few_s, ray_many.wall_s, again)


def _lines(count: int, loop_few: float, loop_many: float, ray_few: float, ray_many: float, again: Ran) -> list[str]:
    per_loop, per_ray = ((many - few) / (count - FEW) for few, many in ((loop_few, loop_many), (ray_few, ray_many)))
    start_up_s = ray_few - FEW * per_ray
    ray_seen = ", ".join(sorted(again.ray_programs)) or "none"
    holds = again.wall_s <= 10.0 and not again.ray_programs
    rows = [
        ("plain loop", f"{loop_few:.1f}", f"{loop_many:.1f}", f"{per_loop:.3f}"),
        ("Ray, the whole command", f"{ray_few:.1f}", f"{ray_many:.1f}", f"{per_ray:.3f}"),
    ]
    return [
        f"Toon films of {FILM_S:g} s, profile demo without media, {WORKERS} processes, `--num-cpus {WORKERS}`. "
        "Steady state is what each further video costs: the difference of two jobs, in which start-up cancels out.",
        "",
        *table(["wall s", f"{FEW} videos", f"{count} videos", "s per further video"], rows),
        "",
        f"- Ray over the loop in steady state: {verdict(100 * (per_ray / per_loop - 1), 15, at_most=True)} %",
        f"- start-up of Ray, models and workers: {start_up_s:.1f} s",
        f"- finished job of {count} videos run again: {again.wall_s:.1f} s, Ray processes started: {ray_seen} "
        f"(≤ 10 s and none: {'holds' if holds else '**missed**'})",
    ]
