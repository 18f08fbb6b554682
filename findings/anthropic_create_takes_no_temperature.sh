#!/usr/bin/env bash
# anthropic 2.14.0: messages.create takes no temperature; in extra_body it is sent, with an API version of which it says nothing.
#
# Expected: a judge that the literature runs at a temperature (0.6, say) is asked with client.messages.create(temperature=0.6), as the
#   Messages API has had it since its first version.
# Found: TypeError, unexpected keyword argument, before anything is sent; top_p and top_k alike. With extra_body={"temperature": 0.6}
#   the number is in the request, beside the header anthropic-version 2026-10-21, not the 2023-06-01 that other clients send.
# Where: anthropic/resources/messages, the parameters of Messages.create.
# What to do: say it in extra_body, and name in extra_headers the API version that knows it.
# Output seen, 30 November 2026:
#   anthropic 2.14.0: refused 'temperature', 'top_p', 'top_k'; sent (temperature, version) [(0.6, '2026-10-21'), (0.6, '2023-06-01')]
#   As found: a temperature is sent in extra_body alone.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet anthropic==2.14.0
cat > "$work/ask.py" <<'PY'
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import anthropic

asked = []
reply = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": [{"type": "text", "text": "B"}]}
reply |= {"stop_reason": "end_turn", "stop_sequence": None, "usage": {"input_tokens": 1, "output_tokens": 1}}


class Server(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        asked.append((body.get("temperature"), self.headers["anthropic-version"]))
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(reply).encode())

    def log_message(self, *args):
        pass


server = HTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
client = anthropic.Anthropic(api_key="none", base_url=f"http://127.0.0.1:{server.server_port}")
question = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "A or B?"}]}
refused = []
for name, value in (("temperature", 0.6), ("top_p", 0.9), ("top_k", 5)):
    try:
        client.messages.create(**question, **{name: value})
    except TypeError as error:
        refused.append(str(error).rsplit(" ", 1)[-1])
client.messages.create(**question, extra_body={"temperature": 0.6})
client.messages.create(**question, extra_body={"temperature": 0.6}, extra_headers={"anthropic-version": "2023-06-01"})
print(f"anthropic {anthropic.__version__}: refused {', '.join(refused)}; sent (temperature, version) {asked}")
assert refused == ["'temperature'", "'top_p'", "'top_k'"], "Changed."
assert asked == [(0.6, "2026-10-21"), (0.6, "2023-06-01")], "Changed."
print("As found: a temperature is sent in extra_body alone.")
PY
"$work/venv/bin/python" "$work/ask.py"
