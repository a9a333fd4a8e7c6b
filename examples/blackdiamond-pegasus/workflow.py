#!/usr/bin/env python3
"""Write the black diamond for Pegasus, to run on AWS Batch through HTCondor: workflow, catalogs and properties.

    workflow.py [--data condorio|nonsharedfs|sharedfs] [--pegasus 5.1.2|5.1.3] [--queue NAME] [--scratch DIRECTORY or s3://...]
        [--pegasus-home DIRECTORY]

Needs Pegasus's Python API, which comes with Pegasus, or by itself as pegasus-wms.api. docs/pegasus.md explains each setting.
"""

import argparse
import sys
from pathlib import Path

try:
    from Pegasus import api
except ImportError:
    sys.exit("workflow.py: Pegasus's Python API is not installed: install Pegasus, or pip install pegasus-wms.api")

PROGRAMS = Path(__file__).resolve().parents[2] / "gahp" / "cli" / "blackdiamond"
SITE = "awsbatch"


def main() -> None:
    options = parse()
    sites(options).write("sites.yml")
    transformations().write("transformations.yml")
    replicas().write("replicas.yml")
    properties(options).write("pegasus.properties")
    workflow().write("workflow.yml")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Write the black diamond for Pegasus, to run on AWS Batch.")
    parser.add_argument("--data", choices=("condorio", "nonsharedfs", "sharedfs"), default="condorio", help="how files travel")
    parser.add_argument("--pegasus", choices=("5.1.2", "5.1.3"), default="5.1.3", help="the version that will plan it")
    parser.add_argument("--queue", help="a job queue other than AWSBATCH_JOB_QUEUE; it must be in AWSBATCH_ALLOWED_QUEUES")
    parser.add_argument("--pegasus-home", default="/usr", help="where Pegasus is in the container, for sharedfs")
    parser.add_argument(
        "--scratch", default=f"{Path.cwd()}/scratch", help="where files of a run lie; or s3://USER@SITE/BUCKET/KEY"
    )
    options = parser.parse_args()
    if "://" not in options.scratch:
        options.scratch = str(Path.cwd() / options.scratch)
    elif not options.scratch.split("://")[1].partition("/")[2]:
        parser.error(f"--scratch {options.scratch}: give s3://USER@SITE/BUCKET/KEY")
    return options


def workflow() -> api.Workflow:
    """preprocess, twice findrange, analyze."""
    a, b1, b2, c1, c2, d = (api.File(name) for name in ("f.a", "f.b1", "f.b2", "f.c1", "f.c2", "f.d"))
    jobs = [
        api.Job("preprocess").add_args(a, b1, b2).add_inputs(a).add_outputs(b1, b2, stage_out=False),
        api.Job("findrange").add_args(b1, c1).add_inputs(b1).add_outputs(c1, stage_out=False),
        api.Job("findrange").add_args(b2, c2).add_inputs(b2).add_outputs(c2, stage_out=False),
        api.Job("analyze").add_args(c1, c2, d).add_inputs(c1, c2).add_outputs(d),
    ]
    for job in jobs:
        # What Batch is asked for: vCPUs, MiB, seconds.
        job.add_pegasus_profile(cores=1, memory=512, runtime=600)
    return api.Workflow("blackdiamond").add_jobs(*jobs)


def sites(options: argparse.Namespace) -> api.SiteCatalog:
    here = Path.cwd()
    local = api.Site("local", arch=api.Arch.X86_64, os_type=api.OS.LINUX).add_directories(
        directory(api.Directory.SHARED_SCRATCH, f"{here}/local-scratch"), directory(api.Directory.LOCAL_STORAGE, f"{here}/output")
    )
    batch = api.Site(SITE, arch=api.Arch.X86_64, os_type=api.OS.LINUX).add_directories(
        directory(api.Directory.SHARED_SCRATCH, options.scratch, shared=options.data == "sharedfs")
    )
    batch.add_condor_profile(grid_resource="batch awsbatch")
    if options.data == "condorio" and options.pegasus == "5.1.2":
        # 5.1.2 refuses style glite with condorio. Its style ssh writes a grid_resource of its own, which the last line corrects.
        batch.add_pegasus_profile(style="ssh")
        batch.add_grids(api.Grid(api.Grid.BATCH, SITE, api.Scheduler.SLURM, job_type=api.SupportedJobs.COMPUTE))
        batch.add_profiles(api.Namespace.CONDOR, key="+GridResource", value='"batch awsbatch"')
    else:
        batch.add_pegasus_profile(style="glite", nodes=1)
    if options.queue:
        batch.add_pegasus_profile(queue=options.queue)
    if options.data != "condorio" and not options.scratch.startswith("s3://"):
        # The directory is here too: directories are made, and files staged, without AWS Batch.
        batch.add_pegasus_profile(auxillary_local=True)
    if options.data == "sharedfs":
        batch.add_env(PEGASUS_HOME=options.pegasus_home)
    return api.SiteCatalog().add_sites(local, batch)


def directory(kind: object, place: str, shared: bool = False) -> api.Directory:
    url = place if "://" in place else f"file://{place}"
    path = "/" + place.split("/", 3)[3] if "://" in place else place
    return api.Directory(kind, path, shared_file_system=shared).add_file_servers(api.FileServer(url, api.Operation.ALL))


def transformations() -> api.TransformationCatalog:
    return api.TransformationCatalog().add_transformations(
        *(
            api.Transformation(name, site="local", pfn=str(PROGRAMS / name), is_stageable=True, arch=api.Arch.X86_64)
            for name in ("preprocess", "findrange", "analyze")
        )
    )


def replicas() -> api.ReplicaCatalog:
    return api.ReplicaCatalog().add_replica("local", "f.a", str(PROGRAMS / "f.a"))


def properties(options: argparse.Namespace) -> api.Properties:
    found = api.Properties()
    found["pegasus.data.configuration"] = options.data
    found["pegasus.catalog.site.file"] = "sites.yml"
    found["pegasus.catalog.replica.file"] = "replicas.yml"
    found["pegasus.catalog.transformation.file"] = "transformations.yml"
    # A task whose job fails runs again, twice at most.
    found["dagman.retry"] = "2"
    # The container's system need not be the submit host's: without this, jobs try to download a worker package.
    found["pegasus.transfer.worker.package.strict"] = "false"
    return found


if __name__ == "__main__":
    main()
