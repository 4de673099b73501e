"""How far rows are on their way through the layers of a model that is run in pieces.

Such a run takes minutes: others want to see how far it is, and to end it.
"""

from __future__ import annotations

from collections.abc import Callable

from rfprm_runtime.errors import BackendError

OnPiece = Callable[[int, int], object]
"""Called with the pieces of a model that all rows are through, and the number of pieces."""


class Walk:
    """One run after another. :meth:`give_up` may be called from any thread."""

    def __init__(self, on_piece: OnPiece | None = None) -> None:
        self._on_piece = on_piece
        self._was_given_up = False

    def give_up(self) -> None:
        """Make the run end soon, with an error."""
        self._was_given_up = True

    def check(self) -> None:
        """Raises :class:`BackendError` after :meth:`give_up`."""
        if self._was_given_up:
            raise BackendError("the run was given up; start it again")

    def reached(self, done: int, total: int) -> None:
        """All rows are through ``done`` of ``total`` pieces."""
        if self._on_piece is not None:
            self._on_piece(done, total)
