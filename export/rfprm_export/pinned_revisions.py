"""The commits of published models that are taken where a user names no revision.

So an export gives the same artifact next year, and whoever takes a repository over changes nothing
in it. Each commit was read where others name it: in public code that runs the model, or on the
Hub's own pages of its history. A commit that is not known is not guessed: other repositories are
taken at their newest.
"""

from __future__ import annotations

from dataclasses import replace

from rfprm_runtime.hub.ids import HubId

PINNED_REVISIONS = {
    "Gen-Verse/ReasonFlux-PRM-7B": "835c4809502841a4601b024f770f8d1f62efaabf",
    "peiyi9979/math-shepherd-mistral-7b-prm": "45dc0a3c9ec699b645085c098ed38dc99fba4617",
    "Qwen/Qwen2.5-Math-7B-PRM800K": "9d6e292f6ccfd474fa44461ce6d5b80d08d8f3c7",
    "Qwen/Qwen2.5-Math-PRM-72B": "9df429b02adb5f764cd6e30e76a0cca16d501ae1",
    "Qwen/Qwen2.5-Math-PRM-7B": "0610740060112df12585d00a1c5f4624d2f59051",
    "RLHFlow/Llama3.1-8B-PRM-Deepseek-Data": "51100bc635eff6ad6a3e3fdab87703491461a88b",
    "Skywork/Skywork-o1-Open-PRM-Qwen-2.5-7B": "d28ac22e10adb604a66ecfb1a00a1f527d5d8c84",
    "Skywork/Skywork-Reward-Llama-3.1-8B-v0.2": "d4117fbfd81b72f41b96341238baa1e3e90a4ce1",
    "Skywork/Skywork-Reward-V2-Llama-3.1-8B": "cba2f842f3f1af2f1b2f0d35e794d789976390c5",
    "Skywork/Skywork-Reward-V2-Qwen3-1.7B": "e51ea3e08fb81326c3b812a7ff0cb9cee83e59cc",
    "Skywork/Skywork-Reward-V2-Qwen3-8B": "6f19fdefb933293d4898bdb59a96f7223d998659",
    "UW-Madison-Lee-Lab/Llama-PRM800K": "1973a85d64b7a00e50a278b31a6558804bf952eb",
    "UW-Madison-Lee-Lab/VersaPRM": "cd537f770b8077e31b10c7dc6cfd27f582e5de51",
}
_BY_SMALL_NAME = {repo.lower(): commit for repo, commit in PINNED_REVISIONS.items()}
"""The Hub takes names in capitals and small letters for the same."""


def pinned(hub_id: HubId) -> HubId:
    """``hub_id`` with the commit that is taken of it, if it names no revision and one is known."""
    commit = _BY_SMALL_NAME.get(hub_id.repo.lower())
    if hub_id.revision is not None or commit is None:
        return hub_id
    return replace(hub_id, revision=commit, is_pinned=True)
