#!/usr/bin/python
# Copyright: The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Check a WebSocket server as a client sees it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: ws_probe
short_description: Check a WebSocket server as a client sees it
version_added: 0.1.0
description:
  - Opens one WebSocket connection, sends a text and a binary message, expects each back unchanged, and closes.
  - Fails with one sentence that names the URL, what was expected and what came. Returns what it saw either way.
  - Redirects and proxies are not followed, so that what answers is what was asked.
  - Changes nothing. Repeat it with C(until) and C(retries) while a server comes up.
author:
  - The wsfleet maintainers (@wsfleet)
requirements:
  - websockets >= 13 in the Python that runs the module
notes:
  - The controller is the natural place for it, with C(delegate_to=localhost); on a host, set
    C(ansible_python_interpreter) to the Python of an app's virtual environment.
attributes:
  check_mode:
    support: full
    description: Can run in check mode and return what it would return without it.
  diff_mode:
    support: none
    description: Will return details on what has changed (or possibly needs changing in check mode), when in diff mode.
options:
  url:
    description:
      - What to open, V(ws://) or V(wss://).
      - The request is a plain HTTP GET too, so with O(status) any path can be checked, for instance a health check.
    type: str
    required: true
  address:
    description:
      - Address to connect to instead of the host in O(url); SNI, the C(Host) header and the name that the
        certificate must have stay those of O(url).
    type: str
  port:
    description: Port to connect to instead of the one in O(url).
    type: int
  unix_socket:
    description: Path of a Unix socket to connect to instead of the host in O(url).
    type: path
  validate_certs:
    description: Whether the certificate must be valid for the host in O(url).
    type: bool
    default: true
    aliases: [verify]
  ca_file:
    description: PEM file of the certificate authorities to trust instead of the system's.
    type: path
  min_days_left:
    description: Days for which the certificate must still be valid.
    type: int
  timeout:
    description: Seconds that the whole check may take; the look-up of the host's name is not counted.
    type: float
    default: 10
  origin:
    description: Value of the C(Origin) header; none is sent by default.
    type: str
  headers:
    description: Further headers of the request; they replace those that the client sends by itself.
    type: dict
  subprotocols:
    description: Subprotocols to offer, the preferred one first.
    type: list
    elements: str
  compression:
    description:
      - What must become of permessage-deflate.
      - With V(any) it is offered and the server may decline it, with V(negotiated) it must accept, with V(declined) it
        must decline, with V(not_offered) it isn't asked.
    type: str
    choices: [any, negotiated, declined, not_offered]
    default: any
  status:
    description:
      - HTTP status that the server must answer with, for instance V(403) for an origin that it must refuse.
      - With any other than V(101) the check ends there.
    type: int
    default: 101
  subprotocol:
    description: Subprotocol that the server must select.
    type: str
  echo:
    description: Whether to send messages and check the answers.
    type: bool
    default: true
  send:
    description: Text to send; by default a random text and a random binary message of O(size) bytes are sent.
    type: str
  size:
    description: Bytes of each random message; 64 by default.
    type: int
  reply:
    description:
      - Regular expression that is searched for in the answer to O(send).
      - By default the answer must equal what was sent.
    type: str
  close_code:
    description:
      - Code with which the server must close the connection by itself, at once or after O(send); no answer is
        expected then. V(1006) stands for a connection cut without a close frame.
      - By default the client closes with 1000 and the server must answer that.
    type: int
"""

EXAMPLES = r"""
- name: Check that the server echoes and that its certificate lasts a month
  wsfleet.websockets.ws_probe:
    url: wss://echo.example.com/
    min_days_left: 30
  delegate_to: localhost

- name: Wait until a new server answers, before its name points at it
  wsfleet.websockets.ws_probe:
    url: wss://echo.example.com/
    address: "{{ ansible_host }}"
    ca_file: tls/ca.pem
  delegate_to: localhost
  register: probe
  until: probe is success
  retries: 10
  delay: 3

- name: Check that an application answers its own protocol
  wsfleet.websockets.ws_probe:
    url: wss://chat.example.com/socket
    subprotocols: [chat.v2]
    subprotocol: chat.v2
    send: '{"type": "ping"}'
    reply: '"type": *"pong"'
  delegate_to: localhost

- name: Check that pages of other sites can't connect
  wsfleet.websockets.ws_probe:
    url: wss://chat.example.com/socket
    origin: https://evil.example.net
    status: 403
  delegate_to: localhost

- name: Check one server process on its host
  wsfleet.websockets.ws_probe:
    url: ws://localhost/
    unix_socket: /run/echo/echo_00.sock
  vars:
    ansible_python_interpreter: /opt/echo/current/venv/bin/python
"""

RETURN = r"""
status:
  description: HTTP status of the answer; null when none came.
  returned: always
  type: int
  sample: 101
headers:
  description: Headers of the answer, by name in lower case.
  returned: always
  type: dict
  sample: {"upgrade": "websocket"}
subprotocol:
  description: Subprotocol that the server selected.
  returned: always
  type: str
  sample: chat.v2
compression:
  description: Parameters of permessage-deflate; null when it was not negotiated.
  returned: always
  type: dict
  contains:
    server_max_window_bits:
      description: Size of the server's compression window as a power of two.
      type: int
    client_max_window_bits:
      description: Size of the client's compression window as a power of two.
      type: int
    server_no_context_takeover:
      description: Whether the server compresses each message by itself.
      type: bool
    client_no_context_takeover:
      description: Whether the client compresses each message by itself.
      type: bool
  sample:
    server_max_window_bits: 12
    client_max_window_bits: 12
    server_no_context_takeover: false
    client_no_context_takeover: false
echoed:
  description: Whether messages were sent and all answers were right.
  returned: always
  type: bool
close_code:
  description: Close code that the server sent; 1006 when it cut the connection, null when it did neither.
  returned: always
  type: int
  sample: 1000
close_reason:
  description: Close reason that the server sent.
  returned: always
  type: str
tls:
  description: What the TLS handshake agreed on; null for V(ws://).
  returned: always
  type: dict
  contains:
    version:
      description: Protocol version.
      type: str
    cipher:
      description: Name of the cipher suite.
      type: str
  sample:
    version: TLSv1.3
    cipher: TLS_AES_256_GCM_SHA384
certificate:
  description: The server's certificate; null unless it was validated.
  returned: always
  type: dict
  contains:
    days_left:
      description: Whole days until it expires.
      type: int
    not_after:
      description: When it expires, in UTC.
      type: str
    names:
      description: Host names and addresses that it is valid for.
      type: list
      elements: str
  sample:
    days_left: 89
    not_after: "2030-01-31T12:00:00Z"
    names: [echo.example.com]
timings:
  description:
    - Milliseconds that each step took, for the steps that were completed; V(text) and V(binary) are the round trips
      of the messages.
  returned: always
  type: dict
  sample:
    connect: 0.4
    tls: 3.1
    handshake: 1.7
    text: 0.9
    binary: 0.6
    close: 0.8
"""

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.wsfleet.websockets.plugins.module_utils.probe import IMPORT_ERROR, Probe, ProbeError


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "url": {"type": "str", "required": True},
            "address": {"type": "str"},
            "port": {"type": "int"},
            "unix_socket": {"type": "path"},
            "validate_certs": {"type": "bool", "default": True, "aliases": ["verify"]},
            "ca_file": {"type": "path"},
            "min_days_left": {"type": "int"},
            "timeout": {"type": "float", "default": 10},
            "origin": {"type": "str"},
            "headers": {"type": "dict"},
            "subprotocols": {"type": "list", "elements": "str"},
            "compression": {
                "type": "str",
                "choices": ["any", "negotiated", "declined", "not_offered"],
                "default": "any",
            },
            "status": {"type": "int", "default": 101},
            "subprotocol": {"type": "str"},
            "echo": {"type": "bool", "default": True},
            "send": {"type": "str"},
            "size": {"type": "int"},
            "reply": {"type": "str"},
            "close_code": {"type": "int"},
        },
        mutually_exclusive=[("unix_socket", "address"), ("unix_socket", "port"), ("send", "size")],
        required_by={"reply": ("send",)},
        supports_check_mode=True,
    )
    if IMPORT_ERROR:
        module.fail_json(msg=missing_required_lib("websockets >= 13"), exception=IMPORT_ERROR)
    result = {}
    try:
        probe = Probe(module.params)
        result = probe.result
        probe.run()
    except ProbeError as exc:
        module.fail_json(msg=str(exc), **result)
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
