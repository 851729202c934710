"""The files of the suite: in the source of the package jsonschema, fetched with pip and kept in a cache."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from published.wheel import CannotFetch, WrongFile, cache_folder, digest

REQUIREMENT = "jsonschema==4.26.0"
NAME = "jsonschema-4.26.0.tar.gz"
SHA256 = "0c26707e2efad8aa1bfc5b7ce170f3fccc2e4918ff85989ba9ffa9facb2be326"
DRAFTS = ("draft4", "draft6", "draft7", "draft2019-09", "draft2020-12")
DIALECTS = {
    "draft4": "http://json-schema.org/draft-04/schema#",
    "draft6": "http://json-schema.org/draft-06/schema#",
    "draft7": "http://json-schema.org/draft-07/schema#",
    "draft2019-09": "https://json-schema.org/draft/2019-09/schema",
    "draft2020-12": "https://json-schema.org/draft/2020-12/schema",
}


@dataclass(frozen=True)
class Case:
    """One schema with its instances, each a value and whether it is valid."""

    name: str
    schema: object
    instances: tuple[tuple[str, object, bool], ...]


def fetched() -> Path:
    cache = cache_folder()
    kept = cache / NAME
    if kept.exists() and digest(kept) == SHA256:
        return kept
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as work:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
        command += ["--no-deps", "--no-binary", "jsonschema", "--dest", work, REQUIREMENT]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        came = Path(work, NAME)
        if done.returncode or not came.exists():
            reason = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
            raise CannotFetch(f"the source of {REQUIREMENT} cannot be fetched with pip: {reason}")
        if (found := digest(came)) != SHA256:
            raise WrongFile(f"{NAME} has the SHA-256 digest {found}, not the known one, {SHA256}")
        came.replace(kept)
    return kept


def cases(draft: str) -> Iterator[Case]:
    """Of one draft. A schema that names no draft is given this one."""
    with tarfile.open(fetched()) as archive:
        for member in archive.getmembers():
            _, found, name = member.name.partition(f"/json/tests/{draft}/")
            file = archive.extractfile(member) if found and name.endswith(".json") else None
            for group in json.load(file) if file else []:
                yield _case(draft, name, group)


def _case(draft: str, file: str, group: dict[str, object]) -> Case:
    schema, tests = group["schema"], group["tests"]
    assert isinstance(tests, list)
    if isinstance(schema, dict) and "$schema" not in schema:
        schema = {"$schema": DIALECTS[draft]} | schema
    instances = tuple((test["description"], test["data"], test["valid"]) for test in tests)
    return Case(f"{draft}/{file}: {group['description']}", schema, instances)
