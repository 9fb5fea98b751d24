#!/usr/bin/python
# Copyright: The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: ws_load
short_description: Make load on a WebSocket server, as many clients do
version_added: 0.1.0
description:
  - Opens connections, has each of them play a scenario, and says how long the server took and what failed.
  - Clients wait for answers before they go on, as those of an app do, so a slow server gets fewer messages.
  - It costs as little per message as the fastest libraries, in as many processes as O(processes), and says in
    RV(generator) whether it was itself too slow, so that what it measured is in doubt.
  - Measuring begins one second after all connections are open. All of them are closed at the end, with code 1000.
  - It ends by itself after O(seconds). Its processes end when it is killed.
  - Every handshake is a complete one, TLS sessions are not resumed.
  - It is meant for servers that serve nobody else. Playbook C(capacity) sees to that.
author:
  - The wsfleet maintainers (@wsfleet)
requirements:
  - Python >= 3.11, nothing else
attributes:
  check_mode:
    support: full
    description: Checks the options and opens no connection.
  diff_mode:
    support: none
    description: Changes nothing.
options:
  url:
    description: What to open, V(ws://) or V(wss://) with host and port. The path is that of O(scenario).
    type: str
    required: true
  address:
    description:
      - Address to connect to instead of the host in O(url). SNI, the C(Host) header and the name that the certificate
        must have stay those of O(url).
    type: str
  validate_certs:
    description: Whether the certificate must be valid for the host in O(url).
    type: bool
    default: true
  ca_file:
    description: PEM file of the certificate authorities to trust instead of the system's.
    type: path
  origin:
    description: Value of the C(Origin) header, unless O(scenario) has one.
    type: str
  scenario:
    description:
      - What each client does, a list of steps.
      - "C(connect), only as the first: a dictionary of C(path), C(headers), C(subprotocols), a list, and
        C(compression), a boolean that is V(true) by default, as browsers offer it."
      - C(say), the text of a message. C({client}) and C({count}) in it become the client's number and the message's.
        A binary message is a dictionary, C(base64) with its bytes, which are sent as they are.
      - C(expect), a text that a message of the server contains, C(base64) with bytes that it contains, or C(regex) with
        a pattern. Other messages are passed over. The time from C(say) to C(expect) is measured.
      - C(think), seconds, or C(seconds) and C(jitter), 0 to 1, the part by which they vary.
      - C(repeat), without a value. The steps after it are repeated; without it, all but C(connect).
      - The default says a short message ten times a second and expects it back.
    type: list
    elements: raw
  mode:
    description:
      - V(play) has all clients play the scenario.
      - V(hold) has them play it once and then be quiet, so that it is the number of connections that counts.
      - V(knock) has them open and close connections, for the number of handshakes.
    type: str
    choices: [play, hold, knock]
    default: play
  connections:
    description: Clients, 1 to 100000.
    type: int
    required: true
  seconds:
    description: Seconds to measure, 1 to 600, unless O(stop_file) ends it before.
    type: int
    default: 10
  processes:
    description: Processes that make the load, 1 to 64, or V(0) for one less than there are processors.
    type: int
    default: 0
  timeout:
    description: Seconds, 1 to 60, that a handshake or an expected message may take; then it has failed.
    type: int
    default: 10
  ready_file:
    description: File to make when measuring begins, or when it failed. It must not exist.
    type: path
  stop_file:
    description:
      - File that somebody else makes to have it stop. It must not exist yet.
      - It stops as well when the folder of that file is removed.
    type: path
"""

EXAMPLES = r"""
- name: See what 500 clients of a chat see
  wsfleet.websockets.ws_load:
    url: wss://ws1.example.com:443
    connections: 500
    scenario:
      - connect: {path: /chat, subprotocols: [chat.v1]}
      - say: '{"login": "load-{client}"}'
      - expect: welcome
      - repeat
      - say: '{"text": "message {count}"}'
      - expect: {regex: '"text": "message [0-9]+"'}
      - think: {seconds: 5, jitter: 0.5}
  delegate_to: load.example.com
"""

RETURN = r"""
mode:
  description: O(mode).
  returned: success
  type: str
connections:
  description: O(connections).
  returned: success
  type: int
opened:
  description: Connections that were opened; with O(mode=knock), again and again.
  returned: success
  type: int
opening_seconds:
  description: Seconds that it took to open them.
  returned: success
  type: float
failed_clients:
  description: Clients whose handshake failed, or whose connection was closed or not answered.
  returned: success
  type: int
failures:
  description: Their number by what went wrong.
  returned: success
  type: dict
  sample: {HTTP 503: 40}
seconds:
  description: Seconds that were measured.
  returned: success
  type: float
handshakes_per_second:
  description: Handshakes completed per second, with O(mode=knock).
  returned: success
  type: float
handshake_ms:
  description: Median, 99th percentile and maximum of the milliseconds from connecting to the end of the handshake.
  returned: success
  type: dict
  sample: {p50: 4.1, p99: 18.7, max: 61.3}
messages_per_second:
  description: Messages sent per second.
  returned: success
  type: float
answers_per_second:
  description: Messages per second that were expected and came.
  returned: success
  type: float
received_per_second:
  description: All messages per second that came.
  returned: success
  type: float
answer_ms:
  description: Median, 99th percentile and maximum of the milliseconds from a message to what was expected.
  returned: success
  type: dict
  sample: {p50: 0.9, p99: 8.4, max: 44.0}
generator:
  description: What it took to make the load.
  returned: success
  type: dict
  contains:
    processes:
      description: Number of processes.
      type: int
    cpu_percent:
      description: Percent of a processor that the busiest process used.
      type: float
    host_cpu_percent:
      description: Percent of all processors of the host that were busy, with whatever.
      type: float
    cpu_us_per_message:
      description: Microseconds of processor time per message sent, its answer included.
      type: float
    lag_ms:
      description: Milliseconds by which the processes were late, at most, 99 times in 100.
      type: float
  sample: {processes: 3, cpu_percent: 41.2, host_cpu_percent: 33.0, cpu_us_per_message: 11.4, lag_ms: 1.3}
"""

import contextlib
import ssl
import typing as t
from pathlib import Path
from urllib.parse import urlsplit

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.wsfleet.websockets.plugins.module_utils.load import (
    MODES,
    Load,
    LoadError,
    Target,
    find_address,
)
from ansible_collections.wsfleet.websockets.plugins.module_utils.scenario import (
    ECHO,
    ScenarioError,
    parse,
)


def target(options: dict[str, t.Any]) -> Target:
    """Return where the load goes, or raise LoadError."""
    url = urlsplit(options["url"])
    try:
        port = url.port
    except ValueError:
        port = 0
    if (
        url.scheme not in ("ws", "wss")
        or not url.hostname
        or port == 0
        or url.path not in ("", "/")
        or url.query
    ):
        raise LoadError(f"url is {options['url']!r}: allowed are ws:// and wss:// with a host and no path.")
    context = None
    if url.scheme == "wss":
        try:
            context = ssl.create_default_context(cafile=options["ca_file"])
        except OSError as error:
            raise LoadError(
                f"ca_file is {options['ca_file']!r}: allowed is a readable file of PEM certificates, got {error}."
            ) from error
        if not options["validate_certs"]:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
    return Target(options["address"] or url.hostname, port or (443 if context else 80), url.hostname, context)


def is_told(stop: Path) -> bool:
    """Whether somebody made the file, or removed its folder, in which it could never be made."""
    return stop.exists() or not stop.parent.exists()


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "url": {"type": "str", "required": True},
            "address": {"type": "str"},
            "validate_certs": {"type": "bool", "default": True},
            "ca_file": {"type": "path"},
            "origin": {"type": "str"},
            "scenario": {"type": "list", "elements": "raw"},
            "mode": {"type": "str", "choices": list(MODES), "default": "play"},
            "connections": {"type": "int", "required": True},
            "seconds": {"type": "int", "default": 10},
            "processes": {"type": "int", "default": 0},
            "timeout": {"type": "int", "default": 10},
            "ready_file": {"type": "path"},
            "stop_file": {"type": "path"},
        },
        supports_check_mode=True,
    )
    options = module.params
    ready = Path(options["ready_file"]) if options["ready_file"] and not module.check_mode else None
    stop = Path(options["stop_file"]) if options["stop_file"] else None
    result: dict[str, t.Any] = {}
    try:
        scenario = parse(options["scenario"] or ECHO)
        if options["origin"]:
            scenario.headers.setdefault("Origin", options["origin"])
        where: Target = target(options)
        sizes = {name: options[name] for name in ("mode", "connections", "seconds", "processes", "timeout")}
        load = Load(where, scenario, **sizes)
        if not module.check_mode:
            where.host = find_address(where.host, where.port, options["timeout"])
            result = load.run(
                ready.touch if ready else lambda: None, lambda: stop is not None and is_told(stop)
            )
    except (LoadError, ScenarioError) as error:
        module.fail_json(msg=str(error))
    finally:
        # Whoever waits for it must not wait in vain.
        if ready:
            with contextlib.suppress(OSError):
                ready.touch()
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
