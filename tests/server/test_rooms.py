"""Imports point downwards, and the rooms without I/O have none: held to what docs/architecture.md says."""

import ast
import subprocess
import sys
from pathlib import Path

import gahp

ROOT = Path(gahp.__file__).parent
ALLOWED = {
    "model": set(),
    "lanes": set(),
    "limits": {"model"},
    "protocol": {"model"},
    "blah": {"model"},
    "config": {"model"},
    "story": {"model"},
    "metrics": {"model"},
    "meter": {"model", "config", "metrics", "limits", "history"},
    "statedir": {"model"},
    "run": {"model"},
    "database": {"model", "run", "story", "statedir"},
    "seal": {"model", "run"},
    "journal": {"model", "lanes", "story", "metrics", "run", "database", "seal", "statedir"},
    "history": {"model", "story", "run", "database"},
    "report": {"model", "run", "history"},
    "sandbox": {"model", "credentials"},
    "batch": {"model", "credentials", "lanes", "limits"},
    "gateway": {
        *("model", "lanes", "metrics", "limits", "run", "database", "seal", "journal", "statedir", "story", "sandbox", "batch"),
        "config",
    },
    "credentials": set(),
    "site": {
        *("model", "credentials", "limits", "meter", "metrics", "batch", "config", "gateway", "journal", "sandbox"),
        "statedir",
    },
    "server": {"model", "lanes", "config", "statedir", "protocol", "blah", "gateway", "site", "meter"},
    "provision": {"model", "lanes", "config", "limits", "batch", "sandbox", "gateway", "site"},
    "local": {"model"},
}
NO_IO = {
    "os",
    "io",
    "socket",
    "subprocess",
    "threading",
    "pathlib",
    "shutil",
    "tempfile",
    "boto3",
    "botocore",
    "select",
    "time",
    "logging",
}


def imports(room):
    paths = [ROOT / f"{room}.py"] if (ROOT / f"{room}.py").exists() else sorted((ROOT / room).glob("*.py"))
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                yield node.module or ""
                if node.module == "gahp":
                    yield from (f"gahp.{alias.name}" for alias in node.names)


def test_each_room_imports_only_what_lies_below_it():
    for room, allowed in ALLOWED.items():
        rooms = {name.split(".")[1] for name in imports(room) if name.startswith("gahp.") and not name.startswith("gahp.__")}
        rooms -= {room, "RELEASE_DAY"}
        assert rooms <= allowed, f"{room} imports {rooms - allowed}"


def test_protocol_and_blah_do_no_io():
    for room in ("protocol", "blah"):
        assert not {name.partition(".")[0] for name in imports(room)} & NO_IO
        for path in (ROOT / room).glob("*.py"):
            calls = {
                node.func.id
                for node in ast.walk(ast.parse(path.read_text()))
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
            }
            assert not calls & {"open", "print", "input", "eval", "exec", "compile", "__import__"}, path


def test_the_server_imports_nothing_slow_before_its_greeting_and_never_the_embedded_aws():
    program = "import sys, gahp.server; print(*sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert not {"boto3", "botocore", "classad2", "htcondor2", "sqlite3", "gahp.gateway", "gahp.local", "moto"} & set(loaded)
    program = "import sys, gahp.server, gahp.site, gahp.blah; print(*sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert not {"gahp.local", "moto", "flask", "rich", "prompt_toolkit"} & set(loaded)
