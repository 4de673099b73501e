"""Published models that look like something that can be scored with, and cannot be read: why.

Their files have the layout of a language model or of another PRM, so only the name tells. Sources:
the model cards.
"""

from __future__ import annotations

from rfprm_export.model_names import is_called

_WRITES = "writes its verdict as text; rfprm reads scores in one pass and cannot run it"
_TWO_MODELS = (
    "is an implicit PRM: its score is the ratio of two language models' probabilities at every "
    "token, and rfprm runs one model and reads it at markers"
)
_IMAGES = "reads images too, and rfprm reads text"

_REASONS = {
    "reasonflux-prm-qwen-2.5-*": "is a policy that was trained with the PRM's help; the PRMs are "
    "ReasonFlux-PRM-7B and ReasonFlux-PRM-1.5B",
    "eurus-2-*": "is a policy that was trained with a PRM's help, not the PRM",
    "genprm-*": f"is a generative PRM, which {_WRITES}",
    "thinkprm-*": f"is a generative PRM, which {_WRITES}",
    "r-prm-*": f"is a generative PRM, which {_WRITES}",
    "dyve*": f"is a generative PRM, which {_WRITES}",
    "gprm*": f"is a generative PRM, which {_WRITES}",
    "rm-r1-*": f"is a generative reward model, which {_WRITES}",
    "rewardanything*": f"is a generative reward model, which {_WRITES}",
    "gram-*": f"is a generative reward model, which {_WRITES}",
    "*nemotron*genrm*": f"is a generative reward model, which {_WRITES}",
    "eurusprm-*": _TWO_MODELS,
    "implicitprm*": _TWO_MODELS,
    "granite-*-math-prm*": "reads the probability of a token among the whole vocabulary, and its "
    "network scales its layers; neither can be exported",
    "pathfinder-prm*": "judges each step in a text of its own, with the steps before it; rfprm "
    "reads all steps in one pass",
    "actprm*": "has an ensemble of eight heads, which the network here does not have",
    "*medprm*": "judges steps by documents that were retrieved for the question, and a trajectory "
    "has none",
    "*spare-prm*": "was trained behind an instruction whose place in the prompt could not be "
    "checked",
    "pqm*": "is stored without its base model and its config.json",
    "reasoneval-*": "has a head of three labels that is read at the last token of each step, in a "
    "prompt that could not be checked",
    "llemma-*-prm-*": "reads the mean of all logits of the vocabulary at a token between steps",
    "visualprm*": _IMAGES,
    "ursa-rm*": _IMAGES,
    "internlm2-*-reward": "has a network of its own (internlm2), which is not built here",
}


def why_refused(name: str) -> str | None:
    """The sentence that says why the model called ``name`` cannot be read; None if it may be."""
    for pattern, reason in _REASONS.items():
        if is_called(name, pattern):
            return f"{name} {reason}"
    return None
