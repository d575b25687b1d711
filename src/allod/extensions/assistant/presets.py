"""Ways of choosing words that have a name, and the assistant that is there at first.

A preset is copied into an assistant: what a version says stays what it does, whatever becomes of the preset. Whether an
assistant has one is therefore seen from its numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

from allod.extensions.assistant.content import Content
from allod.extensions.assistant.parameters import AssistantParameters


@dataclass(frozen=True, slots=True)
class Preset:
    """A named choice of parameters. All presets choose the same ones, so that each replaces any other."""

    name: str
    title: str
    explanation: str
    parameters: AssistantParameters


PRESETS = (
    Preset(
        "precise",
        "Precise",
        "For facts, code and extraction: temperature 0.2 takes the likeliest word nearly always, and top_p 0.9 leaves "
        "the unlikely ones out, so the same question gets much the same answer.",
        AssistantParameters(temperature=0.2, top_k=40, top_p=0.9, min_p=0.05),
    ),
    Preset(
        "balanced",
        "Balanced",
        "For conversation: temperature 0.8 is lively without losing the thread, and top_k 40, top_p 0.95 and "
        "min_p 0.05 leave out words that hardly fit.",
        AssistantParameters(temperature=0.8, top_k=40, top_p=0.95, min_p=0.05),
    ),
    Preset(
        "creative",
        "Creative",
        "For stories and ideas: temperature 1.1 gives rarer words a chance, and min_p 0.1 in place of top_k and top_p "
        "keeps sentences sound, because it leaves out more where one word is clearly right.",
        AssistantParameters(temperature=1.1, top_k=0, top_p=1.0, min_p=0.1),
    ),
)
_BY_NAME = {preset.name: preset for preset in PRESETS}


def preset_named(name: str) -> Preset:
    """The preset of this name."""
    return _BY_NAME[name]


def preset_in(parameters: AssistantParameters) -> str:
    """The name of the preset whose numbers all stand in `parameters`; empty where there is none."""
    given = parameters.model_dump()
    fits = (preset.name for preset in PRESETS if preset.parameters.model_dump().items() <= given.items())
    return next(fits, "")


BUILT_IN = Content(
    name="Allod",
    avatar="🏡",
    description="A helpful assistant for everything.",
    instructions=(
        "You are Allod, a helpful assistant that runs privately on the user's own device. Today is {date}.\n"
        "Answer in the language in which you are asked. Give the answer first, then what is needed to understand it. "
        "Be accurate and brief; if you do not know something, say so; if a question is unclear, ask.\n"
        "Use Markdown where it helps."
    ),
    parameters=preset_named("balanced").parameters,
)
"""Kept at the first start, and from then on an assistant like any other."""
