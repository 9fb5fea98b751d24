# Copyright: the wsfleet maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role ws_nginx writes for its inputs: the directives that carry promises."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar

ROLE = Path(__file__).resolve().parents[3] / "roles/ws_nginx"
SITE = "conf.d/wsfleet-echo.conf"


def render(name: str, inputs: dict[str, Any]) -> Any:
    """Return the role's variable `name` on a host of two cores, with IPv6 unless `inputs` say otherwise."""
    loader = DataLoader()
    variables: dict[str, Any] = {
        "ansible_facts": {"processor_nproc": 2},
        "ansible_managed": "Ansible managed",
        "ansible_search_path": [str(ROLE)],
        "inventory_hostname": "web1.example.com",
        "playbook_dir": "/nowhere",
        "__ws_nginx_if_inet6": {"stat": {"exists": True}},
        "__ws_nginx_acme": {"failed": False, "msg": "file not found"},
    }
    for part in ("defaults", "vars"):
        variables |= loader.load_from_file(str(ROLE / part / "main.yml"), trusted_as_template=True)
    templar = Templar(loader=loader, variables=variables | inputs)
    return templar.template(variables[name])


def files(**inputs: Any) -> dict[str, str | None]:
    """Path to content, None for a file that is taken away."""
    named = {
        f"ws_nginx_{name}" if not name.startswith("_") else name: value for name, value in inputs.items()
    }
    return {file["path"]: file.get("content") for file in render("__ws_nginx_files", named)}


def directives(text: str | None) -> list[str]:
    """The lines that aren't comments, without indentation."""
    assert text is not None
    return [line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith("#")]


def site(**inputs: Any) -> list[str]:
    return directives(files(**inputs)[SITE])


def location(name: str, lines: list[str]) -> list[str]:
    """The directives of one location; the site is the last server."""
    last = len(lines) - 1 - lines[::-1].index(f"location {name} {{")
    return block(f"location {name}", lines[last:])


def block(name: str, lines: list[str]) -> list[str]:
    """The directives of the first block of that name."""
    start = lines.index(f"{name} {{") + 1
    depth, end = 1, start
    while depth:
        depth += lines[end].count("{") - lines[end].count("}")
        end += 1
    return lines[start : end - 1]


def test_one_upstream_server_per_slot() -> None:
    lines = site(processes=12)
    servers = [line for line in lines if line.startswith("server unix:")]
    assert servers == [f"server unix:/run/echo/echo_{n:02}.sock max_fails=0;" for n in range(12)]
    upstream = lines[lines.index("upstream wsfleet_echo {") :]
    assert upstream[1:3] == ["zone wsfleet_echo 256k;", "least_conn;"]


def test_auto_is_one_process_per_core() -> None:
    assert sum(line.startswith("server unix:") for line in site()) == 2


def test_apps_on_tcp() -> None:
    lines = site(port=9000, processes="2")
    assert [line for line in lines if line.endswith("max_fails=0;")] == [
        "server 127.0.0.1:9000 max_fails=0;",
        "server 127.0.0.1:9001 max_fails=0;",
    ]


def test_upgrade_is_passed_on_only_when_asked_for() -> None:
    lines = site()
    assert block("map $server_protocol:$http_upgrade $wsfleet_echo_upgrade", lines) == [
        'default "";',
        "~*^HTTP/1\\.1:websocket$ websocket;",
    ]
    assert block("map $wsfleet_echo_upgrade $wsfleet_echo_connection", lines) == [
        "default close;",
        "websocket upgrade;",
    ]
    assert {
        "proxy_http_version 1.1;",
        "proxy_set_header Upgrade $wsfleet_echo_upgrade;",
        "proxy_set_header Connection $wsfleet_echo_connection;",
    } <= set(lines)


def test_the_clients_address_is_overwritten() -> None:
    assert {
        "proxy_set_header Host $http_host;",
        "proxy_set_header X-Forwarded-For $remote_addr;",
        "proxy_set_header X-Forwarded-Proto $scheme;",
        "proxy_set_header X-Real-IP $remote_addr;",
    } <= set(site())


def test_a_failed_process_is_replaced_by_the_next() -> None:
    assert {
        "proxy_next_upstream error timeout http_502 http_503;",
        "proxy_next_upstream_timeout 10s;",
    } <= set(site())


def test_idle_connections_live_for_the_read_timeout() -> None:
    assert {"proxy_read_timeout 120s;", "proxy_send_timeout 120s;"} <= set(site(read_timeout_seconds=120))


def test_tls_intermediate() -> None:
    rendered = files()
    for path in (SITE, "conf.d/wsfleet-port-443.conf"):
        lines = directives(rendered[path])
        assert "ssl_protocols TLSv1.2 TLSv1.3;" in lines
        assert "ssl_ecdh_curve X25519:prime256v1:secp384r1;" in lines
        assert {
            "ssl_prefer_server_ciphers off;",
            "ssl_session_timeout 1d;",
            "ssl_session_tickets off;",
        } <= set(lines)
        assert sum(line.startswith("ssl_session_cache shared:wsfleet_") for line in lines) == 1
        (ciphers,) = (line for line in lines if line.startswith("ssl_ciphers"))
        for cipher in ciphers.removeprefix("ssl_ciphers ").removesuffix(";").split(":"):
            assert cipher.startswith("ECDHE-")
            assert "GCM" in cipher or "CHACHA20-POLY1305" in cipher


def test_the_certificate_and_the_names_are_those_given() -> None:
    lines = site(
        server_names=["a.example.org", "*.example.com"],
        certificate="/etc/mine/chain.pem",
        certificate_key="/etc/mine/key.pem",
    )
    assert {"ssl_certificate /etc/mine/chain.pem;", "ssl_certificate_key /etc/mine/key.pem;"} <= set(lines)
    assert lines.count("server {") == lines.count("server_name a.example.org *.example.com;") == 2


def test_tls_modern() -> None:
    rendered = files(tls_profile="modern")
    for path in (SITE, "conf.d/wsfleet-port-443.conf"):
        lines = directives(rendered[path])
        assert "ssl_protocols TLSv1.3;" in lines
        assert not any(line.startswith("ssl_ciphers") for line in lines)


def test_plain_http_is_redirected() -> None:
    assert block("location /", site()) == ["return 308 https://$host$request_uri;"]
    lines = site(https_port=8443, http_port=8080)
    assert "return 308 https://$host:8443$request_uri;" in lines
    assert {"listen 8080;", "listen 8443 ssl;"} <= set(lines)
    assert not any("308" in line for line in site(http_port=0))
    assert not any(
        "listen 80" in str(text) or "listen 0" in str(text) for text in files(http_port=0).values()
    )


THUMBPRINT = "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"
ACCOUNT = {"content": base64.b64encode(f"{THUMBPRINT}\n".encode()).decode()}
CHALLENGES = '~ "^/\\.well-known/acme-challenge/([A-Za-z0-9_-]+)$"'


@pytest.mark.parametrize("inputs", [{}, {"tls": False}])
def test_challenges_of_an_acme_account_are_answered_on_port_80_only(inputs: dict[str, Any]) -> None:
    lines = site(__ws_nginx_acme=ACCOUNT, **inputs)
    assert location(CHALLENGES, lines) == ["default_type text/plain;", f"return 200 $1.{THUMBPRINT};"]
    assert lines.count(f"location {CHALLENGES} {{") == 1
    assert "listen 80;" in lines[: lines.index(f"location {CHALLENGES} {{")]
    assert location("/", lines)[-1] == "proxy_pass http://wsfleet_echo;"


def test_without_an_account_or_port_80_there_is_nothing_to_answer() -> None:
    assert "acme" not in str(files()[SITE])
    assert "acme" not in str(files(__ws_nginx_acme=ACCOUNT, http_port=0)[SITE])


def test_hsts() -> None:
    assert 'add_header Strict-Transport-Security "max-age=63072000" always;' in site()
    assert not any("Strict-Transport" in line for line in site(hsts_seconds=0))


def test_without_tls() -> None:
    rendered = files(tls=False)
    assert set(rendered) == {SITE, "nginx.conf", "sites-enabled/default", "conf.d/wsfleet-port-80.conf"}
    lines = directives(rendered[SITE])
    assert "listen 80;" in lines
    assert not any("ssl" in line or "Strict-Transport" in line or "308" in line for line in lines)


def test_ipv6_where_the_host_has_it() -> None:
    for path, text in files().items():
        if path.startswith("conf.d/"):
            lines = directives(text)
            ipv4 = [line.removeprefix("listen ") for line in lines if line.startswith("listen ")]
            assert [f"[::]:{line}" for line in ipv4 if "[" not in line] == [x for x in ipv4 if "[" in x]
    without = files(__ws_nginx_if_inet6={"stat": {"exists": False}})
    assert not any("[::]" in text for text in without.values() if text)


def test_unknown_names_are_refused_and_the_backlog_is_given_once() -> None:
    rendered = files(connections=20000)
    https = directives(rendered["conf.d/wsfleet-port-443.conf"])
    assert "listen 443 ssl default_server backlog=20000;" in https
    assert {"ssl_reject_handshake on;", "return 444;"} <= set(https)
    http = directives(rendered["conf.d/wsfleet-port-80.conf"])
    assert {"listen 80 default_server backlog=20000;", "return 444;"} <= set(http)
    assert "backlog" not in str(rendered[SITE])
    assert "listen 80 default_server backlog=4096;" in directives(
        files(connections=100)["conf.d/wsfleet-port-80.conf"]
    )


def test_a_site_under_an_address_is_the_default() -> None:
    rendered = files(server_names=["192.0.2.1", "2001:db8::1"])
    assert set(rendered) == {SITE, "nginx.conf", "sites-enabled/default"}
    lines = directives(rendered[SITE])
    assert "server_name 192.0.2.1 [2001:db8::1];" in lines
    assert "listen 443 ssl default_server backlog=8192;" in lines


def test_room_for_the_clients_wanted() -> None:
    lines = directives(files(connections=1000)["nginx.conf"])
    assert {"worker_connections 2512;", "worker_rlimit_nofile 3024;", "server_tokens off;"} <= set(lines)


def test_what_nginx_conf_keeps_of_debians_own() -> None:
    assert {
        "user www-data;",
        "worker_processes auto;",
        "pid /run/nginx.pid;",
        "include /etc/nginx/modules-enabled/*.conf;",
        "include /etc/nginx/conf.d/*.conf;",
        "include /etc/nginx/sites-enabled/*;",
    } <= set(directives(files()["nginx.conf"]))


def test_long_names_and_origins_fit() -> None:
    assert {"server_names_hash_bucket_size 128;", "map_hash_bucket_size 128;"} <= set(
        directives(files()["nginx.conf"])
    )


def test_debians_default_site_makes_way() -> None:
    assert files()["sites-enabled/default"] is None


def test_beside_the_hosts_own_configuration() -> None:
    rendered = files(
        app="chat",
        manage_main=False,
        server_names=["192.0.2.1"],
        origins=["https://example.com"],
        connections_per_address=1,
        handshakes_per_second_per_address=1,
    )
    assert set(rendered) == {"conf.d/wsfleet-chat.conf"}
    lines = directives(rendered["conf.d/wsfleet-chat.conf"])
    assert not any("default_server" in line or "backlog" in line for line in lines)
    for line in lines:
        word = line.split()[0]
        if word in (
            "upstream",
            "map",
            "geo",
            "zone",
            "limit_conn_zone",
            "limit_req_zone",
            "ssl_session_cache",
        ):
            assert "wsfleet_chat" in line
    assert lines.count("server {") == lines.count("server_tokens off;") == 2


def test_limits_are_off_unless_asked_for() -> None:
    assert not any("limit_" in line or "origin" in line for line in site())
    lines = site(
        connections_per_address=20, handshakes_per_second_per_address=5, origins=["https://example.com", ""]
    )
    assert {"limit_conn wsfleet_echo_connections 20;", "limit_conn_status 429;"} <= set(lines)
    assert "limit_conn_zone $binary_remote_addr zone=wsfleet_echo_connections:10m;" in lines
    assert "limit_req_zone $binary_remote_addr zone=wsfleet_echo_handshakes:10m rate=5r/s;" in lines
    assert {"limit_req zone=wsfleet_echo_handshakes burst=5 nodelay;", "limit_req_status 429;"} <= set(lines)
    assert block("map $http_origin $wsfleet_echo_origin", lines) == [
        "default 0;",
        '"https://example.com" 1;',
        '"" 1;',
    ]
    assert location("/", lines)[:3] == ["if ($wsfleet_echo_origin = 0) {", "return 403;", "}"]


@pytest.mark.parametrize(
    ("pattern", "good", "bad"),
    [
        (
            "origin",
            ["https://example.com", "http://[::1]:8080", "null", ""],
            ["example.com", "https://a/b", '" 1; "'],
        ),
        ("path", ["/etc/tls/chain.pem"], ["chain.pem", "/etc/a b", "/etc/a;"]),
        ("name", ["example.org", "*.example.org", "web-1"], ["a b", "a;", "*", "-a"]),
    ],
)
def test_what_would_break_out_of_a_directive_is_refused(
    pattern: str, good: list[str], bad: list[str]
) -> None:
    allowed = re.compile(render(f"__ws_nginx_{pattern}", {}))
    assert [text for text in good if not allowed.match(text)] == []
    assert [text for text in bad if allowed.match(text)] == []


def test_slow_and_large_handshakes_are_cut() -> None:
    rendered = files(handshake_seconds=7)
    for path in (SITE, "nginx.conf"):
        lines = set(directives(rendered[path]))
        assert {"client_header_timeout 7s;", "large_client_header_buffers 4 8k;"} <= lines
    assert {
        "client_max_body_size 1k;",
        "proxy_pass_request_body off;",
        'proxy_set_header Content-Length "";',
    } <= set(site())


def test_health_is_public_and_the_rest_private() -> None:
    lines = site(healthz_allow=["192.0.2.0/24"], private_allow=["198.51.100.7"])
    geo = lines[lines.index("geo $wsfleet_echo_healthz {") :]
    assert geo[1:6] == [
        "192.0.2.0/24 1;",
        "}",
        "geo $wsfleet_echo_private {",
        "198.51.100.7 1;",
        "}",
    ]
    refuse = ["return 404;", "}"]
    assert location("= /healthz", lines)[:3] == ['if ($wsfleet_echo_healthz = "") {', *refuse]
    for path in ("/healthz", "/readyz"):
        assert "access_log off;" in location(f"= {path}", lines)
    assert location("= /readyz", lines)[:3] == ['if ($wsfleet_echo_private = "") {', *refuse]
    assert location("= /metrics", lines) == ["return 404;"]


def test_requests_are_held_while_no_process_is_there() -> None:
    lines = site(hold_seconds=4)
    assert location("/", lines) == ["error_page 502 = @hold_1;", "proxy_pass http://wsfleet_echo;"]
    for n in range(1, 6):
        assert location(f"@hold_{n}", lines) == [
            "auth_request /wsfleet-hold;",
            "auth_delay 800ms;",
            f"error_page 401 = @try_{n};",
        ]
        again = [f"error_page 502 = @hold_{n + 1};"] if n < 5 else []
        assert location(f"@try_{n}", lines) == [*again, "proxy_pass http://wsfleet_echo;"]
    assert location("= /wsfleet-hold", lines) == ["internal;", "return 401;"]
    assert "recursive_error_pages on;" in lines


def test_nothing_is_held_when_that_is_off() -> None:
    lines = site(hold_seconds=0)
    assert location("/", lines) == ["proxy_pass http://wsfleet_echo;"]
    assert not any("hold" in line or "auth_" in line for line in lines)


@pytest.mark.parametrize("app", ["echo", "chat"])
def test_every_file_says_who_wrote_it(app: str) -> None:
    for text in files(app=app).values():
        assert text is None or text.startswith("#\n# Ansible managed\n#\n")


@pytest.mark.parametrize(
    "inputs",
    [
        {"manage_main": False, "connections_per_address": 0, "handshakes_per_second_per_address": 0},
        {"tls": False, "port": 0, "hsts_seconds": 0, "hold_seconds": 0},
        {"http_port": 0, "https_port": 443, "connections": 9000, "hold_seconds": 3},
        {"port": 9000, "processes": 2, "connections_per_address": 4, "handshakes_per_second_per_address": 5},
    ],
)
def test_inputs_from_the_command_line_are_text_and_mean_the_same(inputs: dict[str, Any]) -> None:
    assert files(**{name: str(value) for name, value in inputs.items()}) == files(**inputs)


TWO = [{"name": "a", "address": "192.0.2.1"}, {"name": "b", "address": "2001:db8::2", "port": 8443}]


def test_servers_instead_of_processes(tmp_path: Path) -> None:
    lines = site(servers=TWO, server_names=["ws.example.com"])
    assert [line for line in lines if line.startswith("server ") and line != "server {"] == [
        "server 192.0.2.1:443 max_fails=1 fail_timeout=2s; # a",
        "server [2001:db8::2]:8443 max_fails=1 fail_timeout=2s; # b",
    ]
    assert {
        "proxy_ssl_verify on;",
        "proxy_ssl_name ws.example.com;",
        "proxy_ssl_trusted_certificate /etc/ssl/certs/ca-certificates.crt;",
        "proxy_pass https://wsfleet_echo;",
    } <= set(lines)
    assert not [line for line in site(servers=TWO, servers_tls=False) if "proxy_ssl" in line]
    assert "conf.d/wsfleet-echo-ca.pem" in files(servers=TWO, servers_ca="-----BEGIN CERTIFICATE-----")
    file = tmp_path / "ca.pem"
    file.write_text("the CA's\nlines\n")
    assert files(servers=TWO, servers_ca=str(file))["conf.d/wsfleet-echo-ca.pem"] == "the CA's\nlines\n"


def test_only_trusted_proxies_say_whom_they_ask_for() -> None:
    assert not [line for line in site() if "real_ip" in line]
    lines = site(trusted_proxies=["192.0.2.7"])
    assert {"set_real_ip_from 192.0.2.7;", "real_ip_header X-Forwarded-For;"} <= set(lines)
    assert "192.0.2.7 1;" in block("geo $wsfleet_echo_private", lines)
    assert "192.0.2.7 1;" not in block("geo $wsfleet_echo_healthz", lines)


def test_proxy_protocol_is_spoken_on_the_whole_port() -> None:
    rendered = files(trusted_proxies=["192.0.2.7"], proxy_protocol=True)
    assert "real_ip_header proxy_protocol;" in directives(rendered[SITE])
    assert "listen 443 ssl proxy_protocol;" in directives(rendered[SITE])
    assert "listen 443 ssl proxy_protocol default_server backlog=8192;" in directives(
        rendered["conf.d/wsfleet-port-443.conf"]
    )
    assert "listen 80;" in directives(rendered[SITE])
