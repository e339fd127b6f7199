"""Every file and every test that docs/papers.md names exists."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_files_and_tests_of_the_table_exist() -> None:
    rows = [line for line in (ROOT / "docs" / "papers.md").read_text().splitlines() if line.startswith("|")]
    missing, count = [], 0
    for row in rows:
        names = re.findall(r"`([^`]+)`", row)
        files = [name for name in names if name.startswith(("nuwa/", "curation/"))]
        missing += [name for name in files if not (ROOT / name).exists()]
        source = ""
        for name in names:
            if re.fullmatch(r"test_\w+\.py", name):
                paths = [ROOT / "tests" / package / name for package in ("nuwa", "curation")]
                source = "".join(path.read_text() for path in paths if path.exists())
            elif re.fullmatch(r"test_\w+", name):
                count += 1
                if f"def {name}(" not in source:
                    missing.append(name)
    assert missing == []
    assert count > 30
