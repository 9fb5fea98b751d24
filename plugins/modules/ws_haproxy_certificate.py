#!/usr/bin/python
# Copyright (c) 2026 The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Make a running HAProxy serve the certificate that its file holds, without a reload."""

from __future__ import annotations

DOCUMENTATION = r"""
module: ws_haproxy_certificate
short_description: Make a running HAProxy serve the certificate that its file holds, without a reload
version_added: 0.1.0
author:
  - The wsfleet maintainers (@wsfleet)
description:
  - Gives HAProxy the certificate, its chain and its key through the runtime API. What HAProxy says of the old ones and
    of these tells whether that is a change. Connections go on.
  - HAProxy takes all of them or goes on with the old ones, and the message is its own.
  - Where HAProxy doesn't run, or doesn't have the file in its configuration yet, nothing is changed; it reads the
    file when it starts or is reloaded.
attributes:
  check_mode:
    support: full
    description: Says whether that would be a change, for which HAProxy gets the certificates only, and forgets them.
  diff_mode:
    support: full
    description: Shows what HAProxy says of the certificates before and after.
options:
  certificate:
    description:
      - File on the host with the certificate followed by its CA's, as PEM.
      - Written as in HAProxy's configuration, which has it as C(crt).
    type: path
    required: true
  certificate_key:
    description: File on the host with the private key, as PEM and not encrypted.
    type: path
    required: true
  socket:
    description: Path of HAProxy's stats socket, which has C(level admin).
    type: path
    default: /run/haproxy/admin.sock
notes:
  - Needs a user who may read the key and write to O(socket), which is root by default.
  - Of the chain HAProxy says the names only, and nothing behind a certificate with an Ed25519 key. What else changes in
    it is served, but not reported as a change.
"""

EXAMPLES = r"""
- name: Serve the renewed certificate
  wsfleet.websockets.ws_haproxy_certificate:
    certificate: /etc/wsfleet/chat/tls/fullchain.pem
    certificate_key: /etc/wsfleet/chat/tls/privkey.pem
  register: served

- name: Reload HAProxy if it has to read the file itself
  ansible.builtin.systemd_service:
    name: haproxy
    state: reloaded
  when: served.running and not served.known
"""

RETURN = r"""
running:
  description: Whether HAProxy runs.
  type: bool
  returned: success
known:
  description: Whether HAProxy has a certificate for the file.
  type: bool
  returned: success
"""

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.wsfleet.websockets.plugins.module_utils.haproxy import (
    SOCKET,
    HaproxyError,
    NotRunningError,
    Runtime,
)


def serve(runtime: Runtime, certificate: str, key: str, check_mode: bool) -> dict[str, Any]:
    """Replace the certificate, except in check mode; return what the module returns.

    OSError says what is wrong with a file, HaproxyError what HAProxy refused.
    """
    before = runtime.certificate(certificate)
    if before is None:
        return {"changed": False, "running": True, "known": False}
    fullchain = Path(certificate).read_text(errors="replace")
    if check_mode:
        after = runtime.replace_certificate(certificate, fullchain, commit=False)
    else:
        # Even if they look the same: not all of the chain is to be seen.
        after = runtime.replace_certificate(certificate, fullchain, Path(key).read_text(errors="replace"))
    return {
        "changed": before != after,
        "running": True,
        "known": True,
        "diff": {
            "before_header": certificate,
            "after_header": certificate,
            "before": f"{before}\n",
            "after": f"{after}\n",
        },
    }


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "certificate": {"type": "path", "required": True},
            "certificate_key": {"type": "path", "required": True},
            "socket": {"type": "path", "default": SOCKET},
        },
        supports_check_mode=True,
    )
    options = module.params
    try:
        result = serve(
            Runtime(options["socket"]), options["certificate"], options["certificate_key"], module.check_mode
        )
    except NotRunningError:
        result = {"changed": False, "running": False, "known": False}
    except OSError as error:
        module.fail_json(msg=f"{error.filename} can't be read: {error.strerror}.")
    except HaproxyError as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
