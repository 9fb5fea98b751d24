# Copyright (c) 2026 The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A HAProxy that exists for the test only: its runtime API, with the answers of 2.6 and 3.0."""

from __future__ import annotations

import itertools
import socketserver
import threading
import typing as t
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

STATE_COLUMNS = (
    "be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight "
    "srv_time_since_last_change srv_check_status srv_check_result srv_check_health srv_check_state srv_agent_state "
    "bk_f_forced_id srv_f_forced_id srv_fqdn srv_port srvrecord srv_use_ssl srv_check_port srv_check_addr "
    "srv_agent_addr srv_agent_port"
)
STAT_COLUMNS = (
    "pxname,svname,qcur,qmax,scur,smax,slim,stot,bin,bout,dreq,dresp,ereq,econ,eresp,wretr,wredis,status,weight,act,"
    "bck,chkfail,chkdown,lastchg,downtime,qlimit,pid,iid,sid,throttle,lbtot,tracked,type,rate,rate_lim,rate_max,"
    "check_status,check_code,check_duration,hrsp_1xx,hrsp_2xx,hrsp_3xx,hrsp_4xx,hrsp_5xx,hrsp_other,hanafail,req_rate,"
    "req_rate_max,req_tot,cli_abrt,srv_abrt,comp_in,comp_out,comp_byp,comp_rsp,lastsess,last_chk,last_agt,qtime,ctime,"
    "rtime,ttime,agent_status,agent_code,agent_duration,check_desc,agent_desc,check_rise,check_fall,check_health,"
    "agent_rise,agent_fall,agent_health,addr,cookie,mode,algo,conn_rate,conn_rate_max,conn_tot,intercepted,dcon,dses,"
    "wrew,connect,reuse,cache_lookups,cache_hits,srv_icur,src_ilim,qtime_max,ctime_max,rtime_max,ttime_max,eint,"
    "idle_conn_cur,safe_conn_cur,used_conn_cur,need_conn_est,uweight,agg_server_check_status,"
)
STAT_COLUMNS_OF_3_0 = (
    "agg_server_status,agg_check_status,srid,sess_other,h1sess,h2sess,h3sess,req_other,proto,"
)
SERVER = 2  # the type in `show stat`; 1 << 2 selects it
RISE, FALL = 2, 3


@dataclass
class FakeServer:
    """What HAProxy has of a server; `bits` and `operation` as in `show servers state`."""

    bits: int = 0
    operation: int = 2
    sessions: int = 0
    health: int = RISE + FALL - 1
    kept: int = 0  # bits that no command takes away
    backup: bool = False

    def set_state(self, state: str) -> None:
        """As the command does; who leaves maintenance is up until a check fails."""
        was_in_maintenance = self.bits & 0x23
        self.bits = self.bits & 0x04 | self.kept | {"ready": 0, "drain": 0x08, "maint": 0x01}[state]
        if self.bits & 0x23:
            self.operation = self.health = 0
        elif was_in_maintenance:
            self.operation, self.health = 2, RISE


def make_certificate(name: str = "chat.example.org", *, edwards: bool = False) -> tuple[str, str]:
    """Return a certificate of a new key, and the key, both PEM."""
    key = ed25519.Ed25519PrivateKey.generate() if edwards else ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
        .sign(key, None if edwards else hashes.SHA256())
    )
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return certificate.public_bytes(Encoding.PEM).decode(), pem.decode()


def sha1(fullchain: str) -> str:
    """Return the fingerprint of the first certificate as HAProxy writes it."""
    certificate = x509.load_pem_x509_certificates(fullchain.encode())[0]
    return certificate.fingerprint(hashes.SHA1()).hex().upper()  # noqa: S303 - which is what HAProxy shows


def names(certificate: x509.Certificate) -> str:
    """Return the subject as HAProxy writes it."""
    return "".join(f"/{part.rfc4514_string()}" for part in certificate.subject.rdns)


class Handler(socketserver.StreamRequestHandler):
    """One command per connection, as outside the interactive mode; `<<` begins a payload, an empty line ends it."""

    def handle(self) -> None:
        haproxy = t.cast("Haproxy", self.server)
        command = self.rfile.readline().decode().removesuffix("\n")
        payload = ""
        if command.endswith("<<"):
            command = command.removesuffix("<<").rstrip()
            lines = (line.decode() for line in self.rfile)
            payload = "".join(itertools.takewhile(lambda line: line != "\n", lines))
        with haproxy.lock:
            answer = haproxy.answer(command, payload)
        self.wfile.write(f"{answer}\n".encode())


@dataclass
class Transaction:
    path: str
    pem: str


class Haproxy(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Listens on a unix socket; a test sets what it has and reads which commands came."""

    daemon_threads = True

    def __init__(self, path: Path, version: str) -> None:
        super().__init__(str(path), Handler)
        self.path = path
        self.version = version
        self.lock = threading.Lock()
        self.backends: dict[str, dict[str, FakeServer]] = {}
        self.certificates: dict[str, str | None] = {}  # PEM by path, None when it is empty
        self.info: dict[str, int | str] = {"Name": "HAProxy", "Pid": 900}
        self.transaction: Transaction | None = None
        self.commands: list[str] = []
        self.refusal = ""  # what it answers to `set` and `commit`
        self.before_answer: t.Callable[[str], None] = lambda _command: None

    def answer(self, command: str, payload: str) -> str:
        self.before_answer(command)
        self.commands.append(command)
        words = command.split()
        if words[0] in {"set", "commit"} and self.refusal:
            return self.refusal
        match words:
            case ["show", "servers", "state"]:
                return self._show_state()
            case ["show", "info"]:
                return "".join(f"{name}: {value}\n" for name, value in self.info.items())
            case ["show", "stat", "-1", "4", "-1"]:
                return self._show_stat()
            case ["set", "server", server, "state", state]:
                return self._set_server(server, state)
            case [verb, "ssl", "cert", path]:
                return {
                    "show": self._show_cert,
                    "set": self._set_cert,
                    "commit": self._commit_cert,
                    "abort": self._abort_cert,
                }[verb](path, payload)
        return f"Unknown command: '{words[0]}'\n"

    def _servers(self) -> t.Iterator[tuple[int, str, int, str, FakeServer]]:
        for backend_id, (backend, servers) in enumerate(self.backends.items(), 3):
            for server_id, (name, server) in enumerate(servers.items(), 1):
                yield backend_id, backend, server_id, name, server

    def _show_state(self) -> str:
        rows = [
            f"{backend_id} {backend} {server_id} {name} 192.0.2.{server_id} {server.operation} {server.bits} 1 1 77 "
            f"15 3 {server.health} 6 0 0 0 - 443 - 1 0 - - 0\n"
            for backend_id, backend, server_id, name, server in self._servers()
        ]
        return f"1\n# {STATE_COLUMNS}\n{''.join(rows)}"

    def _show_stat(self) -> str:
        columns = STAT_COLUMNS + STAT_COLUMNS_OF_3_0 * (self.version == "3.0")
        names = f"{columns}-,ssl_sess,ssl_reused_sess,ssl_failed_handshake,"
        rows = []
        for backend_id, backend, server_id, name, server in self._servers():
            values = {
                "pxname": backend,
                "svname": name,
                "scur": server.sessions,
                "iid": backend_id,
                "sid": server_id,
                "type": SERVER,
                "act": int(not server.backup),
                "bck": int(server.backup),
            }
            if not server.bits & 0x23:
                values |= {"check_status": "L7OK", "last_chk": '"HTTP content, ""ok"""'}
                values |= {"check_rise": RISE, "check_fall": FALL, "check_health": server.health}
            rows.append(
                ",".join("-" if name == "-" else str(values.get(name, "")) for name in names.split(","))
            )
        return "\n".join([f"# {names}", *rows, ""])

    def _set_server(self, server: str, state: str) -> str:
        backend, _slash, name = server.partition("/")
        self.backends[backend][name].set_state(state)
        return ""

    def _show_cert(self, path: str, _payload: str) -> str:
        certificates = self.certificates | (
            {f"*{self.transaction.path}": self.transaction.pem} if self.transaction else {}
        )
        if path not in certificates:
            return "Can't display the certificate: Not found or the certificate is a bundle!\n"
        pem = certificates[path]
        if pem is None:
            return f"Filename: {path}\nStatus: Empty\n"
        [certificate, *chain] = x509.load_pem_x509_certificates(pem.encode())
        head = (
            f"Filename: {path}\nStatus: {'Unused' if path.startswith('*') else 'Used'}\n"
            f"Serial: {certificate.serial_number:040X}\n"
            "notBefore: Nov 21 08:36:00 2026 GMT\nnotAfter: Nov 22 08:36:00 2026 GMT\n"
            "Subject Alternative Name: DNS:chat.example.org\nAlgorithm: "
        )
        if isinstance(certificate.public_key(), ed25519.Ed25519PublicKey):
            return f"{head}OCSP Response Key: \n"
        return "".join(
            [
                f"{head}EC256\nSHA1 FingerPrint: {sha1(pem)}\nSubject: /CN=chat.example.org\nIssuer: /CN=CA\n",
                *(f"Chain Subject: {names(ca)}\nChain Issuer: {names(ca)}\n" for ca in chain),
                "OCSP Response Key: \n",
            ]
        )

    def _set_cert(self, path: str, payload: str) -> str:
        if self.transaction and self.transaction.path != path:
            other = self.transaction.path
            return (
                f"The ongoing transaction is about '{other}' but you are trying to set '{path}'\n"
                f"Can't update {path}!\n"
            )
        if path not in self.certificates:
            return (
                "Can't replace a certificate which is not referenced by the configuration!\n"
                f"Can't update {path}!\n"
            )
        try:
            x509.load_pem_x509_certificates(payload.encode())
        except ValueError:
            return f"unable to load certificate from file '{path}'.\nCan't load the payload\nCan't update {path}!\n"
        done = "updated" if self.transaction else "created"
        self.transaction = Transaction(path, payload)
        return f"Transaction {done} for certificate {path}!\n"

    def _commit_cert(self, path: str, _payload: str) -> str:
        if not self.transaction:
            return f"No ongoing transaction! !\nCan't commit {path}!\n"
        pem = self.transaction.pem.encode()
        certificate = x509.load_pem_x509_certificates(pem)[0]
        if (
            load_pem_private_key(pem[pem.index(b"-----BEGIN PRIVATE") :], None).public_key()
            != certificate.public_key()
        ):
            return f"inconsistencies between private key and certificate loaded '{path}'.\nCan't commit {path}!\n"
        self.certificates[path] = self.transaction.pem
        self.transaction = None
        return f"Committing {path}.\nSuccess!\n"

    def _abort_cert(self, path: str, _payload: str) -> str:
        if not self.transaction:
            return "No ongoing transaction!\n"
        if self.transaction.path != path:
            return (
                f"The ongoing transaction is about '{self.transaction.path}' but you are trying to abort a "
                f"transaction for '{path}'\n"
            )
        self.transaction = None
        return f"Transaction aborted for certificate '{path}'!\n"
