"""The back end of the chat: rooms with what was said in them, private messages, and who is there.

It serves the page and answers the gateway's calls; stompgate.toml says which. Nobody connects to it but these two.
"""
import json, os, re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock
from urllib.parse import unquote
from urllib.request import Request, urlopen

PORT = int(os.environ.get("CHAT_PORT", "3000"))
API = os.environ.get("CHAT_API", "http://127.0.0.1:9464")
KEY = os.environ.get("CHAT_KEY", "the-key-of-the-chat")
FILES = {
    "/": (Path(__file__).parent / "index.html", "text/html; charset=utf-8"),
    "/stomp.js": (Path(os.environ.get("CHAT_STOMPJS", "stomp.umd.min.js")), "text/javascript"),
}

lock = Lock()
rooms = {}  # what was said last, by room
people = {}  # who is there, by session


class Refused(Exception):
    """Wrong in a way that the user should read."""


def room(event, user, name, body):
    with lock:
        said = rooms.setdefault(name, [])
        if event == "subscribe":  # the snapshot with which a subscription begins
            return said
        said[:] = said[-49:] + [{"from": user, "text": text(body)}]
        return said[-1]


def private(event, user, name, body):
    with lock:
        if name not in people.values():
            raise Refused(f"{name} is not here")
    return {"from": user, "to": name, "text": text(body), "private": True}


def present(event, user, name, body):
    with lock:
        return sorted(set(people.values()))


def sessions(event, user, name, body):
    session = json.loads(body)["session"]
    if event == "connect" and not re.fullmatch(r"[A-Za-z]\w{0,19}", user):
        raise Refused("a name has 1 to 20 letters, digits and _")
    with lock:
        people.pop(session, None) if event == "disconnect" else people.update({session: user})
        publish("/topic/people", sorted(set(people.values())))


def publish(destination, value):
    document = {"destination": destination, "headers": {"content-type": "application/json"}, "body": json.dumps(value)}
    headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
    urlopen(Request(f"{API}/messages", json.dumps(document).encode(), headers), timeout=5).close()


def text(body):
    if not (said := body.decode().strip()[:500]):
        raise Refused("there is nothing in it")
    return said


class Chat(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        file, kind = FILES.get(self.path.partition("?")[0], (None, "text/plain"))
        self.answer(200 if file else 404, kind, file.read_bytes() if file else b"not here")

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        what, _, name = self.path[1:].partition("/")
        answering = {"rooms": room, "private": private, "people": present, "sessions": sessions}[what]
        try:
            result = answering(self.headers["stompgate-event"], unquote(self.headers["stompgate-user"]), unquote(name), body)
            self.answer(200, "application/json", json.dumps(result).encode())
        except Refused as why:
            self.answer(403 if what == "sessions" else 422, "text/plain", str(why).encode())

    def answer(self, status, kind, body):
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    log_message = lambda *_: None


print(f"the chat is on http://127.0.0.1:{PORT}/", flush=True)
ThreadingHTTPServer(("127.0.0.1", PORT), Chat).serve_forever()
