"""How a job ended: the one table that joins what Batch says of the container with what the run's own record says.

The run's record wins where it speaks (a container can be marked FAILED after its program was done); Batch's word explains why
there is none. A decision by value, no calls.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from gahp.batch import BatchJob
from gahp.model import HoldCode, JobReport, JobRequest, JobState, one_line
from gahp.sandbox import Outcome


def removed(job: BatchJob | None) -> JobReport:
    """The report of a run that was ended by a TerminateJob, ours or somebody else's, or that never came to Batch."""
    return JobReport(JobState.REMOVED, native_id=job.id if job else "")


def held(reason: str, code: HoldCode, job: BatchJob | None = None) -> JobReport:
    """The report of a run that a person has to look at. `reason` becomes HoldReason: one line, under 1,000 characters."""
    return JobReport(JobState.HELD, hold_reason=one_line(reason), hold_code=code, native_id=job.id if job else "")


def ended_by_somebody(job: BatchJob) -> bool:
    """Somebody ended the job in AWS Batch itself."""
    return job.status == "FAILED" and (job.terminated or job.cancelled)


def decide(request: JobRequest, job: BatchJob | None, outcome: Outcome | None) -> JobReport:
    """The final report of a run whose container has ended.

    `job` is None when Batch knows it no more, `outcome` when it left no record. What was used is told however it ended.
    """
    return dataclasses.replace(_decide(request, job, outcome), **_usage(request, job, outcome))


def _usage(request: JobRequest, job: BatchJob | None, outcome: Outcome | None) -> dict[str, Any]:
    used: dict[str, Any] = {"disk_kib": request.resources.disk_kib}
    if outcome is not None:
        used |= {
            "bytes_sent": outcome.bytes_sent,
            "bytes_received": outcome.bytes_received,
            "user_cpu_s": outcome.user_cpu_s,
            "system_cpu_s": outcome.system_cpu_s,
        }
    if job is not None:
        used |= {"restarts": job.restarts, "cpus": job.cpus, "memory_mib": job.memory_mib, "worker": job.worker}
    return used


def _decide(request: JobRequest, job: BatchJob | None, outcome: Outcome | None) -> JobReport:
    if outcome is None:
        return _without_record(request, job)
    if outcome.phase:
        codes = {"stage_in": HoldCode.TRANSFER_INPUT, "stage_out": HoldCode.TRANSFER_OUTPUT}
        return held(outcome.message, codes.get(outcome.phase, HoldCode.CANNOT_START), job)
    if outcome.oom and outcome.exit_code != 0:
        return _out_of_memory(request, job)
    if outcome.missing:
        names = ", ".join(outcome.missing[:10]) + (", ..." if len(outcome.missing) > 10 else "")
        return held(
            f"The job ended ({_ending(outcome)}) without making its output {names}: see transfer_output_files.",
            HoldCode.TRANSFER_OUTPUT,
            job,
        )
    return JobReport(
        JobState.COMPLETED,
        exit_code=outcome.exit_code,
        exit_signal=outcome.exit_signal,
        exit_reason=one_line(job.status_reason) if job and outcome.terminated else "",
        native_id=job.id if job else "",
    )


def _without_record(request: JobRequest, job: BatchJob | None) -> JobReport:
    if job is None:
        return held(
            "AWS Batch no longer knows the job, and it left no result in S3: release it to run it again.", HoldCode.BATCH_SYSTEM
        )
    if job.container_reason.startswith("OutOfMemory"):
        return _out_of_memory(request, job)
    if job.status == "SUCCEEDED":
        return held(
            "The container ended well, but left no result in S3: see the job's log in CloudWatch"
            f" ({job.log_stream or 'no stream'}), and that the job definition's image starts fetch-and-run scripts.",
            HoldCode.BATCH_SYSTEM,
            job,
        )
    reasons = "; ".join(reason for reason in (job.status_reason, job.container_reason) if reason) or "no reason given"
    code = f", container exit code {job.exit_code}" if job.exit_code is not None else ""
    stream = f" Its log in CloudWatch: {job.log_stream}." if job.log_stream else ""
    return held(f"AWS Batch ended the job {job.id}: {reasons}{code}.{stream}", HoldCode.BATCH_SYSTEM, job)


def _out_of_memory(request: JobRequest, job: BatchJob | None) -> JobReport:
    had = job.memory_mib if job and job.memory_mib else request.resources.memory_mib
    needed = f"more than the {had} MB it had" if had else "more memory than it had"
    return held(f"The job needed {needed} and was killed: raise request_memory.", HoldCode.OUT_OF_RESOURCES, job)


def _ending(outcome: Outcome) -> str:
    return f"signal {outcome.exit_signal}" if outcome.exit_signal is not None else f"exit code {outcome.exit_code}"
