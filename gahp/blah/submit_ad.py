r"""The submit ad of BLAH_JOB_SUBMIT, read into a JobRequest.

Knows what each attribute means to HTCondor's gridmanager and blahpd (measured with 23.9.6 and 25.14.1), and the names that
Pegasus puts into CERequirements. Knows nothing of AWS, and looks at no file: whether an input exists, or so much memory can be
had, is for others to say.

Where several attributes speak of one thing, the first that speaks wins. Names in capitals are those within CERequirements (see
requirements.py); all names are case-insensitive.

| of the job | first of |
| --- | --- |
| cpus | RequestCpus; the largest of NodeNumber, SMPGranularity and (with WholeNodes) HostSMPSize; |
|      | REQUESTCPUS; the larger of CORES and PROCS |
| memory, MiB | RequestMemory; REQUESTMEMORY; TOTAL_MEMORY; PER_PROCESS_MEMORY times the cpus; a string may have a unit |
| gpus | RequestGpus; GPUNumber; REQUESTGPUS; GPUS; 0 asks for none |
| disk, KiB | RequestDisk; REQUESTDISK; 0 asks for none |
| run time, s | BatchRuntime; WALLTIME; seconds, or a string MM:SS or HH:MM:SS |
| queue | Queue; QUEUE; a pair of single quotes around it is taken off, as for the two that follow |
| project | BatchProject; PROJECT |
| extra arguments | BatchExtraSubmitArgs; EXTRA_ARGUMENTS |
| priority | JobPrio unless 0, HTCondor's default; PRIORITY; JobPrio |
| arguments | Arguments (V2), even if empty; Args (V1) |
| environment | Environment (V2), even if empty; Env (V1, split at EnvDelim or `;`) |
| executable is staged | StageCmd; TransferExecutable; `_CONDOR_TRANSFER_EXECUTABLE` in the environment; yes |

blahpd's NodeNumber counts processors, not hosts; here they all lie on the one host that a job has. More than one host
(HostNumber, NODES) is refused, and so is WholeNodes without a number of cpus. GPUMode, GPUModel, MICNumber, gridtype,
GridResource and all names that are not in the table or in JobRequest change nothing.
"""

from __future__ import annotations

import hashlib
import re

from gahp import model
from gahp.blah import arguments
from gahp.blah.attributes import BadAd, Bound, JobAd, Values, parse_flag

_BLANKS = " \t\r\n"
_ESCAPED = re.compile(r"\\([=;])")
_PIECE_END = re.compile(r"(?<!\\);")
_TARGET_BEGIN = re.compile(r"(?<!\\)=")

_Pairs = tuple[tuple[str, str], ...]


def parse_submit(text: str) -> model.JobRequest:
    """The job that the new-ClassAd `text` describes. Raises BadAd, and nothing else.

    `text` may hold any byte, decoded as gahp.model says. The digest is the SHA-256 of those bytes, in hexadecimal.
    """
    ad = JobAd(text)
    wanted = ad.bound_requirements()
    environment = _environment(ad)
    executable = ad.text("Cmd")
    if not executable:
        raise BadAd("The job ad has no Cmd: name the program with `executable` in the submit file.")
    return model.JobRequest(
        executable=executable,
        iwd=_iwd(ad),
        transfer_executable=_transfer_executable(ad, environment),
        arguments=_arguments(ad),
        environment=environment,
        stdin=_stream(ad, "In"),
        stdout=_stream(ad, "Out"),
        stderr=_stream(ad, "Err"),
        inputs=_file_names(ad.text("TransferInput")),
        outputs=_outputs(ad),
        remaps=ad.understood("TransferOutputRemaps", split_remaps, ()),
        resources=_resources(ad, wanted),
        queue=ad.bare("Queue") or wanted.bare("QUEUE"),
        project=ad.bare("BatchProject") or wanted.bare("PROJECT"),
        priority=_first(ad.integer("JobPrio") or None, wanted.integer("PRIORITY"), ad.integer("JobPrio")),
        proxy=ad.text("x509userproxy"),
        user_log=ad.text("UserLog"),
        extra_arguments=ad.bare("BatchExtraSubmitArgs") or wanted.bare("EXTRA_ARGUMENTS"),
        directory=ad.text("JobDirectory"),
        digest=hashlib.sha256(model.to_bytes(text)).hexdigest(),
        global_job_id=ad.text("GlobalJobId"),
        dag_node=ad.text("DAGNodeName"),
        dag=ad.integer("DAGManJobId"),
        batch_name=ad.text("JobBatchName"),
        owner=ad.text("Owner"),
    )


def split_remaps(text: str) -> _Pairs:
    r"""Pairs of `a=b;c=d`, blanks around each dropped; `\=` and `\;` are the characters. Of two for one name the first holds.

    ValueError, with a clause as in `arguments`, for a piece that is no pair. Source: condor_submit's transfer_output_remaps.
    """
    remaps: dict[str, str] = {}
    for number, piece in enumerate(_PIECE_END.split(text), 1):
        if not piece.strip(_BLANKS):
            continue
        name, *rest = _TARGET_BEGIN.split(piece, maxsplit=1)
        name, target = name.strip(_BLANKS), "".join(rest).strip(_BLANKS)
        if not name or not target:
            raise ValueError(f"has no NAME=TARGET in piece {number}")
        remaps.setdefault(_ESCAPED.sub(r"\1", name), _ESCAPED.sub(r"\1", target))
    return tuple(remaps.items())


def _iwd(ad: JobAd) -> str:
    iwd = ad.text("Iwd")
    if not iwd:
        raise BadAd("The job ad has no Iwd: give the job's directory with `initialdir` in the submit file.")
    if not iwd.startswith("/"):
        raise ad.refused("Iwd", "an absolute path")
    return iwd


def _stream(ad: JobAd, name: str) -> str:
    path = ad.text(name)
    return "" if path == "/dev/null" else path


def _file_names(text: str) -> tuple[str, ...]:
    return tuple(name for entry in text.split(",") if (name := entry.strip(_BLANKS)))


def _outputs(ad: JobAd) -> tuple[str, ...] | None:
    return None if ad.value("TransferOutput") is None else _file_names(ad.text("TransferOutput"))


def _arguments(ad: JobAd) -> tuple[str, ...]:
    if ad.value("Arguments") is None:
        return arguments.split_v1(ad.text("Args"))
    return ad.understood("Arguments", arguments.split_v2, ())


def _environment(ad: JobAd) -> _Pairs:
    if ad.value("Environment") is None:
        delimiter = ad.text("EnvDelim")[:1] or ";"
        return ad.understood("Env", lambda text: arguments.split_environment_v1(text, delimiter), ())
    return ad.understood("Environment", arguments.split_environment_v2, ())


def _transfer_executable(ad: JobAd, environment: _Pairs) -> bool:
    said = _first(ad.flag("StageCmd"), ad.flag("TransferExecutable"))
    if said is None:
        said = parse_flag(dict(environment).get("_CONDOR_TRANSFER_EXECUTABLE", ""))
    return said is not False


def _resources(ad: JobAd, wanted: Bound) -> model.Resources:
    for values, name in ((ad, "HostNumber"), (wanted, "NODES")):
        hosts = values.count(name)
        if hosts is not None and hosts > 1:
            raise BadAd(f"{name} = {hosts} in {values.source} asks for several hosts, but a job runs on one: ask for one.")
    cpus = _cpus(ad, wanted)
    if cpus is None and ad.flag("WholeNodes"):
        raise BadAd("WholeNodes = true in the job ad does not say how many cpus are meant: say it with RequestCpus.")
    return model.Resources(
        cpus=cpus,
        memory_mib=_memory(ad, wanted, cpus or 1),
        gpus=_count_or_zero((ad, "RequestGpus"), (ad, "GPUNumber"), (wanted, "REQUESTGPUS"), (wanted, "GPUS")) or None,
        disk_kib=_count_or_zero((ad, "RequestDisk"), (wanted, "REQUESTDISK")) or None,
        runtime_s=_first(ad.duration("BatchRuntime"), wanted.duration("WALLTIME")),
    )


def _cpus(ad: JobAd, wanted: Bound) -> int | None:
    host_size = ad.count("HostSMPSize") if ad.flag("WholeNodes") else None
    return _first(
        ad.count("RequestCpus"),
        _largest(ad.count("NodeNumber"), ad.count("SMPGranularity"), host_size),
        wanted.count("REQUESTCPUS"),
        _largest(wanted.count("CORES"), wanted.count("PROCS")),
    )


def _memory(ad: JobAd, wanted: Bound, processes: int) -> int | None:
    each = wanted.memory("PER_PROCESS_MEMORY")
    return _first(
        ad.memory("RequestMemory"),
        wanted.memory("REQUESTMEMORY"),
        wanted.memory("TOTAL_MEMORY"),
        None if each is None else each * processes,
    )


def _count_or_zero(*places: tuple[Values, str]) -> int | None:
    return _first(*(values.count(name, "a whole number of 0 or more", least=0) for values, name in places))


def _first(*values: int | None) -> int | None:
    return next((value for value in values if value is not None), None)


def _largest(*values: int | None) -> int | None:
    return max((value for value in values if value is not None), default=None)
