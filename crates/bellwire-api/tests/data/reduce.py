#!/usr/bin/env python3
"""Reduces an OpenAPI document of Svix to what our own is compared with.

    reduce.py <svix-server.openapi.json> > svix-server.json
    reduce.py <svix-sdk.openapi.json> > svix-sdk.json

The documents are `server/openapi.json` (what the open server serves) and `lib-openapi.json` (what the SDKs are made
of) of https://github.com/svix/svix-webhooks, MIT; here: server 1.100.0, SDKs 1.947.0. Operations
of products that are none of ours are left out; the test says so if we claim one of them.

What stays, by "METHOD path": parameters, request and successful responses, each as a flat map from a member's way
(`data[].id`, `metadata{}`) to its type and whether it is required; and all statuses.
"""

import json
import sys

METHODS = ("get", "put", "post", "delete", "patch")
OTHER_PRODUCTS = {
    "Connector", "Destination", "Event", "Events", "Inbound", "Ingest Endpoint", "Ingest Logs", "Ingest Source",
    "Organization", "Sink", "Stream", "Stream Authentication", "Stream Event Type", "Webhook Sink", "Webhooks AutoConfig",
}


def resolve(document, schema):
    while True:
        if "$ref" in schema:
            schema = document["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]]
        elif len(schema.get("allOf", [])) == 1 and "type" not in schema:
            schema = schema["allOf"][0]
        else:
            return schema


def flatten(document, schema, way="", required=True, depth=0):
    schema = resolve(document, schema)
    kind = schema.get("type", "any")
    flat = {way: {"type": kind, "required": required}} if way else {}
    if depth > 6:
        return flat
    for name, member in schema.get("properties", {}).items():
        inside = f"{way}.{name}" if way else name
        flat |= flatten(document, member, inside, name in schema.get("required", []), depth + 1)
    if kind == "array":
        flat |= flatten(document, schema["items"], way + "[]", True, depth + 1)
    more = schema.get("additionalProperties")
    if isinstance(more, dict) and more:
        flat |= flatten(document, more, way + "{}", True, depth + 1)
    return flat


def body(document, holder):
    content = holder.get("content", {}).get("application/json")
    return flatten(document, content["schema"]) if content else {}


def operations(document):
    for path, item in document["paths"].items():
        for method in METHODS:
            if method in item:
                yield f"{method.upper()} {path}", item[method]


def main():
    document = json.load(open(sys.argv[1]))
    out = {}
    for name, operation in operations(document):
        if OTHER_PRODUCTS & set(operation.get("tags", [])):
            continue
        parameters = {
            f"{p['in']} {p['name']}": {
                "type": resolve(document, p["schema"]).get("type", "any"),
                "required": p.get("required", False),
            }
            for p in operation.get("parameters", [])
            if p["in"] != "path"
        }
        out[name] = {
            "parameters": parameters,
            "request": body(document, operation.get("requestBody", {})),
            "statuses": sorted(operation["responses"]),
            "responses": {
                status: body(document, response)
                for status, response in operation["responses"].items()
                if status.startswith("2")
            },
        }
    json.dump(out, sys.stdout, indent=1, sort_keys=True)
    print()


main()
