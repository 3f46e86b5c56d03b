import click
import pytest

from agent.cli import agent as agent_command
from agent.cli.main import cli
from agent.errors import BatchError


def commands(group, names=("batchai",)):
    context = click.Context(group)
    yield names, group
    if isinstance(group, click.Group):
        for name in group.list_commands(context):
            if name == "dev":
                continue  # has tests of its own
            yield from commands(group.get_command(context, name), (*names, name))


@pytest.mark.parametrize(("names", "command"), list(commands(cli)), ids=lambda v: str(v)[:40])
def test_every_help_has_examples_of_itself(names, command):
    text = command.get_help(click.Context(command, info_name=names[-1]))
    assert "Examples:\n" in text
    assert " ".join(names) in text.split("Examples:\n")[1]
    assert "\b" not in text


def test_settings_of_the_agent():
    assert agent_command._parse("jobs.max_running=2") == ("jobs", "max_running", 2)
    assert agent_command._parse("jobs.user=alice") == ("jobs", "user", "alice")
    assert agent_command._parse("api.allowed_users=['a']") == ("api", "allowed_users", ["a"])
    with pytest.raises(BatchError):
        agent_command._parse("nonsense")


def test_agent_hands_its_overrides_on(monkeypatch, tmp_path):
    import sys
    import types

    ran = []

    async def run(config):
        ran.append(config)

    daemon = types.SimpleNamespace(run=run)
    monkeypatch.setitem(sys.modules, "agent.daemon", daemon)
    monkeypatch.setattr("agent.daemon", daemon, raising=False)
    file = tmp_path / "agent.toml"
    file.write_text('[node]\nworkspace = "vision"\n')
    arguments = ["agent", "--config", str(file), "--socket", "/s", "--set", "jobs.max_running=2"]
    cli.main(arguments, standalone_mode=False)
    assert ran[0].node.workspace == "vision"
    assert str(ran[0].api.socket) == "/s"
    assert ran[0].jobs.max_running == 2


@pytest.mark.parametrize("depth", [0, 2])
def test_an_agent_that_cannot_start_says_why(monkeypatch, capsys, depth):
    import sys
    import types

    from agent.cli.main import main

    error: Exception = BatchError("SocketUnavailable", "no", hint="do", exit_code=2)
    for _ in range(depth):
        error = ExceptionGroup("nursery", [error])

    async def run(config):
        raise error

    daemon = types.SimpleNamespace(run=run)
    monkeypatch.setitem(sys.modules, "agent.daemon", daemon)
    monkeypatch.setattr("agent.daemon", daemon, raising=False)
    with pytest.raises(SystemExit) as ended:
        main(["agent"])
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: SocketUnavailable: no\nhint: do\n"
