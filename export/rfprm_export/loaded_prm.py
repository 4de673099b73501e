"""A whole PRM in memory or in its files, before it becomes an artifact."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tokenizers import Tokenizer

from rfprm_export.stored_weights import StoredWeights, Weights
from rfprm_runtime.artifact.manifest import Backbone, Manifest
from rfprm_runtime.prompt.encoding import TrajectoryEncoder


@dataclass(frozen=True)
class LoadedPRM:
    """The manifest of the future artifact, its weights, which may still be in their files, and its
    tokenizer."""

    manifest: Manifest
    weights: Weights
    tokenizer: Tokenizer

    def encoder(self) -> TrajectoryEncoder:
        """Of a copy of the tokenizer, because an encoder changes its own. Raises
        :class:`TokenizerMismatchError` if the tokenizer does not fit the manifest."""
        return TrajectoryEncoder(
            type(self.tokenizer).from_str(self.tokenizer.to_str()),
            self.manifest.prompt,
            vocab_size=self.manifest.backbone.vocab_size,
        )


_LAYER = re.compile(r"model\.layers\.([0-9]{1,9})\.")
_DERIVED = re.compile(r".*\.rotary_emb\.inv_freq")
"""Tables that older checkpoints hold, which follow from the config."""


def only_used(weights: StoredWeights, backbone: Backbone) -> StoredWeights:
    """The weights without the language-model head and the layers that are cut off."""

    def is_used(name: str) -> bool:
        layer = _LAYER.match(name)
        if layer is not None and int(layer.group(1)) >= backbone.num_layers:
            return False
        return name.startswith(("model.", "score.")) and not _DERIVED.fullmatch(name)

    return weights.only(is_used)
