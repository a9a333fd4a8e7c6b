"""Random and mutated protocol lines into a real GAHP: it must live, and every line must be answered in its form.

    python tests/chaos/lines.py --lines 1000000 --seed 1

Each line has exactly one return line, in the order of the lines; each request that was taken has exactly one result line, with
exactly the tokens of its command. Counts them, and what is not so. Ends with 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import os
import random
import select
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from gahp.local import LocalAws
from gahp.protocol.commands import COMMANDS
from gahp.protocol.lines import LineSplitter, split

AD = rb'[\ Cmd\ =\ "/bin/true";\ Iwd\ =\ "/tmp";\ JobDirectory\ =\ "x"\ ]'
ARGUMENTS = [b"awsbatch", AD, b"awsbatch/20261122/1-0-x", b"/tmp/proxy", b"NULL", b"-1", b"\xff\xfe", b"[", b"a\\ b", b""]
NEVER = {"QUIT", "RESPONSE_PREFIX", "ASYNC_MODE_ON"}
NAMES = [name for name in COMMANDS if name not in NEVER]
TOKENS = {name: 3 + len(command.values) for name, command in COMMANDS.items() if command.values is not None}
SOUND = ("lines", "return lines", "requests taken", "results")
NO_FORM, WRONG_COUNT = "return lines that are neither S, E, F nor a greeting", "results of a wrong token count"
PATIENCE_S = 60.0


def line(dice: random.Random, number: int) -> bytes:
    """One line without its end: half of them as they should be, some of these with a broken ad."""
    name, kind = dice.choice(NAMES), dice.random()
    count = max(0, len(COMMANDS[name].parameters) - 1) if kind < 0.3 else dice.randint(0, 3)
    arguments = dice.choices(ARGUMENTS, k=count)
    if name == "BLAH_JOB_SUBMIT" and kind < 0.3:
        arguments = [mutated(dice, AD) if kind < 0.15 else AD]
    text = b" ".join([name.encode(), str(number + 1).encode(), *arguments])
    if kind < 0.5:
        return text
    return dice.randbytes(dice.randint(0, 60)).replace(b"\n", b"") if kind < 0.6 else mutated(dice, text)


def mutated(dice: random.Random, text: bytes) -> bytes:
    data = bytearray(text)
    for _ in range(dice.randint(1, 4)):
        place = dice.randrange(len(data) + 1)
        data[place : place + dice.randint(0, 2)] = dice.choice([b"", b" ", b"\0", b"\\", b"\r", bytes([dice.randrange(256)])])
    return bytes(data).replace(b"\n", b"")


class Account:
    """What was sent and not answered yet, and how the answers stand to it."""

    def __init__(self) -> None:
        self.counted = Counter(dict.fromkeys((*SOUND, NO_FORM, WRONG_COUNT), 0))
        self.sent = collections.deque([("greeting", "")])  # command and request id of each line without a return line yet
        self.waiting: dict[str, str] = {}  # requests that were taken: id to command
        self.splitter = LineSplitter()
        self.rest, self.expected = b"", 0

    def send(self, data: bytes) -> bytes:
        """`data`, taken into account. An end of a line behind an odd number of backslashes is none, there and here."""
        for text in self.splitter.feed(data):
            words = split(text) if isinstance(text, bytes) else []
            command, request_id, *_ = [*words, "", ""]
            self.sent.append((command.upper(), request_id))
        return data

    def receive(self, data: bytes) -> None:
        *lines, self.rest = (self.rest + data).split(b"\n")
        for text in lines:
            tokens = split(text.rstrip(b"\r"))
            if self.expected:
                self.expected -= 1
                self._result(tokens)
            else:
                self._return_line(text, tokens)

    def _return_line(self, text: bytes, tokens: list[str]) -> None:
        self.counted["return lines"] += 1
        if not self.sent:
            self.counted["return lines to no line"] += 1
            return
        command, request_id = self.sent.popleft()
        known = text.startswith(b"$") if command == "greeting" else tokens[:1] in (["S"], ["E"], ["F"])
        self.counted[NO_FORM] += not known
        if tokens[:1] != ["S"]:
            return
        if command == "RESULTS":
            self.expected = int(tokens[1])
        elif command in TOKENS:
            self.counted["requests taken"] += 1
            self.waiting[request_id] = command

    def _result(self, tokens: list[str]) -> None:
        self.counted["results"] += 1
        command = self.waiting.pop(tokens[0], None) if tokens else None
        if command is None:
            self.counted["results of no request"] += 1
        else:
            self.counted[WRONG_COUNT] += len(tokens) != TOKENS[command]

    @property
    def answered(self) -> bool:
        return not self.sent and not self.expected and not self.waiting

    def close(self) -> Counter[str]:
        self.counted["lines without a return line"] = len(self.sent)
        self.counted["requests without a result"] = len(self.waiting)
        return self.counted


def talk(dice: random.Random, count: int, process: subprocess.Popen[bytes]) -> Counter[str]:
    assert process.stdin and process.stdout
    into, out = process.stdin.fileno(), process.stdout.fileno()
    os.set_blocking(into, False)
    account, pending, heard = Account(), b"", time.monotonic()
    while account.counted["lines"] < count or pending or not account.answered:
        if not pending and account.counted["lines"] < count:
            batch = [line(dice, account.counted["lines"] + n) for n in range(min(200, count - account.counted["lines"]))]
            account.counted["lines"] += len(batch)
            pending = account.send(b"".join(text + dice.choice([b"\n", b"\r\n"]) for text in batch) + b"RESULTS\n")
        elif not pending and not account.sent:  # nothing but results to wait for
            time.sleep(0.05)
            pending = account.send(b"\nRESULTS\n")  # the empty line ends what may have been continued
        readable, writable, _ = select.select([out], [into] if pending else [], [], PATIENCE_S)
        if writable:
            pending = pending[os.write(into, pending[:65536]) :]
        if readable:
            data, before = os.read(out, 1 << 18), (len(account.waiting), account.counted["results"])
            if not data:
                break
            account.receive(data)
            if (len(account.waiting), account.counted["results"]) != before:
                heard = time.monotonic()
        if time.monotonic() - heard > PATIENCE_S:
            break
    counted = account.close()
    with contextlib.suppress(BrokenPipeError):
        os.write(into, b"QUIT\n")
    counted["exit code not 0"] = int(process.wait(30) != 0)
    return counted


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    began = time.monotonic()
    counted = fuzz(options.lines, options.seed)
    for what, count in counted.items():
        print(f"{what:60} {count}")
    print(f"{'seconds':60} {time.monotonic() - began:.0f}")
    return int(bool(wrong(counted)))


def fuzz(lines: int, seed: int) -> Counter[str]:
    """The account of so many lines into one GAHP that has an embedded AWS: ads, journal and gateway see them too."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home, LocalAws(Path(home) / "aws", vcpus=4) as aws:
        aws.faults.stuck()  # what is submitted need not run
        environment = {
            **aws.environment(),
            "PATH": "/usr/bin:/bin",
            "HOME": home,
            "LANG": "C.UTF-8",
            "CONDOR_CONFIG": "ONLY_ENV",
            "PYTHONPATH": os.pathsep.join(sys.path),
            "_CONDOR_AWSBATCH_LOG_LEVEL": "WARNING",
        }
        with subprocess.Popen(
            [sys.executable, "-m", "gahp.server"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, bufsize=0
        ) as process:
            try:
                return talk(random.Random(seed), lines, process)
            finally:
                process.kill()


def wrong(counted: Counter[str]) -> dict[str, int]:
    """What must not be."""
    return {what: count for what, count in counted.items() if count and what not in SOUND}


if __name__ == "__main__":
    sys.exit(main())
