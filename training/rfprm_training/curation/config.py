"""Settings of curation. Every threshold is a setting; None switches a filter off."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from rfprm_training.toml_config import Section, read_toml


class FilterConfig(Section):
    min_steps: int = Field(default=2, ge=1)
    max_steps: int | None = Field(default=None, ge=1)
    min_characters: int = Field(default=40, ge=0)
    """Counts the thinking and the response together."""
    max_characters: int | None = Field(default=400_000, ge=1)
    languages: tuple[str, ...] | None = None
    """ISO 639-1 codes to keep (``["en"]``), judged by the thinking. None keeps all."""
    max_repeated_share: float | None = Field(default=0.5, gt=0, le=1)
    """Share of the characters in repeated lines, or in a piece repeated at the end, as a model
    writes when it falls into a loop."""
    require_answer: bool = True
    """Whether the response (or else the last step) must state an answer."""
    require_reference: bool = False
    """Whether a trace must have a reference answer or an outcome."""


class DuplicateConfig(Section):
    threshold: float | None = Field(default=0.8, gt=0, le=1)
    """Estimated Jaccard similarity of word 5-grams at which a trace duplicates an earlier one. None
    keeps duplicates."""
    num_permutations: int = Field(default=64, ge=16)
    """MinHash permutations n; the estimate's standard error is about 0.5 / √n."""


class CurationConfig(Section):
    seed: int = 0
    filters: FilterConfig = FilterConfig()
    duplicates: DuplicateConfig = DuplicateConfig()
    evaluation_sets: tuple[str, ...] = ()
    """Sources whose questions must not be trained on: files, or ``hf://`` data sets."""
    max_contamination: float = Field(default=0.5, gt=0, le=1)
    """Share of a question's word 8-grams in common with an evaluation question at which it counts
    as that question."""


def read_curation_config(path: Path) -> CurationConfig:
    """Read a TOML file. Raises :class:`rfprm_training.ConfigError` naming every bad field."""
    return read_toml(path, CurationConfig, "curation config")
