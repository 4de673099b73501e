"""Problems with words: sorting them alphabetically."""

from __future__ import annotations

import random

from rfprm_training.construction.procedures.machine import Move, Problem, State

_WORDS = """
    apple anchor arrow basket beetle bridge butter candle carpet castle cherry circle copper
    cradle dagger desert dinner donkey eagle engine escape fabric falcon feather forest fossil
    garden ginger glacier hammer harbor helmet hollow island jacket jungle kettle ladder lantern
    lemon linen magnet marble meadow mirror needle nephew oxygen oyster paddle parcel pencil
    pepper pillow planet quarry rabbit ribbon river rocket saddle salmon shadow silver spider
    stable sugar summer tablet temple thunder ticket tunnel turtle umbrella valley velvet violin
    walnut weasel willow window winter wisdom yellow zebra zipper
""".split()  # noqa: SIM905


def sorting(rng: random.Random) -> Problem:
    """Words sorted alphabetically: by first letter, then within ties."""
    words = rng.sample(_WORDS, rng.randint(4, 9))
    chosen = rng.choice(words)

    def letters(changed: str | None = None) -> str:
        parts = []
        for word in words:
            number = ord(word[0]) - 96
            number += rng.choice((-3, -1, 2)) if word == changed else 0
            parts.append(f'"{word}": "{word[0]}" ({number}).')
        return "First letters: " + " ".join(parts)

    right, wrong = letters(), letters(chosen)
    ordered = sorted(words, key=lambda word: (word[0], words.index(word)))

    def grouped(state: State) -> str:
        found: dict[str, list[str]] = {}
        for word in state:
            found.setdefault(word[0], []).append(f'"{word}"')
        parts = [
            f"({ord(x) - 96}) " + (w[0] if len(w) == 1 else "[" + " ? ".join(w) + "]")
            for x, w in found.items()
        ]
        return "We now have: " + " < ".join(parts) + "."

    def out_of_order(state: State) -> State | None:
        options = [i for i in range(len(state) - 1) if state[i][0] != state[i + 1][0]]
        return _exchanged(state, rng.choice(options)) if options else None

    def ties(state: State) -> Move:
        # Sorts neighbours with the same first letter; words misplaced before stay misplaced.
        after: list[str] = []
        for word in state:
            place = len(after)
            while place and after[place - 1][0] == word[0] and after[place - 1] > word:
                place -= 1
            after.insert(place, word)
        return tuple(after), "Hence, we have " + " < ".join(f'"{w}"' for w in after) + "."

    def wrong_ties(state: State) -> Move:
        after = _exchanged(ties(state)[0], rng.randrange(len(state) - 1))
        return after, "Hence, we have " + " < ".join(f'"{w}"' for w in after) + "."

    def wrong_groups(state: State) -> Move | None:
        after = out_of_order(tuple(ordered))
        return None if after is None else (after, grouped(after))

    return Problem(
        "Sort the following words alphabetically: " + " ".join(words),
        tuple(words),
        [lambda s: (s, right), lambda s: (tuple(ordered), grouped(ordered)), ties],
        [lambda s: (s, wrong), wrong_groups, wrong_ties],
        lambda state: "I have now sorted all the words. The answer is " + " ".join(state) + ".",
    )


def _exchanged(state: State, place: int) -> State:
    return (*state[:place], state[place + 1], state[place], *state[place + 2 :])
