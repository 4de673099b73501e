"""The columns of a trainer's data set that belong to a prompt.

TRL passes them to reward functions, but not to a ``rollout_func``. Knows data sets; knows no
rewards.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

from rfprm_runtime.errors import InvalidArgumentError, InvalidTrajectoryError
from rfprm_runtime.ground.arguments import shown
from rfprm_runtime.traces.chats import turns_of

# What TRL passes otherwise, or to the model alone.
_NOT_COLUMNS = ("prompt", "completion", "completion_ids", "image", "images")


class RowsByPrompt:
    """Finds rows of one data set by their prompts; reads the prompts once."""

    def __init__(self) -> None:
        self._dataset: Any = None
        self._places: dict[Hashable, list[int]] = {}

    def columns(self, prompts: Sequence[Any], dataset: Any) -> dict[str, list[Any]]:
        """The columns of ``prompts`` [N], [N] each; none if the data set has no others.

        Raises ``ValueError`` for a data set that cannot be looked into, a prompt that is not in
        it, and one that several rows have with different columns.
        """
        names = [n for n in getattr(dataset, "column_names", None) or () if n not in _NOT_COLUMNS]
        if not names and hasattr(dataset, "column_names"):
            return {}
        if not (hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")):
            raise InvalidArgumentError(
                f"the data set is {shown(dataset)}, whose rows cannot be looked up; oversampling "
                "needs a datasets.Dataset to find the columns that belong to a prompt"
            )
        if dataset is not self._dataset:
            self._read(dataset)
        rows = {key: self._row(key, names) for key in map(_key, prompts)}
        return {name: [rows[_key(prompt)][name] for prompt in prompts] for name in names}

    def _read(self, dataset: Any) -> None:
        self._places = {}
        for index, prompt in enumerate(dataset["prompt"]):
            self._places.setdefault(_key(prompt), []).append(index)
        self._dataset = dataset

    def _row(self, key: Hashable, names: Sequence[str]) -> dict[str, Any]:
        places = self._places.get(key)
        if not places:
            raise InvalidArgumentError(
                f"no row of the data set has the prompt {shown(str(key))}, so its columns are "
                "unknown; oversampling needs prompts as they stand in the data set"
            )
        rows = [{name: self._dataset[place][name] for name in names} for place in places]
        if any(repr(row) != repr(rows[0]) for row in rows[1:]):
            raise InvalidArgumentError(
                f"{len(rows)} rows of the data set have the prompt {shown(str(key))} with "
                f"different columns {list(names)}, and a rollout_func sees the prompt alone; make "
                "the prompts different or the columns equal"
            )
        return rows[0]


def _key(prompt: Any) -> Hashable:
    """What a prompt says: TRL may have turned its texts into lists of parts."""
    if isinstance(prompt, str):
        return prompt
    try:
        return tuple((turn.role, turn.text, turn.thinking) for turn in turns_of(prompt, "prompt"))
    except InvalidTrajectoryError:
        return repr(prompt)
