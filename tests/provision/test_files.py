"""Files of the repository that must agree with the program, or with each other."""

import re
import tomllib
from pathlib import Path

import attrs

from supervisor import __version__
from supervisor.provision.env_example import env_example, settings_markdown
from supervisor.provision.image import DEFAULT_IMAGE
from supervisor.settings import Settings
from supervisor.settings.load import load_settings, read_env_file

ROOT = Path(__file__).parents[2]


def test_the_example_of_settings_is_current() -> None:
    assert (ROOT / ".env.example").read_text() == env_example(), (
        "run: python -m supervisor.provision.env_example > .env.example"
    )


def test_the_document_of_settings_is_current() -> None:
    assert (ROOT / "docs/settings.md").read_text() == settings_markdown(), (
        "run: python -m supervisor.provision.env_example --markdown > docs/settings.md"
    )


def test_the_example_means_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text(re.sub(r"(?m)^#(?=[A-Z])", "", env_example()))
    variables = read_env_file(file)
    assert len(variables) == len(attrs.fields(Settings))
    assert load_settings(variables) == Settings()


def instructions(dockerfile: str) -> list[tuple[str, str]]:
    lines = [line for line in dockerfile.splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [(word, rest) for line in joined.splitlines() if line for word, _, rest in [line.partition(" ")]]


def test_the_dockerfile_fetches_nothing_and_runs_nothing() -> None:
    found = instructions((ROOT / "docker/Dockerfile").read_text())
    words = [word for word, _ in found]
    allowed = {"ARG", "FROM", "LABEL", "COPY", "ENV", "WORKDIR", "USER", "ENTRYPOINT", "CMD"}
    assert set(words) <= allowed, "RUN and ADD could reach the network, VOLUME and EXPOSE would be inherited"
    assert words.count("FROM") == 1
    assert dict(found)["FROM"] == "${BASE_IMAGE}"
    assert dict(found)["USER"] == "appuser"
    assert words.index("USER") > max(index for index, word in enumerate(words) if word == "COPY")
    assert dict(found)["CMD"] == '["/usr/local/bin/restricted-shell"]'
    assert dict(found)["ENTRYPOINT"] == "[]"
    for word, rest in found:
        if word == "COPY":
            assert not rest.startswith("--from"), "only the context is copied"


def test_the_users_of_the_image() -> None:
    users = {
        line.split(":")[0]: line.split(":")[1:]
        for line in (ROOT / "docker/etc/passwd").read_text().splitlines()
    }
    assert set(users) == {"root", "appuser", "nobody"}
    assert users["appuser"] == [
        *("x", "1000", "1000", "appuser", "/home/appuser", "/usr/local/bin/restricted-shell"),
    ]
    groups = {
        line.split(":")[0]: line.split(":")[2:]
        for line in (ROOT / "docker/etc/group").read_text().splitlines()
    }
    assert groups["appuser"] == ["1000", ""]
    assert all(members == "" for _, members in groups.values())


def test_versions_agree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == __version__
    assert f"## [{__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_the_bootstrap_pins_one_uv_by_its_digests() -> None:
    lines = (ROOT / ".ci/uv.txt").read_text().splitlines()
    requirements = [line for line in lines if re.match(r"\w", line)]
    assert len(requirements) == 1
    assert re.fullmatch(r"uv==[0-9.]+ \\", requirements[0])
    assert sum("--hash=sha256:" in line for line in lines) > 10


def test_the_readme_names_what_there_is() -> None:
    readme = (ROOT / "README.md").read_text()
    for word in ("make serve", "make test", "make demo", "DOCKER_IMAGE_NAME", "SESSION_COMMAND"):
        assert word in readme
    for target in re.findall(r"`make (\w+)`", readme):
        assert re.search(rf"(?m)^{target}:", (ROOT / "Makefile").read_text()), target
    for name in re.findall(r"`([A-Z]+_[A-Z_]+)", readme):
        assert name in {field.metadata["env"] for field in attrs.fields(Settings)}, name
    assert DEFAULT_IMAGE == "terminal-supervisor-sandbox:latest"
