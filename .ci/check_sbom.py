#!/usr/bin/env python3
"""Holds a bill of materials against CycloneDX's own schema.

usage: check_sbom.py FILE
"""

import json
import sys
from pathlib import Path

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

text = Path(sys.argv[1]).read_text()
error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
if error is not None:
    sys.exit(f"{sys.argv[1]}: {error}")
components = json.loads(text)["components"]
without = [entry["name"] for entry in components if not entry.get("licenses")]
if without:
    sys.exit(f"{sys.argv[1]}: no licence of {without}")
print(f"{sys.argv[1]}: {len(components)} components")
