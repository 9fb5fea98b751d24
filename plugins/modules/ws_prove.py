#!/usr/bin/python
# Copyright: The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Play the clients of WebSocket servers while these are changed, and record what they see."""

from __future__ import annotations

DOCUMENTATION = r"""
module: ws_prove
short_description: Play the clients of WebSocket servers while these are changed
version_added: 0.1.0
description:
  - Keeps opening connections at a rate, and holds others on which numbered messages go back and forth, until it is
    told to stop. Writes what the clients saw, second by second, into a JSON file for
    M(wsfleet.websockets.ws_report), which says whether a change kept its promises.
  - A held connection that was closed is opened again, at once and then at intervals that grow by 0.1 seconds, as
    clients do.
  - Start it with C(async) and C(poll=0), wait for O(ready_file), make the change, make O(stop_file), and wait for the
    end with M(ansible.builtin.async_status).
  - Every handshake is a complete one, TLS sessions are not resumed. Names are looked up once. Compression isn't
    offered, and redirects and proxies are not followed.
  - Fails when it can't begin, with one sentence. What the servers do wrong later is no failure of this module.
author:
  - The wsfleet maintainers (@wsfleet)
requirements:
  - Python >= 3.11
  - websockets >= 13 in the Python that runs the module
notes:
  - The controller is the natural place for it, with C(delegate_to=localhost).
  - It is one process. It says in RV(totals.late) when it had not enough of a processor to keep its rate; what it
    measured is in doubt then.
attributes:
  check_mode:
    support: full
    description: Checks the options and opens no connection. Ansible refuses C(async) in check mode.
  diff_mode:
    support: none
    description: Changes nothing but the files it is told to write.
options:
  urls:
    description:
      - What to open, V(ws://) or V(wss://); one URL for each server, or that of the edge before them.
      - Connections are spread evenly over them.
    type: list
    elements: str
    required: true
  addresses:
    description:
      - Addresses to connect to instead of the hosts in O(urls), one for each; SNI, the C(Host) header and the names
        that certificates must have stay those of O(urls).
    type: list
    elements: str
  names:
    description:
      - Names of the servers in the result, one for each of O(urls).
      - The default is O(addresses), otherwise the hosts in O(urls).
    type: list
    elements: str
  validate_certs:
    description: Whether certificates must be valid for the hosts in O(urls).
    type: bool
    default: true
  ca_file:
    description: PEM file of the certificate authorities to trust instead of the system's.
    type: path
  origin:
    description: Value of the C(Origin) header; none is sent by default.
    type: str
  headers:
    description: Further headers of the requests; they replace those that the client sends by itself.
    type: dict
  subprotocols:
    description: Subprotocols to offer, the preferred one first.
    type: list
    elements: str
  rate:
    description: Handshakes a second, 0 to 1000. Each of these connections is closed after one message.
    type: float
    default: 50
  held:
    description: Number of connections to hold, 0 to 10000.
    type: int
    default: 100
  interval:
    description: Seconds between the messages on each held connection, 0.01 to 3600.
    type: float
    default: 1
  echo:
    description:
      - Whether the app sends each message back unchanged, and nothing else.
      - If not, messages are pings of the protocol, and what comes back is not looked at.
    type: bool
    default: true
  timeout:
    description: Seconds that a handshake, an echo or an answer to a close may take, 0.1 to 300.
    type: float
    default: 10
  seconds:
    description:
      - Seconds after which it stops by itself, 1 to 86400.
      - C(async) must be longer, by five times O(timeout), or it ends without a result.
    type: int
    default: 3600
  ready_file:
    description:
      - File to make when all held connections are open, or when that failed. It must not exist.
      - Handshakes at O(rate) begin then.
    type: path
  stop_file:
    description: File that somebody else makes to have it stop. It must not exist yet.
    type: path
  result:
    description: JSON file to write at the end.
    type: path
    required: true
"""

EXAMPLES = r"""
- name: Begin the proof
  wsfleet.websockets.ws_prove:
    urls:
      - wss://ws1.example.com/
      - wss://ws2.example.com/
    rate: 200
    held: 1000
    interval: 2
    ready_file: /tmp/proof/ready
    stop_file: /tmp/proof/stop
    result: /tmp/proof/proof.json
  async: 3700
  poll: 0
  delegate_to: localhost
  register: proof

- name: Wait until all connections are held
  ansible.builtin.wait_for:
    path: /tmp/proof/ready
  delegate_to: localhost

- name: Stop where that failed
  ansible.builtin.async_status:
    jid: "{{ proof.ansible_job_id }}"
  delegate_to: localhost

# The change goes here.

- name: End the proof
  ansible.builtin.file:
    path: /tmp/proof/stop
    state: touch
    mode: "0600"
  delegate_to: localhost

- name: Wait for its result
  ansible.builtin.async_status:
    jid: "{{ proof.ansible_job_id }}"
  delegate_to: localhost
  register: proof_end
  until: proof_end is finished
  retries: 60
  delay: 1
"""

RETURN = r"""
begin:
  description: When it began, in Unix time.
  returned: success
  type: float
end:
  description: When it stopped to attempt handshakes, in Unix time.
  returned: success
  type: float
servers:
  description: Names of the servers.
  returned: success
  type: list
  elements: str
  sample: [ws1.example.com, ws2.example.com]
rate:
  description: O(rate).
  returned: success
  type: float
held:
  description: O(held).
  returned: success
  type: int
interval:
  description: O(interval).
  returned: success
  type: float
echo:
  description: O(echo).
  returned: success
  type: bool
totals:
  description: What the clients saw. The file O(result) has the same for each second, in C(series).
  returned: success
  type: dict
  contains:
    attempts:
      description: Handshakes attempted, those of held connections included.
      type: int
    failed:
      description: Handshakes that failed.
      type: int
    failures:
      description: Their number by what went wrong.
      type: dict
    closes:
      description: Closes that a server began, by code and reason; V(1006) stands for a connection that was cut.
      type: list
      elements: dict
    messages:
      description: Messages sent.
      type: int
    echoes:
      description: Messages that came back.
      type: int
    unanswered:
      description:
        - Messages that never came back, by what became of their connection.
        - C(closed) is a close frame of the server, which clients expect and repeat the message for; C(cut) is none;
          C(open) is neither.
      type: dict
    wrong:
      description: Messages that no one had sent on this connection.
      type: int
    doubled:
      description: Messages that came back again.
      type: int
    reordered:
      description: Messages that came back after a later one.
      type: int
    reconnects:
      description: Held connections that were opened again after a close.
      type: int
    handshake_ms:
      description: Median, 99th percentile and maximum of the milliseconds from connecting to the end of the handshake.
      type: dict
    echo_ms:
      description: The same from a message to its echo.
      type: dict
    reconnect_ms:
      description: The same from a close to the connection that replaced it, failed attempts and pauses included.
      type: dict
    longest_wait_ms:
      description: The longest of all these.
      type: float
    first_problems:
      description: Time, server and kind of the first problems of each kind.
      type: list
      elements: dict
    late:
      description:
        - How late the module itself was, at most, in C(max_ms), in how many C(seconds) it was so by more than
          100 milliseconds, and how many handshakes it C(skipped) for that.
      type: dict
    cpu_seconds:
      description: Processor time that the module used.
      type: float
  sample:
    attempts: 24310
    failed: 0
    failures: {}
    closes:
      - {code: 1001, reason: server is restarting, count: 1000}
    messages: 84211
    echoes: 84207
    unanswered: {closed: 4, cut: 0, open: 0}
    wrong: 0
    doubled: 0
    reordered: 0
    reconnects: 1000
    handshake_ms: {p50: 4.1, p99: 18.7, max: 61.3}
    echo_ms: {p50: 0.9, p99: 8.4, max: 44.0}
    reconnect_ms: {p50: 4.3, p99: 20.1, max: 58.6}
    longest_wait_ms: 61.3
    first_problems: []
    late: {max_ms: 31.5, seconds: 0, skipped: 0}
    cpu_seconds: 52.4
"""

import contextlib
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.wsfleet.websockets.plugins.module_utils.prover import (
    IMPORT_ERROR,
    ProveError,
    Prover,
)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "urls": {"type": "list", "elements": "str", "required": True},
            "addresses": {"type": "list", "elements": "str"},
            "names": {"type": "list", "elements": "str"},
            "validate_certs": {"type": "bool", "default": True},
            "ca_file": {"type": "path"},
            "origin": {"type": "str"},
            "headers": {"type": "dict"},
            "subprotocols": {"type": "list", "elements": "str"},
            "rate": {"type": "float", "default": 50},
            "held": {"type": "int", "default": 100},
            "interval": {"type": "float", "default": 1},
            "echo": {"type": "bool", "default": True},
            "timeout": {"type": "float", "default": 10},
            "seconds": {"type": "int", "default": 3600},
            "ready_file": {"type": "path"},
            "stop_file": {"type": "path"},
            "result": {"type": "path", "required": True},
        },
        supports_check_mode=True,
    )
    result = {}
    try:
        if IMPORT_ERROR:
            module.fail_json(msg=missing_required_lib("websockets >= 13"), exception=IMPORT_ERROR)
        prover = Prover(module.params)
        if not module.check_mode:
            result = prover.run()
    except ProveError as exc:
        module.fail_json(msg=str(exc))
    finally:
        # Whoever waits for it must not wait in vain.
        if module.params["ready_file"] and not module.check_mode:
            with contextlib.suppress(OSError):
                Path(module.params["ready_file"]).touch()
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
