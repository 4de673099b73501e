"""Prints scores, manifests and findings for people to read. Needs the extra ``cli``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from rfprm_runtime.artifact.build_records import EngineRecord, Parity
from rfprm_runtime.artifact.manifest import Head, Manifest
from rfprm_runtime.artifact.parity import best_of_4_interval, spearman_interval
from rfprm_runtime.artifact.prompt_format import Marker
from rfprm_runtime.cli.doctor import Finding
from rfprm_runtime.cli.scored_lines import FileSummary
from rfprm_runtime.ground.tint import Scale, three
from rfprm_runtime.types import Trajectory, TrajectoryScore


def print_score(console: Console, trajectory: Trajectory, score: TrajectoryScore) -> None:
    """Print the question, each step next to its score, the response and the reward."""
    scale = Scale.of([*map(float, score.step_scores), score.trajectory_score])
    console.print(f"[bold]{escape(trajectory.question)}[/bold]")
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right")
    table.add_column()
    numbers = [_tinted(float(step_score), scale) for step_score in score.step_scores]
    for number, step in zip(numbers or [""] * len(trajectory.steps), trajectory.steps, strict=True):
        table.add_row(number, escape(step))
    final = "" if score.trajectory_score is None else _tinted(score.trajectory_score, scale)
    table.add_row(final, f"[dim]trajectory[/dim]  {escape(' '.join(trajectory.response))}")
    console.print(Padding(table, (0, 0, 0, 2)))
    facts = [f"{score.num_tokens} tokens", *filter(None, [scale.sentence()])]
    console.print(f"  reward {three(score.reward)}  [dim]({'; '.join(facts)})[/dim]\n")


def _tinted(score: float, scale: Scale) -> str:
    place = scale.place(score)
    color = "green" if place >= 2 / 3 else "yellow" if place >= 1 / 3 else "red"
    return f"[{color}]{three(score)}[/{color}]"


def print_file_summary(
    summary: FileSummary, source: str, said: Iterable[str], *, backend: str, quiet: bool
) -> None:
    """Print to stderr what was read, ``said``, and what failed; if ``quiet`` only the last."""
    console = Console(stderr=True, soft_wrap=True, highlight=False, quiet=quiet)
    if backend == "fake":
        console.print("backend 'fake' makes its scores up", style="yellow")
    if not summary.num_scored + summary.num_failed:
        console.print(f"{source} is empty: it has no traces to score", markup=False, style="yellow")
    for sentence in (*summary.tally.sentences(), *said, *summary.about_windows()):
        console.print(sentence, markup=False)
    console.quiet = False
    for error in summary.first_errors:
        console.print(error, markup=False, style="red")
    if summary.num_failed > len(summary.first_errors):
        console.print(f"and {summary.num_failed - len(summary.first_errors)} more", style="red")
    if summary.num_failed:
        console.print(
            f"{summary.num_failed} {summary.unit}s could not be scored → {summary.errors_path}",
            markup=False,
        )


def print_manifest(console: Console, manifest: Manifest, sha256: str) -> None:
    """Print what people want to know about an artifact, in two columns. ``sha256``: that of its
    ``prm.json``."""
    print_rows(console, [*_manifest_rows(manifest), ("sha256 of prm.json", sha256)])


def print_rows(console: Console, rows: Iterable[tuple[str, str]]) -> None:
    """Print labels and texts in two columns; to a file or pipe, one line each, however long."""
    if not console.is_terminal:
        lines = list(rows)
        width = max((len(label) for label, _ in lines), default=0)
        for label, value in lines:
            console.print(f"{label:{width}}  {value}", markup=False, soft_wrap=True)
        return
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(overflow="fold")  # a truncated digest is useless
    for label, value in rows:
        table.add_row(f"[dim]{label}[/dim]", escape(value))
    console.print(table)


_COLORS = {"ok": "green", "missing": "dim", "unusable": "yellow", "broken": "red"}


def print_findings(console: Console, findings: Iterable[Finding]) -> None:
    """Print what ``rfprm doctor`` found, by area."""
    for area, group in groupby(findings, key=lambda finding: finding.area):
        console.print(f"[bold]{area}[/bold]")
        if not console.is_terminal:  # one line each, however long
            for finding in group:
                line = f"  {finding.state:8}  {finding.name:14}  {finding.detail}"
                console.print(line, markup=False, soft_wrap=True)
            continue
        table = Table.grid(padding=(0, 2))
        for _ in range(2):
            table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for finding in group:
            state = f"[{_COLORS[finding.state]}]{finding.state}"
            table.add_row(state, escape(finding.name), escape(finding.detail))
        console.print(Padding(table, (0, 0, 0, 2)))


def engine_rows(engine: EngineRecord) -> Iterator[tuple[str, str]]:
    """What people want to know about a TensorRT engine, as labels and texts."""
    yield "engine", f"{engine.flavour} {engine.version}"
    yield "for compute capability", ", ".join(engine.compute_capabilities)
    for profile in engine.profiles:
        yield (
            "profile",
            f"up to {profile.batch.max} × {profile.length.max:,} tokens "
            f"(fastest at {profile.batch.opt} × {profile.length.opt:,}), "
            f"{profile.num_markers.max:,} markers",
        )
    if engine.weights == "stripped":
        yield "weights", "read from the graph next to the plan"
    if engine.device_bytes:
        yield (
            "GPU memory",
            f"{engine.device_bytes / 2**30:.2f} GiB per stream for the largest profile, plus the "
            "weights",
        )
    if engine.parity is None:
        yield (
            "parity of the engine",
            "not measured: it was built without a checkpoint to compare with, or without a GPU",
        )
    else:
        yield (
            "parity of the engine",
            f"max difference {engine.parity.max_difference:.1e}, mean "
            f"{engine.parity.mean_difference:.1e}, on {engine.parity.measured_on}",
        )


def _precision(manifest: Manifest) -> str:
    if not manifest.products:
        return manifest.precision
    num_8_bit = sum(linear.bits == 8 for linear in manifest.products)
    rest = (
        "int16" if manifest.precision == "int8" else manifest.exporter.get("float_type", "16 bits")
    )
    return (
        f"{manifest.precision} in {num_8_bit} of {len(manifest.products)} linears, "
        f"{rest} in the others"
    )


def _head(head: Head) -> str:
    return f"{head.kind}, {head.num_labels} label{'s' if head.num_labels > 1 else ''}"


def _said(value: object) -> str:
    """A fact about where a model came from; a base model has several."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {fact}" for name, fact in value.items())
    return str(value)


def _marker(marker: Marker) -> str:
    if not marker.token:
        return "none: the score is read at the last token of the text"
    several = f", the last of {len(marker.all_ids)}" if len(marker.all_ids) > 1 else ""
    # A marker may be line ends and blanks.
    shown = (
        marker.token if marker.token.isprintable() and marker.token.strip() else repr(marker.token)
    )
    return f"{shown} (id {marker.id}{several})"


def _reward_rows(manifest: Manifest) -> list[tuple[str, str]]:
    """What Eq. 11 makes of the scores."""
    step, whole, bounds = (
        manifest.step_readout,
        manifest.trajectory_readout,
        manifest.reward_bounds,
    )
    made_of = "mean step score" if whole is None else "trajectory score"
    if step is not None and whole is not None:
        made_of = "mean step score + α · trajectory score"
    between = "without bounds" if bounds is None else f"from {bounds[0]:g} to {bounds[1]:g}"
    return [
        *([("α (Eq. 11)", str(manifest.alpha))] if step is not None and whole is not None else []),
        ("reward", f"{made_of}, {between}"),
    ]


def _first_error_rows(manifest: Manifest) -> list[tuple[str, str]]:
    rule = manifest.first_error
    if rule is None:
        return []
    return [("first error", f"first step below {rule.wrong_below:.3f}; {rule.fitted_on}")]


def _manifest_rows(manifest: Manifest) -> list[tuple[str, str]]:
    shape, prompt, parity = manifest.backbone, manifest.prompt, manifest.parity
    markers = [("step marker", prompt.step_marker), ("trajectory marker", prompt.trajectory_marker)]
    rows = [
        ("name", manifest.name),
        ("family", manifest.family),
        (
            "backbone",
            f"{shape.num_layers} layers, hidden {shape.hidden_size}, {shape.num_heads} heads, "
            f"{shape.num_kv_heads} KV heads, vocabulary {shape.vocab_size}",
        ),
        ("max positions", f"{manifest.max_positions} tokens"),
        ("precision", _precision(manifest)),
        ("head", _head(manifest.head)),
        *((name, _marker(marker)) for name, marker in markers if marker),
        *_reward_rows(manifest),
        *_first_error_rows(manifest),
        *((f"file {name}", f"{file.num_bytes:,} bytes") for name, file in manifest.files.items()),
        *source_rows(manifest.source),
        ("exported with", ", ".join(f"{k} {v}" for k, v in manifest.exporter.items())),
        *(engine_rows(manifest.engine) if manifest.engine is not None else ()),
    ]
    if parity is None:
        return [*rows, ("parity", "not verified")]
    return [*rows, *_parity_rows(parity)]


def source_rows(source: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """A manifest's ``source``, where a model came from, as labels and texts."""
    for name, fact in source.items():
        yield name.replace("_", " "), _said(fact)


def _parity_rows(parity: Parity) -> Iterator[tuple[str, str]]:
    """With the intervals that so few trajectories allow."""
    ranks, picks = spearman_interval(parity), best_of_4_interval(parity)
    rank = "undefined" if parity.spearman is None else f"{parity.spearman:.6f}"
    if ranks is not None:
        rank += f" (95 %: {ranks[0]:.6f} to {ranks[1]:.6f})"
    yield (
        "parity",
        f"max difference {parity.max_difference:.1e}, mean {parity.mean_difference:.1e}"
        f"{'' if parity.unit == 1 else f' of a range of {parity.unit:.3g}'}, "
        f"Spearman {rank} on {parity.num_scores} scores of {parity.traces}",
    )
    if picks is not None:
        yield (
            "Best-of-4",
            f"same pick in {parity.same_best_of_4:.1%} of {parity.num_groups} groups "
            f"(95 %: {picks[0]:.1%} to {picks[1]:.1%})",
        )
    yield "reference", parity.reference
    if parity.measured_on:
        yield "measured on", parity.measured_on
