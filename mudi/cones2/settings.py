"""How a residual of a class noun is learnt, as a value."""

from dataclasses import dataclass
from typing import Literal, get_args

from mudi.cones2.noun_templates import sentences
from mudi.text.mentions import places

Tuning = Literal["text_lora", "text_full", "direct"]
Preserved = Literal["instance", "templates"] | tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ResidualSettings:
    """How a residual is learnt.

    `tuning`: "text_full" tunes whole text encoders, token tables included, as released; "text_lora" a LoRA of `rank` on
    them; "direct" the residual itself, from zero. The first two are held near the untuned encoders, on everything but the
    noun, by un-squared norms: `mark_weight` for the start mark, `rest_weight` for all other tokens. `preserve_prompts` says
    in which sentences: "instance" the bare noun, which is all that the release looks at; "templates", one of
    `noun_templates` a step; or sentences of the user's own, one a step, each with the noun in it or "{}" in its place: what
    the paper does with 1000 sentences of a language model. "direct" touches the noun's own states only and has nothing to hold.
    """

    tuning: Tuning = "text_lora"
    rank: int = 32
    mark_weight: float = 1e-2
    rest_weight: float = 1e-3
    preserve_prompts: Preserved = "instance"

    def __post_init__(self) -> None:
        if self.tuning not in get_args(Tuning):
            raise ValueError(f"tuning = {self.tuning!r}: allowed are {', '.join(map(repr, get_args(Tuning)))}")
        own = self.preserve_prompts
        listed = isinstance(own, tuple) and own and all(isinstance(sentence, str) and sentence.strip() for sentence in own)
        if not listed and own not in ("instance", "templates"):
            raise ValueError(
                f"preserve_prompts = {str(own)[:80]!r}: allowed are 'instance', 'templates' and a list of sentences with the class noun"
            )

    def preserved(self, words: str) -> list[str]:
        """The sentences in which all but the noun `words` is held. ValueError for one that does not hold the noun."""
        if isinstance(self.preserve_prompts, str):
            return [words] if self.preserve_prompts == "instance" else sentences(words)
        filled = [sentence.replace("{}", words) for sentence in self.preserve_prompts]
        for given, sentence in zip(self.preserve_prompts, filled, strict=True):
            if places(sentence, [words]) == [None]:
                raise ValueError(f"preserve_prompts: {given!r} does not hold the class noun {words!r}; write it out, or {{}} in its place")
        return filled
