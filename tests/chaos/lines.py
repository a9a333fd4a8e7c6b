"""Random and mutated protocol lines into a real GAHP: it must live, and every line must be answered in its form.

    python tests/chaos/lines.py --lines 1000000 --seed 1

Counts the lines sent, the return lines, the result lines and those of a wrong token count. Ends with 1 if any is wrong.
"""

from __future__ import annotations

import argparse
import os
import random
import select
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from gahp.local import LocalAws
from gahp.protocol.commands import COMMANDS
from gahp.protocol.lines import split

AD = rb'[\ Cmd\ =\ "/bin/true";\ Iwd\ =\ "/tmp";\ JobDirectory\ =\ "x"\ ]'
ARGUMENTS = [b"awsbatch", AD, b"awsbatch/20261122/1-0-x", b"/tmp/proxy", b"NULL", b"-1", b"\xff\xfe", b"[", b"a\\ b", b""]
PLAIN = 10**12  # request ids from here on: so many digits that no mutation of a smaller one comes there
NEVER = {"QUIT", "RESPONSE_PREFIX", "ASYNC_MODE_ON"}
VALUES = {name: 3 + len(command.values) for name, command in COMMANDS.items() if command.values is not None}


def line(dice: random.Random, number: int) -> bytes:
    """One line without its end. The request id `number` is used once, and only in a line that is not mutated: so its result tells
    which command it answers (see `asked`)."""
    name = dice.choice([name for name in COMMANDS if name not in NEVER])
    kind = dice.random()
    request_id = str(PLAIN + number) if kind < 0.5 else str(number)
    text = b" ".join([name.encode(), request_id.encode(), *dice.choices(ARGUMENTS, k=dice.randint(0, 3))])
    if kind < 0.5:
        return text
    if kind < 0.6:
        return dice.randbytes(dice.randint(0, 60)).replace(b"\n", b"")
    data = bytearray(text)
    for _ in range(dice.randint(1, 4)):
        place = dice.randrange(len(data) + 1)
        data[place : place + dice.randint(0, 2)] = dice.choice([b"", b" ", b"\0", b"\\", b"\r", bytes([dice.randrange(256)])])
    return bytes(data).replace(b"\n", b"")


def well_formed(dice: random.Random, count: int, process: subprocess.Popen[bytes]) -> Counter[str]:
    assert process.stdin and process.stdout
    out = process.stdout.fileno()
    os.set_blocking(process.stdin.fileno(), False)
    counted: Counter[str] = Counter()
    asked: dict[str, str] = {}
    pending, rest, expected = b"", b"", 0
    idle = 0  # RESULTS that brought nothing more, at the end
    while counted["lines"] < count or pending or idle < 5:
        if not pending and counted["lines"] < count:
            batch = [line(dice, counted["lines"] + n) for n in range(200)]
            counted["lines"] += len(batch)
            asked.update((words[1].decode(), words[0].decode()) for words in map(bytes.split, batch) if plain(words))
            pending = b"".join(text + dice.choice([b"\n", b"\r\n"]) for text in batch) + b"RESULTS\n"
        elif not pending:
            before = counted["results"]
            os.write(process.stdin.fileno(), b"RESULTS\n")
            while select.select([out], [], [], 0.5)[0]:
                rest, expected = take(os.read(out, 1 << 18), rest, expected, asked, counted)
            idle = 0 if counted["results"] > before else idle + 1
            continue
        readable, writable, _ = select.select([out], [process.stdin], [], 60)
        if not readable and not writable:
            counted["silent for a minute"] += 1
            return counted
        if writable:
            pending = pending[os.write(process.stdin.fileno(), pending[:65536]) :]
        if readable:
            rest, expected = take(os.read(out, 1 << 18), rest, expected, asked, counted)
    os.write(process.stdin.fileno(), b"QUIT\n")
    counted["exit code not 0"] = int(process.wait(30) != 0)
    return counted


def plain(words: list[bytes]) -> bool:
    """Whether these are the words of a line that was not mutated, for a command that has a result."""
    return len(words) > 1 and words[0].decode("latin-1") in VALUES and words[1].isdigit() and int(words[1]) >= PLAIN


def take(data: bytes, rest: bytes, expected: int, asked: dict[str, str], counted: Counter[str]) -> tuple[bytes, int]:
    *lines, rest = (rest + data).split(b"\n")
    for text in lines:
        tokens = split(text.rstrip(b"\r"))
        if expected:
            expected -= 1
            counted["results"] += 1
            allowed = {VALUES[asked[tokens[0]]]} if tokens[0] in asked else set(VALUES.values())
            counted["results of a wrong token count"] += len(tokens) not in allowed
        elif tokens[:1] == ["S"] and len(tokens) == 2 and tokens[1].isdigit():
            expected = int(tokens[1])
            counted["return lines"] += 1
        else:
            counted["return lines"] += 1
            known = tokens[:1] in (["S"], ["E"], ["F"]) or text.startswith(b"$")
            counted["lines that are neither S, E, F nor a greeting"] += not known
    return rest, expected


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    counted = fuzz(options.lines, options.seed)
    for what, count in counted.items():
        print(f"{what:50} {count}")
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
                return well_formed(random.Random(seed), lines, process)
            finally:
                process.kill()


def wrong(counted: Counter[str]) -> dict[str, int]:
    """What must not be."""
    return {what: count for what, count in counted.items() if count and what not in ("lines", "return lines", "results")}


if __name__ == "__main__":
    sys.exit(main())
