"""How often a wrong answer is rewarded, and how often graders' own test cases are judged right,
beside math-verify alone.

    python -m benchmarks.answers
    python -m benchmarks.answers --cases cases.jsonl

``--cases``: one case a line, with ``prediction``, ``gold``, ``expected`` (true or false), ``kind``
(``comparison only``, or else the prediction is a whole completion), ``source``, and ``convention``
where projects disagree.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.near_misses import near_misses
from rfprm_runtime.answers import AnswerChecker, final_answer
from rfprm_runtime.answers.references import acceptable_answers

_BUDGET = 600.0


class Case(NamedTuple):
    """A prediction, its reference, and whether it is right."""

    group: str
    prediction: str
    gold: str
    expected: bool
    is_whole: bool


class Judged(NamedTuple):
    """A case with the verdict of this library and of math-verify alone."""

    case: Case
    ours: bool
    theirs: bool


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--cases", type=Path, help="a JSONL file of cases")
    parser.add_argument("--conventions", action="store_true", help="judge the conventions instead")
    chosen = parser.parse_args()
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    with AnswerChecker() as checker:
        misses = [Case(m.kind, m.text, m.reference, False, True) for m in near_misses()]
        print("near misses rewarded (ours, math-verify alone, of)")
        _print_groups(judge(misses, checker))
        if chosen.cases is not None:
            judged = judge(_read(chosen.cases, conventions=chosen.conventions), checker)
            print("cases judged otherwise than expected (ours, math-verify alone, of)")
            _print_groups(judged)
            _print_lost(judged)


def judge(cases: Iterable[Case], checker: AnswerChecker) -> list[Judged]:
    """Both verdicts on each case."""
    cases = list(cases)
    asked = [
        (index, _said(case), target)
        for index, case in enumerate(cases)
        for target in acceptable_answers(case.gold)
    ]
    found = checker.agree_all([a for _, a, _ in asked], [t for *_, t in asked], budget=_BUDGET)
    right = {index for (index, *_), agree in zip(asked, found.agree, strict=True) if agree}
    return [
        Judged(case, index in right, math_verify_alone(case)) for index, case in enumerate(cases)
    ]


def _said(case: Case) -> str | None:
    return final_answer(case.prediction) if case.is_whole else case.prediction


def math_verify_alone(case: Case) -> bool:
    """math-verify's own extraction and comparison, as its README shows them: what is a bare answer
    stands between dollars."""
    from math_verify import parse, verify

    said = case.prediction if case.is_whole else _between_dollars(case.prediction)
    return bool(verify(parse(_between_dollars(case.gold)), parse(said)))


def _between_dollars(text: str) -> str:
    has_formula = any(sign in text for sign in ("$", "\\boxed", "\\(", "\\["))
    return text if has_formula else f"${text}$"


def _read(path: Path, *, conventions: bool) -> list[Case]:
    rows: list[dict[str, Any]] = [json.loads(line) for line in path.read_text().splitlines()]
    return [
        Case(
            row["source"],
            row["prediction"],
            str(row["gold"]),
            row["expected"],
            row["kind"] != "comparison only" or "\\boxed" in row["prediction"],
        )
        for row in rows
        if bool(row.get("convention")) == conventions
    ]


def _print_groups(judged: list[Judged]) -> None:
    of = Counter(one.case.group for one in judged)
    ours = Counter(one.case.group for one in judged if one.ours != one.case.expected)
    theirs = Counter(one.case.group for one in judged if one.theirs != one.case.expected)
    for group in of:
        print(f"{ours[group]:5d} {theirs[group]:5d} {of[group]:5d}  {group}")
    print(f"{ours.total():5d} {theirs.total():5d} {of.total():5d}  all")


def _print_lost(judged: list[Judged]) -> None:
    rewarded = [one for one in judged if one.ours and not one.case.expected]
    print(f"wrong answers rewarded by ours: {len(rewarded)}")
    for one in judged:
        if one.ours != one.case.expected:
            by = "lost against math-verify" if one.theirs == one.case.expected else "wrong for both"
            print(f"  {by}: {one.case.prediction[-70:]!r} for {one.case.gold[-70:]!r}")


if __name__ == "__main__":
    main()
