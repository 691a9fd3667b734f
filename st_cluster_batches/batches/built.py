"""What a sampler says to a trainer that is given it in place of its class."""

from __future__ import annotations

from typing import Any, NoReturn


class BuiltSampler:
    """A sampler of some rows, which no trainer can take as an argument: trainers build samplers of their own.

    The stock one would make nothing of it, without a word: it would train on batches of one row, which have no
    negatives, so that nothing is learned.
    """

    def __call__(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse to build another one.

        Raises:
            TypeError: Always, with what to pass.
        """
        name = type(self).__name__
        raise TypeError(
            f"A trainer builds its samplers itself, and was given a {name} that is built already. Pass the class, "
            f"{name}, or {name}.configure(...) with options; a sampler that is built is for a DataLoader"
        )
