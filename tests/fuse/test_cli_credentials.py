"""What the command line understands of targets, credentials and their files; help and errors."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuse.cli import credential_file, credentials, directories, document, output, target
from fuse.errors import MountError
from fuse.main import COMMANDS, cli, main

KEY = "Zm9vYmFy" * 10 + "+/=="
SAS = "sv=2024-11-04&ss=b&sig=abc%3D"


# -- targets --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "text", "account", "found"),
    [
        ("blob", "acct/data", None, ("acct", "data", "", None)),
        ("blob", "acct/data/a/b/", None, ("acct", "data", "a/b", None)),
        ("blob", "data", "acct", ("acct", "data", "", None)),
        ("blob", "acct/$root", None, ("acct", "$root", "", None)),
        (
            "blob",
            "https://acct.blob.core.windows.net/data/x%20y",
            None,
            ("acct", "data", "x y", "https://acct.blob.core.windows.net"),
        ),
        (
            "blob",
            "http://127.0.0.1:10000/devstoreaccount1/data",
            "other",
            ("devstoreaccount1", "data", "", "http://127.0.0.1:10000/devstoreaccount1"),
        ),
        ("share", "acct/results", None, ("acct", "results", "", None)),
        (
            "share",
            "//acct.file.core.windows.net/results/a",
            None,
            ("acct", "results", "a", "acct.file.core.windows.net:445"),
        ),
        ("share", "//host1:1445/results", "acct", ("acct", "results", "", "host1:1445")),
    ],
)
def test_targets(kind, text, account, found):
    parsed = target.parse(kind, text, account)
    assert (parsed.account, parsed.name, parsed.subdirectory, parsed.endpoint) == found


def test_endpoints_of_clouds():
    assert target.parse("blob", "acct/data").endpoint_in(target.CLOUDS["public"]) == (
        "https://acct.blob.core.windows.net"
    )
    assert target.parse("share", "acct/data").endpoint_in(target.CLOUDS["china"]) == (
        "acct.file.core.chinacloudapi.cn:445"
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "data",
        "Acct/data",
        "acct/Data",
        "acct/d",
        "acct/a--b",
        "https://acct.blob.core.windows.net/data?sig=secret1",
        "https://user:secret1@acct.blob.core.windows.net/data",
        "https:///data",
        "ftp://acct.blob.core.windows.net/data",
        "http://[::1/data",
    ],
)
def test_what_is_no_target_is_refused(text):
    with pytest.raises(MountError) as caught:
        target.parse("blob", text)
    assert caught.value.code == "InvalidOption"
    assert "secret1" not in caught.value.message


# -- files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "credential", "account"),
    [
        (KEY, {"accountKey": KEY}, None),
        (f"\n# mine\n{KEY}\n", {"accountKey": KEY}, None),
        (f"?{SAS}", {"sasToken": f"?{SAS}"}, None),
        (SAS, {"sasToken": SAS}, None),
        (f"accountName acct\naccountKey {KEY}\nauthType Key", {"accountKey": KEY}, "acct"),
        (f"accountName = acct\naccountKey={KEY}", {"accountKey": KEY}, "acct"),
        (f"accountName acct\nsasToken {SAS}\nauthType SAS", {"sasToken": SAS}, "acct"),
        (f'export AZURE_STORAGE_KEY="{KEY}"\n', {"accountKey": KEY}, None),
        (f"username=acct\npassword={KEY}\ndomain=AZURE", {"accountKey": KEY}, "acct"),
        (
            f"DefaultEndpointsProtocol=https;AccountName=acct;AccountKey={KEY};QueueEndpoint=x",
            {"accountKey": KEY},
            "acct",
        ),
        (
            "accountName acct\nauthType MSI\nidentityClientId 12-34",
            {"identity": {"kind": "managed", "clientId": "12-34"}},
            "acct",
        ),
        (
            """
            accountName acct
            authType SPN
            servicePrincipalClientId 1
            servicePrincipalTenantId 2
            servicePrincipalClientSecret 3
            """,
            {
                "identity": {
                    "kind": "servicePrincipal",
                    "clientId": "1",
                    "tenantId": "2",
                    "clientSecret": "3",
                }
            },
            "acct",
        ),
        ('{"anonymous": true}', {"anonymous": True}, None),
        ("accountName acct", None, "acct"),
        ("", None, None),
    ],
)
def test_what_people_keep_credentials_in(text, credential, account):
    found = credential_file.parse(text)
    assert (found.credential, found.account) == (credential, account)
    assert KEY not in repr(found)


def test_the_rest_of_a_connection_cfg_and_of_a_connection_string_is_used():
    found = credential_file.parse(
        f"accountName acct\naccountKey {KEY}\ncontainerName data\nblobEndpoint h.example\n"
    )
    assert (found.name, found.endpoint) == ("data", "https://h.example")
    found = credential_file.parse(
        f"AccountName=acct;AccountKey={KEY};EndpointSuffix=core.chinacloudapi.cn"
    )
    assert found.endpoint == "https://acct.blob.core.chinacloudapi.cn"


@pytest.mark.parametrize("text", ["{", "[x", "nonsense secret1", "a b\nsecret1=2", "authType Odd"])
def test_what_is_no_credential_is_refused_without_being_shown(text):
    with pytest.raises(MountError) as caught:
        credential_file.parse(text)
    assert "secret1" not in f"{caught.value.message}{caught.value.hint}"


@given(st.text(max_size=200))
def test_no_text_ends_otherwise(text):
    try:
        credential_file.parse(text)
    except MountError as error:
        assert error.code == "InvalidOption"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644])
def test_a_file_that_others_may_read_is_refused(tmp_path, mode):
    file = tmp_path / "key"
    file.write_text(KEY)
    file.chmod(mode)
    with pytest.raises(MountError, match="open to others"):
        credential_file.read(file)
    file.chmod(0o600)
    assert credential_file.read(file).credential == {"accountKey": KEY}


def test_a_file_that_is_none_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe", 0o600)
    for name in ("absent", "", "pipe"):
        with pytest.raises(MountError):
            credential_file.read(tmp_path / name)


# -- where they come from -------------------------------------------------------------------------


def find(environment, account="acct", auth=None, file=None, stdin=False, **identity):
    return credentials.find(
        account,
        auth=auth,
        file=file,
        from_stdin=stdin,
        identity=identity,
        environment=environment,
    ).credential


def test_the_environment():
    assert find({"AZURE_STORAGE_KEY": KEY}) == {"accountKey": KEY}
    assert find({"AZURE_STORAGE_ACCESS_KEY": KEY}) == {"accountKey": KEY}
    both = {"AZURE_STORAGE_KEY": KEY, "AZURE_STORAGE_SAS_TOKEN": SAS}
    assert find(both, auth="sas") == {"sasToken": SAS}
    string = f"AccountName=acct;AccountKey={KEY}"
    assert find({"AZURE_STORAGE_CONNECTION_STRING": string}) == {"accountKey": KEY}
    assert find({"AZURE_STORAGE_AUTH_TYPE": "MSI"}) == {"identity": {"kind": "managed"}}


def test_a_key_is_never_taken_for_another_account(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    with pytest.raises(MountError, match="names other"):
        find({"AZURE_STORAGE_KEY": KEY, "AZURE_STORAGE_ACCOUNT": "other"})
    string = f"AccountName=other;AccountKey={KEY}"
    with pytest.raises(MountError, match="no credential"):
        find({"AZURE_STORAGE_CONNECTION_STRING": string})
    file = tmp_path / "f"
    file.write_text(f"accountName other\naccountKey {KEY}")
    file.chmod(0o600)
    with pytest.raises(MountError, match="belongs to the account other"):
        find({}, file=file)


def test_identities():
    assert find({}, auth="managed", clientId="1") == {
        "identity": {"kind": "managed", "clientId": "1"}
    }
    variables = {"AZURE_CLIENT_ID": "1", "AZURE_TENANT_ID": "2", "AZURE_CLIENT_SECRET": "3"}
    assert find(variables, auth="service-principal")["identity"] == {
        "kind": "servicePrincipal",
        "clientId": "1",
        "tenantId": "2",
        "clientSecret": "3",
    }
    with pytest.raises(MountError, match="secret or its certificate"):
        find({}, auth="service-principal")
    assert find({}, auth="anonymous") == {"anonymous": True}


def test_standard_input(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{KEY}\nrest"))
    assert find({}, stdin=True) == {"accountKey": KEY}
    with pytest.raises(MountError, match="not both"):
        find({}, stdin=True, file="/x")


def test_the_driver_s_environment_has_no_secrets():
    """Neither what it hands on, nor what the kernel shows of it."""
    given = dict.fromkeys(credentials.SECRET_VARIABLES, KEY) | {"PATH": "/bin", "HTTPS_PROXY": "y"}
    script = (
        "import os\n"
        "from fuse import process\n"
        "from fuse.cli.credentials import SECRET_VARIABLES\n"
        "process.forget(SECRET_VARIABLES)\n"
        "print(*sorted(os.environ), flush=True)\n"
        "os.execv('/bin/cat', ['cat', '/proc/self/environ']) if os.fork() == 0 else os.wait()\n"
        "print(open('/proc/self/environ').read())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env=given, capture_output=True, text=True, check=True
    )
    assert KEY not in done.stdout
    assert "HTTPS_PROXY=y" in done.stdout
    names = {"PATH", "HTTPS_PROXY", "LC_CTYPE"}  # Python's own coercion adds the last
    assert set(done.stdout.splitlines()[0].split()) <= names


# -- directories ----------------------------------------------------------------------------------


def test_links_to_a_mount_point_are_followed(tmp_path):
    place = tmp_path.resolve()
    (place / "d").mkdir()
    (place / "one").symlink_to("two")
    (place / "two").symlink_to(place / "d")
    (place / "loop").symlink_to("loop")
    assert directories.resolved(place / "one") == place / "d"
    assert directories.resolved(place / "absent") == place / "absent"
    assert str(directories.resolved("/")) == "/"
    with pytest.raises(MountError, match="link to itself"):
        directories.resolved(place / "loop")
    with pytest.raises(MountError) as caught:
        directories.resolved(place / "absent" / "m")
    assert caught.value.code == "NotFound"


def test_a_directory_of_somebody_else_s_is_not_used(tmp_path):
    made = directories.private(tmp_path / "a" / "b")
    assert made.stat().st_mode & 0o777 == 0o700
    (tmp_path / "link").symlink_to(made)
    with pytest.raises(MountError, match="not a directory of yours"):
        directories.private(tmp_path / "link")
    made.chmod(0o777)
    with pytest.raises(MountError, match="open to others"):
        directories.private(made)


# -- the document ---------------------------------------------------------------------------------


def test_what_the_credential_names_must_be_what_is_mounted():
    found = credentials.Found({"accountKey": KEY}, name="other")
    with pytest.raises(MountError, match="is for other"):
        document.make(target.parse("blob", "acct/data"), None, found, document.Options())


def test_fuse_conf_is_read_as_fusermount3_reads_it():
    assert document.users_may_allow_other("# x\n user_allow_other \nmount_max = 3\n")
    assert not document.users_may_allow_other("#user_allow_other\n")


# -- output ---------------------------------------------------------------------------------------


def test_progress_is_lines_in_a_pipe_and_a_bar_on_a_terminal(capsys):
    progress = output.Progress("storing", terminal=False)
    for left in (0, 1000, 999, 998, 500, 0):
        progress.left(left)
    progress.end()
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["storing: 1000 B left", "storing: 500 B left", "storing: 0 B left"]
    bar = output.Progress("storing", terminal=True)
    bar.left(2048)
    bar.left(1024)
    bar.end()
    text = capsys.readouterr().err
    assert "\r" in text
    assert "\n" not in text
    assert "1.0 KiB left" in text


def test_a_table_moves_no_cursor(capsys):
    output.show([], "table", ("A", "B"), [("x\x1b[2J", 1), (None, "yy")])
    shown = capsys.readouterr().out
    assert shown == "A      B\nx\N{REPLACEMENT CHARACTER}[2J  1\n       yy\n"


# -- help and errors ------------------------------------------------------------------------------

PROGRAMS_OWN = {"run", "ls", "cat"}


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_help_has_examples_of_itself(name):
    command = cli.get_command(click.Context(cli), name)
    text = command.get_help(click.Context(command, info_name=name))
    assert "\b" not in text
    if name not in PROGRAMS_OWN:
        assert f"batchai-mount {name}" in text.split("Examples:\n")[1]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(capsys, shell):
    with pytest.raises(SystemExit) as ended:
        main(["completion", shell])
    assert ended.value.code == 0
    assert "_BATCHAI_MOUNT_COMPLETE" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["nonsense"], 2),
        (["blob"], 2),
        (["stats", "/"], 3),
        (["blob", "Acct/data", "/mnt"], 2),
        (["recover", "/usr", "--overwrite"], 2),
        (["--version"], 0),
    ],
)
def test_every_way_out_is_an_exit_code(capsys, arguments, code):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == code
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert bool(said) is (code != 0)


def test_a_defect_is_one_line(capsys, monkeypatch):
    def defect(*arguments, **named):
        raise ValueError("odd")

    monkeypatch.setattr(cli, "main", defect)
    monkeypatch.delenv("BATCHAI_DEBUG", raising=False)
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 1
    assert "error: InternalError: ValueError: odd" in capsys.readouterr().err
