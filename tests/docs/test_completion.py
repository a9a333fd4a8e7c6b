"""Completion of condor_awsbatch and pegasus-aws-batch in a real bash and a real zsh, with nothing set up but the files."""

import os
import pty
import re
import select
import subprocess
import time

from gahp.cli import main
from tests import needs
from tools import completion


def test_the_files_are_what_the_parsers_say():
    for name, text in completion.files().items():
        assert (completion.TARGET / name).read_text(encoding="utf-8") == text, "run `make docs`"


def in_bash(*words, cwd=None):
    """What bash would offer behind these words, the last of which is being written."""
    program = words[0]
    script = (
        f'source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_LINE="$*"; {"_" + program.replace("-", "_")};'
        ' printf "%s\\n" "${COMPREPLY[@]}"'
    )
    ran = subprocess.run(
        ["bash", "--norc", "-c", script, "bash", str(completion.TARGET / "bash" / program), *words],
        capture_output=True, text=True, check=True, cwd=cwd,
    )  # fmt: skip
    assert ran.stderr == ""
    return ran.stdout.split()


def test_bash_offers_the_verbs():
    assert in_bash("condor_awsbatch", "") == list(main.VERBS)
    assert in_bash("condor_awsbatch", "or") == ["orphans"]
    assert "--version" in in_bash("condor_awsbatch", "--")


def test_bash_offers_a_verbs_options_actions_and_values():
    assert in_bash("condor_awsbatch", "orphans", "--") == ["--help", "--end", "--unasked"]
    assert in_bash("condor_awsbatch", "local", "st") == ["start", "status", "stop"]
    assert in_bash("condor_awsbatch", "local", "start", "--v") == ["--vcpus"]
    assert in_bash("condor_awsbatch", "update", "--state", "") == ["ENABLED", "DISABLED"]
    assert in_bash("condor_awsbatch", "image", "p") == ["push"]


def test_bash_offers_files_and_folders_where_they_are_meant(tmp_path):
    (tmp_path / "a.conf").touch()
    (tmp_path / "a folder").mkdir()
    assert in_bash("condor_awsbatch", "create", "--conf", "a.", cwd=tmp_path) == ["a.conf"]
    assert in_bash("condor_awsbatch", "demo", "--output", "a", cwd=tmp_path) == ["a", "folder"]
    assert in_bash("condor_awsbatch", "create", "--prefix", "", cwd=tmp_path) == []
    assert in_bash("pegasus-aws-batch", "a.", cwd=tmp_path) == ["a.conf"]


def test_bash_takes_a_value_that_is_called_like_a_verb_for_a_value():
    assert "--with-roles" in in_bash("condor_awsbatch", "create", "--prefix", "local", "--w")


def test_bash_completes_without_more_when_the_file_is_sourced():
    ran = subprocess.run(
        ["bash", "--norc", "-c", f"source {completion.TARGET}/bash/condor_awsbatch; complete -p condor_awsbatch"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert ran.stdout == "complete -F _condor_awsbatch condor_awsbatch\n"


class Zsh:
    """An interactive zsh on a terminal of its own, with the completion system and our folder in fpath."""

    def __init__(self, folder):
        self.pid, self.terminal = pty.fork()
        if self.pid == 0:
            os.chdir(folder)
            os.execvpe("zsh", ["zsh", "-f", "-i"], {"PATH": os.environ["PATH"], "TERM": "dumb", "HOME": str(folder)})
        self.say("PS1='ready> '; unsetopt zle_bracketed_paste; LISTMAX=1000; bindkey -e")
        self.say(f"fpath=({completion.TARGET}/zsh $fpath); autoload -Uz compinit; compinit -u -D; print in''itialized")
        self.until("initialized")

    def say(self, text, end="\n"):
        os.write(self.terminal, (text + end).encode())

    def until(self, word, limit_s=60):
        """What it shows up to a word; all of it if the word never comes."""
        seen, end = "", time.monotonic() + limit_s
        while word not in seen and time.monotonic() < end:
            if select.select([self.terminal], [], [], 0.2)[0]:
                seen += os.read(self.terminal, 65536).decode("utf-8", "replace")
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r|\x08", "", seen)

    def offers(self, line, word):
        """What it shows when Tab is pressed behind `line`, up to `word`; the line is taken back afterwards."""
        self.say(line, "\t")
        seen = self.until(word)
        self.say("\x15", "")
        return seen

    def close(self):
        os.close(self.terminal)
        os.waitpid(self.pid, 0)


def test_zsh_completes_verbs_actions_options_and_values(tmp_path):
    needs.programs("zsh", of="Debian: zsh")
    shell = Zsh(tmp_path)
    try:
        assert "orphans" in shell.offers("condor_awsbatch orp", "orphans")
        assert "status" in shell.offers("condor_awsbatch local sta", "status")
        assert "DISABLED" in shell.offers("condor_awsbatch update --state DIS", "DISABLED")
        assert "--merge-logs" in shell.offers("pegasus-aws-batch --mer", "--merge-logs")
    finally:
        shell.close()
