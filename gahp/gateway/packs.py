"""Has runs that come together submitted as one array job: gathers them, writes their manifest, submits them all or none.

Until SubmitJob is about to be called, a run is in a pack in memory only, ACCEPTED in the journal; whoever is removed or held
meanwhile is left out, and the manifest is written anew. When a pack is complete says packer.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from gahp.batch import Batch, Unsure
from gahp.gateway.live import Live
from gahp.gateway.packer import Group, Packer, Part
from gahp.journal import Journal
from gahp.lanes import Lane, backoff
from gahp.limits import Later
from gahp.model import JobRequest, Refused, Transient
from gahp.run import RunState, Wanted
from gahp.sandbox import Sandbox

log = logging.getLogger(__name__)

# So many bytes of manifests may wait in memory to be packed; what comes then is staged when there is room again.
_MOST_HELD = 128 * 1024 * 1024


class Packs:
    """The runs that are staged but for their manifest. Thread-safe; shares the `lock` of Lives. `go_on` has a run take its next
    step, `let_go` one that was `busy` here, in so many seconds."""

    def __init__(
        self,
        journal: Journal,
        sandbox: Sandbox,
        batch: Batch,
        packer: Packer[Live],
        *,
        lock: threading.RLock,
        threads: int,
        go_on: Callable[[Live], None],
        let_go: Callable[[Live, float], None],
        clock: Callable[[], float],
    ) -> None:
        self._journal = journal
        self._sandbox = sandbox
        self._batch = batch
        self._packer = packer
        self._lock = lock
        self._lane = Lane("pack", threads)
        self._go_on = go_on
        self._let_go = let_go
        self._clock = clock
        self._held = 0

    def close(self) -> None:
        """Begin nothing more."""
        self._lane.close()

    def have_room(self) -> bool:
        """Whether more can be staged now; where not, what is there waits for no more."""
        if self._held <= _MOST_HELD:
            return True
        self._packer.hurry()
        return False

    def hold(self, live: Live, part: Part | None) -> None:
        """Keep what was staged of a run, or (None) let go of it."""
        with self._lock:
            self._held += (len(part.body) if part else 0) - (len(live.part.body) if live.part else 0)
            live.part = part

    def offer(self, live: Live, part: Part) -> None:
        """A run has been staged as `part`: have it submitted with those of its shape that come now. May be repeated."""
        with self._lock:
            if part.offered:
                return
            part.offered = True
        group, new = self._packer.offer(live, part, live.run.name)
        if new:
            self._watch(group)

    def _watch(self, group: Group[Live]) -> None:
        left = self._packer.left(group)
        self._lane.put(lambda: self._watch(group) if left else self._send(group), left)

    def _send(self, group: Group[Live]) -> None:
        delay: float | None = None
        try:
            delay = self._try_to_send(group)
        except Later as error:
            delay = error.wait_s
        except Transient as error:
            delay = backoff(group.tries)
            group.tries += 1
            log.warning("%s: %d jobs are submitted again in %.1f s: %s", group.name, len(group.members), delay, error)
        except Refused as error:
            log.warning("%s: refused, each of its jobs is submitted by itself: %s", group.name, error)
            for live, _ in self._ready(group):
                self._leave_alone(live)
        except MemoryError:
            raise  # its members may be left in any state: the next GAHP knows them from the journal
        except Exception:
            log.exception("%s: submitting a pack failed", group.name)
            delay = backoff(group.tries + 4)
            group.tries += 1
        if delay is not None:
            self._lane.put(lambda: self._send(group), delay)

    def _ready(self, group: Group[Live]) -> list[tuple[Live, Part]]:
        """The members that still want to run, and in this pack."""
        with self._lock:
            return [
                (live, part)
                for live, part in group.members
                if live.part is part and not live.alone and (live.run.state, live.run.wanted) == (RunState.ACCEPTED, Wanted.RUN)
            ]

    def _leave_alone(self, live: Live) -> None:
        live.alone = True
        self._go_on(live)

    def _try_to_send(self, group: Group[Live]) -> float | None:
        """Write the manifest, record the members as SUBMITTING, all or none, and submit; the delay of the next try, if any.

        Raises Transient or Refused when nothing has been submitted.
        """
        ready = self._ready(group)
        if len(ready) < 2:
            for live, _ in ready:
                self._leave_alone(live)
            return None
        if group.stored != ready:
            try:
                self._sandbox.put_pack(group.name, [part.body for _, part in ready])
            except MemoryError as error:  # so far nothing has been done, and it is much at once
                raise Transient(f"There is no memory for the manifest of {len(ready)} jobs.") from error
            group.stored = ready
        lives = [live for live, _ in ready]
        request = self._journal.request(lives[0].run.name)
        with self._lock:
            if self._ready(group) != ready:
                return 0.0
            if any(live.busy for live in lives):  # for a moment, with a second look at whether there is anything to stage
                return 0.05
            # Before anybody else can want something: a removal is told at once of a run that will not be submitted any more.
            sending = {"state": RunState.SUBMITTING, "pack": group.name, "sent": self._clock()}
            written = self._journal.update_all(
                (live.run, {**sending, "child": index, "sends": live.run.sends + 1}) for index, live in enumerate(lives)
            )
            for live in lives:
                live.busy = True
        try:
            written.result()
            self._submit(group.name, lives, request)
        finally:
            for live in lives:
                state = live.run.state
                if state is not RunState.ACCEPTED:
                    self.hold(live, None)
                self._let_go(live, 0.5 if state is RunState.SUBMITTING else 0.0)
        return None

    def _submit(self, name: str, lives: list[Live], request: JobRequest) -> None:
        environment = {
            "BATCH_FILE_TYPE": "script",
            "BATCH_FILE_S3_URL": self._sandbox.manifest_url(name),
            "GAHP_PACK_URL": self._sandbox.run_url(name),
            "GAHP_REGION": self._sandbox.region,
            "GAHP_JOURNAL": self._journal.identity,
        }
        try:
            parent = self._batch.submit(request, name=name, queue=lives[0].run.queue, environment=environment, size=len(lives))
        except Unsure as error:
            log.warning("%s: SubmitJob of %d jobs may have arrived, looking it up: %s", name, len(lives), error)
            asked = time.monotonic()
            for live in lives:
                live.unsure_since = asked
        except (Transient, Refused):
            unsent = {"state": RunState.ACCEPTED, "pack": "", "child": 0, "sent": 0.0}
            self._journal.update_all((live.run, {**unsent, "sends": live.run.sends - 1}) for live in lives)
            raise
        else:
            log.info("%s: AWS Batch has its %d jobs as %s", name, len(lives), parent)
            self._journal.update_all(
                (live.run, {"state": RunState.SUBMITTED, "native_id": f"{parent}:{live.run.child}"}) for live in lives
            )
