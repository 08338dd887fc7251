"""Archives of files, and a server that hands them out and may break off."""

from __future__ import annotations

import contextlib
import functools
import http.server
import io
import re
import tarfile
import threading


def tar_of(members: dict[str, bytes], compression: str = "gz") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=f"w:{compression}") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return stream.getvalue()


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves one file with ranges; ``cut`` ends the first answers after so many bytes."""

    def __init__(self, content, cuts, asked, *args):
        self.content, self.cuts, self.asked = content, cuts, asked
        super().__init__(*args)

    def do_GET(self):
        wanted = self.headers.get("Range")
        self.asked.append(wanted)
        start = int(re.match(r"bytes=(\d+)-", wanted)[1]) if wanted else 0
        if start >= len(self.content):
            self.send_error(416)
            return
        body = self.content[start:]
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        cut = self.cuts.pop(0) if self.cuts else None
        with contextlib.suppress(ConnectionError):
            self.wfile.write(body[:cut])

    def log_message(self, *args):
        pass


@contextlib.contextmanager
def served(content: bytes, cuts=()):
    asked: list[str | None] = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, content, list(cuts), asked))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/archive.tar.gz", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
