"""Comparing, training, and looking whether the measuring itself can be believed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from actuators.errors import BadInput

from ..settings import PACKAGED, load
from .options import DEFAULT_CONFIG, Algorithm, ClusterKind, Config, Device, wide_console


def benchmark(
    cluster: Annotated[
        ClusterKind | None, typer.Option(help="Whose packaged settings are taken; the local one's if not given.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="Settings file, in place of a packaged one.")] = None,
    policies: Annotated[
        str | None,
        typer.Option(
            help="As for run, separated by commas; if not given random, round-robin, thompson and oracle, "
            "with --split all that have not learnt."
        ),
    ] = None,
    minutes: Annotated[float | None, typer.Option(help="Minutes of each campaign.")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Campaigns of each policy: 1, or 20 with --replay.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of the first campaign; seeds every random choice.")] = None,
    run_dir: Annotated[Path | None, typer.Option(help="The benchmark's folder; one that was cut off goes on.")] = None,
    plant: Annotated[
        int | None, typer.Option(help="Switches that are weak at each start, drawn by its seed; a local cluster's.")
    ] = None,
    again: Annotated[Path | None, typer.Option("--replay", help="Draw from this benchmark's evidence.")] = None,
    split: Annotated[
        str | None, typer.Option(help="Splits of the frozen suite of simulated clusters, separated by commas.")
    ] = None,
    clusters: Annotated[int | None, typer.Option(min=2, help="With --split: how many of each.")] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="With --split: of the processor, for each worker; 1 if not given.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="With --split: policies at once, as Ray tasks on this host.")
    ] = None,
) -> None:
    """Compares policies: the same planted weaknesses, the same minutes."""
    where = {"--cluster": cluster, "--config": config, "--plant": plant}
    of_split = {"--clusters": clusters, "--threads": threads, "--workers": workers}
    if split is not None:
        from ..benchmark.splits import RIVALS, compare

        elsewhere = where | {"--minutes": minutes, "--seeds": seeds, "--seed": seed, "--replay": again}
        _none_of(elsewhere, "not with --split, whose clusters, minutes and luck are frozen")
        asked = _named(policies) if policies is not None else list(RIVALS)
        wanted = [name.strip() for name in split.split(",") if name.strip()]
        out = run_dir or Path("runs") / f"{datetime.now():%Y-%m-%d-%H%M%S}-suite"
        compare(asked, wanted, out, wide_console(), clusters=clusters, threads=threads or 1, workers=workers or 1)
        return
    _none_of(of_split, "only with --split")
    from ..benchmark.figures import lines_of
    from ..benchmark.live import Benchmark
    from ..benchmark.replay import replayed

    names = _named("random,round-robin,thompson,oracle" if policies is None else policies)
    if again is not None:
        _none_of(where | {"--run-dir": run_dir}, "not with --replay, which draws from what was recorded")
        told = replayed(again, names, seeds=seeds or 20, budget_min=minutes, first_seed=seed or 0)
        typer.echo("\n".join(lines_of(told.rows)))
        typer.echo(
            f"unknown: {told.unknown} of {told.offered} experiments; nobody ever tried them, and no policy could"
        )
        return
    if config is not None:
        _none_of({"--cluster": cluster}, "not with --config, whose settings say which cluster it is")
    packaged = PACKAGED / f"{cluster or ClusterKind.LOCAL}.yaml"
    settings = load(config or packaged, {"campaign.budget_min": minutes, "campaign.seed": seed})
    folder = run_dir or settings.runs_dir / f"{datetime.now():%Y-%m-%d-%H%M%S}-benchmark-{settings.cluster.id}"
    rows = Benchmark(settings, names, seeds or 1, folder, wide_console(), plant=plant).execute()
    typer.echo(f"\nevidence: {folder}")
    typer.echo("\n".join(lines_of(rows)))


def _none_of(options: Mapping[str, object], why: str) -> None:
    """Refuses options that would be ignored.

    Raises:
        BadInput: one of them was given.
    """
    if given := [name for name, value in options.items() if value is not None]:
        raise BadInput(f"{given[0]}: {why}")


def _named(policies: str) -> list[str]:
    """Returns the policies of a list: names have underscores, whatever is typed, and files their own names."""
    from ..benchmark.splits import is_path

    found = [name.strip() for name in policies.split(",") if name.strip()]
    return [name if is_path(name) else name.replace("-", "_") for name in found]


def train(
    out: Annotated[Path, typer.Option(help="The policy's file, ending in .safetensors; must not exist.")],
    algorithm: Annotated[Algorithm, typer.Option(help="How it learns.")] = Algorithm.POSTERIOR,
    steps: Annotated[int, typer.Option(min=1, help="Experiments on each cluster of the batch.")] = 3000,
    batch: Annotated[int, typer.Option(min=1, help="Clusters at once.")] = 256,
    components: Annotated[
        tuple[int, int] | None, typer.Option(help="Fewest and most components of a cluster; 6 and 24 if not given.")
    ] = None,
    hidden: Annotated[
        int | None, typer.Option(min=4, max=4096, help="Width of the network; 64, or 16 with ppo.")
    ] = None,  # a file that names a larger one is refused, see policy_file.py
    seed: Annotated[int, typer.Option(min=0, help="Seeds every random choice.")] = 0,
    device: Annotated[Device, typer.Option(help="Where to learn.")] = Device.CPU,
    threads: Annotated[int, typer.Option(min=1, help="Of the processor.")] = 1,
    teacher: Annotated[
        Path | None,
        typer.Option(help="With ppo: the posterior policy that it begins from, if not the shipped one."),
    ] = None,
    held_back: Annotated[
        bool, typer.Option("--held-back", help="On the training clusters of `benchmark --split` alone.")
    ] = False,
    run_dir: Annotated[
        Path | None, typer.Option(help="With ppo: its checkpoints and logs; a training that was cut off goes on.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="With ppo: how many train together, over Ray Train.")
    ] = None,
    ray_address: Annotated[
        str | None,
        typer.Option(help="Of the Ray cluster that workers run on; one of their own on this host if not given."),
    ] = None,
) -> None:
    """Trains a policy on simulated clusters, and tries it on others."""
    from ..learning import school, suite
    from ..learning.policy_file import SHIPPED
    from ..learning.train import Lessons

    if held_back:
        _none_of({"--components": components}, "not with --held-back, whose clusters are those of the suite's training")
    generator = suite.HELD_BACK if held_back else suite.usual(components or (6, 24))
    width: dict[str, Any] = {} if hidden is None else {"hidden": hidden}
    if algorithm is Algorithm.PPO:
        from ..learning.ppo.practice import Practice

        practice = replace(Practice(steps=steps, batch=batch, seed=seed), **width)
        school.train_ppo(
            practice,
            generator,
            out,
            wide_console(),
            teacher=teacher or SHIPPED["posterior"],
            folder=run_dir or out.with_suffix(".training"),
            device=device,
            threads=threads,
            workers=workers or 1,
            ray_address=ray_address,
        )
        return
    of_ppo = {"--teacher": teacher, "--run-dir": run_dir, "--workers": workers, "--ray-address": ray_address}
    _none_of(of_ppo, "only with --algorithm ppo; a posterior policy learns alone, in one go")
    lessons = replace(Lessons(steps=steps, batch=batch, seed=seed), **width)
    school.train(lessons, generator, out, wide_console(), device=device, threads=threads)


def calibrate(runs: Annotated[list[Path], typer.Argument(help="Folders of finished runs on a real cluster.")]) -> None:
    """Says how well simulated clusters agree with what runs on a real one have shown."""
    from ..learning.realism import lines_of, realism

    typer.echo("\n".join(lines_of(realism(runs))))


def shams(
    config: Config = DEFAULT_CONFIG,
    starts: Annotated[int, typer.Option(min=1, help="Starts of the cluster to record.")] = 2,
    minutes: Annotated[float, typer.Option(min=1, max=1440, help="Minutes to record after each start.")] = 15.0,
    run_dir: Annotated[Path | None, typer.Option(help="Where recordings go, beside those that are there.")] = None,
    score: Annotated[Path | None, typer.Option(help="Judge what was recorded there; record nothing.")] = None,
) -> None:
    """Measures how often fault-free time alarms."""
    settings = load(config)
    from ..shams.measuring import measure
    from ..shams.recording import record_starts

    folder = score or run_dir or settings.runs_dir / "shams"
    if score is None:
        record_starts(settings, folder, starts, minutes, wide_console())
    measure(folder, wide_console())
