# SPDX-License-Identifier: GPL-3.0-or-later
"""Connection to a container of tools/servers.py: one `podman exec` or `docker exec` for each task, or none.

The plugins of containers.podman and community.docker do the same; but containers.podman, in the version that
comes with Ansible for Python 3.11, doesn't pipeline and takes five commands of podman for one task. Even one takes
longer than what it runs. Root can do without, by entering the container's namespaces.
"""

from __future__ import annotations

import os
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
  pidfile:
    description: File with the process number of the container's init, for root to enter it by.
    vars:
      - name: wsfleet_pidfile
  hostname:
    description: The container's hostname, by which a process number of long ago is told.
    vars:
      - name: wsfleet_hostname
"""

ENVIRONMENT = {"HOME": "/root", "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}


class Connection(ConnectionBase):  # type: ignore[misc] # Ansible's classes are untyped
    transport = "wsfleet_container"
    has_pipelining = True

    def _connect(self) -> Connection:
        return self

    def _run(self, command: str, **kwargs: Any) -> subprocess.CompletedProcess[bytes]:
        shell = ["/bin/sh", "-c", command]
        pidfile = Path(self.get_option("pidfile") or "")
        if os.geteuid() == 0 and pidfile.is_file():
            enter = ["nsenter", "--all", f"--target={self._init(pidfile)}"]
            return subprocess.run(
                [*enter, *shell], stderr=subprocess.PIPE, check=False, env=ENVIRONMENT, **kwargs
            )
        enter = [self.get_option("engine"), "exec", "--interactive", self.get_option("remote_addr")]
        return subprocess.run([*enter, *shell], stderr=subprocess.PIPE, check=False, **kwargs)

    def _init(self, pidfile: Path) -> str:
        """Process number of the container's init; it is another's when the container has stopped."""
        pid = pidfile.read_text().strip()
        try:
            hostname = Path(f"/proc/{pid}/root/etc/hostname").read_text().strip()
        except OSError:
            hostname = ""
        if hostname != self.get_option("hostname"):
            raise AnsibleConnectionFailure(f"the container {self.get_option('remote_addr')} doesn't run")
        return pid

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
