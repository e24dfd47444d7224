"""Validates events of OCSF, one a line on standard input, against the official schema; a line of JSON for each."""

import json
import sys

from jsonschema import Draft202012Validator
from ocsf_json_schema import OcsfJsonSchemaEmbedded, get_ocsf_schema

VERSION = "1.8.0"
schemas = OcsfJsonSchemaEmbedded(get_ocsf_schema(version=VERSION))
validators = {}


def validator(class_uid, profiles):
    key = (class_uid, tuple(profiles))
    if key not in validators:
        name = schemas.lookup_class_name_from_uid(class_uid=class_uid)
        schema = schemas.get_class_schema(class_name=name, profiles=profiles)
        Draft202012Validator.check_schema(schema)
        validators[key] = Draft202012Validator(schema)
    return validators[key]


for line in sys.stdin:
    event = json.loads(line)
    try:
        metadata = event["metadata"]
        assert metadata["version"] == VERSION, metadata["version"]
        errors = [
            f"{error.json_path}: {error.message[:300]}"
            for error in validator(event["class_uid"], metadata["profiles"]).iter_errors(event)
        ]
        # The generated schema has no arithmetic.
        if event["type_uid"] != event["class_uid"] * 100 + event["activity_id"]:
            errors.append("$.type_uid: is not class_uid * 100 + activity_id")
    except (KeyError, ValueError, AssertionError) as error:
        errors = [repr(error)]
    print(json.dumps(errors), flush=True)
