"""Which family a published PRM is of: decided by its ``config.json`` and its name, before a weight
is read.
"""

from __future__ import annotations

from collections.abc import Collection

from rfprm_export import ExportError
from rfprm_export.preset import Preset
from rfprm_export.presets import PRESETS
from rfprm_export.refused_names import why_refused

# What the last words of an architecture say about the model.
_KINDS = {
    "ForTokenClassification": "a token classifier, as TRL trains PRMs",
    "ForSequenceClassification": "a reward model that gives one number for a whole sequence",
    "ForProcessRewardModel": "a PRM with a head of two layers, as Qwen2.5-Math-PRM's",
    "ForRewardModel": "a reward model with a head of its own",
    "ForPrmModel": "a PRM with a value head (v_head)",
    "ForCausalLM": "a language model, which does not tell whether it is a PRM",
    "ForConditionalGeneration": "a language model, which does not tell whether it is a PRM",
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
    if asked is not None and asked not in PRESETS:
        raise ExportError(f"family is {asked!r}, expected one of {sorted(PRESETS)}")
    refused = why_refused(name)
    if refused is not None:
        raise ExportError(refused)
    fitting = {known: preset for known, preset in PRESETS.items() if preset.fits(architectures)}
    if asked is not None:
        if asked not in fitting:
            raise ExportError(_contradiction(asked, architectures, list(fitting)))
        return asked, fitting[asked]
    for decides in (
        lambda preset: preset.is_named(name),
        lambda preset: bool(set(preset.side_files) & set(file_names)),
        lambda preset: preset.owns(architectures),
    ):
        found = [(known, preset) for known, preset in fitting.items() if decides(preset)]
        if found:
            return found[0]
    raise ExportError(_undecided(architectures, list(fitting)))


def _contradiction(asked: str, architectures: tuple[str, ...], fitting: list[str]) -> str:
    return (
        f"{_described(architectures)}, which --family {asked} contradicts: it does not change what "
        f"a model is; {_choices(fitting)}"
    )


def _undecided(architectures: tuple[str, ...], fitting: list[str]) -> str:
    return f"{_described(architectures)}; {_choices(fitting)}"


def _choices(fitting: list[str]) -> str:
    if not fitting:
        return f"no family reads it, of {sorted(PRESETS)}"
    return f"say which PRM it is with --family, one of {sorted(fitting)}"


def _described(architectures: tuple[str, ...]) -> str:
    if not architectures:
        return "the model's config.json names no architecture"
    for name in architectures:
        for ending, what in _KINDS.items():
            if name.endswith(ending):
                return f"the model is a {name}, {what}"
    return f"the model is a {architectures[0]}, which is not a known kind of PRM"
