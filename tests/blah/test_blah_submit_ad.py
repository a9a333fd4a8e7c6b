import ast
import hashlib
import pathlib
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gahp.blah
from gahp import model
from gahp.blah import BadAd, parse_submit
from gahp.blah.submit_ad import split_remaps

relaxed = settings(deadline=None, database=None)


def job(attributes="", cmd='"/bin/echo"', iwd='"/home/alice"'):
    return parse_submit(f"[ Cmd = {cmd}; Iwd = {iwd}; {attributes} ]")


def resources(attributes):
    return job(attributes).resources


def refusal(attributes, **fields):
    with pytest.raises(BadAd) as caught:
        job(attributes, **fields)
    sentence = str(caught.value)
    assert sentence == model.one_line(sentence), "one line, short enough for a HoldReason"
    assert sentence.endswith(".")
    return sentence


# What real gridmanagers sent


def test_every_recorded_ad_that_is_whole_is_a_job(recorded):
    assert len(recorded) > 100
    for case, text in recorded.items():
        if not text.endswith(" ]"):
            continue
        request = parse_submit(text)
        assert request.executable.startswith("/"), case
        assert request.iwd.startswith("/"), case
        assert request.digest == hashlib.sha256(text.encode()).hexdigest()


def test_the_one_recorded_ad_that_was_cut_is_refused_and_completed_it_is_a_job(recorded):
    (cut,) = [text for text in recorded.values() if not text.endswith(" ]")]
    with pytest.raises(BadAd, match="cannot be parsed"):
        parse_submit(cut)
    (argument,) = parse_submit(cut + '" ]').arguments
    assert set(argument) == {"a"}


def test_a_plain_job(recorded):
    assert parse_submit(recorded["simple"]) == model.JobRequest(
        executable="/bin/echo",
        iwd="/home/alice/c/simple",
        arguments=("hello", "world"),
        stdout="j.out",
        stderr="j.err",
        directory="...",
        digest=hashlib.sha256(recorded["simple"].encode()).hexdigest(),
    )


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        (
            "args_new",
            {
                "arguments": (
                    *("one", "two words", "", '"dq"', "it's", "hé√日", "back\\slash", "$HOME", "*", "`x`"),
                    *("a;b", "--", "--flag=1", "tab\there"),
                )
            },
        ),
        ("args_old", {"arguments": ("one", '"two', 'three"', "back\\slash", "é")}),
        (
            "env_new",
            {
                "environment": (
                    ("A", "1"),
                    ("B", "x y"),
                    ("C", "hé"),
                    ("D", '"q"'),
                    ("E", "a;b|c"),
                    ("F", "it's"),
                    ("G", ""),
                )
            },
        ),
        ("env_old", {"environment": (("A", "1"), ("B", "x y"), ("C", "3"))}),
        (
            "getenv",
            {
                "environment": (
                    ("CONDOR_CONFIG", "/home/alice/pool/condor_config"),
                    ("HOME", "/home/alice"),
                    ("LANG", "C.UTF-8"),
                    ("LOGNAME", "alice"),
                    ("OLDPWD", "/"),
                    ("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"),
                    ("PWD", "/home/alice/c/getenv"),
                    ("USER", "alice"),
                    ("Z", "1"),
                )
            },
        ),
        (
            "batch",
            {
                "queue": "fast queue",
                "project": "proj1",
                "resources": model.Resources(runtime_s=3600),
                "extra_arguments": "--x \"y z\" 'q'",
            },
        ),
        ("resources", {"resources": model.Resources(memory_mib=2048, gpus=2)}),
        ("resources_expr", {"resources": model.Resources(memory_mib=2048)}),
        ("remote_attrs", {"resources": model.Resources(cpus=4), "queue": "rq"}),
        ("cereq_list", {"resources": model.Resources(cpus=3)}),
        ("cereq_expr", {"resources": model.Resources()}),
        (
            "request_remote_cpus",
            {"resources": model.Resources(disk_kib=100), "extra_arguments": "--cpus=4"},
        ),
        (
            "xfer_in",
            {
                "inputs": (
                    *("rel.txt", "/etc/hosts", "dir/", "http://127.0.0.1:1/x.dat"),
                    *("s3://bucket/key.bin", "with space.txt"),
                ),
                "outputs": None,
            },
        ),
        (
            "xfer_out",
            {
                "outputs": ("a.out", "b/c.out", "d"),
                "remaps": (("a.out", "/tmp/a.renamed"), ("b/c.out", "s3://bucket/c"), ("d", "out/d")),
            },
        ),
        ("nofiles", {"stdin": "", "stdout": "", "stderr": ""}),
        ("stdin", {"stdin": "in.txt", "stdout": "j.out", "stderr": "j.err"}),
        ("relexe", {"executable": "/home/alice/c/relexe/run.sh", "stdout": "sub/o.txt", "stderr": "/tmp/e.txt"}),
        ("initialdir", {"iwd": "/home/alice/c/initialdir/sub"}),
        ("remote_initialdir", {"iwd": "/remote/dir"}),
        ("proxy", {"proxy": "/home/alice/c/proxy/p.pem"}),
        ("no_transfer_exe@23.9.6", {"transfer_executable": True}),
        ("no_transfer_exe@25.14.1", {"transfer_executable": False}),
    ],
)
def test_a_recorded_ad_means_what_its_submit_file_said(recorded, case, expected):
    request = parse_submit(recorded[case])
    assert {name: getattr(request, name) for name in expected} == expected


def test_a_job_that_pegasus_512_planned_has_its_resources_in_cerequirements():
    request = job(
        r"""environment = "LANG=en_US.UTF-8 MY_ENV='a value with spaces and ''quotes''' PEGASUS_CORES=2";"""
        ' cerequirements = JOBNAME=="findrangeID0000" && PASSENV==1 && NODES=="1" && CORES=="2" && GPUS=="1" && PROCS=="2"'
        ' && WALLTIME=="00:30:00" && PER_PROCESS_MEMORY=="2048" && PROJECT=="myproj" && PRIORITY==30'
        ' && EXTRA_ARGUMENTS=="--jobdef foo"; Queue = "pegasus-queue"'
    )
    assert request.environment == (
        ("LANG", "en_US.UTF-8"),
        ("MY_ENV", "a value with spaces and 'quotes'"),
        ("PEGASUS_CORES", "2"),
    )
    assert request.resources == model.Resources(cpus=2, memory_mib=4096, gpus=1, runtime_s=1800)
    assert (request.queue, request.project, request.priority) == ("pegasus-queue", "myproj", 30)
    assert request.extra_arguments == "--jobdef foo"


def test_a_job_that_pegasus_513_planned_has_quoted_names_and_unset_macros():
    request = job(
        'CERequirements = JOBNAME=="analyzeID000000" && PASSENV==1 && NODES=="1" && CORES=="2" && PROCS=="1"'
        ' && TOTAL_MEMORY=="2048" && GPUS=="" && PRIORITY==40 && EXTRA_ARGUMENTS=="\'--a b\'"; BatchRuntime = 1800;'
        ' Queue = "\'my-queue\'"; BatchProject = "\'myproj\'"; Environment = "A=1 _CONDOR_TRANSFER_EXECUTABLE=false"'
    )
    assert request.resources == model.Resources(cpus=2, memory_mib=2048, runtime_s=1800)
    assert (request.queue, request.project, request.extra_arguments) == ("my-queue", "myproj", "--a b")
    assert not request.transfer_executable


# What each attribute means


def test_names_of_attributes_count_in_any_case():
    request = parse_submit('[ CMD = "/x"; iwd = "/d"; OUT = "o"; requestMEMORY = 5; ARGUMENTS = "a"; transferinput = "i" ]')
    assert request == model.JobRequest(
        executable="/x",
        iwd="/d",
        stdout="o",
        resources=model.Resources(memory_mib=5),
        arguments=("a",),
        inputs=("i",),
        digest=request.digest,
    )


def test_the_attributes_that_a_schedds_job_transform_copies():
    request = job(
        'RequestCpus = 4; RequestDisk = 1024; RequestGpus = 1; TransferExecutable = false; GlobalJobId = "h#1.0#5";'
        ' DAGNodeName = "B1"; DAGManJobId = 101; JobBatchName = "d.dag+101";'
        ' JobPrio = -5; Owner = "alice"; UserLog = "/home/alice/j.log"'
    )
    assert request.resources == model.Resources(cpus=4, disk_kib=1024, gpus=1)
    assert (request.global_job_id, request.dag_node, request.owner) == ("h#1.0#5", "B1", "alice")
    assert (request.dag, request.batch_name) == (101, "d.dag+101")
    assert (request.priority, request.user_log, request.transfer_executable) == (-5, "/home/alice/j.log", False)


@pytest.mark.parametrize(
    ("attributes", "cpus"),
    [
        ("RequestCpus = 2; NodeNumber = 4; CERequirements = CORES == 8", 2),
        ("NodeNumber = 4; SMPGranularity = 3; CERequirements = RequestCpus == 8", 4),
        ("NodeNumber = 1; SMPGranularity = 3", 3),
        ("HostSMPSize = 8", None),
        ("HostSMPSize = 8; WholeNodes = false; NodeNumber = 2", 2),
        ("HostSMPSize = 8; WholeNodes = true; HostNumber = 1", 8),
        ("CERequirements = RequestCpus == 3 && CORES == 8", 3),
        ('CERequirements = CORES == "2" && PROCS == "4" && NODES == "1"', 4),
        ("CERequirements = CORES >= 2", 2),
        ("CERequirements = CORES <= 2 || PROCS == 2", None),
        ("RequestCpus = RequestCpus; CERequirements = CORES == 8", 8),
        ("RequestCpus = Base + 1; Base = 2", 3),
        ("RequestCpus = 2.0", 2),
        ('RequestCpus = "2"', 2),
        ("RequestCpus = undefined", None),
        ('RequestCpus = ""', None),
    ],
)
def test_cpus_come_from_the_first_attribute_that_speaks(attributes, cpus):
    assert resources(attributes) == model.Resources(cpus=cpus)


@pytest.mark.parametrize(
    ("attributes", "memory"),
    [
        ("RequestMemory = 100; CERequirements = RequestMemory == 200 && TOTAL_MEMORY == 300", 100),
        ("CERequirements = RequestMemory == 200 && TOTAL_MEMORY == 300", 200),
        ("CERequirements = TOTAL_MEMORY == 300 && PER_PROCESS_MEMORY == 400", 300),
        ("CERequirements = PER_PROCESS_MEMORY == 400", 400),
        ('CERequirements = TOTAL_MEMORY == "2gb"', 2048),
        ('CERequirements = TOTAL_MEMORY == "1025 kb"', 2),
        ('CERequirements = TOTAL_MEMORY == "512MiB"', 512),
        ("CERequirements = TOTAL_MEMORY > 511", 512),
        ("RequestMemory = RequestMemory", None),
        ("RequestMemory = ifThenElse(MemoryUsage =!= undefined, MemoryUsage * 2, 1024)", 1024),
    ],
)
def test_memory_comes_from_the_first_attribute_that_speaks(attributes, memory):
    assert resources(attributes) == model.Resources(memory_mib=memory)


def test_memory_for_each_process_is_multiplied_by_the_cpus_wherever_these_come_from():
    wanted = "CERequirements = PER_PROCESS_MEMORY == 400"
    assert resources(f"RequestCpus = 3; {wanted}") == model.Resources(cpus=3, memory_mib=1200)
    assert resources(f'{wanted} && PROCS == "2"') == model.Resources(cpus=2, memory_mib=800)


@pytest.mark.parametrize(
    ("attributes", "seconds"),
    [
        ('BatchRuntime = 60; CERequirements = WALLTIME == "01:00:00"', 60),
        ('CERequirements = WALLTIME == "01:02:03"', 3723),
        ('CERequirements = WALLTIME == "100:00:00"', 360000),
        ('CERequirements = WALLTIME == "02:03"', 123),
        ('CERequirements = WALLTIME == "90"', 90),
        ("CERequirements = Walltime == 3600", 3600),
        ("BatchRuntime = 2 * 30", 60),
    ],
)
def test_the_run_time_is_in_seconds_or_a_clocks_writing(attributes, seconds):
    assert resources(attributes) == model.Resources(runtime_s=seconds)


def test_no_gpus_and_no_disk_are_as_if_nobody_asked():
    assert resources("RequestGpus = 0; GPUNumber = 2; RequestDisk = 0") == model.Resources()
    assert resources('CERequirements = GPUS == "0"') == model.Resources()
    assert resources("GPUNumber = 2; CERequirements = GPUS == 3") == model.Resources(gpus=2)
    assert resources("CERequirements = RequestGpus == 1 && GPUS == 3 && RequestDisk == 7") == model.Resources(gpus=1, disk_kib=7)


@pytest.mark.parametrize(
    ("attributes", "queue", "project"),
    [
        ('Queue = "q"; BatchProject = "p"; CERequirements = QUEUE == "x" && PROJECT == "y"', "q", "p"),
        ('CERequirements = QUEUE == "x" && PROJECT == "\'y\'"', "x", "y"),
        ("CERequirements = PROJECT == 42", "", "42"),
        ("Queue = \"it's\"; BatchProject = \"'a' 'b'\"", "it's", "'a' 'b'"),
        ("Queue = \"''\"; BatchProject = \"'\"", "", "'"),
    ],
)
def test_queue_and_project_lose_the_quotes_around_them_and_no_others(attributes, queue, project):
    request = job(attributes)
    assert (request.queue, request.project) == (queue, project)


@pytest.mark.parametrize(
    ("attributes", "priority"),
    [
        ("", None),
        ("JobPrio = 0", 0),
        ("JobPrio = 0; CERequirements = PRIORITY == 20", 20),
        ("JobPrio = 7; CERequirements = PRIORITY == 20", 7),
        ('CERequirements = PRIORITY == "-3"', -3),
    ],
)
def test_the_priority_of_a_job_that_has_htcondors_default_is_the_one_of_cerequirements(attributes, priority):
    assert job(attributes).priority == priority


@pytest.mark.parametrize(
    ("attributes", "staged"),
    [
        ("", True),
        ("StageCmd = false; TransferExecutable = true", False),
        ('StageCmd = "TRUE"; TransferExecutable = false', True),
        ("TransferExecutable = false", False),
        ('TransferExecutable = true; Environment = "_CONDOR_TRANSFER_EXECUTABLE=false"', True),
        ('Environment = "_CONDOR_TRANSFER_EXECUTABLE=False"', False),
        ('Environment = "_CONDOR_TRANSFER_EXECUTABLE=true"', True),
        ('Environment = "_CONDOR_TRANSFER_EXECUTABLE=maybe"', True),
    ],
)
def test_whether_the_executable_is_staged(attributes, staged):
    assert job(attributes).transfer_executable is staged


def test_new_syntax_wins_over_old_even_if_empty():
    request = job('Args = "old"; Arguments = ""; Env = "A=old"; Environment = ""')
    assert (request.arguments, request.environment) == ((), ())
    request = job('Args = "old \'x y\'"; Env = "A=x y;B=2"')
    assert (request.arguments, request.environment) == (("old", "'x", "y'"), (("A", "x y"), ("B", "2")))
    assert job('Env = "A=1;2|B=3"; EnvDelim = "|"').environment == (("A", "1;2"), ("B", "3"))


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("a, b ,,\tc d ,\n", ("a", "b", "c d")),
        (" , ,", ()),
        ("", ()),
        ("a,a", ("a", "a")),
    ],
)
def test_file_lists_are_split_at_commas_and_trimmed(text, names):
    assert job(f'TransferInput = "{text}"').inputs == names
    assert job(f'TransferOutput = "{text}"').outputs == names


def test_outputs_that_nobody_named_are_something_else_than_none_named():
    assert job().outputs is None
    assert job("TransferOutput = undefined").outputs is None
    assert job('TransferOutput = ""').outputs == ()


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("a=b;c=d", (("a", "b"), ("c", "d"))),
        (" a = b ; ; c=d ;", (("a", "b"), ("c", "d"))),
        (r"a\=1=b\;2;c=d", (("a=1", "b;2"), ("c", "d"))),
        ("a=s3://b/k?x=1", (("a", "s3://b/k?x=1"),)),
        ("a=b;a=c", (("a", "b"),)),
        (r"a\b=c\d", (("a\\b", "c\\d"),)),
        ("", ()),
    ],
)
def test_remaps_are_pairs_with_escapes(text, pairs):
    assert split_remaps(text) == pairs


@relaxed
@given(st.dictionaries(*[st.text(alphabet="ab=;\\/é ", min_size=1).filter(lambda name: name.strip() == name != "")] * 2))
def test_every_name_comes_back_from_a_remap(remaps):
    def escaped(name):
        return name.replace("=", r"\=").replace(";", r"\;")

    # A backslash before a delimiter cannot be said: HTCondor has no escape for the backslash itself.
    remaps = {
        name: target
        for name, target in remaps.items()
        if not any(sign in part for part in (name + "=", target + ";") for sign in ("\\=", "\\;"))
    }
    text = ";".join(f"{escaped(name)}={escaped(target)}" for name, target in remaps.items())
    assert dict(split_remaps(text)) == remaps


def test_octal_escapes_are_the_bytes_of_names_and_arguments_whatever_their_encoding():
    request = job(r'Arguments = "x\377y h\303\251"; TransferInput = "\351.txt"; Environment = strcat("A=", "\200")')
    assert tuple(map(model.to_bytes, request.arguments)) == (b"x\xffy", "hé".encode())
    assert tuple(map(model.to_bytes, request.inputs)) == (b"\xe9.txt",)
    assert model.to_bytes(request.environment[0][1]) == b"\x80"


def test_raw_bytes_of_the_line_are_the_same_as_their_escapes_but_for_the_digest():
    raw = b'[ Cmd = "/bin/\xe9"; Iwd = "/home/\xc3\xa9"; Args = "\\\\\xff1 " ]'
    request = parse_submit(model.to_text(raw))
    assert model.to_bytes(request.executable) == b"/bin/\xe9"
    assert request.iwd == "/home/é"
    assert tuple(map(model.to_bytes, request.arguments)) == (b"\\\xff1",)
    assert request.digest == hashlib.sha256(raw).hexdigest()


def test_cerequirements_may_also_be_a_string_or_an_ad():
    assert resources(r'CERequirements = "CORES == 2 && TOTAL_MEMORY == \"300\""') == model.Resources(cpus=2, memory_mib=300)
    assert resources('CERequirements = [ Cores = 1 + 1; TOTAL_MEMORY = "300" ]') == model.Resources(cpus=2, memory_mib=300)
    assert resources("CERequirements = CERequirements") == model.Resources()
    assert resources("CERequirements = undefined") == model.Resources()


def test_an_ad_of_a_megabyte_is_a_job():
    words = [f"word {number}" for number in range(50_000)]
    names = [f"input {number}.txt" for number in range(5_000)]
    text = " ".join(f"'{word}'" for word in words)
    request = job(f'Arguments = "{text}"; TransferInput = "{",".join(names)}"; Junk = "{"x" * 400_000}"')
    assert request.arguments == tuple(words)
    assert request.inputs == tuple(names)


# Bad input


@pytest.mark.parametrize(
    "text",
    [
        *("", "junk", "[ Cmd = ; ]", '[ Cmd = "/x"', "Cmd = /x", "[ a = 1 \udcff ]"),
        *('[ a = "\ud800" ]', '[ a = "\0" ]', r'[ a = "\0" ]'),
    ],
)
def test_what_is_no_ad_is_refused_with_one_sentence(text):
    with pytest.raises(BadAd, match=r"^The submit ad (cannot be parsed|is not text|has a NUL).*\.$") as caught:
        parse_submit(text)
    assert str(caught.value) == model.one_line(str(caught.value))


def test_a_nul_is_named_as_the_reason():
    assert "NUL" in refusal(r'Args = "a\000b"')
    with pytest.raises(BadAd, match="NUL byte"):
        parse_submit('[ Cmd = "/x\0"; Iwd = "/" ]')


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"cmd": "undefined"}, "The job ad has no Cmd: name the program with `executable` in the submit file."),
        ({"cmd": '""'}, "The job ad has no Cmd: name the program with `executable` in the submit file."),
        ({"cmd": "5"}, "Cmd = 5 in the job ad is not a string: correct it in the submit file."),
        ({"iwd": "Iwd"}, "The job ad has no Iwd: give the job's directory with `initialdir` in the submit file."),
        ({"iwd": '"data"'}, 'Iwd = "data" in the job ad is not an absolute path: correct it in the submit file.'),
    ],
)
def test_a_job_needs_a_program_and_a_directory(fields, sentence):
    assert refusal("", **fields) == sentence


@pytest.mark.parametrize(
    ("attributes", "begin"),
    [
        ('RequestMemory = "abc"', 'RequestMemory = "abc" in the job ad is not a whole number of MB above zero'),
        ("RequestMemory = -5", "RequestMemory = -5 in the job ad is not a whole number of MB"),
        ("RequestMemory = 0", "RequestMemory = 0 in the job ad is not a whole number of MB"),
        ("RequestMemory = 1.5", "RequestMemory = 1.5 in the job ad is not a whole number of MB"),
        ("RequestMemory = true", "RequestMemory = true in the job ad is not a whole number of MB"),
        ('RequestMemory = real("INF")', "RequestMemory = inf in the job ad is not a whole number of MB"),
        ("RequestMemory = { 1 }", "RequestMemory = [1] in the job ad is not a whole number of MB"),
        ('RequestMemory = "0gb"', 'RequestMemory = "0gb" in the job ad is not a whole number of MB'),
        ('RequestMemory = "lots" + 1', 'RequestMemory = "lots" + 1 in the job ad evaluates to an error'),
        ("RequestMemory = error", "RequestMemory = error in the job ad evaluates to an error"),
        ('CERequirements = TOTAL_MEMORY == "abc"', 'TOTAL_MEMORY = "abc" in CERequirements is not a whole number of MB'),
        ("BatchRuntime = 0", "BatchRuntime = 0 in the job ad is not a number of seconds above zero, or HH:MM:SS"),
        ("BatchRuntime = -60", "BatchRuntime = -60 in the job ad is not a number of seconds"),
        ('CERequirements = WALLTIME == "1:2:3:4"', 'WALLTIME = "1:2:3:4" in CERequirements is not a number of seconds'),
        ('CERequirements = WALLTIME == "00:00:00"', 'WALLTIME = "00:00:00" in CERequirements is not a number of seconds'),
        ("RequestCpus = 0", "RequestCpus = 0 in the job ad is not a whole number above zero"),
        ("SMPGranularity = -1", "SMPGranularity = -1 in the job ad is not a whole number above zero"),
        ('CERequirements = CORES == "many"', 'CORES = "many" in CERequirements is not a whole number above zero'),
        ("GPUNumber = -1", "GPUNumber = -1 in the job ad is not a whole number of 0 or more"),
        ("RequestDisk = 1.5", "RequestDisk = 1.5 in the job ad is not a whole number of 0 or more"),
        ("JobPrio = 1.5", "JobPrio = 1.5 in the job ad is not a whole number"),
        ("HostNumber = 2", "HostNumber = 2 in the job ad asks for several hosts, but a job runs on one"),
        ('CERequirements = NODES == "4"', "NODES = 4 in CERequirements asks for several hosts, but a job runs on one"),
        ("WholeNodes = true", "WholeNodes = true in the job ad does not say how many cpus are meant"),
        ('StageCmd = "perhaps"', 'StageCmd = "perhaps" in the job ad is not true or false'),
        ("Queue = 5", "Queue = 5 in the job ad is not a string"),
        ("CERequirements = PROJECT == true", "PROJECT = true in CERequirements is not a string"),
        ("TransferOutput = { 5 }", "TransferOutput = [5] in the job ad is not a string"),
        (r'TransferInput = { "\377" }', 'TransferInput = { "\\377" } in the job ad cannot be evaluated'),
        ('Arguments = "it\'s"', "Arguments in the job ad has a single quote that is not closed"),
        ('Environment = "A=\'1"', "Environment in the job ad has a single quote that is not closed"),
        ('Environment = "A=1 B"', "Environment in the job ad has no '=' in entry 2"),
        ('Env = "A=1;=2"', "Env in the job ad has no name before the '=' in entry 2"),
        ('TransferOutputRemaps = "a=b;c"', "TransferOutputRemaps in the job ad has no NAME=TARGET in piece 2"),
        ('TransferOutputRemaps = "=b"', "TransferOutputRemaps in the job ad has no NAME=TARGET in piece 1"),
        ('CERequirements = "(CORES == 2"', "CERequirements in the job ad has brackets that do not match"),
        ("CERequirements = error", "CERequirements = error in the job ad is not an expression"),
        ('RequestCpus = absTime("2020-01-01T00:00:00Z")', "RequestCpus = 2020-01-01 00:00:00+00:00 in the job ad is not a whole"),
    ],
)
def test_a_value_that_is_of_no_use_is_refused_by_a_sentence_that_names_it(attributes, begin):
    assert refusal(attributes).startswith(begin)


@pytest.mark.parametrize(
    "chain",
    ["1 + " * 100_000 + "1", "x && " * 100_000 + "true", "x" + ".x" * 100_000, "1 is " * 100_000 + "1", "(" * 100_000],
)
def test_an_expression_that_would_overflow_classad2s_stack_is_refused(chain):
    with pytest.raises(BadAd, match=r"more than 2000 operators|cannot be parsed"):
        job(f'A = "quoted; text"; CERequirements = {chain}')


def test_the_longest_expression_that_is_allowed_fits_into_a_threads_stack():
    chain = " && ".join(f"a{number}.b{number} == {number}" for number in range(660)) + " && CORES == 2"
    program = (
        "import sys, threading; from gahp.blah import parse_submit\n"
        "threading.stack_size(2 * 1024 * 1024)\n"
        "text = sys.stdin.read()\n"
        "thread = threading.Thread(target=lambda: print(parse_submit(text).resources.cpus))\n"
        "thread.start(); thread.join()\n"
    )
    text = f'[ Cmd = "/x"; Iwd = "/"; Long = {"1 + " * 1999}1; CERequirements = {chain} ]'
    done = subprocess.run([sys.executable, "-c", program], input=text, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "2\n", "")


def test_operators_within_strings_and_comments_do_not_count():
    text = "&& " * 100_000
    assert job(f'Args = "{text}"; /* {text} */ Queue = "q" // {text}\n').queue == "q"


names = st.sampled_from(
    [
        *("Cmd", "Iwd", "In", "Args", "Arguments", "Env", "EnvDelim", "Environment", "TransferInput", "TransferOutput"),
        *("TransferOutputRemaps", "StageCmd", "TransferExecutable", "RequestMemory", "RequestCpus", "NodeNumber", "HostNumber"),
        *("SMPGranularity", "HostSMPSize", "WholeNodes", "GPUNumber", "RequestGpus", "RequestDisk", "BatchRuntime", "Queue"),
        *("BatchProject", "CERequirements", "JobPrio", "GlobalJobId", "x509userproxy", "Other"),
    ]
)
values = st.one_of(
    st.text().map(lambda text: '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'),
    st.sampled_from(
        [
            *("5", "-1", "0", "1.5", "1e400", "true", "undefined", "error", "Queue", "Cmd", "Other + 1", "{ 1 }", "[ x = 1 ]"),
            *("CORES == 2", 'NODES == "2"', "x is y", '"/d"', '"A=1"', r'"\377"', r'strcat("\377", "a")', "time()", "1/0"),
            *('"a=b"', '"00:10"', '"2gb"', 'absTime("2020-01-01")', '"\udcff"', '{ "\udcff" }', "CERequirements"),
            *("[ CORES = 1 ]", '[ CORES = { "\udcff" } ]', "[ PROJECT = PROJECT ]", "Other.x", "Other[0]"),
        ]
    ),
    st.text(alphabet='ab1=&|()"\'\\.-{}[]', max_size=20),
)


@relaxed
@given(st.one_of(st.text(), st.binary().map(model.to_text), st.text(alphabet='[]"\\=;ab1 \udcff\ud800\0')))
def test_any_text_is_a_job_or_refused(text):
    assert_job_or_refused(text)


@settings(relaxed, max_examples=300)
@given(st.lists(st.tuples(names, values)))
def test_any_ad_is_a_job_or_refused(attributes):
    assert_job_or_refused('[ Cmd = "/x"; Iwd = "/d"; ' + "; ".join(f"{name} = {value}" for name, value in attributes) + " ]")


def assert_job_or_refused(text):
    try:
        request = parse_submit(text)
    except BadAd as refused:
        assert str(refused) == model.one_line(str(refused))
    else:
        assert model.decode_request(model.encode(request)) == request


# The room itself


def test_the_room_imports_nothing_that_does_io():
    allowed = {"__future__", "classad2", "collections", "gahp", "hashlib", "math", "re", "typing"}
    for path in pathlib.Path(gahp.blah.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                modules = [str(node.module)]
            for module in modules:
                assert module.split(".")[0] in allowed, f"{path.name} imports {module}"
                assert not module.startswith("gahp.") or module.startswith(("gahp.blah", "gahp.model")), f"{path.name}: {module}"
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in {"open", "print", "input", "eval", "exec", "__import__"}, path.name
