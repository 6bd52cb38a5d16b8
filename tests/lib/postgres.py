"""A PostgreSQL of our own, for whoever tries something on a real one."""

import contextlib
import glob
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.parse

from harness import free_port

__all__ = ["PostgreSQL"]


class PostgreSQL:
    """A server of our own on a free port."""

    def __init__(self):
        found = sorted(glob.glob("/usr/lib/postgresql/*/bin"), key=lambda path: int(path.split("/")[-2]))
        if not found:
            sys.exit("no PostgreSQL: apt-get install postgresql")
        self.programs = found[-1]
        self.folder = tempfile.mkdtemp(prefix="bellwire-pg-", dir="/tmp")
        self.as_user = []
        if os.geteuid() == 0:
            shutil.chown(self.folder, "postgres")
            self.as_user = ["runuser", "-u", "postgres", "--"]
        self.port = free_port()
        data = f"{self.folder}/data"
        self.run("initdb", "--pgdata", data, "--username", "admin", "--auth", "trust", "--no-sync", "--encoding", "UTF8", "--no-locale")
        log = f"{self.folder}/log"
        self.authority, certificate, key = (f"{self.folder}/{name}.pem" for name in ("authority", "certificate", "key"))
        script = (
            f"cd {self.folder} && openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=authority -keyout authority.key -out {self.authority}"
            f" && openssl req -new -newkey rsa:2048 -nodes -subj /CN=import -keyout {key} -out request.pem"
            " && printf 'subjectAltName=IP:127.0.0.1\\nbasicConstraints=critical,CA:FALSE\\n' >extensions"
            f" && openssl x509 -req -in request.pem -CA {self.authority} -CAkey authority.key -CAcreateserial -days 2 -extfile extensions -out {certificate}"
        )
        subprocess.run([*self.as_user, "sh", "-c", script], check=True, capture_output=True, timeout=60, cwd="/")
        os.chmod(self.folder, 0o755)
        tls = f"-c ssl=on -c ssl_cert_file={certificate} -c ssl_key_file={key}"
        options = f"{tls} -p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self.folder} -c fsync=off"
        self.run("pg_ctl", "--pgdata", data, "--log", log, "--wait", "--options", options, "start")

    def run(self, program, *arguments):
        command = [*self.as_user, f"{self.programs}/{program}", *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=120, cwd="/")

    def sql(self, text):
        command = [f"{self.programs}/psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-p", str(self.port), "-U", "admin", "postgres"]
        return subprocess.run(command, input=text, check=True, capture_output=True, text=True, timeout=120).stdout.strip()

    def url(self, user):
        return f"postgres://{user}@127.0.0.1:{self.port}/postgres"

    def socket_url(self, user):
        return f"postgres://{user}@{urllib.parse.quote(self.folder, safe='')}:{self.port}/postgres"

    def stop(self):
        with contextlib.suppress(subprocess.SubprocessError):
            self.run("pg_ctl", "--pgdata", f"{self.folder}/data", "--mode", "immediate", "stop")
        shutil.rmtree(self.folder, ignore_errors=True)
