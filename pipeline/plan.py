"""The candidates of a round: seeds derived, candidates grouped into fixed chunks.

A chunk is one batch that is always drawn together, because the batch size changes the last bits of an
image. Which candidates a chunk holds follows from the run file alone, never from what is already stored;
a restart drops whole chunks.
"""

import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from mudi.records import Adapter, CandidateKey, Combination


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """Candidates of one adapter and one prompt, drawn as one batch. `seeds` are in the order of `keys`; the id tells the prompt and the
    first index, and digests every key."""

    chunk_id: str
    combination: str
    prompt_id: str
    prompt: str
    round: int
    adapter_path: str
    adapter_sha256: str
    keys: tuple[CandidateKey, ...]
    seeds: tuple[int, ...]


def candidate_seed(run_seed: int, combination: str, prompt_id: str, round: int, index: int) -> int:
    """The seed of one candidate: 63 bits of a sha256, so that it fits a signed 64-bit column.

    The method is left out on purpose: methods are compared on the same noise.
    """
    name = json.dumps([run_seed, combination, prompt_id, round, index])
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1


def plan_round(
    *, run: str, run_seed: int, method: str, combination: Combination, adapter: Adapter, round: int, candidates: int,
    watched_images: int, batch: int,
) -> list[Chunk]:  # fmt: skip
    """All chunks of one combination in one round, in the order of its prompts.

    `candidates` are spread over the prompts as evenly as they go, earlier prompts taking one more where
    they do not, so every round has the same prompts in the same proportions. A watched prompt gets
    `watched_images` and the seeds of round 0 in every round.
    """
    ordinary = [prompt for prompt in combination.prompts if not prompt.watched]
    share, left_over = divmod(candidates, len(ordinary))
    counts = {prompt.prompt_id: share + (i < left_over) for i, prompt in enumerate(ordinary)}
    drawn_by = {"adapter_path": str(adapter.path), "adapter_sha256": adapter.sha256}
    chunks = []
    for prompt in combination.prompts:
        count = watched_images if prompt.watched else counts[prompt.prompt_id]
        cell = {"combination": combination.key, "prompt_id": prompt.prompt_id, "round": round}
        keys = [CandidateKey(run=run, method=method, index=i, adapter_sha256=adapter.sha256, **cell) for i in range(count)]
        seeds = [candidate_seed(run_seed, **{**cell, "round": 0 if prompt.watched else round}, index=i) for i in range(count)]
        for start in range(0, count, batch):
            part = slice(start, start + batch)
            digest = hashlib.sha256(json.dumps([key.candidate_id for key in keys[part]]).encode()).hexdigest()
            named = {"chunk_id": f"{prompt.prompt_id}-{start:04}-{digest[:16]}", "prompt": prompt.text, **cell}
            chunks.append(Chunk(**named, **drawn_by, keys=tuple(keys[part]), seeds=tuple(seeds[part])))
    return chunks


def remaining(chunks: Sequence[Chunk], stored_ids: Collection[str]) -> list[Chunk]:
    """The chunks that are not stored in full, each of them whole."""
    return [chunk for chunk in chunks if any(key.candidate_id not in stored_ids for key in chunk.keys)]
