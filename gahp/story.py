"""What happened to a run and when, as the text of the journal's column `story`: how it begins, and how it grows with each news.

Knows the model only. The text is a line with a JSON object; what it holds is listed at `begin`. News is an object of the same
form, and the UPDATE that is made anyway puts it behind the others as one more line (APPEND): so nobody has to read a story to add
to it, and no process keeps one in memory. A text that has grown long is merged into one line again by `retell`, which SQLite
calls. `told` is what all the lines say together; `gahp.history` reads that.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from gahp.model import JobRequest, one_line

News = Mapping[str, Any]

# How an UPDATE puts :news into the story. Most runs have told all they have to tell before theirs is merged.
APPEND = "CASE WHEN length(story) < 4000 THEN story || char(10) || :news ELSE retell(story, :news) END"
_ENCODE = json.JSONEncoder(separators=(",", ":")).encode
# Ten attempts, each RUNNABLE, STARTING and RUNNING, and what comes before and after.
_MOST_SEEN = 40


def begin(request: JobRequest, state: str, now: float) -> str:
    """The story of a run that is recorded in `state` at `now`. All times are seconds since the epoch. A story has, as it grows:

    job      what the request asks: id (GlobalJobId), node, dag (DAGMan's cluster), batch_name, owner, executable, project, cpus,
             memory_mib, gpus, disk_kib, runtime_s; what was not asked is left out
    at       when the run last came into each of its states, by the state's word
    seen     Batch's words for it one after another, each with the time of its beginning: [["RUNNABLE", 1764000000.0], ...];
             RUNNING and the ends have Batch's own time, the others that of the sweep which saw them first
    batch    what Batch last said: id, status, status_reason, container_reason, exit_code, created, started, stopped, cpus,
             memory_mib, log_stream, worker, and attempts: a list of started, stopped, exit_code, status_reason,
             container_reason, log_stream, worker; what Batch did not say is left out, and where a list or the counts of an array
             said all there was to say, that is much
    record   what the run's own exit.json says, by the names of gahp.sandbox.Outcome; what it does not say is left out
    trouble  the last thing that has to be tried again: [time, step, sentence]
    """
    resources = request.resources
    job = {
        "id": request.global_job_id,
        "node": request.dag_node,
        "dag": request.dag,
        "batch_name": request.batch_name,
        "owner": request.owner,
        "executable": request.executable,
        "project": request.project,
        "cpus": resources.cpus,
        "memory_mib": resources.memory_mib,
        "gpus": resources.gpus,
        "disk_kib": resources.disk_kib,
        "runtime_s": resources.runtime_s,
    }
    return write({"job": said(job), "at": {state: now}})


def trouble(step: str, sentence: str, now: float) -> News:
    """News of a step that could not be done and is tried again."""
    return {"trouble": [round(now, 3), step, one_line(sentence, 500)]}


def said(fields: Mapping[str, Any]) -> dict[str, Any]:
    """`fields` without those that say nothing."""
    return {key: value for key, value in fields.items() if value is not False and value not in (None, "", (), [])}


def write(news: News) -> str:
    """The text of a story or of news: ASCII, times to a millisecond as they were rounded by whoever took them."""
    return _ENCODE(news)


def retell(story: str, news: str) -> str:
    """The text of `story` with `news` in it, as one line."""
    return write(told(f"{story}\n{news}"))


def told(story: str) -> dict[str, Any]:
    """What a story says. A line that cannot be read says nothing: no run fails for its story's sake."""
    lines = story.split("\n")
    whole = _object(lines[0])
    for line in lines[1:]:
        for key, value in _object(line).items():
            if key == "seen":
                seen = whole.setdefault("seen", [])
                seen += [entry for entry in value if not seen or seen[-1][0] != entry[0]]
                del seen[:-_MOST_SEEN]
            elif isinstance(value, dict) and (key in ("job", "at") or _goes_on(whole.get(key), value)):
                whole.setdefault(key, {}).update(value)
            else:
                whole[key] = value
    return whole


def _goes_on(before: Any, now: dict[str, Any]) -> bool:
    """Whether Batch says something more of the job it spoke of before, and not all there is to say."""
    return isinstance(before, dict) and "id" in now and before.get("id") == now["id"] and "attempts" not in now


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text or "{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
