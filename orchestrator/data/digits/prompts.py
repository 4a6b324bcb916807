"""Prompts of an evaluation, balanced over what can be asked for."""

from dataclasses import dataclass

import numpy as np

from orchestrator.data.digits.source import COLOURS, DIRECTIONS, WORDS


@dataclass(frozen=True)
class Prompt:
    """One prompt in the plain form, and what it asks for."""

    text: str
    digit: str
    colour: str
    direction: str


def held_out_prompts(count: int, *, seed: int) -> list[Prompt]:
    """``count`` prompts in a random order; each digit, colour and direction equally often.

    Each attribute runs through whole rounds of its values, shuffled on its own.
    """
    random = np.random.Generator(np.random.Philox(key=seed))
    digits, colours, directions = (
        [values[i] for i in random.permutation(np.arange(count) % len(values))]
        for values in (list(WORDS), list(COLOURS), list(DIRECTIONS))
    )
    return [
        Prompt(
            text=f"a {colour} {digit} moving {direction}",
            digit=digit,
            colour=colour,
            direction=direction,
        )
        for digit, colour, direction in zip(digits, colours, directions, strict=True)
    ]
