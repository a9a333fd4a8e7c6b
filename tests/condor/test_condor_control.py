"""What users do to jobs on their way: hold, release, remove, refresh a proxy, spool; each seen in Batch as well."""

import datetime
import http.server
import threading

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from gahp.run import RunState, Wanted
from tests.condor.jobs import ABORTED, EXECUTING, GRID_SUBMITTED, HELD, RELEASED, TERMINATED, Case, case, until

BASH = "#!/bin/bash\n"
# Runs until it is told to end by a file; it is told so only in its second run.
TWICE = BASH + "echo run >> runs; [ -e {folder}/go ] || exec sleep 600; echo second run"


def twice(site, name):
    """A job that sleeps in its first run and ends in the one after `go` was made."""
    folder = site.folder(f"{name}-go")
    (job,) = site.submit(Case(TWICE.replace("{folder}", str(folder))), name)
    return job, folder / "go"


def stuck_in_queue(site, name):
    """A job that stays RUNNABLE in Batch until that fault is cleared."""
    # Nobody else asks for so much: it is no child of an array job, whose name the fault would not know.
    (job,) = site.submit(Case(BASH + "echo ran", f"hold = True\nrequest_memory = {700 + len(name)}"), name)
    site.aws.faults.stuck(name=f"{job.id.replace('.', '-')}-*")
    job.do("condor_release")
    job.wait(GRID_SUBMITTED)
    until(lambda: statuses(job.batch()) == ["RUNNABLE"], "the job does not come to Batch")
    return job


def statuses(batch):
    return [job["status"] for job in batch]


@case(BASH + "exec sleep 600")
def test_condor_rm_of_a_running_job_ends_it_in_batch(job):
    job.wait(EXECUTING)
    assert statuses(job.batch()) == ["RUNNING"]
    job.do("condor_rm")
    job.wait(ABORTED)
    (batch,) = job.batch_over()
    assert (batch["status"], batch["statusReason"]) == ("FAILED", "Removed by HTCondor")
    until(lambda: not job.in_queue(), "the job stays in the queue")


@pytest.mark.together
def test_condor_hold_of_a_running_job_ends_it_in_batch_and_release_runs_it_anew(site):
    job, go = twice(site, "hold-running")
    job.wait(EXECUTING)
    job.do("condor_hold")
    job.wait(HELD)
    assert statuses(job.batch_over()) == ["FAILED"]
    site.write(go, "")
    job.do("condor_release")
    job.wait(RELEASED)
    job.finish()
    assert job.text() == "second run\n"
    assert statuses(job.batch_over()) == ["FAILED", "SUCCEEDED"]


@pytest.mark.together
def test_a_job_that_is_queued_in_batch_can_be_held_released_and_removed(site):
    held, removed = (stuck_in_queue(site, name) for name in ("hold-idle", "rm-idle"))
    held.do("condor_hold")
    removed.do("condor_rm")
    held.wait(HELD)
    removed.wait(ABORTED)
    for job in (held, removed):
        (batch,) = job.batch_over()
        assert (batch["status"], batch.get("attempts", [])) == ("FAILED", [])
    site.aws.faults.clear("stuck")
    held.do("condor_release")
    assert held.finish().text() == "ran\n"
    assert statuses(held.batch()) == ["FAILED", "SUCCEEDED"]
    assert removed.count(EXECUTING) == 0


def in_submit(job):
    """Whether SubmitJob is on its way for this job just now, and what HTCondor wants of it meanwhile."""
    runs = job.runs()
    return runs[-1].wanted if runs and runs[-1].state is RunState.SUBMITTING else None


def test_a_job_held_and_removed_while_submitjob_is_on_its_way_leaves_nothing_in_batch_and_can_be_released(site):
    site.aws.faults.delay("SubmitJob", 12)
    try:
        held, go = twice(site, "hold-early")
        (removed,) = site.submit(Case(BASH + "exec sleep 600"), "rm-early")
        for job, command in ((held, "condor_hold"), (removed, "condor_rm")):
            until(lambda job=job: in_submit(job), "the submit does not begin")
            job.do(command)
        for job in (held, removed):
            until(lambda job=job: in_submit(job) is Wanted.REMOVE, "the GAHP does not hear of it before the submit is done")
    finally:
        site.aws.faults.clear("delay")
    held.wait(HELD)
    removed.wait(ABORTED)
    for job in (held, removed):
        until(job.batch, "the delayed submit does not come to Batch")
        assert statuses(job.batch_over()) == ["FAILED"]
    site.write(go, "")
    held.do("condor_release")
    held.wait(RELEASED)
    assert held.finish().text() == "second run\n"
    assert statuses(held.batch_over()) == ["FAILED", "SUCCEEDED"]
    assert removed.count(EXECUTING) == 0


@pytest.mark.together
def test_condor_submit_spool_and_condor_transfer_data_bring_outputs_back(site):
    what = Case(BASH + "cat given; echo made > made", "transfer_input_files = given", {"given": "from afar\n"})
    (job,) = site.submit(what, "spooled", "-spool")
    until(lambda: job.attribute("JobStatus") == 4, "the spooled job does not complete")
    assert not (job.folder / "made").exists()
    site.pool.run("condor_transfer_data", job.id, folder=job.folder)
    assert (job.text(), job.text("made")) == ("from afar\n", "made\n")


def proxy(hours):
    """A certificate with its key, as an X.509 proxy file has them."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "somebody")])
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=hours))
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    return certificate.public_bytes(serialization.Encoding.PEM) + private


@pytest.mark.together
def test_a_refreshed_proxy_reaches_the_running_job(site):
    first, second = proxy(12), proxy(48)
    wait = 'cp "$X509_USER_PROXY" first; for i in {1..600}; do cmp -s "$X509_USER_PROXY" first || break; sleep 0.2; done'
    program = BASH + wait + '; cp "$X509_USER_PROXY" second; stat -c %a "$X509_USER_PROXY"'
    folder = site.folder("proxies")
    path = site.write(folder / "proxy", first, 0o600)
    submit = f"x509userproxy = {path}\ntransfer_output_files = first, second\ndelegate_job_GSI_credentials = False"
    (job,) = site.submit(Case(program, submit), "proxy")
    job.wait(EXECUTING)
    site.write(folder / "new", second, 0o600).rename(path)
    job.finish()
    assert (job.read("first"), job.read("second")) == (first, second)
    assert job.text() == "600\n"
    (batch,) = job.batch()
    assert "PRIVATE KEY" not in str(batch)


@pytest.mark.together
@pytest.mark.parametrize("command", ["condor_hold", "condor_rm"])
def test_a_job_that_has_just_ended_and_is_stopped_at_that_moment_runs_once(site, command):
    """The result may lie there or be on its way: the job ends in one of two ways, and Batch has one job."""
    (job,) = site.submit(Case(BASH + "echo once"), command.replace("_", "-"))
    job.wait(EXECUTING, TERMINATED)
    site.pool.run(command, job.id, check=False)
    job.wait(TERMINATED, ABORTED, HELD)
    assert len(job.batch_over()) == 1
    site.pool.run("condor_rm", job.id, check=False)


class _Pages(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        found = self.path == "/page.txt"
        self.send_response(200 if found else 404)
        self.end_headers()
        self.wfile.write(b"from the web\n" if found else b"no such page\n")

    def log_message(self, format, *arguments):
        pass


@pytest.mark.together
def test_inputs_by_url_are_fetched_and_outputs_go_to_s3_and_a_url_that_fails_is_named(site):
    s3, bucket = site.aws.client("s3"), site.bucket
    s3.put_object(Bucket=bucket, Key="given/from-s3.txt", Body=b"from S3\n")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Pages) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        web = f"http://127.0.0.1:{server.server_port}"
        submit = f"transfer_input_files = {web}/page.txt, s3://{bucket}/given/from-s3.txt\n"
        remap = f'transfer_output_files = sum, kept\ntransfer_output_remaps = "sum=s3://{bucket}/made/sum"'
        program = BASH + "cat page.txt from-s3.txt | tee sum > kept"
        (good,) = site.submit(Case(program, submit + remap), "urls")
        (bad,) = site.submit(Case(BASH, f"transfer_input_files = {web}/gone.txt"), "bad-url")
        assert good.finish().text("kept") == "from the web\nfrom S3\n"
        bad.wait(HELD)
        server.shutdown()
    assert not (good.folder / "sum").exists()
    assert s3.get_object(Bucket=bucket, Key="made/sum")["Body"].read() == b"from the web\nfrom S3\n"
    ad = bad.ad
    assert ad["HoldReasonCode"] == 13
    assert f"{web}/gone.txt" in ad["HoldReason"]


@pytest.mark.together
def test_a_job_that_asks_for_what_no_host_has_is_held_with_batchs_own_reason(site):
    (job,) = site.submit(Case(BASH + "echo never", "request_gpus = 17"), "gpus")
    until(job.batch, "the job does not come to Batch")
    (batch,) = job.batch()
    assert {"type": "GPU", "value": "17"} in batch["container"]["resourceRequirements"]
    job.wait(HELD)
    ad = job.ad
    assert ad["HoldReasonCode"] == 34
    assert "MISCONFIGURATION" in ad["HoldReason"]
    assert statuses(job.batch_over()) == ["FAILED"]
