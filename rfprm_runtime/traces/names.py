"""The names that data sets give to a row's fields, best first.

A new name of a known thing is a word in one of these tables.
"""

from __future__ import annotations

QUESTION_FIELDS = (
    ("question", "problem", "query"),
    ("prompt", "original_question", "problem_statement", "user_prompt"),
    ("instruction", "input", "inputs"),
)
"""Names of the question, in ranks: a field of an earlier rank wins, two of one rank must agree."""

CANDIDATE_FIELDS = (
    "generations",
    "completions",
    "responses",
    "outputs",
    "choices",
    "resps",
    "candidates",
    "samples",
    "predictions",
    "model_outputs",
    "model_responses",
    "generated_texts",
    "generated_responses",
    "generated_solutions",
)
"""Lists of several outputs to one question."""

OUTPUT_RANKS = (
    (
        "completion",
        "response",
        "model_output",
        "model_response",
        "model_solution",
        "model_completion",
        "model_generation",
        "generated_solution",
        "generated_response",
        "generated_text",
        "generated_output",
        "generation",
        "output",
        "output_text",
        "attempt",
        "final_response",
        "full_response",
        "llm_output",
    ),
    # These may hold no more than the answer.
    (
        "prediction",
        "pred",
        "model_prediction",
        "model_answer",
        "generated_answer",
        "generated",
        "candidate",
        "assistant",
        "body",
    ),
)
"""What a model wrote, in ranks: it wins over everything below, and two of one rank must agree."""
OUTPUT_FIELDS = tuple(name for rank in OUTPUT_RANKS for name in rank)
RENDERED_FIELDS = ("text",)
"""What may hold prompt and output in one."""
REFERENCE_FIELDS = (
    "solution",
    "answer",
    "reference_solution",
    "gold_solution",
    "ground_truth_solution",
    "original_solution",
)
"""Reference solutions: the trace only if nothing that a model wrote stands beside them."""

THINKING_FIELDS = (
    "thinking",
    "reasoning",
    "reasoning_content",
    "thinking_trajectory",
    "thinking_trajectories",
    "thought",
    "thoughts",
    "cot",
    "chain_of_thought",
)
"""Fields for the thinking alone; the response is then in another."""
MODELS_THINKING = ("thinking_trajectory", "thinking", "reasoning_content", "reasoning", "thought")
MODELS_RESPONSE = ("attempt", "solution", "response", "answer", "output")
"""Ends of names that begin with a model's: ``deepseek_reasoning`` with ``deepseek_solution``."""

STEP_TEXTS = ("text", "content", "step", "value")
"""Where a step that is an object keeps its text."""
STEP_LABELS = ("label", "rating", "score", "correct", "is_correct")

ANSWER_FIELDS = (
    "expected_answer",
    "final_answer",
    "gold_answer",
    "ground_truth_answer",
    "reference_answer",
    "ground_truth",
    "gts",
    "target",
    "answer",
    "solution",
)
OUTCOME_FIELDS = ("outcome", "is_correct", "correct", "correctness", "correctness_math_verify")

ENVELOPES = (
    "doc",
    "question",
    "prompt",
    "input",
    "request",
    "response",
    "body",
    "extra_info",
    "reward_model",
    "data",
    "example",
    "sample",
)
"""Objects whose fields count as the row's own, as ``doc.question`` and so on."""
