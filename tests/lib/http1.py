"""A small HTTP/1.1 client over one socket: what a load of a thousand requests a second needs, and nothing more.

Used by the harness, the load generator and the trials. `http.client` spends more time on reading headers than the
server spends on answering.
"""

import json
import socket


class Response:
    """A whole answer: status, headers (lower-case names, last one wins) and body."""

    __slots__ = ("status", "headers", "body")

    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    def json(self):
        return json.loads(self.body) if self.body else None

    def __repr__(self):
        return f"{self.status} {self.body[:300]!r}"


class Connection:
    """One keep-alive connection, opened when first used and again after it was lost.

    Any failure raises `OSError`; whether the server acted on the request is then unknown. A request is never sent twice.
    """

    def __init__(self, port, host="127.0.0.1", token=None, timeout=30, source=None):
        self.address, self.timeout, self.source, self.token = (host, port), timeout, source, token
        self.socket, self.buffer = None, b""

    def close(self):
        if self.socket:
            self.socket.close()
        self.socket, self.buffer = None, b""

    def request(self, method, path, body=None, headers=None):
        """Sends one request and reads its answer. `body`: bytes as they are, or something to be made JSON."""
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
        head = [f"{method} {path} HTTP/1.1", f"host: {self.address[0]}:{self.address[1]}"]
        if self.token:
            head.append(f"authorization: Bearer {self.token}")
        if body is not None:
            head.append(f"content-length: {len(body)}")
            if not headers or "content-type" not in headers:
                head.append("content-type: application/json")
        head += [f"{name}: {value}" for name, value in (headers or {}).items()]
        return self.exchange("\r\n".join(head).encode() + b"\r\n\r\n" + (body or b""), method == "HEAD")

    def exchange(self, request, bodiless=False):
        """Writes bytes as they are and reads one answer."""
        try:
            if self.socket is None:
                self.socket = socket.create_connection(self.address, self.timeout, self.source)
                self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                self.socket.sendall(request)
            except (BrokenPipeError, ConnectionResetError):
                pass  # Refused before all of it was sent: the answer may be there already.
            response = self._read(bodiless)
        except (OSError, ValueError, IndexError) as error:
            self.close()
            raise error if isinstance(error, OSError) else OSError(f"not HTTP: {error}") from error
        if response.headers.get("connection") == "close":
            self.close()
        return response

    def _more(self):
        data = self.socket.recv(65536)
        if not data:
            raise ConnectionError("closed by the other end")
        self.buffer += data

    def _line(self):
        while b"\r\n" not in self.buffer:
            self._more()
        line, self.buffer = self.buffer.split(b"\r\n", 1)
        return line

    def _bytes(self, count):
        while len(self.buffer) < count:
            self._more()
        data, self.buffer = self.buffer[:count], self.buffer[count:]
        return data

    def _read(self, bodiless):
        while b"\r\n\r\n" not in self.buffer:
            self._more()
        head, self.buffer = self.buffer.split(b"\r\n\r\n", 1)
        first, *lines = head.decode("latin-1").split("\r\n")
        status = int(first.split(" ", 2)[1])
        headers = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        if status < 200:
            return self._read(bodiless)
        if bodiless or status in (204, 304):
            body = b""
        elif headers.get("transfer-encoding", "").lower() == "chunked":
            body = b""
            while size := int(self._line().split(b";")[0], 16):
                body += self._bytes(size)
                self._line()
            while self._line():
                pass
        elif "content-length" in headers:
            body = self._bytes(int(headers["content-length"]))
        else:
            body = self.buffer
            while data := self.socket.recv(65536):
                body += data
            self.close()
        return Response(status, headers, body)
