"""Word problems in GSM8K's formats, as many as a test wants."""

from __future__ import annotations


def gold_row(index: int) -> dict[str, str]:
    """A question with its reference solution."""
    trays, per_tray, eaten = 3 + index, 12 + 5 * index, 7 + 2 * index
    baked = trays * per_tray
    left = baked - eaten
    return {
        "question": f"A cook bakes {trays} trays of {per_tray} rolls and eats {eaten}. "
        "How many are left?",
        "answer": f"The cook bakes {trays} * {per_tray} = <<{trays}*{per_tray}={baked}>>{baked} "
        f"rolls.\n{baked} - {eaten} = <<{baked}-{eaten}={left}>>{left} are left.\n#### {left}",
    }


def solutions_row(index: int) -> dict[str, object]:
    """A question with a wrong and a right solution of a model."""
    boxes = 2 + index
    right = f"There are {boxes} * 4 = <<{boxes}*4={boxes * 4}>>{boxes * 4} pens.\nA: {boxes * 4}"
    wrong = f"There are {boxes} + 4 = <<{boxes}+4={boxes + 4}>>{boxes + 4} pens.\nA: {boxes + 4}"
    return {
        "question": f"Mia has {boxes} boxes of 4 pens. How many pens has she?",
        "ground_truth": right,
        "small": {"solution": wrong, "is_correct": False},
        "large": {"solution": right, "is_correct": True},
    }
