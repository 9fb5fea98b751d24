# Copyright: the wsfleet maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the roles of an edge write for their inputs: the directives that carry promises."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

ROLES = Path(__file__).resolve().parents[3] / "roles"
APP = "conf.d/wsfleet-echo.cfg"
TWO = [{"name": "a", "address": "192.0.2.1"}, {"name": "b", "address": "2001:db8::2", "port": 8443}]


def render(role: str, name: str, inputs: dict[str, Any]) -> Any:
    """Return the role's variable `name` on a host of two cores, with IPv6."""
    loader = DataLoader()
    variables: dict[str, Any] = {
        "ansible_facts": {"processor_nproc": 2},
        "ansible_managed": "Ansible managed",
        "ansible_search_path": [str(ROLES / role)],
        "inventory_hostname": "edge1.example.com",
        "playbook_dir": "/nowhere",
        "__ws_haproxy_if_inet6": {"stat": {"exists": True}},
        "__ws_haproxy_drained": {"stat": {"exists": False}},
        "__ws_haproxy_acme": {},
    }
    for part in ("defaults", "vars"):
        path = str(ROLES / role / part / "main.yml")
        variables |= loader.load_from_file(path, trusted_as_template=True)
    return Templar(loader=loader, variables=variables | inputs).template((variables | inputs)[name])


def haproxy(**inputs: Any) -> dict[str, list[str]]:
    """Path to the lines that aren't comments, without indentation."""
    named = {f"ws_haproxy_{name}": value for name, value in inputs.items()}
    return {
        file["path"]: [line.strip() for line in file["content"].splitlines() if line.strip()]
        for file in render("ws_haproxy", "__ws_haproxy_files", named)
    }


def app(**inputs: Any) -> list[str]:
    return haproxy(**inputs)[APP]


def section(name: str, lines: list[str]) -> list[str]:
    """The lines of a section, such as `backend wsfleet_echo from wsfleet_echo`."""
    start = lines.index(name) + 1
    ends = [n for n in range(start, len(lines)) if lines[n].split()[0] in ("frontend", "backend", "defaults")]
    return lines[start : ends[0] if ends else None]


FRONTEND = "frontend wsfleet_echo from wsfleet_echo"
BACKEND = "backend wsfleet_echo from wsfleet_echo"


def test_processes_of_this_host() -> None:
    servers = [line for line in section(BACKEND, app()) if line.startswith("server ")]
    assert servers == [f"server slot_0{n} unix@/run/echo/echo_0{n}.sock" for n in range(2)]
    servers = [line for line in app(port=9000) if line.startswith("server ")]
    assert servers == [f"server slot_0{n} 127.0.0.1:900{n}" for n in range(2)]


def test_a_handshake_waits_for_a_process_and_not_for_a_server() -> None:
    assert {"timeout connect 250ms", "retries 40", "option redispatch 2"} <= set(app(hold_seconds=5))
    assert {"timeout connect 2000ms", "retries 3", "option redispatch 1"} <= set(
        app(hold_seconds=5, servers=TWO)
    )


def test_servers_are_checked_and_verified() -> None:
    lines = section(BACKEND, app(servers=TWO, server_names=["ws.example.com"]))
    checked = [line for line in lines if line.startswith("server ") and not line.endswith("no-check backup")]
    assert checked == ["server a 192.0.2.1:443 tcp-ut 10s", "server b 2001:db8::2:8443 tcp-ut 10s"]
    assert (
        "http-check send meth GET uri /readyz ver HTTP/1.1 hdr Host ws.example.com hdr Connection close"
        in lines
    )
    assert "default-server verify required verifyhost ws.example.com ca-file @system-ca" in lines
    assert "balance leastconn" in lines
    assert not [line for line in app(servers=TWO, servers_tls=False) if "ca-file" in line]


def test_without_a_server_that_passes_its_checks_all_are_tried() -> None:
    lines = section(BACKEND, app(servers=TWO))
    assert {
        "option allbackups",
        "server a-unchecked 192.0.2.1:443 tcp-ut 10s no-check backup",
        "server b-unchecked 2001:db8::2:8443 tcp-ut 10s no-check backup",
    } <= set(lines)


def test_own_ca_lies_beside_the_configuration(tmp_path: Path) -> None:
    files = haproxy(servers=TWO, servers_ca="-----BEGIN CERTIFICATE-----")
    assert files["conf.d/wsfleet-echo-ca.pem"] == ["-----BEGIN CERTIFICATE-----"]
    assert any(line.endswith("ca-file /etc/haproxy/conf.d/wsfleet-echo-ca.pem") for line in files[APP])
    file = tmp_path / "ca.pem"
    file.write_text("the CA's\nlines\n")
    files = haproxy(servers=TWO, servers_ca=str(file))
    assert files["conf.d/wsfleet-echo-ca.pem"] == ["the CA's", "lines"]


def test_the_clients_address_is_overwritten() -> None:
    assert {
        "http-request set-header X-Forwarded-For %[src]",
        "http-request set-header X-Real-IP %[src]",
    } <= set(section(FRONTEND, app()))


def test_passthrough_says_the_address_by_the_proxy_protocol() -> None:
    lines = app(servers=TWO, tls="passthrough")
    assert "default-server send-proxy-v2 check-send-proxy check-ssl check-sni edge1.example.com" in lines
    assert "mode tcp" in lines
    assert "bind 0.0.0.0:443" in lines
    assert not [line for line in lines if line.startswith("http-request")]


def test_only_trusted_proxies_say_whom_they_ask_for() -> None:
    assert not [line for line in app() if "set-src" in line]
    lines = app(trusted_proxies=["192.0.2.7"])
    rule = "http-request set-src req.hdr_ip(X-Forwarded-For,-1)"
    assert f"{rule} if {{ src 192.0.2.7 }} {{ req.hdr(X-Forwarded-For) -m found }}" in lines
    private = "http-request return status 404 if { path /readyz }"
    assert "http-request return status 404 if { path /metrics }" in lines
    assert f"{private} !{{ src 127.0.0.0/8 ::1 192.0.2.7 }}" in lines


def test_challenges_are_answered_before_the_redirect() -> None:
    assert not [line for line in app() if "acme" in line]
    acme = {"__ws_haproxy_acme": {"content": "dGh1bWIK"}}
    (file,) = render("ws_haproxy", "__ws_haproxy_app_files", acme)
    lines = [line.strip() for line in file["content"].splitlines() if line.strip()]
    plain = section("frontend wsfleet_echo_http from wsfleet_echo", lines)
    (answer,) = [line for line in plain if "acme-challenge" in line]
    assert '"%[path,field(4,/)].thumb"' in answer
    assert plain.index(answer) < plain.index(next(line for line in plain if "redirect" in line))


def test_a_drained_host_says_so() -> None:
    rule = "http-request return status 503 if { path /readyz }"
    assert rule not in app()
    drained = render(
        "ws_haproxy", "__ws_haproxy_app_files", {"__ws_haproxy_drained": {"stat": {"exists": True}}}
    )
    assert rule in drained[0]["content"]


def test_unknown_names_are_dropped_unless_an_address_is_served() -> None:
    lines = app(server_names=["WS.example.com", "*.example.org"])
    name = "req.hdr(host),host_only,lower"
    rule = (
        f"http-request reject unless {{ {name} -m str ws.example.com }} || {{ {name} -m end .example.org }}"
    )
    assert lines.count(rule) == 2, "for both ports"
    assert any("strict-sni" in line for line in lines)
    assert not [line for line in app(server_names=["192.0.2.9"]) if "reject" in line or "strict-sni" in line]


@pytest.mark.parametrize(("profile", "option"), [("intermediate", "TLSv1.2"), ("modern", "TLSv1.3")])
def test_tls_profile(profile: str, option: str) -> None:
    binds = [line for line in app(tls_profile=profile) if line.startswith("bind ") and " ssl " in line]
    assert len(binds) == 2
    assert all(
        f"ssl-min-ver {option}" in line and "no-tls-tickets" in line and "alpn h2" in line for line in binds
    )


def test_redirect_to_the_port_that_is_served() -> None:
    (redirect,) = [line for line in app(https_port=8443) if "redirect" in line]
    assert redirect.endswith("code 308 location https://%[req.hdr(host),host_only]:8443%[pathq]")
    assert not [line for line in app(http_port=0) if "redirect" in line]


LIMITS = {"connections_per_address": 10, "handshakes_per_second_per_address": 5}


def test_limits_are_the_clients_not_the_proxies_and_by_request() -> None:
    lines = section(FRONTEND, app(**LIMITS, trusted_proxies=["192.0.2.7"]))
    rules = [
        "http-request track-sc0 src table wsfleet_echo_addresses",
        "http-request deny deny_status 429 if { sc_conn_cur(0) gt 10 }",
        "http-request deny deny_status 429 if { sc_http_req_rate(0) gt 5 }",
    ]
    start = lines.index(rules[0])
    assert lines[start : start + 3] == rules
    (claim,) = [line for line in lines if line.startswith("http-request set-src ")]
    assert lines.index(claim) < start
    assert not [line for line in app() if "sc0" in line or "stick-table" in line]


def test_limits_of_what_is_passed_through_are_by_connection() -> None:
    lines = section(FRONTEND, app(**LIMITS, servers=TWO, tls="passthrough"))
    assert {
        "tcp-request connection track-sc0 src table wsfleet_echo_addresses",
        "tcp-request connection reject if { sc_conn_cur(0) gt 10 }",
        "tcp-request connection reject if { sc_conn_rate(0) gt 5 }",
    } <= set(lines)


def test_streams_of_http_2_are_bounded_too() -> None:
    rule = "http-request deny deny_status 503 if { be_conn(wsfleet_echo) ge 500 }"
    assert rule in section(FRONTEND, app(connections=500))
    assert rule not in app(connections=500, servers=TWO, tls="passthrough")


def test_what_is_kept_over_a_reload() -> None:
    lines = section(BACKEND, app(servers=TWO))
    assert "load-server-state-from-file local" in lines
    assert "server-state-file-name /run/wsfleet-haproxy/servers.state" in lines
    (default,) = [line for line in lines if "init-addr" in line]
    assert default.endswith("init-addr libc,last,none"), "the last address only where there is none now"


@pytest.mark.parametrize("manage_main", [True, False])
def test_the_unit_keeps_the_hosts_chroot_where_the_main_file_is_the_hosts(manage_main: bool) -> None:
    drop_in = "{{ lookup('ansible.builtin.template', 'drop-in.conf.j2') }}"
    inputs = {"drop_in": trust_as_template(drop_in), "ws_haproxy_manage_main": manage_main}
    lines = render("ws_haproxy", "drop_in", inputs).splitlines()
    assert ("BindReadOnlyPaths=" in lines) is manage_main
    assert "RuntimeDirectory=wsfleet-haproxy" in lines


@pytest.mark.parametrize(
    ("server", "proxied"),
    [
        ({"ws_nginx_proxy_protocol": True}, True),
        ({}, False),
        ({"ws_nginx_proxy_protocol": False}, False),
        ({"ws_nginx_proxy_protocol": True, "ws_router": "haproxy"}, False),
    ],
)
def test_servers_of_ours_that_do_not_take_what_is_passed_through(
    server: dict[str, Any], proxied: bool
) -> None:
    inputs = {"hostvars": {"a": server}, "ws_edge_servers": [{"name": "a"}]}
    assert render("ws_haproxy", "__ws_haproxy_proxied", inputs) is proxied
    assert render("ws_haproxy", "__ws_haproxy_proxied", {"ws_haproxy_servers": TWO, "hostvars": {}}) is True


def test_origins() -> None:
    lines = app(origins=["https://a.example", ""])
    assert {
        "acl origin req.fhdr(origin) -m str https://a.example",
        "acl origin req.fhdr_cnt(origin) eq 0",
        "http-request deny deny_status 403 unless health || origin",
    } <= set(lines)


def test_main_file_is_ours_only_if_wanted() -> None:
    files = haproxy(connections=500, hard_stop_after_seconds=60)
    assert {"maxconn 500", "hard-stop-after 60s"} <= set(files["haproxy.cfg"])
    assert not [line for line in files["haproxy.cfg"] if line.startswith("chroot")]
    assert list(haproxy(manage_main=False)) == [APP]


def keepalived(**inputs: Any) -> list[str]:
    named = {f"ws_keepalived_{name}": value for name, value in inputs.items()}
    (_main, file) = render("ws_keepalived", "__ws_keepalived_files", named)
    return [line.strip() for line in file["content"].splitlines() if line.strip()]


ADDRESSES = ["192.0.2.10/24", "2001:db8::10/64"]


@pytest.mark.parametrize(
    ("own", "first", "excluded"),
    [("192.0.2.1", ADDRESSES[0], ADDRESSES[1]), ("2001:db8::1", ADDRESSES[1], ADDRESSES[0])],
)
def test_addresses_of_both_families_move_together(own: str, first: str, excluded: str) -> None:
    lines = keepalived(address=own, addresses=ADDRESSES, peers=["the other"])
    assert lines[lines.index("virtual_ipaddress {") + 1] == first
    assert lines[lines.index("virtual_ipaddress_excluded {") + 1] == excluded
    assert lines[lines.index("unicast_peer {") + 1] == "the other"
    assert "nopreempt" in lines


def test_the_balancers_health_is_tracked() -> None:
    lines = keepalived(address="192.0.2.1", addresses=ADDRESSES, peers=["192.0.2.2"])
    start = lines.index("vrrp_script wsfleet_echo {")
    assert lines[start + 2].endswith('--connect-to ::127.0.0.1: https://edge1.example.com:443/metrics"'), (
        "what HAProxy answers itself, on this host"
    )
    assert {"interval 1", "fall 3", "rise 2"} <= set(lines[start:])
    start = lines.index("track_script {")
    assert lines[start + 1] == "wsfleet_echo"
    assert start > lines.index("vrrp_instance wsfleet_echo {")


@pytest.mark.parametrize(
    ("inputs", "url"),
    [
        ({"ws_haproxy_http_port": 0}, "https://edge1.example.com:443/metrics"),
        ({"ws_haproxy_https_port": 8443}, "https://edge1.example.com:8443/metrics"),
        ({"ws_haproxy_tls": "passthrough"}, "https://edge1.example.com:443/metrics"),
        ({"ws_haproxy_tls": "off", "ws_haproxy_http_port": 8080}, "http://edge1.example.com:8080/metrics"),
        ({"ws_edge": "nginx", "ws_nginx_https_port": 8443}, "https://edge1.example.com:8443/metrics"),
        (
            {"ws_edge": "nginx", "ws_nginx_tls": False, "ws_nginx_http_port": 8080},
            "http://edge1.example.com:8080/metrics",
        ),
        ({"ws_edge_name": "*.example.org"}, "https://any.example.org:443/metrics"),
    ],
)
def test_what_is_asked_of_the_balancer_is_where_it_serves(inputs: dict[str, Any], url: str) -> None:
    assert render("ws_keepalived", "ws_keepalived_check_url", inputs) == url


def test_edges_of_a_playbook_have_priorities_and_peers() -> None:
    edges = ["192.0.2.1", "192.0.2.2", "192.0.2.3"]
    inputs = {"ws_edge_addresses": edges, "ws_edge_address": "192.0.2.2"}
    assert int(render("ws_keepalived", "ws_keepalived_priority", inputs)) == 99
    assert render("ws_keepalived", "ws_keepalived_peers", inputs) == ["192.0.2.1", "192.0.2.3"]
