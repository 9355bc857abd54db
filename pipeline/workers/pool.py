"""The workers on Ray: one actor for each GPU or CPU slot, for the whole run, two pieces of work in flight each."""

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from pipeline.settings.config import Cluster
from pipeline.workers import loaded
from pipeline.workers.cluster import alive_nodes, capacity, connected
from pipeline.workers.failure import RunFailedError
from pipeline.workers.worker import Failure, Moved, Piece, Received, perform

# A piece that was at work when its worker died is tried so often, on whichever worker is free; a fit goes on from its checkpoint.
TRIES = {"fit": 4}
TRIES_OF_OTHERS = 2
# Pieces in flight on a worker: the second waits there, so that no worker waits for the driver. A fit lasts too long to be waited for.
AHEAD = {"fit": 1}
AHEAD_OF_OTHERS = 2
RESTARTS = 20  # of one actor; a piece that kills its worker is given up after two
POLL_SECONDS = 0.5
GROW_SECONDS = 10.0
WAIT_FOR_WORKERS = 600.0  # seconds without any worker, until the run gives up
# A piece may take so many times what the slowest one of its kind took, and at least that many seconds, before its worker is replaced.
PATIENCE, LEAST_PATIENCE = 20.0, 900.0


@ray.remote(concurrency_groups={"progress": 1}, max_restarts=RESTARTS, max_task_retries=0)
class Worker:
    """Does pieces of work one after the other; `step` answers beside them how far a fit is."""

    def __init__(self, device: str, threads: int) -> None:
        self.loaded = loaded.Loaded(device, threads)
        self.now = 0

    @ray.method(max_task_retries=RESTARTS)
    def warm(self) -> None:
        """Import the models' libraries. Asked while the actor is started again, it answers once that is done."""
        loaded.warm()

    def do(self, piece: Piece) -> Any:
        self.now = 0

        def report(step: int, loss: float) -> None:
            self.now = step

        return perform(self.loaded, piece, report)

    @ray.method(concurrency_group="progress")
    def step(self) -> int:
        return self.now


@dataclass
class Member:
    """An actor and the pieces that wait on it, the first of which is at work since `began`. `down`: the call that will say that it is
    back, while it is being started again."""

    actor: Any
    pieces: deque = field(default_factory=deque)
    began: float = 0.0
    down: Any = None
    deaths: int = 0


@contextmanager
def on_ray(cluster: Cluster, say: Callable[[str], None]) -> Iterator["Pool"]:
    """The workers, for the length of a block. `say` is told before each wait."""
    say("starting Ray" if cluster.address in (None, "local") else f"joining Ray at {cluster.address}")
    with connected(cluster):
        pool = Pool(cluster)
        say(f"{len(pool.members)} workers load their libraries")
        yield pool


class Pool:
    """The members, which stay, and the bookkeeping of one call of `do` at a time."""

    def __init__(self, cluster: Cluster) -> None:
        self.slot = cluster.workers
        self.members: list[Member] = []
        self.grown = float("-inf")
        self.slowest: dict[str, float] = {}
        self.seen_up = time.monotonic()
        self._grow()

    def _grow(self) -> None:
        """Start as many actors as the file says, or as the cluster holds; look again now and then, since nodes join."""
        if time.monotonic() - self.grown < GROW_SECONDS:
            return
        self.grown = time.monotonic()
        wanted = self.slot.count or capacity(self.slot, alive_nodes())
        device = "cuda" if self.slot.gpus else "cpu"
        for _ in range(wanted - len(self.members)):
            actor = Worker.options(num_gpus=self.slot.gpus, num_cpus=self.slot.cpus).remote(device, self.slot.threads)
            self.members.append(Member(actor, down=actor.warm.remote()))

    def do(self, pieces: Sequence[Piece], received: Received, moved: Moved | None = None, allowed: int = 0) -> list[Failure]:
        """See `worker.Do`."""
        self.queue, self.failures, self.strikes = deque(pieces), [], Counter()
        self.flying: dict[ray.ObjectRef, tuple[Piece, Member]] = {}
        self.seen_up = time.monotonic()
        while self.queue or self.flying:
            self._grow()
            self._require_a_worker()
            self._hand_out()
            self._collect(received)
            if len(self.failures) > allowed:
                break
            if moved is not None:
                self._ask_how_far(moved)
            self._replace_hanging()
        return self.failures

    def _hand_out(self) -> None:
        """Give pieces to the members that have fewest. A member that is started for the first time gets one, which waits there; to one
        that is started again Ray would refuse it."""
        while self.queue:
            piece = self.queue[0]
            ahead = AHEAD.get(piece.kind, AHEAD_OF_OTHERS)
            free = [m for m in self.members if len(m.pieces) < (ahead if m.down is None else int(not m.deaths))]
            if not free:
                return
            member = min(free, key=lambda m: (m.down is not None, len(m.pieces)))
            self.queue.popleft()
            member.pieces.append(piece)
            if len(member.pieces) == 1:
                member.began = time.monotonic()
            self.flying[member.actor.do.remote(piece)] = (piece, member)

    def _collect(self, received: Received) -> None:
        """Take in what is done; a call that fails with its actor tells that this died."""
        waiting = [m.down for m in self.members if m.down is not None]
        ready, _ = ray.wait([*self.flying, *waiting], timeout=POLL_SECONDS)
        for reference in ready:
            if reference in waiting:
                self._came_up(reference)
            elif reference in self.flying:
                self._take(reference, received)

    def _came_up(self, reference: ray.ObjectRef) -> None:
        (member,) = [m for m in self.members if m.down == reference]
        member.down = None
        try:
            ray.get(reference)
        except RayError:
            # Not up yet, so no piece was at work.
            self._died(member, blamed=False)
        else:
            member.began = time.monotonic()

    def _take(self, reference: ray.ObjectRef, received: Received) -> None:
        piece, member = self.flying[reference]
        try:
            result = ray.get(reference)
        except RayTaskError as error:
            self._done(reference)
            cause = error.cause if isinstance(error.cause, Exception) else error
            self.failures.append(Failure(piece=piece, reason=_reason(cause), error=cause))
        except RayError:
            self._died(member)
        else:
            self._done(reference)
            received(piece, result)

    def _done(self, reference: ray.ObjectRef) -> None:
        piece, member = self.flying.pop(reference)
        seconds = time.monotonic() - member.began
        self.slowest[piece.kind] = max(seconds, self.slowest.get(piece.kind, 0.0))
        member.pieces.remove(piece)
        member.began = time.monotonic()

    def _died(self, member: Member, blamed: bool = True) -> None:
        """The piece that was at work has one try less if it is `blamed`; those that waited behind it are handed out anew."""
        lost = list(member.pieces)
        self.flying = {reference: at for reference, at in self.flying.items() if at[1] is not member}
        member.pieces.clear()
        if lost and blamed:
            self.strikes[id(lost[0])] += 1
            tries = self.strikes[id(lost[0])]
            if tries >= TRIES.get(lost[0].kind, TRIES_OF_OTHERS):
                self.failures.append(Failure(piece=lost.pop(0), reason=f"its worker died {tries} times while it was at work"))
        self.queue.extendleft(reversed(lost))
        member.deaths += 1
        member.down = member.actor.warm.remote()
        if member.deaths > RESTARTS:
            self.members.remove(member)

    def _require_a_worker(self) -> None:
        """Raise RunFailedError if no actor has been up for too long."""
        if any(m.down is None for m in self.members):
            self.seen_up = time.monotonic()
        elif time.monotonic() - self.seen_up > WAIT_FOR_WORKERS:
            raise RunFailedError(
                f"no worker came back within {WAIT_FOR_WORKERS:g} s; what is stored stays: look at the cluster (`ray status`) and "
                "start the same command again to go on"
            )

    def _ask_how_far(self, moved: Moved) -> None:
        """Ask the actors at work on fits for their step; one that does not answer now is asked again later."""
        asked = {m.actor.step.remote(): m for m in self.members if m.pieces and m.down is None and m.pieces[0].kind == "fit"}
        ready, _ = ray.wait(list(asked), num_returns=len(asked), timeout=POLL_SECONDS) if asked else ([], [])
        for reference in ready:
            member = asked[reference]
            try:
                step = ray.get(reference)
            except RayError:
                continue  # its piece will fail in the same way, and is taken care of there
            if step and member.pieces:
                moved(member.pieces[0], step)

    def _replace_hanging(self) -> None:
        """Kill the actor of a piece that takes far longer than any of its kind; Ray starts it again."""
        for member in self.members:
            if member.pieces and member.down is None and member.pieces[0].kind != "fit":
                seconds = max(LEAST_PATIENCE, PATIENCE * self.slowest.get(member.pieces[0].kind, 0.0))
                if time.monotonic() - member.began > seconds:
                    ray.kill(member.actor, no_restart=False)


def _reason(error: Exception) -> str:
    said = " ".join(str(error).split())
    return f"{type(error).__name__}: {said}" if said else type(error).__name__
