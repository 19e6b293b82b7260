"""Write train.csv and test.csv: sentences of the standard library's documentation, labelled by what they are about."""

import csv
import random
from importlib import import_module
from inspect import getdoc, getmembers, isclass
from pathlib import Path

AREAS = {
    "files": "bz2 glob gzip lzma os pathlib shutil tarfile tempfile zipfile",
    "network": "ftplib http.client http.cookiejar imaplib poplib smtplib socket socketserver ssl urllib.request",
    "numbers": "calendar datetime decimal fractions math random statistics",
}


def sentences(module):
    """The first paragraph of the documentation of each public class, method and function."""
    for _, member in getmembers(module, callable):
        for owner in (member, *(method for _, method in getmembers(member, callable) if isclass(member))):
            if (text := getdoc(owner)) and not getattr(owner, "__name__", "_").startswith("_"):
                yield " ".join(text.split("\n\n")[0].split())


areas_of = {}
for area, modules in AREAS.items():
    for module in modules.split():
        for text in sentences(import_module(module)):
            areas_of.setdefault(text, set()).add(area)
rows = sorted((text, *areas) for text, areas in areas_of.items() if len(areas) == 1)
random.Random(0).shuffle(rows)
for name, part in (("train.csv", rows[:-300]), ("test.csv", rows[-300:])):
    with Path(name).open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label"), *part])
