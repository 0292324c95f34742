"""A stand-in for the hub: the endpoints that `huggingface_hub` uses to make a repository, commit to it and read it."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlparse

COMMIT = "c0ffee" + "0" * 34


class Hub(BaseHTTPRequestHandler):
    """Repositories in `server.repos`: name → path → bytes."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def reply(self, content: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def json(self, content: object, status: int = 200, **headers: str) -> None:
        self.reply(json.dumps(content).encode(), status, Content_Type="application/json", **headers)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        path = urlparse(self.path).path
        self.server.asked.append(f"POST {path}")
        base = f"http://{self.headers['Host']}"
        if path == "/api/validate-yaml":
            return self.json({"errors": [], "warnings": []})
        if path == "/api/repos/create":
            wanted = json.loads(body)
            name = "/".join(filter(None, [wanted.get("organization") or "me", wanted["name"]]))
            self.server.repos.setdefault(name, {})
            return self.json({"url": f"{base}/{name}", "name": name, "id": "1"})
        repo = "/".join(path.split("/")[3:5])
        if "/preupload/" in path:
            names = [file["path"] for file in json.loads(body)["files"]]
            return self.json({"files": [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]})
        if "/commit/" in path:
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    self.server.repos[repo][entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            answer = {"success": True, "commitOid": COMMIT, "commitUrl": f"{base}/{repo}/commit/{COMMIT}"}
            return self.json(answer)
        return self.json({"error": "unknown"}, 404)

    def do_GET(self) -> None:
        path = unquote(urlparse(self.path).path)
        self.server.asked.append(f"{self.command} {path}")
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            files = self.server.repos.get("/".join(parts[2:4]))
            if files is None:
                return self.json({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")
            if "tree" in parts:
                listed = [{"type": "file", "path": n, "size": len(b), "oid": _digest(b)} for n, b in files.items()]
                folder = "/".join(parts[parts.index("tree") + 2 :])
                return self.json([f for f in listed if f["path"].startswith(folder)])
            siblings = [{"rfilename": name} for name in files]
            return self.json({"id": "/".join(parts[2:4]), "sha": COMMIT, "siblings": siblings, "tags": []})
        content = self.server.repos.get("/".join(parts[:2]), {}).get("/".join(parts[4:]))
        if len(parts) < 5 or content is None:
            return self.json({"error": "Entry not found"}, 404, X_Error_Code="EntryNotFound", X_Repo_Commit=COMMIT)
        return self.reply(content, ETag=f'"{_digest(content)}"', X_Repo_Commit=COMMIT, Accept_Ranges="none")

    do_HEAD = do_GET


def _digest(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


@contextmanager
def serving() -> Iterator[ThreadingHTTPServer]:
    """The stand-in on a free port; `.repos` and `.asked` tell what it holds and what was asked of it."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.repos, server.asked = {}, []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
