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
    a placeholder that names no subject and for a template without any, which would draw no subject.
    """
    prompts = [Prompt(prompt_id=f"p{i:02}", text=_fill(combination, text)) for i, text in enumerate(templates)]
    watched = [Prompt(prompt_id=f"{WATCHED}{i:02}", text=_fill(combination, text), watched=True) for i, text in enumerate(watched_templates)]
    return replace(combination, prompts=(*prompts, *watched))


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
        for start in range(0, count, batch):
            indices = range(start, min(start + batch, count))
            seeds = [candidate_seed(run_seed, combination.key, prompt.prompt_id, 0 if prompt.watched else round, i) for i in indices]
            chunks.append(_chunk(run, method, combination.key, prompt.prompt_id, prompt.text, round, adapter, indices, seeds))
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
    shared = {name: str(row[name]) for name in ("combination", "prompt_id", "adapter_sha256")} | {"round": int(row["round"])}
    keys = [CandidateKey(run=str(row["run"]), method=str(row["method"]), index=int(index), **shared) for index in row["indices"]]
    return Chunk(
        chunk_id=str(row["chunk_id"]),
        prompt=str(row["prompt"]),
        adapter_path=str(row["adapter_path"]),
        keys=tuple(keys),
        seeds=tuple(int(seed) for seed in row["seeds"]),
        **shared,
    )


def _chunk(
    run: str,
    method: str,
    combination: str,
    prompt_id: str,
    prompt: str,
    round: int,
    adapter: Adapter,
    indices: range,
    seeds: Sequence[int],
) -> Chunk:
    shared = {"combination": combination, "prompt_id": prompt_id, "round": round, "adapter_sha256": adapter.sha256}
    keys = tuple(CandidateKey(run=run, method=method, index=index, **shared) for index in indices)
    digest = hashlib.sha256(json.dumps([key.candidate_id for key in keys]).encode()).hexdigest()
    return Chunk(
        chunk_id=f"{prompt_id}-{indices.start:04}-{digest[:16]}",
        prompt=prompt,
        adapter_path=str(adapter.path),
        keys=keys,
        seeds=tuple(seeds),
        **shared,
    )


def _fill(combination: Combination, template: str) -> str:
    phrases = {subject.key: subject.phrase for subject in combination.subjects}
    named = [f"a {phrase}" for phrase in phrases.values()]
    listing = " and ".join(named) if len(named) < 3 else f"{', '.join(named[:-1])}, and {named[-1]}"
    values = {**phrases, "subjects": listing}

    def value(match: re.Match) -> str:
        if match[1] not in values:
            raise ValueError(f"prompt {template!r}: unknown placeholder {match[0]}; combination {combination.key!r} allows {allowed}")
        return values[match[1]]

    allowed = ", ".join(f"{{{name}}}" for name in ("subjects", *phrases))
    filled, replaced = re.subn(r"\{([^{}]*)\}", value, template)
    if not replaced:
        raise ValueError(f"prompt {template!r}: names no subject; put {{subjects}} or {allowed} into it")
    if "{" in re.sub(r"\{[^{}]*\}", "", template) or "}" in re.sub(r"\{[^{}]*\}", "", template):
        raise ValueError(f"prompt {template!r}: unbalanced braces; allowed placeholders are {allowed}")
    return filled
