"""Settings of an LLM: how to reach it, and how much to ask at once and in total."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from rfprm_training import ConfigError
from rfprm_training.toml_config import Section

PromptName = Literal["judge_steps", "judge_step", "extract_template", "answer_by_template"]
PROMPT_OF: dict[str, PromptName] = {"written": "judge_steps", "expected": "judge_step"}
"""The prompt of the judge for each way of grading."""


class ExpertConfig(Section):
    """A server that offers the chat completions of OpenAI's API."""

    base_url: str = "http://localhost:8000/v1"
    model: str
    api_key_env: str = "OPENAI_API_KEY"
    """The environment variable that holds the key; keys are never read from files."""
    structured_output: Literal["json_schema", "json_object", "prompt"] = "json_schema"
    """How to make the server answer in JSON. ``prompt``: by the prompt alone, for servers without
    ``response_format``."""
    grading: Literal["written", "expected"] = "written"
    """How steps are graded. ``written``: the LLM writes a reason and a grade for each step of a
    request. ``expected``: one request a step, for one token, and the grade is the mean over the
    probabilities of the grades, as in G-Eval (arXiv 2303.16634); it needs a server that gives
    log-probabilities, and a model that answers without thinking first."""
    prompts: dict[PromptName, Path] = Field(default={})
    """Files of your own in place of this package's prompts: ``judge_steps`` for written grades,
    ``judge_step`` for expected ones, ``extract_template`` and ``answer_by_template`` for the
    template reward. Paths are relative to the working directory."""
    temperature: float = Field(default=0.0, ge=0)
    max_answer_tokens: int = Field(default=2048, gt=0)
    concurrency: int = Field(default=8, gt=0)
    timeout: float = Field(default=120.0, gt=0)
    """Seconds for one attempt."""
    max_attempts: int = Field(default=6, gt=0)
    """Attempts per request when the server is busy, breaks off or is too slow."""
    max_wait: float = Field(default=60.0, gt=0)
    """Maximum of seconds between two attempts, even if Retry-After asks for more."""
    max_repairs: int = Field(default=2, ge=0)
    """How often to send back an answer that does not fit, with the reason."""
    cache: Path = Path("expert-cache.sqlite")
    """Answers by model, prompt version and content; a request in it is never sent again."""
    steps_per_request: int = Field(default=20, gt=0)
    """Steps to judge in one request, which also shows all steps before them; with ``expected``
    one."""
    max_prompt_characters: int = Field(default=60_000, gt=0)
    """A longer request is not sent; its trajectory is marked with the reason."""
    price_per_million_prompt_tokens: float = Field(default=0.0, ge=0)
    price_per_million_cached_tokens: float | None = Field(default=None, ge=0)
    """Of the prompt tokens that the server says it had kept from an earlier request; by default the
    price of any prompt token."""
    price_per_million_answer_tokens: float = Field(default=0.0, ge=0)
    max_cost: float | None = Field(default=None, gt=0)
    """In the currency of the prices. Labelling stops cleanly before a request may exceed it."""
    max_tokens: int | None = Field(default=None, gt=0)
    """The same limit for prompt and answer tokens together."""

    @model_validator(mode="after")
    def _prompts_fit_the_grading(self) -> ExpertConfig:
        read = PROMPT_OF[self.grading]
        for name in PROMPT_OF.values():
            if name != read and name in self.prompts:
                raise ConfigError(
                    f"prompts.{name} is not read with grading = {self.grading!r}; name the file "
                    f"prompts.{read}, or change the grading"
                )
        return self
