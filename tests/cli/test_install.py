"""`condor_awsbatch install` and `uninstall`: what they write, what they leave alone, what they say."""

import argparse
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from gahp import limits
from gahp.cli import install, uninstall
from gahp.config import KNOBS
from gahp.model import Refused

SAMPLE = Path(__file__).resolve().parents[2] / "condor_config.d" / install.FILE_NAME
SITE = ["--queue", "queue", "--definition", "definition:3", "--s3", "s3://bucket/pre/fix", "--region", "eu-central-1"]


def call(module, *words):
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    return module.run(parser.parse_args([str(word) for word in words]))


@pytest.fixture
def program(tmp_path):
    path = tmp_path / "awsbatch_gahp"
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


@pytest.fixture(autouse=True)
def user(monkeypatch):
    """Whoever tests, it is a user who installs, and nothing is made outside the test's folders."""
    monkeypatch.setattr(install.os, "geteuid", lambda: 1000)


@pytest.fixture
def root(user, monkeypatch):
    """The administrator, who installs for all users; the directory that their limits are to lie in."""
    if os.getuid() != 0:
        pytest.skip("only root can make what all users share")
    monkeypatch.setattr(install.os, "geteuid", os.getuid)
    var = Path(tempfile.mkdtemp(prefix="awsbatch-var-"))
    var.chmod(0o755)
    monkeypatch.setattr(install, "_USUAL_LOCAL_DIR", str(var))
    yield var / "lib" / "awsbatch_gahp" / "limits"
    shutil.rmtree(var)


@pytest.fixture
def condor(tmp_path, monkeypatch):
    """A condor_config_val that reads the files of a folder, later ones last; the folder."""
    commands, folder = tmp_path / "bin", tmp_path / "config.d"
    commands.mkdir()
    folder.mkdir()
    fake = commands / "condor_config_val"
    fake.write_text(
        "#!/bin/sh\n"
        '[ "$1" = LOCAL_CONFIG_DIR ] && { echo /nowhere, ' + str(folder) + "; exit 0; }\n"
        "for name; do :; done\n"
        "cat " + str(folder) + '/*.conf 2>/dev/null | sed -n "/^$name @=end/,/^@end/p" | sed "1d;\\$d" | grep . && exit 0\n'
        "line=$(cat " + str(folder) + '/*.conf 2>/dev/null | grep "^$name = " | tail -n 1)\n'
        '[ -n "$line" ] || { echo "Not defined: $name" >&2; exit 1; }\n'
        'echo "${line#* = }" | sed "s/\\$([A-Z_]*) *//"\n'
        '[ "$1" = -verbose ] && echo " # at: somewhere, line 7"\n'
        "exit 0\n"
    )
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}:/usr/bin:/bin")
    monkeypatch.setenv("CONDOR_CONFIG", "ONLY_ENV")
    return folder


@pytest.fixture
def pool(tmp_path, monkeypatch):
    """HTCondor's configuration, and a PATH without condor_config_val; the folder for 50-awsbatch.conf, beside first.d."""
    configuration, path = tmp_path / "condor_config", tmp_path / "last.d"
    path.mkdir()
    (tmp_path / "first.d").mkdir()
    configuration.write_text(f"LOCAL_DIR = {tmp_path}/local\nLOCAL_CONFIG_DIR = {tmp_path}/first.d, {path}\n")
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("CONDOR_CONFIG", str(configuration))
    return path


def command(*words):
    """As `call`, in a process of its own: HTCondor's Python that was once without a configuration reads none any more."""
    program = Path(sys.executable).with_name("condor_awsbatch")
    done = subprocess.run([program, *words], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A configuration folder on a machine without HTCondor."""
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("CONDOR_CONFIG", "ONLY_ENV")
    path = tmp_path / "config.d"
    path.mkdir()
    return path


def test_the_sample_is_what_install_writes_for_a_site_that_sets_nothing():
    """When the table of knobs has changed, write what is asked for here into the sample."""
    assert SAMPLE.read_text() == install.render("/usr/local/bin/awsbatch_gahp", {})


def test_the_file_has_every_knob_with_its_sentence_and_no_comment_behind_a_value():
    text = install.render("/opt/gahp", {"AWSBATCH_JOB_QUEUE": "q"})
    for knob in KNOBS:
        assert f"# {knob.sentence} (" in text
        assert f"\n{'' if knob.name == 'AWSBATCH_JOB_QUEUE' else '#'}{knob.name} =" in text
    values = [line for line in text.splitlines() if " = " in line and not line.startswith("#")]
    assert not [line for line in values if "#" in line]


def test_install_fills_in_the_values_and_says_where(folder, program, capsys):
    assert call(install, *SITE, "--set", "AWSBATCH_POLL_INTERVAL=7", "--gahp", program, "--directory", folder) == 0
    path = folder / install.FILE_NAME
    said = capsys.readouterr().out
    assert f"{path} was written." in said
    assert "condor_config_val was not found" in said
    values = install.values_of(path.read_text())
    assert values == {
        "AWSBATCH_JOB_QUEUE": "queue",
        "AWSBATCH_JOB_DEFINITION": "definition:3",
        "AWSBATCH_S3_URL": "s3://bucket/pre/fix",
        "AWSBATCH_REGION": "eu-central-1",
        "AWSBATCH_POLL_INTERVAL": "7",
    }
    assert f"AWSBATCH_GAHP = {program}\n" in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert os.listdir(folder) == [install.FILE_NAME]


def test_install_again_changes_nothing_and_keeps_the_values_it_is_not_given(folder, program, capsys):
    place = ["--gahp", program, "--directory", folder]
    call(install, *SITE, *place)
    before = (folder / install.FILE_NAME).read_text()
    assert call(install, *place) == 0
    assert "is up to date" in capsys.readouterr().out
    assert (folder / install.FILE_NAME).read_text() == before
    call(install, "--queue", "other", *place)
    assert "was replaced" in capsys.readouterr().out
    values = install.values_of((folder / install.FILE_NAME).read_text())
    assert (values["AWSBATCH_JOB_QUEUE"], values["AWSBATCH_JOB_DEFINITION"]) == ("other", "definition:3")


def test_install_again_keeps_the_program_that_it_is_not_told_to_change(folder, program, tmp_path, capsys):
    call(install, *SITE, "--gahp", program, "--directory", folder)
    path = folder / install.FILE_NAME
    assert call(install, "--directory", folder) == 0
    assert f"AWSBATCH_GAHP = {program}\n" in path.read_text()
    assert f"AWSBATCH_GAHP stays {program}" in capsys.readouterr().err
    program.rename(tmp_path / "moved")
    assert call(install, "--directory", folder) == 0
    assert f"AWSBATCH_GAHP = {Path(sys.executable).with_name('awsbatch_gahp')}\n" in path.read_text()


def test_a_file_that_is_not_utf_8_is_one_changed_by_hand(folder, program):
    path = folder / install.FILE_NAME
    call(install, *SITE, "--gahp", program, "--directory", folder)
    changed = path.read_bytes() + "# für Grüße\n".encode("latin-1")
    path.write_bytes(changed)
    for verb in (install, uninstall):
        with pytest.raises(Refused, match="was changed by hand"):
            call(verb, "--directory", folder)
    assert call(install, "--directory", folder, "--force") == 0
    assert Path(f"{path}~").read_bytes() == changed
    assert install.as_installed(path.read_text())


def test_a_program_whose_path_is_not_utf_8_is_written_as_it_is(folder, tmp_path):
    place = tmp_path / os.fsdecode("grün".encode("latin-1")) / "awsbatch_gahp"
    place.parent.mkdir()
    place.write_text("#!/bin/sh\n")
    place.chmod(0o755)
    call(install, *SITE, "--gahp", place, "--directory", folder)
    path = folder / install.FILE_NAME
    assert b"\nAWSBATCH_GAHP = " + os.fsencode(place) + b"\n" in path.read_bytes()
    assert call(uninstall, "--directory", folder) == 0


def test_a_dry_run_prints_the_file_and_writes_none(folder, program, capsys):
    assert call(install, *SITE, "--gahp", program, "--directory", folder, "--dry-run") == 0
    said = capsys.readouterr()
    assert "AWSBATCH_JOB_QUEUE = queue\n" in said.out
    assert "nothing was changed" in said.err
    assert os.listdir(folder) == []


@pytest.mark.parametrize("verb", [install, uninstall])
def test_a_file_changed_by_hand_stays_unless_forced_and_then_a_copy_does(folder, program, verb):
    path = folder / install.FILE_NAME
    call(install, *SITE, "--gahp", program, "--directory", folder)
    changed = path.read_text() + "MY_OWN = 1\n"
    path.write_text(changed)
    words = ["--directory", folder, *(["--gahp", program] if verb is install else [])]
    with pytest.raises(Refused, match=r"was changed by hand.*--force"):
        call(verb, *words)
    assert path.read_text() == changed
    assert call(verb, *words, "--force") == 0
    assert Path(f"{path}~").read_text() == changed
    assert path.exists() == (verb is install)


def test_uninstall_takes_away_what_install_wrote(folder, program, capsys):
    call(install, *SITE, "--gahp", program, "--directory", folder)
    call(uninstall, "--directory", folder, "--dry-run")
    assert (folder / install.FILE_NAME).exists()
    assert call(uninstall, "--directory", folder) == 0
    said = capsys.readouterr().out
    assert "was removed" in said
    assert "Jobs that are still in the queue wait from now on" in said
    assert os.listdir(folder) == []
    assert call(uninstall, "--directory", folder) == 0
    assert "is not there" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ([], "AWSBATCH_JOB_QUEUE is not set: give --queue"),
        (["--queue", "q"], "AWSBATCH_JOB_DEFINITION is not set: give --definition"),
        ([*SITE, "--s3", "bucket"], "is not of the form s3://BUCKET/PREFIX"),
        ([*SITE, "--set", "AWSBATCH_NO_SUCH=1"], "There is no knob AWSBATCH_NO_SUCH"),
        ([*SITE, "--set", "nothing"], "give KNOB=VALUE"),
        ([*SITE, "--set", "AWSBATCH_PROFILE=a\nEVIL = 1"], "is not one line of plain text"),
        ([*SITE, "--set", "AWSBATCH_POLL_INTERVAL=often"], "is not a number"),
        ([*SITE, "--gahp", "/no/such/program"], "is not a program that can be run"),
    ],
)
def test_what_cannot_be_right_is_refused_with_what_to_do_and_writes_nothing(folder, program, words, reason):
    with pytest.raises(Refused, match=reason):
        call(install, "--gahp", program, "--directory", folder, *words)
    assert os.listdir(folder) == []


def test_a_folder_that_is_not_there_is_refused_in_a_sentence(tmp_path, program, folder):
    with pytest.raises(Refused, match=f"^The folder {tmp_path}/missing does not exist: make it, or give another"):
        call(install, *SITE, "--gahp", program, "--directory", tmp_path / "missing")


def test_a_file_that_cannot_be_written_is_refused_with_the_reason(folder, program, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(install.os, "replace", full)
    with pytest.raises(Refused, match=f"{install.FILE_NAME} cannot be written: No space left on device. Mend that"):
        call(install, *SITE, "--gahp", program, "--directory", folder)
    assert os.listdir(folder) == []


def test_without_condor_config_val_htcondors_python_knows_the_folder(pool, program):
    assert f"{pool / install.FILE_NAME} was written." in command("install", *SITE, "--gahp", program)
    assert os.listdir(pool) == [install.FILE_NAME]
    assert f"{pool / install.FILE_NAME} was removed." in command("uninstall")
    assert os.listdir(pool) == []


def test_without_condor_config_val_htcondors_python_knows_what_other_files_set(pool, program, tmp_path):
    (tmp_path / "first.d" / "10-site.conf").write_text("AWSBATCH_JOB_QUEUE = theirs\n")
    command("install", *SITE[2:], "--gahp", program)
    assert "AWSBATCH_JOB_QUEUE" not in install.values_of((pool / install.FILE_NAME).read_text())


def test_a_configuration_that_is_not_there_is_told_and_no_folder_guessed(pool, program, monkeypatch):
    monkeypatch.setenv("CONDOR_CONFIG", "/no/such/condor_config")
    for verb, words in ((install, [*SITE, "--gahp", program]), (uninstall, [])):
        with pytest.raises(Refused, match=r"/no/such/condor_config, which CONDOR_CONFIG names, does not exist"):
            call(verb, *words)
    assert call(install, *SITE, "--gahp", program, "--directory", pool) == 0


def test_install_finds_htcondors_folder_and_has_condor_config_val_confirm_every_setting(condor, program, capsys):
    assert call(install, *SITE, "--gahp", program) == 0
    assert (condor / install.FILE_NAME).exists()
    assert "HTCondor has every setting of it" in capsys.readouterr().out


def test_a_later_file_that_says_otherwise_about_the_site_is_an_error_with_its_place(condor, program, capsys):
    (condor / "99-local.conf").write_text("AWSBATCH_JOB_QUEUE = elsewhere\n")
    assert call(install, *SITE, "--gahp", program) == 1
    said = capsys.readouterr().err
    assert "AWSBATCH_JOB_QUEUE is elsewhere and not queue: see somewhere, line 7" in said
    assert "does not have the last word" in said


def test_a_later_file_that_has_another_transform_of_that_name_is_an_error(condor, program, capsys):
    (condor / "99-local.conf").write_text("JOB_TRANSFORM_AwsBatch @=end\n   NAME AwsBatch\n   SET Mine 1\n@end\n")
    assert call(install, *SITE, "--gahp", program) == 1
    assert "JOB_TRANSFORM_AwsBatch is not the one of this file" in capsys.readouterr().err


def test_a_later_file_that_tunes_htcondor_is_told_and_no_error(condor, program, capsys):
    (condor / "99-local.conf").write_text("SCHEDD_MIN_INTERVAL = 3\n")
    assert call(install, *SITE, "--gahp", program) == 0
    said = capsys.readouterr()
    assert "SCHEDD_MIN_INTERVAL is 3 and not 1" in said.err
    assert "all other settings" in said.out


def knob(folder):
    return install.values_of((folder / install.FILE_NAME).read_text()).get(install.LIMITS)


def test_a_user_who_installs_makes_nothing_for_all_users(condor, program, capsys):
    assert call(install, *SITE, "--gahp", program) == 0
    assert knob(condor) is None
    assert "limits" not in capsys.readouterr().out


def test_root_has_all_users_share_limits_and_uninstall_takes_that_away(root, condor, program, capsys):
    for _ in range(2):
        assert call(install, *SITE, "--gahp", program) == 0
        said = capsys.readouterr()
        assert f"All users of this host share in {root} what is learnt of AWS's limits.\n" in said.out and said.err == ""
        assert knob(condor) == str(root)
        assert stat.S_IMODE((root / limits.FILE).stat().st_mode) == 0o666
    assert "is up to date" in said.out
    call(uninstall, "--dry-run")
    assert f"{condor / install.FILE_NAME} and {root} would be removed" in capsys.readouterr().out
    assert root.exists()
    assert call(uninstall) == 0
    assert f"{root} was removed.\n" in capsys.readouterr().out
    assert not root.parent.exists() and root.parent.parent.exists()


def test_the_directory_lies_where_htcondor_keeps_what_is_this_hosts(root, condor, program):
    local = root.parents[2] / "pool"
    (condor / "00-pool.conf").write_text(f"LOCAL_DIR = {local}\n")
    assert call(install, *SITE, "--gahp", program) == 0
    assert knob(condor) == f"{local}/lib/awsbatch_gahp/limits"
    assert (local / "lib/awsbatch_gahp/limits" / limits.FILE).exists() and not root.exists()


def test_without_condor_config_val_the_directory_lies_there_as_well(root, pool, program):
    local = root.parents[2] / "pool"
    configuration = Path(os.environ["CONDOR_CONFIG"])
    configuration.write_text(f"{configuration.read_text()}LOCAL_DIR = {local}\n")
    command("install", *SITE, "--gahp", program)
    assert knob(pool) == f"{local}/lib/awsbatch_gahp/limits"
    assert (local / "lib/awsbatch_gahp/limits" / limits.FILE).exists()
    command("uninstall")
    assert os.listdir(local / "lib") == []


def test_nothing_is_left_of_an_installation_that_failed(root, folder, program, capsys):
    with pytest.raises(Refused, match="does not exist"):
        call(install, *SITE, "--gahp", program, "--directory", folder / "missing")
    assert capsys.readouterr().out == ""
    assert os.listdir(root.parents[2]) == [] and os.listdir(folder) == []


def test_install_again_takes_away_the_directory_that_it_made_and_is_to_do_without(root, folder, program, capsys):
    place = ["--gahp", program, "--directory", folder]
    call(install, *SITE, *place)
    (root.parent / "journals").mkdir()
    call(install, *place, "--set", f"{install.LIMITS}=", "--dry-run")
    assert f"{root} would be removed" in capsys.readouterr().err
    assert root.exists()
    assert call(install, *place, "--set", f"{install.LIMITS}=") == 0
    assert f"{root} was removed.\n" in capsys.readouterr().out
    assert os.listdir(root.parent) == ["journals"] and knob(folder) == ""


def test_install_again_that_fails_takes_nothing_away(root, folder, program, monkeypatch):
    place = ["--gahp", program, "--directory", folder]
    call(install, *SITE, *place)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(install.os, "replace", full)
    with pytest.raises(Refused, match="No space left"):
        call(install, *place, "--set", f"{install.LIMITS}=")
    assert knob(folder) == str(root) and (root / limits.FILE).exists()


def test_a_dry_run_of_root_shows_the_directory_and_makes_none(root, folder, program, capsys):
    assert call(install, *SITE, "--gahp", program, "--directory", folder, "--dry-run") == 0
    assert f"{install.LIMITS} = {root}\n" in capsys.readouterr().out
    assert not root.exists()


@pytest.mark.parametrize("choice", ["", "/var/tmp/ours", "~/limits"])
def test_what_the_administrator_has_chosen_stays_and_nothing_is_made_or_removed(root, folder, program, capsys, choice):
    for words in (["--set", f"{install.LIMITS}={choice}"], []):
        assert call(install, *SITE, "--gahp", program, "--directory", folder, *words) == 0
        assert knob(folder) == choice
    assert not root.exists()
    limits.provide(str(root))
    for _ in range(2):
        assert call(uninstall, "--directory", folder) == 0
        assert f"{root} stays, for {folder / install.FILE_NAME} does not name it: remove it by hand" in capsys.readouterr().err
    assert (root / limits.FILE).exists()


def test_what_another_file_of_htcondor_says_stays(root, condor, program):
    (condor / "10-site.conf").write_text(f"{install.LIMITS} = /srv/limits\n")
    assert call(install, *SITE, "--gahp", program) == 0
    assert knob(condor) is None and not root.exists()


def test_a_directory_that_cannot_be_made_is_told_and_keeps_nobody_from_running_jobs(root, folder, program, capsys):
    root.parent.parent.mkdir()
    root.parent.touch()
    assert call(install, *SITE, "--gahp", program, "--directory", folder) == 0
    assert f"condor_awsbatch: {root} cannot be made for all users (Not a directory)" in capsys.readouterr().err
    assert knob(folder) is None


def test_nothing_is_made_for_a_file_that_was_changed_by_hand(root, folder, program):
    (folder / install.FILE_NAME).write_text("MINE = 1\n")
    with pytest.raises(Refused, match="was changed by hand"):
        call(install, *SITE, "--gahp", program, "--directory", folder)
    assert not root.exists()


def test_uninstall_leaves_what_others_have_put_there(root, folder, program, capsys):
    call(install, *SITE, "--gahp", program, "--directory", folder)
    (root / "strange").touch()
    assert call(uninstall, "--directory", folder) == 0
    assert f"condor_awsbatch: {root} stays: Directory not empty." in capsys.readouterr().err
    assert os.listdir(root) == ["strange"] and os.listdir(folder) == []
