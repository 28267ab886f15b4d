"""TLS: certificates of an authority of one's own, a redis-server that speaks it, and a proxy in front of one that does
not."""

from __future__ import annotations

import ipaddress
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.support.ports import free_port
from tests.support.servers import binary


def certificate(folder: Path) -> tuple[Path, Path]:
    """Files of a certificate for 127.0.0.1, which is its own authority, and of its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tests")])
    now = datetime.now(UTC)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + timedelta(days=1))
        .add_extension(address, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    encoding, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    (folder / "ca.pem").write_bytes(made.public_bytes(encoding))
    (folder / "key.pem").write_bytes(key.private_bytes(encoding, serialization.PrivateFormat.TraditionalOpenSSL, plain))
    return folder / "ca.pem", folder / "key.pem"


class Authority:
    """An authority of its own, whose certificate is `ca`; it issues certificates for 127.0.0.1."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.ca, self._key_file = certificate(folder)
        self._ca = x509.load_pem_x509_certificate(self.ca.read_bytes())
        self._key = serialization.load_pem_private_key(self._key_file.read_bytes(), None)

    def issue(self, name: str) -> tuple[Path, Path]:
        """Files of a certificate and of its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        before, after, number = self._ca.not_valid_before_utc, self._ca.not_valid_after_utc, x509.random_serial_number()
        assert isinstance(self._key, ec.EllipticCurvePrivateKey)
        made = (
            x509.CertificateBuilder(self._ca.subject, subject, key.public_key(), number, before, after)
            .add_extension(address, critical=False)
            .sign(self._key, hashes.SHA256())
        )
        encoding, plain = serialization.Encoding.PEM, serialization.NoEncryption()
        files = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        files[0].write_bytes(made.public_bytes(encoding))
        files[1].write_bytes(key.private_bytes(encoding, serialization.PrivateFormat.TraditionalOpenSSL, plain))
        return files


@contextmanager
def redis_with_tls(authority: Authority, password: str, users: Sequence[str] = ()) -> Iterator[int]:
    """The port of a redis-server that speaks TLS alone and asks its clients for certificates of the authority."""
    port, (certified, key) = free_port(), authority.issue("server")
    files = [f"tls-cert-file {certified}", f"tls-key-file {key}", f"tls-ca-cert-file {authority.ca}"]
    settings = ["bind 127.0.0.1", "port 0", f"tls-port {port}", "tls-auth-clients yes", f"requirepass {password}"]
    memory = ["maxmemory 512mb", "maxmemory-policy noeviction", 'save ""']
    process = subprocess.Popen(
        [str(binary("redis")), "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write("\n".join([*settings, *files, *memory, *users, ""]))
        process.stdin.close()
        for line in process.stdout:
            if "Ready to accept connections" in line:
                break
        else:
            raise AssertionError("the redis-server did not start")
        yield port
    finally:
        process.terminate()
        process.wait(30)
        process.stdout.close()


@contextmanager
def behind_tls(port: int, folder: Path) -> Iterator[int]:
    """The port of a TLS server that forwards to `port` of this host."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate(folder))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=_serve, args=(listening, context, port), daemon=True).start()
        yield listening.getsockname()[1]


def _serve(listening: socket.socket, context: ssl.SSLContext, port: int) -> None:
    with suppress(OSError):
        while True:
            accepted, _ = listening.accept()
            threading.Thread(target=_forward, args=(accepted, context, port), daemon=True).start()


def _forward(accepted: socket.socket, context: ssl.SSLContext, port: int) -> None:
    with (
        suppress(OSError),
        context.wrap_socket(accepted, server_side=True) as client,
        socket.create_connection(("127.0.0.1", port)) as server,
    ):
        back = threading.Thread(target=_copy, args=(server, client), daemon=True)
        back.start()
        _copy(client, server)


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while content := source.recv(65536):
            target.sendall(content)
        target.shutdown(socket.SHUT_WR)
