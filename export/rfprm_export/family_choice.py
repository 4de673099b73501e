"""Which family a published PRM is of: decided by its ``config.json`` and its name, before a weight
is read.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches

from rfprm_export import ExportError
from rfprm_export.preset import Preset
from rfprm_export.presets import PRESETS
from rfprm_export.refused_names import why_refused
from rfprm_runtime.artifact.families import FAMILIES

# What the last words of an architecture say about the model.
_KINDS = {
    "ForTokenClassification": "a token classifier, as TRL trains PRMs",
    "ForSequenceClassification": "a reward model that gives one number for a whole sequence",
    "ForProcessRewardModel": "a PRM with a head of two layers, as Qwen2.5-Math-PRM's",
    "ForRewardModel": "a reward model with a head of its own",
    "ForPrmModel": "a PRM with a value head (v_head)",
    "ForCausalLM": "a language model, and nothing in it tells whether it is a PRM, or which",
    "ForConditionalGeneration": "a language model that reads more than text",
}


def choose_family(
    asked: str | None,
    name: str,
    architectures: tuple[str, ...],
    file_names: Collection[str] = (),
) -> tuple[str, Preset]:
    """The family of the model called ``name`` (a folder's name, or a repository's without its
    owner), and its preset. ``asked``: the one that the user gave, which decides only among those
    that such an architecture can be; ``file_names``: the files beside its weights.

    Raises :class:`ExportError`: an unknown family, a model of another kind, or nothing that tells.
    """
    refused = why_refused(name)
    if refused is not None:
        raise ExportError(refused)
    several = tuple(dict.fromkeys(architectures))
    if len(several) < 2:
        return _choose(asked, name, several, file_names)
    return _agreed([_tried(asked, name, one, file_names) for one in several], several)


def _agreed(
    found: Sequence[tuple[str, Preset] | ExportError], architectures: tuple[str, ...]
) -> tuple[str, Preset]:
    """What all of several architectures are. Raises :class:`ExportError` if they differ: which of
    them the weights are of, their order does not tell."""
    chosen = [one for one in found if not isinstance(one, ExportError)]
    if not chosen:
        raise next(one for one in found if isinstance(one, ExportError))
    if len(chosen) < len(found) or len({family for family, _ in chosen}) > 1:
        kinds = " and ".join(f"{one} ({_kind(one)})" for one in architectures)
        raise ExportError(
            f"the model's config.json names several architectures, which are not of one family: "
            f'{kinds}; leave the one that the weights are of in its "architectures"'
        )
    return chosen[0]


def _tried(
    asked: str | None, name: str, architecture: str, file_names: Collection[str]
) -> tuple[str, Preset] | ExportError:
    try:
        return _choose(asked, name, (architecture,), file_names)
    except ExportError as error:
        return error


def _choose(
    asked: str | None, name: str, architectures: tuple[str, ...], file_names: Collection[str]
) -> tuple[str, Preset]:
    """For one architecture, or none."""
    fitting = {known: preset for known, preset in PRESETS.items() if preset.fits(architectures)}
    if asked is not None:
        if asked not in fitting:
            raise ExportError(_not_that(asked, architectures, fitting))
        return asked, fitting[asked]
    _check_name(name, architectures)
    for decides in (
        lambda preset: preset.is_named(name),
        lambda preset: bool(set(preset.side_files) & set(file_names)),
        lambda preset: preset.owns(architectures),
    ):
        found = [(known, preset) for known, preset in fitting.items() if decides(preset)]
        if found:
            return found[0]
    raise ExportError(_undecided(architectures, fitting))


def _check_name(name: str, architectures: tuple[str, ...]) -> None:
    """A copy that was saved by a class which does not know the head has lost it, and keeps the
    name. A classifier has the head of its own class, whatever it was made from.

    Raises :class:`ExportError`.
    """
    named = [known for known, preset in PRESETS.items() if preset.is_named(name)]
    is_classifier = any(one.endswith("Classification") for one in architectures)
    if named and not is_classifier and not any(PRESETS[one].fits(architectures) for one in named):
        raise ExportError(
            f"{_described(architectures)}, but a model called {name} is of family {named[0]!r}, "
            "which has another: a copy that is saved without its authors' code loses the PRM's "
            "head; export the original, or rename the folder if it holds another model"
        )


def _not_that(asked: str, architectures: tuple[str, ...], fitting: Mapping[str, Preset]) -> str:
    """Why the family ``asked`` is refused, and which ones are not."""
    if asked in FAMILIES and asked not in PRESETS:
        return (
            f"family {asked!r} is of PRMs trained here, whose checkpoint.json names it; give the "
            "run's folder, and leave --family out"
        )
    if asked not in PRESETS:
        close = get_close_matches(asked, fitting, n=1)
        hint = f"did you mean {close[0]!r}?" if close else _one_of(fitting, "expected")
        return f"family is {asked!r}, which is not known; {_described(architectures)}; {hint}"
    others = {one: preset for one, preset in fitting.items() if not preset.owns(architectures)}
    owner = next((one for one in fitting if one not in others), None)
    leave = "" if owner is None else f"leave it out, which reads the model as {owner!r}"
    ways = [leave, _one_of(others, "give")] if others or owner is None else [leave]
    return (
        f"{_described(architectures)}; --family {asked} contradicts that, and does not change what "
        f"a model is; {', or '.join(filter(None, ways))}"
    )


def _undecided(architectures: tuple[str, ...], fitting: Mapping[str, Preset]) -> str:
    return f"{_described(architectures)}; {_one_of(fitting, 'say which PRM it is with --family,')}"


def _one_of(fitting: Mapping[str, Preset], verb: str) -> str:
    if not fitting:
        return "no model of that architecture can be read (docs/prms.md lists those that can)"
    return f"{verb} one of {sorted(fitting)}"


def _described(architectures: tuple[str, ...]) -> str:
    if not architectures:
        return "the model's config.json names no architecture"
    name = architectures[0]
    return f"the model's architecture is {name}, {_kind(name)}"


def _kind(architecture: str) -> str:
    found = (what for ending, what in _KINDS.items() if architecture.endswith(ending))
    return next(found, "which is not a known kind of PRM")
