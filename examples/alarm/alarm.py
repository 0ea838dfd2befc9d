#!/usr/bin/env python3
"""Raise an alarm, and escalate until somebody has seen it."""

import argparse
import json
import os
import sys
import time
import urllib.error
import urllib.request

SERVER = os.environ.get("HEARTLINE_SERVER", "http://127.0.0.1:8080")
TOKEN = os.environ.get("HEARTLINE_TOKEN")  # of a service, with auth.mode on


def call(method, path, body=None):
    """Call the API; an error says what the server said."""
    headers = {"Content-Type": "application/json"}
    if TOKEN:
        headers["Authorization"] = "Bearer " + TOKEN
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(SERVER + path, data, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            text = response.read()
    except urllib.error.HTTPError as err:
        problem = json.load(err)
        raise RuntimeError(f"{method} {path}: {problem.get('detail', err)}") from err
    return json.loads(text) if text else None


def raise_alarm(name, person, text):
    """Notify one person. The same ID again is answered with the first answer."""
    call("POST", "/v1/notifications", {
        "id": f"{name}-{person}", "account": person, "title": "Alarm", "body": text,
        "ack_window": "0s",  # push at once, and publish at the same time
        "urgency": "high", "level": "critical", "sound": "alarm",
        "ack": "displayed", "ttl": "1h",
    })


def seen_by(name, people):
    """Return who has seen it."""
    for person in people:
        if call("GET", f"/v1/notifications/{name}-{person}")["state"] == "acked":
            return person
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("text")
    parser.add_argument("people", nargs="+", help="accounts, the first one first")
    parser.add_argument("--after", type=float, default=30, help="seconds until the next one is notified")
    parser.add_argument("--name", default=f"alarm-{int(time.time())}", help="ID of the alarm")
    args = parser.parse_args()

    notified = []
    for person in args.people:
        try:
            raise_alarm(args.name, person, args.text)
            notified.append(person)
            print(f"{person} is notified", flush=True)
        except RuntimeError as err:
            print(f"{person} could not be notified: {err}", file=sys.stderr, flush=True)
            continue
        deadline = time.monotonic() + args.after
        while time.monotonic() < deadline:
            if who := seen_by(args.name, notified):
                print(f"{who} has seen it", flush=True)
                for other in notified:
                    if other != who:  # off their screens; what is on its way is dropped
                        call("DELETE", f"/v1/notifications/{args.name}-{other}")
                return 0
            time.sleep(0.2)
    print("nobody has seen it", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
