# SPDX-License-Identifier: GPL-3.0-or-later
"""Connection to a container of tools/servers.py: one `podman exec` or `docker exec` for each task.

The plugins of containers.podman and community.docker do the same; but containers.podman, in the version that
comes with Ansible for Python 3.11, doesn't pipeline and takes five commands of podman for one task.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import IO, Any

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.connection import ConnectionBase

DOCUMENTATION = """
name: wsfleet_container
short_description: Run commands in a container on this machine
description: Runs commands, and copies files, through C(exec) of podman or docker.
options:
  remote_addr:
    description: Name of the container.
    default: inventory_hostname
    vars:
      - name: inventory_hostname
      - name: ansible_host
  engine:
    description: The command that runs it.
    choices: [podman, docker]
    default: podman
    vars:
      - name: wsfleet_engine
"""


class Connection(ConnectionBase):  # type: ignore[misc] # Ansible's classes are untyped
    transport = "wsfleet_container"
    has_pipelining = True

    def _connect(self) -> Connection:
        return self

    def _run(self, command: str, **kwargs: Any) -> subprocess.CompletedProcess[bytes]:
        container = self.get_option("remote_addr")
        argv = [self.get_option("engine"), "exec", "--interactive", container, "/bin/sh", "-c", command]
        return subprocess.run(argv, stderr=subprocess.PIPE, check=False, **kwargs)

    def exec_command(
        self, cmd: str, in_data: bytes | None = None, sudoable: bool = True
    ) -> tuple[int, bytes, bytes]:
        super().exec_command(cmd, in_data=in_data, sudoable=sudoable)
        done = self._run(cmd, input=in_data or b"", stdout=subprocess.PIPE)
        return done.returncode, done.stdout, done.stderr

    def put_file(self, in_path: str, out_path: str) -> None:
        super().put_file(in_path, out_path)
        with Path(in_path).open("rb") as source:
            self._copy(f"cat > {self._shell.quote(out_path)}", stdin=source, stdout=subprocess.DEVNULL)

    def fetch_file(self, in_path: str, out_path: str) -> None:
        super().fetch_file(in_path, out_path)
        with Path(out_path).open("wb") as target:
            self._copy(f"cat {self._shell.quote(in_path)}", stdin=subprocess.DEVNULL, stdout=target)

    def _copy(self, command: str, stdin: IO[bytes] | int, stdout: IO[bytes] | int) -> None:
        done = self._run(command, stdin=stdin, stdout=stdout)
        if done.returncode:
            raise AnsibleConnectionFailure(f"'{command}' failed: {done.stderr.decode(errors='replace')}")

    def close(self) -> None:
        pass
