"""Gathers jobs of one shape that come together into groups, each to become one array job; says when a group is complete.

Decides by value and clock only: it makes no call, has no thread, and does not look into its members.
"""

from __future__ import annotations

import collections
import dataclasses
import re
import secrets
import threading
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from gahp.sandbox import JobPart

Member = TypeVar("Member")

# A group holds the manifests of its members in memory until it is submitted.
_MOST_BYTES = 64 * 1024 * 1024
# Jobs of a shape that come within so many seconds of the last one belong to the same burst.
_SAME_BURST_S = 1.0
# So many a second make a burst worth waiting in: fewer are little trouble one by one.
_DENSE = 10.0
# In all a group waits so many times as long as its burst has lasted before it.
_GROWTH = 2.0
# A burst may pause before it counts as over, the longer it has lasted: this share of it, up to so many seconds.
_PAUSE_SHARE, _PAUSE_MOST_S = 0.1, 0.25
# What is accepted or staged meanwhile may be of other shapes: who has found nobody by then goes alone.
_ALONE_S = 0.25
_LETTERS = "abcdefghijklmnopqrstuvwxyz234567"


@dataclasses.dataclass(slots=True, eq=False)
class Part:
    """What a staged run brings into a pack: its part of the manifest, and the shape that all members have in common."""

    body: JobPart
    shape: Hashable
    offered: bool = False


@dataclasses.dataclass(slots=True, eq=False)
class Group(Generic[Member]):
    """Members in the order in which they came. `stored`: those that its manifest in S3 was written for."""

    shape: Hashable
    begun: float
    last: float
    name: str
    wait_s: float
    members: list[tuple[Member, Part]] = dataclasses.field(default_factory=list)
    bytes: int = 0
    tries: int = 0
    stored: list[tuple[Member, Part]] = dataclasses.field(default_factory=list)


class Packer(Generic[Member]):
    """One open group for each shape. A group is complete when none came for `quiet_s`, or after `wait_s`, or when it is full.

    While jobs of a shape keep coming, each group waits twice as long as the burst has lasted before it, up to `longest_s`: ten
    thousand jobs that come over a minute are a dozen arrays then, and not hundreds, each of which costs a SubmitJob and lists of
    its own for as long as it runs.

    A run that is being accepted or staged counts as about to come, so that a burst which takes its time is not cut into pieces;
    but not for longer than `wait_s`, because it may be uploading for hours. Threads may share it.
    """

    def __init__(self, *, size: int, quiet_s: float, wait_s: float, longest_s: float, clock: Callable[[], float]) -> None:
        self._size = size
        self._quiet_s = min(quiet_s, wait_s)
        self._wait_s = wait_s
        self._longest_s = max(longest_s, wait_s)
        self._clock = clock
        self._lock = threading.Lock()
        self._open: dict[Hashable, Group[Member]] = {}
        # By shape, the latest at the end: when the first and the last job of it came, and how many did.
        self._bursts: collections.OrderedDict[Hashable, tuple[float, float, int]] = collections.OrderedDict()
        self._accepting = 0
        self._queued: set[str] = set()
        self._being_staged: dict[str, float] = {}

    @property
    def packs(self) -> bool:
        """Whether anything is packed at all."""
        return self._size > 1

    def accepting(self, more: int) -> None:
        """So many more jobs than before, or fewer, are being accepted."""
        with self._lock:
            self._accepting += more

    def expect(self, name: str) -> None:
        """This run is about to be staged."""
        with self._lock:
            self._queued.add(name)

    def staging(self, name: str) -> None:
        """Its staging begins."""
        with self._lock:
            self._queued.discard(name)
            self._being_staged[name] = self._clock()

    def staged(self, name: str) -> None:
        """Its staging has ended: it has come, or will not come now."""
        with self._lock:
            self._being_staged.pop(name, None)

    def offer(self, member: Member, part: Part, name: str) -> tuple[Group[Member], bool]:
        """Put a member, the run called `name`, into the group of its shape; the group, and whether it is a new one."""
        with self._lock:
            now = self._clock()
            lasted = self._burst(part.shape, now)
            group = self._open.get(part.shape)
            new = group is None
            if group is None:
                wait_s = min(max(_GROWTH * lasted, self._wait_s), self._longest_s)
                group = self._open[part.shape] = Group(part.shape, now, now, pack_name(name), wait_s)
            group.members.append((member, part))
            group.bytes += len(part.body)
            group.last = now
            if len(group.members) >= self._size or group.bytes >= _MOST_BYTES:
                # The next one of this shape begins a group of its own. Whoever watches this one sees that it is full.
                del self._open[part.shape]
            return group, new

    def left(self, group: Group[Member]) -> float:
        """Seconds until the group has to be looked at again; 0.0: it is complete, and takes no more members."""
        with self._lock:
            if self._open.get(group.shape) is not group:
                return 0.0
            now = self._clock()
            quiet = group.last + max(self._quiet_s, min(_PAUSE_SHARE * self._lasted(group.shape, group.last), _PAUSE_MOST_S))
            look = quiet if now < quiet else now + self._quiet_s / 4 if self._more_to_come(now) else now
            longest_s = group.wait_s if len(group.members) > 1 else min(group.wait_s, _ALONE_S)
            left = min(look, group.begun + longest_s) - now
            if left > 0:
                return left
            del self._open[group.shape]
            return 0.0

    def hurry(self) -> None:
        """There is no room for more: what is open waits no longer than groups do outside of a burst."""
        with self._lock:
            for group in self._open.values():
                group.wait_s = self._wait_s

    def _burst(self, shape: Hashable, now: float) -> float:
        """One of this shape comes: for how long such have been coming, 0.0 if they are few."""
        while self._bursts and now - next(iter(self._bursts.values()))[1] > _SAME_BURST_S:
            self._bursts.popitem(last=False)
        begun, _, came = self._bursts.get(shape, (now, now, 0))
        self._bursts[shape] = begun, now, came + 1
        self._bursts.move_to_end(shape)
        return self._lasted(shape, now)

    def _lasted(self, shape: Hashable, now: float) -> float:
        """For how long jobs of this shape had been coming at that time; 0.0 if they are few."""
        begun, _, came = self._bursts.get(shape, (now, now, 1))
        return now - begun if came > _DENSE * (now - begun) else 0.0

    def _more_to_come(self, now: float) -> bool:
        return bool(self._accepting or self._queued) or any(now - begun < self._wait_s for begun in self._being_staged.values())


def pack_name(run: str) -> str:
    """The name of an array job, one that no job has had: with the cluster of its first run, where that has one."""
    cluster = re.match(r"[0-9]{1,10}(?=-)", run)
    return f"{cluster[0] if cluster else 'job'}-pack-{''.join(secrets.choice(_LETTERS) for _ in range(16))}"
