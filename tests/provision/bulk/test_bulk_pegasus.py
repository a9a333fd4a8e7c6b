"""The clustered jobs of Pegasus's own test 046, as pegasus-plan 5.1.2 wrote them, run as HTCondor runs them.

Pegasus's programs are not here: stand-ins keep their contract with pegasus-aws-batch, as docs/pegasus-aws-batch.md has it.
"""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from gahp.provision.bulk import logs

DATA = Path(__file__).resolve().parents[2] / "data" / "pegasus" / "aws046"
BUCKET, FOLDER = "pegasus-batch-bamboo", "046-aws-batch-black/alice/pegasus/diamond/run0001/00/00"

# stderr goes into a file and is written out at the end, behind the separator; common and task files come from the bucket.
LAUNCH = f"""#!/bin/bash
file=${{task_stderr_file:-$PEGASUS_JOB_NAME.err}}
exec 2>"$file"
finish() {{ echo "PegasusAWSBatchLaunch: exitcode ${{code:-1}}" >&2; echo '{logs.SEPARATOR}'; cat "$file"; exit "${{code:-1}}"; }}
trap finish EXIT
bucket=${{PEGASUS_AWS_BATCH_BUCKET%/}}
script=$1; shift
[[ -n $script && $PEGASUS_CREDENTIALS == s3://* ]] || exit 2
s5cmd cp "$PEGASUS_CREDENTIALS" credentials.conf >&2 || exit 1
s5cmd cp "$bucket/pegasus-lite-common.sh" pegasus-lite-common.sh >&2 || exit 1
s5cmd cp "$bucket/$script" "$script" >&2 || exit 1
chmod +x "$script"
./"$script" "$@"
code=$?
"""
COMMON = """pegasus_lite_log() { echo "2026-11-22 10:00:00: $1" >&2; }
pegasus_lite_record() {
    printf -- '- invocation: True\\n  transformation: "diamond::%s"\\n  regular:\\n    exitcode: 0\\n    raw: 0\\n' "$1"
}
"""
WORKER = "pegasus-worker-5.1.2-x86_64_deb_12.tar.gz"
TASK = """#!/bin/bash
. ./pegasus-lite-common.sh
bucket=${{PEGASUS_AWS_BATCH_BUCKET%/}}
[[ ,$TRANSFER_INPUT_FILES, == *,{worker},* ]] || exit 3
s5cmd cp "$bucket/{worker}" worker.tar.gz >&2 || exit 4
for input in {inputs}; do s5cmd cp "$bucket/$input" "$input" >&2 || exit 5; done
cat {inputs} > {output}; echo {name} >> {output}
s5cmd cp {output} "$bucket/{output}" >&2 || exit 6
pegasus_lite_record {name}
echo "PegasusLite: exitcode 0" >&2
"""
CLUSTERS = {
    "merge_diamond-preprocess-4_0_PID1_ID1": {"preprocess_ID0000001": (["f.a"], "f.b")},
    "merge_diamond-findrange-4_0_PID2_ID1": {"findrange_ID0000002": (["f.b"], "f.c1"), "findrange_ID0000003": (["f.b"], "f.c2")},
    "merge_diamond-analyze-4_0_PID3_ID1": {"analyze_ID0000004": (["f.c1", "f.c2"], "f.d")},
}


@pytest.fixture
def submit_dir(bulk):
    """A planned workflow's directory with @PLACES@ filled in, and the bucket as stage-in leaves it."""
    folder = bulk.folder / "submit"
    inner = folder / "00" / "00"
    inner.mkdir(parents=True)
    for place in ("creds", "home/share/pegasus/sh"):
        (bulk.folder / place).mkdir(parents=True)
    places = {"@SUBMIT_DIR@": folder, "@CREDS_DIR@": bulk.folder / "creds", "@PEGASUS_HOME@": bulk.folder / "home"}
    for source in DATA.iterdir():
        text = source.read_text()
        for place, path in places.items():
            text = text.replace(place, str(path))
        (inner / source.name).write_text(text)
    (bulk.folder / "creds" / "credentials.conf").write_text("[amazon]\n")
    (bulk.folder / "home/share/pegasus/sh/pegasus-aws-batch-launch.sh").write_text(LAUNCH)
    (bulk.folder / "home/share/pegasus/sh/pegasus-lite-common.sh").write_text(COMMON)
    (folder / WORKER).write_text("a tarball")
    # As pegasus-plan writes it: the user's properties, with the escapes of java.util.Properties.
    (folder / "pegasus.12961792122847122158.properties").write_text(
        "#Sun Nov 22 09:57:00 UTC 2026\n"
        "pegasus.aws.region=us-east-1\n"
        "pegasus.aws.account=123456789012\n"
        "pegasus.aws.batch.job_definition=awsbatch-local-job\n"
        "pegasus.aws.batch.compute_environment=awsbatch-local-environment\n"
        "pegasus.aws.batch.job_queue=awsbatch-local-queue\n"
        "pegasus.catalog.site.file=/catalogs/sites.yml\n"
        "pegasus.clusterer.job.aggregator=AWSBatch\n"
    )
    for tasks in CLUSTERS.values():
        for name, (inputs, output) in tasks.items():
            text = TASK.format(worker=WORKER, inputs=" ".join(inputs), output=output, name=name)
            (inner / f"{name}.sh").write_text(text)
    bulk.s3.create_bucket(Bucket=BUCKET)
    bulk.s3.put_object(Bucket=BUCKET, Key=f"{FOLDER}/f.a", Body=b"input\n")
    yield inner
    for entry in bulk.s3.list_objects_v2(Bucket=BUCKET).get("Contents", ()):
        bulk.s3.delete_object(Bucket=BUCKET, Key=entry["Key"])
    bulk.s3.delete_bucket(Bucket=BUCKET)


def submit_file(path):
    """The commands of a submit file."""
    pairs = [line.partition("=")[::2] for line in path.read_text().splitlines() if " = " in line and not line.startswith("#")]
    return {key.strip(): value.strip() for key, value in pairs}


def run_as_condor(bulk, path):
    """What local universe does with the submit file, with our program in place of its executable."""
    job = submit_file(path)
    assert os.path.basename(job["executable"]) == "pegasus-aws-batch"
    variables = dict(pair.split("=", 1) for pair in shlex.split(job["environment"].strip('"')))
    command = [sys.executable, "-m", "gahp.cli.pegasus_aws_batch", *shlex.split(job["arguments"].strip('"'))]
    with open(job["output"], "w") as out, open(job["error"], "w") as err:
        return subprocess.run(
            command,
            cwd=path.parent.parent.parent,
            env={**os.environ, **bulk.aws.environment(), **variables},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            timeout=120,
            check=False,
        ).returncode


def test_the_clusters_of_a_planned_diamond_run_unchanged_with_their_logs_as_pegasus_expects_them(bulk, submit_dir):
    for cluster, tasks in CLUSTERS.items():
        code = run_as_condor(bulk, submit_dir / f"{cluster}.sub")
        out, err = (submit_dir / f"{cluster}.out").read_text(), (submit_dir / f"{cluster}.err").read_text()
        assert code == 0, (out, err)
        lines = out.splitlines()
        # pegasus-exitcode: a summary, nothing failed, something succeeded; monitord: kickstart's record, then the task's.
        summary = bulk.record(lines[-1])[1]
        assert (summary["tasks"], summary["succeeded"], summary["failed"]) == (str(len(tasks)), str(len(tasks)), "0")
        expected = []
        for number, name in enumerate(tasks, 1):
            expected += [
                "- invocation: True",
                f'  transformation: "diamond::{name}"',
                "  regular:",
                "    exitcode: 0",
                "    raw: 0",
            ]
            expected.append(("cluster-task", str(number), name, "succeeded", "0", "pegasus-aws-batch-launch.sh"))
        found = [line if not line.startswith("[") else _task(bulk, line) for line in lines[:-1]]
        assert found == expected
        assert err.count("PegasusLite: exitcode 0") == err.count("PegasusAWSBatchLaunch: exitcode 0") == len(tasks)
        assert logs.SEPARATOR not in out + err
        log = (submit_dir / f"{cluster}.log.000").read_text()
        assert re.search(r"^[\d-]{10} [\d:]{8}\.\d{3} INFO  \[run\] Submitted ", log, re.MULTILINE)
        states = (submit_dir.parent.parent / f"{cluster}.jobstate.log").read_text().splitlines()
        assert {line.split()[1] for line in states if line.split()[2] == "SUCCEEDED"} == set(tasks)
        assert not (submit_dir / f"{cluster}.in.state").exists()
    result = bulk.s3.get_object(Bucket=BUCKET, Key=f"{FOLDER}/f.d")["Body"].read().decode().split()
    assert sorted(result) == sorted(
        ["input", "preprocess_ID0000001"] * 2 + [*CLUSTERS["merge_diamond-findrange-4_0_PID2_ID1"], "analyze_ID0000004"]
    )
    # Nothing of the runs' own is left, and the bucket that was there before is there.
    keys = [entry["Key"] for entry in bulk.s3.list_objects_v2(Bucket=BUCKET)["Contents"]]
    assert not [key for key in keys if ".pegasus-aws-batch" in key]


def _task(bulk, line):
    _, record = bulk.record(line)
    assert record["aws-job-id"]
    return ("cluster-task", record["id"], record["name"], record["state"], record["status"], record["app"])


def test_a_planned_cluster_with_a_failing_task_fails_as_pegasus_expects(bulk, submit_dir):
    bulk.s3.put_object(Bucket=BUCKET, Key=f"{FOLDER}/f.b", Body=b"input\n")
    (submit_dir / "findrange_ID0000003.sh").write_text("#!/bin/bash\necho no luck >&2\nexit 9\n")
    cluster = "merge_diamond-findrange-4_0_PID2_ID1"
    assert run_as_condor(bulk, submit_dir / f"{cluster}.sub") == 1
    lines = (submit_dir / f"{cluster}.out").read_text().splitlines()
    summary = bulk.record(lines[-1])[1]
    assert (summary["tasks"], summary["succeeded"], summary["failed"]) == ("2", "1", "1")
    assert [_task(bulk, line)[2:5] for line in lines[:-1] if line.startswith("[")] == [
        ("findrange_ID0000002", "succeeded", "0"),
        ("findrange_ID0000003", "failed", "1"),
    ]
    err = (submit_dir / f"{cluster}.err").read_text()
    assert "no luck" in err and "PegasusAWSBatchLaunch: exitcode 9" in err
    # A second try, as DAGMan makes it, has a log of its own.
    assert run_as_condor(bulk, submit_dir / f"{cluster}.sub") == 1
    assert (submit_dir / f"{cluster}.log.001").exists()


def test_the_planned_data_are_what_this_test_says_they_are():
    for cluster, tasks in CLUSTERS.items():
        listed = json.loads((DATA / f"{cluster}.in").read_text())["SubmitJob"]
        assert [task["jobName"] for task in listed] == list(tasks)
        assert "--submit" not in (DATA / f"{cluster}.sub").read_text()
