"""What a round draws: prompts filled in, seeds derived, candidates grouped into fixed chunks.

A chunk is one batch that is always drawn together, because the batch size changes the last bits of an
image. Which candidates a chunk holds follows from the run file alone, never from what is already stored;
a restart drops whole chunks.
"""

import hashlib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from mudi.records import Adapter, CandidateKey, Combination, Prompt

WATCHED = "watch-"

SCHEMA = pa.schema(
    [
        ("chunk_id", pa.string()),
        ("run", pa.string()),
        ("method", pa.string()),
        ("combination", pa.string()),
        ("prompt_id", pa.string()),
        ("prompt", pa.string()),
        ("round", pa.int32()),
        ("adapter_path", pa.string()),
        ("adapter_sha256", pa.string()),
        ("indices", pa.list_(pa.int32())),
        ("seeds", pa.list_(pa.int64())),
    ]
)


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """Candidates of one adapter and one prompt, drawn as one batch. `seeds` are in the order of `keys`."""

    chunk_id: str
    combination: str
    prompt_id: str
    prompt: str
    round: int
    adapter_path: str
    adapter_sha256: str
    keys: tuple[CandidateKey, ...]
    seeds: tuple[int, ...]


def fill_prompts(combination: Combination, templates: Sequence[str], watched_templates: Sequence[str] = ()) -> Combination:
    """The combination with its prompts written out, "p00", "p01", ... and then "watch-00", ...

    "{subjects}" becomes "a olis corgi and a hta chow chow" and "{a}" the phrase of the subject with key a.
    The article is always "a", as in the captions that the subjects are learnt from. Raises ValueError for
    a placeholder that names no subject, for a template without any, which would draw no subject, and for one that names
    subjects of the same words in another order than the combination's, by which their occurrences are told apart.
    """
    drawn = [Prompt(prompt_id=f"p{i:02}", text=_text(combination, text)) for i, text in enumerate(templates)]
    texts = [_text(combination, text) for text in watched_templates]
    watched = [Prompt(prompt_id=f"{WATCHED}{i:02}", text=text, watched=True) for i, text in enumerate(texts)]
    return replace(combination, prompts=(*drawn, *watched))


def candidate_seed(run_seed: int, combination: str, prompt_id: str, round: int, index: int) -> int:
    """The seed of one candidate: 63 bits of a sha256, so that it fits a signed 64-bit column.

    The method is left out on purpose: methods are compared on the same noise.
    """
    name = json.dumps([run_seed, combination, prompt_id, round, index])
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1


def plan_round(
    *,
    run: str,
    run_seed: int,
    method: str,
    combination: Combination,
    adapter: Adapter,
    round: int,
    candidates: int,
    watched_images: int,
    batch: int,
) -> list[Chunk]:
    """All chunks of one combination in one round, in the order of its prompts.

    `candidates` are spread over the prompts as evenly as they go, earlier prompts taking one more where
    they do not, so every round has the same prompts in the same proportions. A watched prompt gets
    `watched_images` and the seeds of round 0 in every round.
    """
    ordinary = [prompt for prompt in combination.prompts if not prompt.watched]
    share, left_over = divmod(candidates, len(ordinary))
    counts = {prompt.prompt_id: share + (i < left_over) for i, prompt in enumerate(ordinary)}
    chunks = []
    for prompt in combination.prompts:
        count = watched_images if prompt.watched else counts[prompt.prompt_id]
        cell = {"combination": combination.key, "prompt_id": prompt.prompt_id, "round": round}
        keys = [CandidateKey(run=run, method=method, index=i, adapter_sha256=adapter.sha256, **cell) for i in range(count)]
        seeds = [candidate_seed(run_seed, **{**cell, "round": 0 if prompt.watched else round}, index=i) for i in range(count)]
        for start in range(0, count, batch):
            part = slice(start, start + batch)
            chunks.append(_chunk(keys[part], seeds[part], prompt=prompt.text, adapter_path=str(adapter.path)))
    return chunks


def remaining(chunks: Sequence[Chunk], stored_ids: Collection[str]) -> list[Chunk]:
    """The chunks that are not stored in full, each of them whole."""
    return [chunk for chunk in chunks if any(key.candidate_id not in stored_ids for key in chunk.keys)]


def to_table(chunks: Sequence[Chunk]) -> pa.Table:
    """One row a chunk, adapter by adapter, so that a worker changes adapters as seldom as possible."""
    rows = [
        {
            **{name: getattr(chunk, name) for name in SCHEMA.names if hasattr(chunk, name)},
            "run": chunk.keys[0].run,
            "method": chunk.keys[0].method,
            "indices": [key.index for key in chunk.keys],
        }
        for chunk in sorted(chunks, key=lambda chunk: chunk.adapter_sha256)
    ]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def from_row(row: Mapping[str, Any]) -> Chunk:
    """The chunk that a row of `to_table` describes."""
    cell = {name: str(row[name]) for name in ("run", "method", "combination", "prompt_id", "adapter_sha256")}
    keys = [CandidateKey(index=int(index), round=int(row["round"]), **cell) for index in row["indices"]]
    seeds = [int(seed) for seed in row["seeds"]]
    return _chunk(keys, seeds, prompt=str(row["prompt"]), adapter_path=str(row["adapter_path"]))


def _chunk(keys: Sequence[CandidateKey], seeds: Sequence[int], *, prompt: str, adapter_path: str) -> Chunk:
    """The chunk of these candidates; its id tells the prompt and first index, and digests every key."""
    first = keys[0]
    digest = hashlib.sha256(json.dumps([key.candidate_id for key in keys]).encode()).hexdigest()
    return Chunk(
        chunk_id=f"{first.prompt_id}-{first.index:04}-{digest[:16]}",
        combination=first.combination,
        prompt_id=first.prompt_id,
        prompt=prompt,
        round=first.round,
        adapter_path=adapter_path,
        adapter_sha256=first.adapter_sha256,
        keys=tuple(keys),
        seeds=tuple(seeds),
    )


def _text(combination: Combination, template: str) -> str:
    return "".join(words for _, words in pieces(combination, template))


def pieces(combination: Combination, template: str) -> list[tuple[str | None, str]]:
    """The parts of a filled template in their order: the key of the subject that a part names, or None, and the part's words.

    Raises ValueError as `fill_prompts` does.
    """
    phrases = {subject.key: subject.phrase for subject in combination.subjects}
    joints = ["a ", *[", a "] * (len(phrases) - 2), " and a "]
    listed = [piece for joint, named in zip(joints, phrases.items()) for piece in ((None, joint), named)]
    values = {"subjects": listed, **{key: [(key, phrase)] for key, phrase in phrases.items()}}
    allowed = ", ".join(f"{{{name}}}" for name in values)
    # Every other part is what braces hold.
    parts = re.split(r"\{([^{}]*)\}", template)
    if len(parts) == 1:
        raise ValueError(f"prompt {template!r}: names no subject; write one or more of {allowed} into it")
    if any("{" in literal or "}" in literal for literal in parts[::2]):
        raise ValueError(f"prompt {template!r}: unbalanced braces; braces hold one of {allowed}")
    for name in parts[1::2]:
        if name not in values:
            raise ValueError(f"prompt {template!r}: unknown placeholder {{{name}}}; combination {combination.key!r} allows {allowed}")
    found = [piece for i, part in enumerate(parts) for piece in (values[part] if i % 2 else [(None, part)])]
    _require_order(phrases, [key for key, _ in found if key is not None], template)
    return found


def _require_order(phrases: Mapping[str, str], mentioned: Sequence[str], template: str) -> None:
    """Of subjects that one phrase names, the first mention is the first subject's, the second the second's (`mudi.text.spans`)."""
    for phrase in set(phrases.values()):
        alike = [key for key, other in phrases.items() if other == phrase]
        mentions = [key for key in mentioned if key in alike][: len(alike)]
        if mentions != alike[: len(mentions)]:
            raise ValueError(
                f"prompt {template!r}: names {', '.join(mentions)}, all of them {phrase!r}, which only their order tells apart; "
                f"name them as {', '.join(alike)}, or give each its own identifier and a method that uses it"
            )
