"""A peer of the call benchmarks: two nginx, HTTP/1.1 with mutual TLS 1.3 between them, one worker each."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.effort import PAIR_CORE, pinned
from bench.envoy import certificates, free_port, listens
from waiting import wait_until

COMMON = """
daemon off; worker_processes 1; pid {folder}/{name}.pid; error_log {folder}/{name}.log error; user root;
events {{ worker_connections 8192; }}
http {{
  access_log off; keepalive_requests 100000000; client_max_body_size 0; proxy_request_buffering off;
  proxy_max_temp_file_size 0; client_body_temp_path {folder}/{name}-body; proxy_temp_path {folder}/{name}-proxy;
  fastcgi_temp_path {folder}/{name}-f; uwsgi_temp_path {folder}/{name}-u; scgi_temp_path {folder}/{name}-s;
  ssl_protocols TLSv1.3; ssl_session_tickets off;
  upstream next {{ server {next}; keepalive 2048; keepalive_requests 100000000; }}
  server {{
    {listen}
    location / {{ proxy_pass {scheme}://next; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_set_header Host $host; {proxy} }}
  }}
}}
"""
LISTEN_TLS = """listen 127.0.0.1:{port} ssl; ssl_certificate {folder}/b.pem; ssl_certificate_key {folder}/b.key;
    ssl_client_certificate {folder}/ca.pem; ssl_verify_client on;"""
PROXY_TLS = """proxy_ssl_certificate {folder}/a.pem; proxy_ssl_certificate_key {folder}/a.key;
      proxy_ssl_trusted_certificate {folder}/ca.pem; proxy_ssl_verify on; proxy_ssl_name b.example.org;
      proxy_ssl_server_name on; proxy_ssl_protocols TLSv1.3;"""


@contextmanager
def nginx_pair(folder: Path, origin: Path) -> Iterator[tuple[Path, tuple[int, ...]] | None]:
    """The socket of the first, and both workers' process IDs; None where nginx is not installed."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        yield None
        return
    certificates(folder)
    port, entry = free_port(), folder / "nginx.sock"
    texts = {
        "b": COMMON.format(
            folder=folder, name="b", next=f"unix:{origin}", listen=LISTEN_TLS.format(port=port, folder=folder),
            scheme="http", proxy="",
        ),
        "a": COMMON.format(
            folder=folder, name="a", next=f"127.0.0.1:{port}", listen=f"listen unix:{entry};",
            scheme="https", proxy=PROXY_TLS.format(folder=folder),
        ),
    }  # fmt: skip
    processes = [start(program, folder, name, text) for name, text in texts.items()]
    try:
        wait_until(lambda: entry.exists() and listens(port), what="nginx pair")
        yield entry, tuple(worker(process.pid) for process in processes)
    finally:
        for process in processes:
            process.terminate()
            process.wait(5)


def start(program: str, folder: Path, name: str, text: str) -> subprocess.Popen[bytes]:
    path = folder / f"{name}.conf"
    path.write_text(text)
    with (folder / f"{name}.out").open("wb") as output:
        return subprocess.Popen(pinned(PAIR_CORE, [program, "-c", path, "-p", folder]), stdout=output, stderr=output)


def worker(master: int) -> int:
    children = Path(f"/proc/{master}/task/{master}/children")
    wait_until(lambda: bool(children.read_text().split()), what="nginx's worker")
    return int(children.read_text().split()[0])
