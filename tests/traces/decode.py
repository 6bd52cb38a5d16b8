"""Decodes what the program sends to a collector by OpenTelemetry's own definition of it.

    decode.py FILE...

Each file is the body of one request to `/v1/traces`. A name that the protocol does not have, a number out of its range or an id of the
wrong length fails here, as it would at a collector; and what was decoded is encoded again, as bytes, and read back.
"""

import base64
import json
import sys

from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

# OTLP writes ids as hexadecimal digits, where the encoding of protocol buffers has base64.
IDS = {"traceId": 16, "spanId": 8, "parentSpanId": 8}


def with_base64(value):
    if isinstance(value, list):
        return [with_base64(item) for item in value]
    if not isinstance(value, dict):
        return value
    read = {name: with_base64(item) for name, item in value.items()}
    for name, length in IDS.items():
        if name in read:
            raw = bytes.fromhex(read[name])
            assert len(raw) == length and any(raw), f"{name} is {read[name]}"
            read[name] = base64.b64encode(raw).decode()
    return read


def main(files):
    assert files, "there is nothing to decode"
    names = set()
    for file in files:
        with open(file, encoding="utf-8") as opened:
            written = json.load(opened)
        request = json_format.ParseDict(with_base64(written), ExportTraceServiceRequest(), ignore_unknown_fields=False)
        again = ExportTraceServiceRequest.FromString(request.SerializeToString())
        assert again == request
        for resource in again.resource_spans:
            attributes = {a.key: a.value.string_value for a in resource.resource.attributes}
            assert attributes.get("service.name"), f"{file}: no service.name"
            for scope in resource.scope_spans:
                for span in scope.spans:
                    assert len(span.trace_id) == 16 and len(span.span_id) == 8, f"{file}: {span}"
                    assert 0 < span.start_time_unix_nano <= span.end_time_unix_nano, f"{file}: {span}"
                    names.add(span.name)
    assert {"accept", "attempt"} <= names, f"only {sorted(names)}"
    print(f"{len(files)} requests decoded, with the spans {', '.join(sorted(names))}")


main(sys.argv[1:])
