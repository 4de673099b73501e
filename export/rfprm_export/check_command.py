"""``rfprm check``: a model's scores beside those that its authors published."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from rfprm_export import ExportError
from rfprm_export.commands import (
    BaseOption,
    ChatTemplateOption,
    FamilyOption,
    SeparatorOption,
    SystemPromptOption,
    reading_options,
)
from rfprm_export.preset import ReadingOptions
from rfprm_export.published_scores import (
    PUBLISHED_SCORES,
    Comparison,
    PublishedScore,
    compare,
    published_scores_of,
)
from rfprm_export.source import Place, Source, artifact_or_source
from rfprm_runtime.artifact.manifest import read_manifest
from rfprm_runtime.cli.options import ProgressOption
from rfprm_runtime.cli.printing import print_rows, source_rows
from rfprm_runtime.errors import MissingExtraError
from rfprm_runtime.ground.progress import Progress, shown_stages
from rfprm_runtime.scorer import Scorer


def check(
    model: Annotated[
        str, typer.Argument(help="A published PRM's folder, org/name[@revision], or an artifact.")
    ],
    family: FamilyOption = None,
    step_separator: SeparatorOption = None,
    system_prompt: SystemPromptOption = None,
    chat_template: ChatTemplateOption = None,
    base: BaseOption = None,
    progress: ProgressOption = None,
) -> None:
    """Compare a model's scores with those that its authors published of it."""
    reading = reading_options(family, step_separator, system_prompt, chat_template)
    with shown_stages(progress) as told:
        found = compare_with_published(artifact_or_source(model), reading, base, told)
    print_rows(Console(highlight=False), _rows(found))
    if not all(one.agrees for one in found.comparisons):
        raise ExportError(
            f"{found.name} does not give the scores that its authors published; if it is that "
            "model, its prompt or head is read wrongly: do not use these scores"
        )


@dataclass(frozen=True)
class Checked:
    """A model beside what was published of it."""

    name: str
    origin: Mapping[str, Any]
    """A manifest's ``source``."""
    measured_on: str
    comparisons: list[Comparison]


def compare_with_published(
    place: Path | Source, reading: ReadingOptions, base: Place | None, progress: Progress
) -> Checked:
    """An artifact is run by its own backend, another model by the reference network.

    Raises :class:`ExportError` if nothing is known to have been published of it, before its
    weights are read or fetched, and :class:`MissingExtraError` without torch.
    """
    if isinstance(place, Path):
        manifest = read_manifest(place)
        name, published = manifest.name, _published(manifest.name, manifest.source)
        with Scorer.load(place) as scorer:
            scores = scorer.score_batch([one.trajectory for one in published])
            compared = compare(published, scores)
            return Checked(name, manifest.source, scorer.backend_description, compared)
    published = _published(place.name, place.record)
    return _by_reference(place, reading, base, published, progress)


def _published(name: str, origin: Mapping[str, Any]) -> Sequence[PublishedScore]:
    repo = origin.get("repo")
    found = published_scores_of(name, repo if isinstance(repo, str) else None)
    if not found:
        known = sorted({one.model for one in PUBLISHED_SCORES})
        raise ExportError(
            f"no published scores of {repo or name} are known here; there are some of "
            f"{', '.join(known)}"
        )
    return found


def _by_reference(
    place: Source,
    reading: ReadingOptions,
    base: Place | None,
    published: Sequence[PublishedScore],
    progress: Progress,
) -> Checked:
    if find_spec("torch") is None:
        raise MissingExtraError("torch", "train", "running the reference network")
    from rfprm_export.checkpoint import load_prm
    from rfprm_export.reference import score_by_reference

    prm = load_prm(place, reading=reading, base=base)
    traces = [one.trajectory for one in published]
    measured_on, scores = score_by_reference(prm, traces, progress)
    return Checked(place.name, prm.manifest.source, measured_on, compare(published, scores))


def _rows(found: Checked) -> Iterator[tuple[str, str]]:
    yield "model", found.name
    yield from source_rows(found.origin)
    yield "measured on", found.measured_on
    for one in found.comparisons:
        verdict = "agrees" if one.agrees else "DIFFERS"
        yield "published", f"{_numbers(one.published.expected)}  ({one.published.source})"
        yield (
            "found",
            f"{_numbers(one.found)}  {verdict}: up to {one.difference:.4g}, "
            f"{one.published.tolerance:g} is allowed",
        )


def _numbers(values: Sequence[float]) -> str:
    return " ".join(f"{value:.4f}" for value in values)
