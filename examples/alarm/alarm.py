#!/usr/bin/env python3
"""Raise an alarm, and escalate until somebody has seen it."""

import argparse
import http.client
import json
import os
import sys
import time
import urllib.error
import urllib.request

SERVER = os.environ.get("HEARTLINE_SERVER", "http://127.0.0.1:8080")
TOKEN = os.environ.get("HEARTLINE_TOKEN")  # of a service, with auth.mode on


class Refused(Exception):
    """The server has refused a request; the same request would be refused again."""


class Unavailable(Exception):
    """The server was not reached, or could not do it now."""


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
            return json.loads(text) if text else None
    except urllib.error.HTTPError as err:
        passing = err.code == 429 or err.code >= 500
        raise (Unavailable if passing else Refused)(f"{method} {path}: {detail(err)}") from err
    except (OSError, http.client.HTTPException, ValueError) as err:
        raise Unavailable(f"{method} {path}: {err}") from err


def detail(err):
    """Return what the server says about an error. A proxy's error is no JSON."""
    try:
        return json.load(err)["detail"]
    except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError):
        return err


def insist(deadline, fn, *args):
    """Call fn until it gets through, at most until the deadline."""
    while True:
        try:
            return fn(*args)
        except Unavailable as err:
            if time.monotonic() >= deadline:
                raise
            print(f"again in a second: {err}", file=sys.stderr, flush=True)
            time.sleep(1)


def raise_alarm(name, person, text):
    """Notify one person. The same ID again is answered with the first answer."""
    call("POST", "/v1/notifications", {
        "id": f"{name}-{person}", "account": person, "title": "Alarm", "body": text,
        "ack_window": "0s",  # push at once, and publish at the same time
        "urgency": "high", "level": "critical", "sound": "alarm",
        "ack": "displayed", "ttl": "1h",
    })


def seen_by(name, people):
    """Return who has seen it, on any of their devices."""
    for person in people:
        # "state" of the notification itself is "waiting" while one of the devices is off.
        try:
            deliveries = call("GET", f"/v1/notifications/{name}-{person}")["deliveries"]
        except Refused:  # the account was erased meanwhile
            continue
        if any(d["state"] == "acked" for d in deliveries):
            return person
    return None


def take_back(name, people):
    """Take it off their screens; what is on its way is dropped."""
    for person in people:
        try:
            insist(time.monotonic() + 30, call, "DELETE", f"/v1/notifications/{name}-{person}")
        except (Refused, Unavailable) as err:
            print(f"not taken back from {person}: {err}", file=sys.stderr, flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("text")
    parser.add_argument("people", nargs="+", help="accounts, the first one first")
    parser.add_argument("--after", type=float, default=30, help="seconds until the next one is notified")
    parser.add_argument("--name", default=f"alarm-{int(time.time())}", help="ID of the alarm")
    args = parser.parse_args()

    notified = []
    for person in args.people:
        deadline = time.monotonic() + args.after
        try:
            insist(deadline, raise_alarm, args.name, person, args.text)
            notified.append(person)
            print(f"{person} is notified", flush=True)
        except (Refused, Unavailable) as err:
            print(f"{person} could not be notified: {err}", file=sys.stderr, flush=True)
            continue
        deadline = time.monotonic() + args.after
        while time.monotonic() < deadline:
            try:
                who = insist(deadline, seen_by, args.name, notified)
            except Unavailable as err:
                print(f"who has seen it is not known: {err}", file=sys.stderr, flush=True)
                break  # the next one is notified
            if who:
                print(f"{who} has seen it", flush=True)
                take_back(args.name, [other for other in notified if other != who])
                return 0
            time.sleep(0.2)
    print("nobody has seen it", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
