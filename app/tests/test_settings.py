# SPDX-License-Identifier: Apache-2.0
"""Settings: where they come from, what is refused and how."""

import re
import subprocess
import sys
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest
from server_process import PATIENCE, command_environment
from wsfleet.config import SettingError, Settings, flag, parse, table, variable
from wsfleet.server import load_handler, load_loop

APP = Path(__file__).parents[1]

GOOD = [
    ("port", "0", 0),
    ("reuse_port", "true", True),
    ("server_header", "false", False),
    ("drain_growth", "False", False),
    ("max_size", "2147483647", 2**31 - 1),
    ("origins", "", ()),
    (
        "origins",
        "none, https://a.example:8443 ,~https://.*[.]example",
        ("none", "https://a.example:8443", "~https://.*[.]example"),
    ),
    ("subprotocols", "chat,v2.chat", ("chat", "v2.chat")),
    ("server_window_bits", "9", 9),
    ("mem_level", "", None),
    ("ping_interval", "0", 0.0),
    ("drain_seconds", "2.5", 2.5),
    ("drain_code", "1012", 1012),
    ("drain_jitter", "1", 1.0),
    ("drain_reason", "", ""),
    ("drain_reason", "é" * 61, "é" * 61),
    ("max_age", "2592000", 2_592_000.0),
    ("handler", "a.b:c.d", "a.b:c.d"),
]
BAD = [
    ("handler", "no_colon", "package.module:function"),
    ("loop", "trio", "auto or asyncio or uvloop"),
    ("unix_socket", "x" * 108, "a path of at most 107 bytes, or empty"),
    ("unix_socket", "é" * 54, "a path of at most 107 bytes, or empty"),
    ("host", "", "an address or host name"),
    ("port", "", "a whole number from 0 to 65535"),
    ("port", "65536", "a whole number from 0 to 65535"),
    ("port", " 80", "a whole number from 0 to 65535"),
    ("port", "8_0", "a whole number from 0 to 65535"),
    ("reuse_port", "yes", "true or false"),
    ("backlog", "0", "a whole number of connections from 1 to 65535"),
    ("max_connections", "-1", "a whole number of connections from 0 to"),
    ("origins", "https://a.example/", "scheme://host[:port]"),
    ("origins", "a.example", "scheme://host[:port]"),
    ("origins", "~(", "a regular expression"),
    ("subprotocols", "two words", "an HTTP token"),
    ("subprotocols", "a,,b", "an HTTP token"),
    ("server_header", "nginx", "true or false"),
    ("open_timeout", "0", "a number of seconds from 0.1 to 3600"),
    ("max_size", "1M", "a whole number of bytes from 1 to 2147483647"),
    ("max_queue", "0", "a whole number of frames from 1"),
    ("write_limit", "1e3", "a whole number of bytes from 1"),
    ("compression", "deflate", "off or memory or balanced or ratio"),
    ("server_window_bits", "8", "a whole number from 9 to 15, or empty"),
    ("client_window_bits", "16", "a whole number from 8 to 15, or empty"),
    ("mem_level", "10", "a whole number from 1 to 9, or empty"),
    ("ping_interval", "inf", "a number of seconds from 0 to 86400"),
    ("ping_timeout", "soon", "a number of seconds from 0 to 86400"),
    ("close_timeout", "nan", "a number of seconds from 0.1 to 3600"),
    ("drain_seconds", "-1", "a number of seconds from 0 to 3600"),
    ("drain_rate", "0", "a number of connections per second from 0.01"),
    ("drain_growth", "2", "true or false"),
    ("drain_jitter", "1.1", "a number from 0 to 1"),
    ("drain_code", "1000", "1001 or 1012"),
    ("drain_reason", "é" * 62, "text of at most 123 bytes, or empty"),
    ("drain_reason", "\udcff", "text of at most 123 bytes, or empty"),
    ("slot", "x" * 108, "a path of at most 107 bytes, or empty"),
    ("metrics_socket", "x" * 108, "a path of at most 107 bytes, or empty"),
    ("shared_port", "65536", "a whole number from 0 to 65535"),
    ("tls_certificate", "x" * 4096, "a path of at most 4095 bytes, or empty"),
    ("tls_key", "x" * 4096, "a path of at most 4095 bytes, or empty"),
    ("handover", "../ws.sock", "true or false"),
    ("handover_seconds", "0", "a number of seconds from 0.1 to 3600"),
    ("max_age", "2592001", "a number of seconds from 0 to 2592000"),
    ("max_age_jitter", "-0.1", "a number from 0 to 1"),
    ("log_format", "xml", "plain or json"),
    ("log_level", "trace", "debug or info or warning or error"),
]


@pytest.mark.parametrize(("name", "text", "value"), GOOD)
def test_good_values(name: str, text: str, value: object) -> None:
    assert getattr(parse([flag(name), text], {}), name) == value
    assert getattr(parse([], {variable(name): text}), name) == value


@pytest.mark.parametrize(("name", "text", "allowed"), BAD)
def test_bad_values_are_refused_by_name_with_what_is_allowed(name: str, text: str, allowed: str) -> None:
    for arguments, environment in (([f"{flag(name)}={text}"], {}), ([], {variable(name): text})):
        with pytest.raises(SettingError) as caught:
            parse(arguments, environment)
        for part in (flag(name), variable(name), repr(text), allowed):
            assert part in str(caught.value)


def test_every_setting_has_a_bad_value_here() -> None:
    assert {f.name for f in fields(Settings)} == {name for name, *_others in BAD}


def test_flag_wins_and_switches_need_no_value() -> None:
    settings = parse(["--port=1", "--reuse-port", "--max-size=5"], {"WS_PORT": "2", "WS_BACKLOG": "3"})
    assert (settings.port, settings.reuse_port, settings.backlog) == (1, True, 3)
    assert settings.changed() == {"port": 1, "reuse_port": True, "backlog": 3, "max_size": 5}
    assert parse([], {}) == Settings()


def test_unknown_variables_are_refused_without_their_value() -> None:
    with pytest.raises(SettingError, match=r"^WS_MAXSIZE is no setting, did you mean WS_MAX_SIZE\?"):
        parse([], {"WS_MAXSIZE": "1"})
    with pytest.raises(SettingError, match=r"^WS_API_KEY is no setting") as caught:
        parse([], {"WS_API_KEY": "hunter2"})
    assert "hunter2" not in str(caught.value)
    parse([], {"WS_RELEASE": "/opt/echo", "WS_GENERATION": "3", "PORT": "x"})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--max-size", "abc"],
            "--max-size (WS_MAX_SIZE) is 'abc', allowed is a whole number of bytes from 1",
        ),
        (["--max", "1"], "unrecognized arguments: --max 1; --help lists what is allowed"),
        (["--port"], "argument --port: expected one argument; --help lists what is allowed"),
        (["--handler", "absent:handler"], "is 'absent:handler', allowed is package.module:function"),
        (["--handler", "handlers:absent"], "(module 'handlers' has no attribute 'absent')"),
        (["--handler", "os:getcwd"], "is 'os:getcwd', allowed is package.module:function, an async function"),
        (["--handler", "wsfleet:__version__"], "an async function of one connection"),
        (["--slot", "ws.sock"], "'ws.sock', allowed is empty, unless --unix-socket is set"),
        (["--unix-socket", "a.sock", "--handover"], "'true', allowed is false, unless --slot is set"),
        (["--unix-socket", "a.sock", "--shared-port", "8443"], "'8443', allowed is 0, unless --slot is set"),
        (
            ["--tls-certificate", "c.pem"],
            "'c.pem', allowed is empty, unless --tls-key and a TCP port are set",
        ),
        (["--tls-key", "k.pem"], "'k.pem', allowed is empty, unless --tls-certificate is set"),
        (
            ["--unix-socket", "a.sock", "--tls-certificate", "c.pem", "--tls-key", "k.pem"],
            "'c.pem', allowed is empty, unless --tls-key and a TCP port are set",
        ),
    ],
)
def test_command_refuses_in_one_sentence_with_exit_code_2(arguments: list[str], message: str) -> None:
    result = run(*arguments)
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    assert result.stderr.startswith("wsfleet: ")
    assert message in result.stderr


def test_bug_at_import_of_the_handler_is_shown_where_it_is() -> None:
    result = run("--handler", "broken:handler")
    assert result.returncode == 2
    assert "broken.py" in result.stderr
    assert "RuntimeError: cannot be imported" in result.stderr
    assert "wsfleet: --handler (WS_HANDLER) is 'broken:handler'" in result.stderr.splitlines()[-1]


def test_handler_in_working_directory_of_the_console_script(tmp_path: Path) -> None:
    (tmp_path / "here.py").write_text("def handler(): pass\n")
    script = "import sys; sys.path.remove(''); import wsfleet.__main__; sys.exit(wsfleet.__main__.main())"
    result = subprocess.run(
        [sys.executable, "-c", script, "--handler", "here:handler"],
        cwd=tmp_path,
        env=command_environment({}),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert "an async function" in result.stderr
    assert "No module" not in result.stderr


def test_uvloop_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsfleet.server.find_spec", lambda _: None)
    with pytest.raises(SettingError, match=r"--loop \(WS_LOOP\) is 'uvloop', allowed is auto or asyncio"):
        load_loop("uvloop")
    assert load_loop("auto") is None


def test_handler_may_be_an_object_or_its_method() -> None:
    assert callable(load_handler("handlers:shouter"))
    assert callable(load_handler("handlers:shouter.method"))


def test_readme_has_the_current_table() -> None:
    assert run("--settings-table").stdout == table()
    found = re.search(r"(?s)settings-table` -->\n(.*)<!-- end -->", (APP / "README.md").read_text())
    assert found and found[1] == table()


def test_lock_covers_the_dependencies_of_the_package() -> None:
    project = tomllib.loads((APP / "pyproject.toml").read_text())["project"]
    wanted = {*project["dependencies"], *project["optional-dependencies"]["uvloop"]}
    lines = (APP / "requirements.in").read_text().splitlines()
    assert {line for line in lines if not line.startswith("#")} == wanted


def test_help_and_version() -> None:
    assert "--max-size VALUE" in run("--help").stdout
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", run("--version").stdout)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "wsfleet", *arguments],
        env=command_environment({}),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
