"""Which family a published PRM is of: decided by its ``config.json`` and its name, before a weight
is read.
"""

from __future__ import annotations

from fnmatch import fnmatch

from rfprm_export import ExportError
from rfprm_runtime.artifact.families import FAMILIES, Family

# What a folder of the published name is, where its files do not tell: it has the layout of a
# language model. Sources: the model cards.
_NO_PRM_BY_NAME = {
    "reasonflux-prm-qwen-2.5-*": "a policy that was trained with the PRM's help; the PRMs are "
    "ReasonFlux-PRM-7B and ReasonFlux-PRM-1.5B",
    "genprm-*": "a generative PRM",
    "thinkprm-*": "a generative PRM",
    "r-prm-*": "a generative PRM",
    "rm-r1-*": "a generative reward model",
}
_WRITES_ITS_VERDICT = (
    ", which writes its verdict as text; rfprm reads scores in one pass and cannot run it"
)
# What the last words of an architecture say about the model.
_KINDS = {
    "ForTokenClassification": "a token classifier, as TRL trains PRMs: it is read at a separator "
    "that the checkpoint does not hold, and its labels are wrong and right",
    "ForSequenceClassification": "a reward model that gives one number for a whole sequence",
    "ForRewardModel": "a reward model with a head of its own",
    "ForPrmModel": "a PRM with a value head of its own (v_head)",
    "ForCausalLM": "a language model, which has no head for scores",
    "ForConditionalGeneration": "a language model, which has no head for scores",
}
_WITHOUT_HEAD = ("LlamaModel", "Qwen2Model", "Qwen3Model")


def choose_family(
    name: str | None, folder_name: str, architectures: tuple[str, ...]
) -> tuple[str, Family]:
    """The family of the model in a folder called ``folder_name``; ``name`` is the one that the user
    gave, which decides only where the architecture leaves it open.

    Raises :class:`ExportError`: an unknown family, a model of another kind, or nothing that tells.
    """
    if name is not None and name not in FAMILIES:
        raise ExportError(f"family is {name!r}, expected one of {sorted(FAMILIES)}")
    _check_name(folder_name)
    for known, family in FAMILIES.items():
        if set(architectures) & set(family.architectures):
            if name not in (None, known):
                raise ExportError(
                    f"the architecture {architectures[0]} is that of the family {known!r}, which "
                    f"--family {name} contradicts; leave it out"
                )
            return known, family
    described = _described(architectures)
    if described is not None:
        raise ExportError(
            f"the model is a {described}; the families that can be read are {sorted(FAMILIES)}, "
            "and --family does not change what a model is"
        )
    if name is None:
        raise ExportError(
            f"the architectures {list(architectures)} do not tell the PRM's format; give it with "
            f"--family, one of {sorted(FAMILIES)}"
        )
    return name, FAMILIES[name]


def _check_name(folder_name: str) -> None:
    for pattern, what in _NO_PRM_BY_NAME.items():
        if fnmatch(folder_name.lower(), pattern):
            writes = _WRITES_ITS_VERDICT if "generative" in what else ""
            raise ExportError(f"{folder_name} is {what}{writes}")


def _described(architectures: tuple[str, ...]) -> str | None:
    """What the model is; None for a decoder without a head, or if nothing tells."""
    for architecture in architectures:
        for ending, what in _KINDS.items():
            if architecture.endswith(ending):
                return f"{architecture}, {what}"
    others = [one for one in architectures if one not in _WITHOUT_HEAD]
    return f"{others[0]}, which is not a known kind of PRM" if others else None
