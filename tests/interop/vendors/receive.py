#!/usr/bin/env python3
"""Requests that vendors' own libraries have signed, at sources of ours: accepted as they are, refused with one byte changed.

    receive.py NODE-PROGRAM...

The libraries for Python sign here; those for JavaScript in `sign.mjs`, whose command is given. The server is named by BELLWIRE_URL and
BELLWIRE_TOKEN, as `tests/interop/run.py` does.
"""

import http.client
import json
import os
import subprocess
import sys
import time
import urllib.parse
import uuid

import slack_sdk.signature
import standardwebhooks
import stripe
import twilio.request_validator

URL = urllib.parse.urlsplit(os.environ["BELLWIRE_URL"])
JSON_TYPE = {"content-type": "application/json"}
FORM_TYPE = {"content-type": "application/x-www-form-urlencoded"}


def call(method, path, body=None, headers=None):
    connection = http.client.HTTPConnection(URL.hostname, URL.port, timeout=10)
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def api(method, path, body=None):
    headers = {"authorization": f"Bearer {os.environ['BELLWIRE_TOKEN']}", "content-type": "application/json"}
    status, text = call(method, f"/api/v1/{path}", body and json.dumps(body), headers)
    assert status in (200, 201, 202, 204), f"{method} {path}: {status} {text.decode()}"
    return json.loads(text) if text else None


def python_cases():
    now = int(time.time())
    secret = "whsec_test_0123456789abcdef"
    body = json.dumps({"id": f"evt_{uuid.uuid4()}", "type": "invoice.paid", "note": "grüße"})
    header = f"t={now},v1={stripe.WebhookSignature._compute_signature(f'{now}.{body}', secret)}"
    yield "PyPI stripe", "stripe", secret, {**JSON_TYPE, "stripe-signature": header}, body, None

    secret = "8f742231b10e8888abcd99yyyzzz85a5"
    body = urllib.parse.urlencode({"command": "/deploy", "text": "now & then", "team_id": uuid.uuid4().hex})
    signature = slack_sdk.signature.SignatureVerifier(secret).generate_signature(timestamp=str(now), body=body)
    headers = {**FORM_TYPE, "x-slack-signature": signature, "x-slack-request-timestamp": str(now)}
    yield "PyPI slack_sdk", "slack", secret, headers, body, None

    secret = "0123456789abcdef0123456789abcdef"
    fields = {"CallSid": uuid.uuid4().hex, "From": "+1 415", "Body": "ä=b&c"}
    signature = twilio.request_validator.RequestValidator(secret).compute_signature("https://hooks.example/twilio?x=1", fields)
    yield "PyPI twilio", "twilio", secret, {**FORM_TYPE, "x-twilio-signature": signature}, urllib.parse.urlencode(fields), None

    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    body = json.dumps({"type": "user.created", "data": {"id": 1}})
    message = f"msg_{uuid.uuid4().hex}"
    moment = standardwebhooks.webhooks.datetime.now(tz=standardwebhooks.webhooks.timezone.utc)
    signature = standardwebhooks.Webhook(secret).sign(message, moment, body)
    headers = {"webhook-id": message, "webhook-timestamp": str(int(moment.timestamp())), "webhook-signature": signature}
    yield "PyPI standardwebhooks", "standard-webhooks", secret, {**JSON_TYPE, **headers}, body, None


def javascript_cases():
    for case in json.loads(subprocess.run(sys.argv[1:], check=True, stdout=subprocess.PIPE, timeout=60).stdout):
        yield case["library"], case["preset"], case["secret"], case["headers"], case["body"], case.get("path")


def main():
    application = api("POST", "app", {"name": "vendors", "uid": f"vendors-{uuid.uuid4().hex[:8]}"})["id"]
    faults = 0
    for library, preset, secret, headers, body, own_path in [*python_cases(), *javascript_cases()]:
        source = api("POST", "source", {
            "name": library, "appId": application, "preset": preset, "secrets": [secret],
            "url": f"https://hooks.example/{preset}?x=1", **({"path": own_path} if own_path else {}),
        })
        path = own_path or urllib.parse.urlsplit(source["listenerUrl"]).path + "?x=1"
        body = body.encode()
        changed = body[:-1] + (b"1" if body.endswith(b"0") else b"0")
        got = {
            "as signed": call("POST", path, body, headers)[0],
            "one byte changed": call("POST", path, changed, headers)[0],
            "unsigned": call("POST", path, body, {"content-type": headers["content-type"]})[0],
        }
        messages = api("GET", f"app/{application}/msg?limit=1")["data"]
        kept = messages and messages[0]
        right = 200 <= got["as signed"] < 300 and got["one byte changed"] == 401 and got["unsigned"] == 401 and kept
        faults += not right
        print(f"{'ok' if right else 'WRONG':6} {library:32} {preset:18} {got} {kept and kept['eventType']}")
    print(f"{faults} of the libraries' requests were not treated as they should be")
    sys.exit(faults > 0)


if __name__ == "__main__":
    main()
