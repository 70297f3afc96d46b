import os
from pathlib import Path

import pytest

from supervisor.provision.digest import digest


def test_names_contents_and_modes_count(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "sub/file").write_text("content")
    (tree / "link").symlink_to("sub/file")
    seen = [digest({"tree": tree})]

    (tree / "sub/file").chmod(0o755)
    seen.append(digest({"tree": tree}))
    (tree / "sub/file").write_text("other")
    seen.append(digest({"tree": tree}))
    (tree / "sub/file").rename(tree / "sub/renamed")
    seen.append(digest({"tree": tree}))
    (tree / "link").unlink()
    (tree / "link").symlink_to("elsewhere")
    seen.append(digest({"tree": tree}))
    assert len(set(seen)) == len(seen)


def test_times_and_order_do_not_count(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("content")
    before = digest({"a": file, "b": "text"})
    os.utime(file, (1, 1))
    assert digest({"b": "text", "a": file}) == before


def test_parts_do_not_run_into_each_other() -> None:
    assert digest({"a": "bc"}) != digest({"ab": "c"})
    assert digest({"a": "1", "b": "2"}) != digest({"a": "1b2"})


def test_a_path_that_is_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        digest({"gone": tmp_path / "gone"})
