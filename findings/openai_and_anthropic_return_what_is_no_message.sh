#!/usr/bin/env bash
# openai 3.57.0 and anthropic 2.14.0: what a server says that is no message comes back as if it were one, or as a str.
#
# Expected: chat.completions.create returns a ChatCompletion and messages.create a Message, both pydantic models, as their types say; a
#   success (200) of another shape, like the sign-in page of a proxy or the note of a queue, raises APIResponseValidationError, which
#   both libraries have.
# Found: a page of HTML is returned as a str. JSON of other keys is returned as a ChatCompletion or Message whose fields are all None,
#   those that cannot be None included (choices, content), and a list in JSON is returned as a list. Nothing is raised, so code that
#   asks for choices[0] or content[0] ends in an AttributeError or TypeError far from the cause, and a catch of the libraries' own
#   errors does not see it.
# Where: _strict_response_validation is False by default, a private argument of both clients; set, what is no JSON is an error.
# What to do: check what came before it is read, and treat AttributeError and TypeError as an answer that failed.
# Output seen, 30 November 2026:
#   openai 3.57.0: page str, note ChatCompletion with choices None, list list
#   anthropic 2.14.0: page str, note Message with content None, list list
#   asked to validate: openai page APIResponseValidationError, note APIResponseValidationError; anthropic page APIResponseValidationError, note APIResponseValidationError
#   As found: an answer of any shape is returned.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet openai==3.57.0 anthropic==2.14.0
cat > "$work/ask.py" <<'PY'
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import anthropic
import openai

PAGE, NOTE, LIST = ("<html>Sign in</html>", "text/html"), ('{"detail": "queue full"}', "application/json"), ("[]", "application/json")
said = [PAGE]


class Server(BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        text, kind = said[0]
        self.send_response(200)
        self.send_header("content-type", kind)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *args):
        pass


server = HTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
place = {"api_key": "none", "base_url": f"http://127.0.0.1:{server.server_port}", "max_retries": 0}
question = {"model": "m", "messages": [{"role": "user", "content": "A or B?"}]}


def ask(library, answer, **more):
    said[0] = answer
    if library is openai:
        return openai.OpenAI(**place, **more).chat.completions.create(**question)
    return anthropic.Anthropic(**place, **more).messages.create(**question, max_tokens=5)


def raised(library, answer):
    try:
        return type(ask(library, answer, _strict_response_validation=True)).__name__
    except library.APIError as error:
        return type(error).__name__


strict = []
for library, field in ((openai, "choices"), (anthropic, "content")):
    page, note, found = (ask(library, answer) for answer in (PAGE, NOTE, LIST))
    kinds = [type(each).__name__ for each in (page, note, found)]
    print(f"{library.__name__} {library.__version__}: page {kinds[0]}, note {kinds[1]} with {field} {getattr(note, field)}, list {kinds[2]}")
    model = "ChatCompletion" if library is openai else "Message"
    assert (kinds, getattr(note, field)) == (["str", model, "list"], None), "Changed."
    strict.append(f"{library.__name__} page {raised(library, PAGE)}, note {raised(library, NOTE)}")
print(f"asked to validate: {'; '.join(strict)}")
error = "APIResponseValidationError"
assert strict == [f"{name} page {error}, note {error}" for name in ("openai", "anthropic")], "Changed."
print("As found: an answer of any shape is returned.")
PY
"$work/venv/bin/python" "$work/ask.py"
