"""What people install: the wheel and the source distribution, built here, without a network."""

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import sa_flax

ROOT = Path(__file__).parent.parent
backend = pytest.importorskip("hatchling.build")


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> dict[str, Path]:
    """{"wheel": path, "sdist": path}."""
    out, here = tmp_path_factory.mktemp("dist"), Path.cwd()
    os.chdir(ROOT)
    try:
        names = {"wheel": backend.build_wheel(str(out)), "sdist": backend.build_sdist(str(out))}
    finally:
        os.chdir(here)
    return {kind: out / name for kind, name in names.items()}


def sources(folder: str) -> set[str]:
    """Files below a folder of the checkout, as git sees them: not what was made of them."""
    git = ["git", "ls-files", "--cached", "--others", "--exclude-standard", folder]
    listed = subprocess.run(git, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a checkout")
    return {name for name in listed.stdout.splitlines() if (ROOT / name).is_file()}


def test_the_wheel_has_all_of_the_package_and_nothing_else(built):
    with zipfile.ZipFile(built["wheel"]) as wheel:
        names = {name for name in wheel.namelist() if not name.endswith("/")}
    package = {name for name in names if name.startswith("sa_flax/")}
    assert package == sources("sa_flax")
    assert all(
        name.startswith(f"sa_flax-{sa_flax.__version__}.dist-info/") for name in names - package
    )
    for name in ("color", "gray", "photo"):
        for file in ("model.safetensors", "config.json", "README.md"):
            assert f"sa_flax/models/weights/{name}/{file}" in package
    assert "sa_flax/py.typed" in package
    assert "sa_flax/data/photographs/LICENSES.tsv" in package
    assert len([name for name in package if name.startswith("sa_flax/data/photographs/")]) > 20


def test_the_sdist_has_what_the_readme_shows_and_what_the_tests_need(built):
    with tarfile.open(built["sdist"]) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    readme = (ROOT / "README.md").read_text()
    links = re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", readme)
    assert "docs/denoised.jpg" in links
    for link in links:
        assert link in names or any(name.startswith(f"{link.rstrip('/')}/") for name in names), link
    for folder in ("sa_flax", "tests", "benchmarks", "docs", "notebooks"):
        assert sources(folder) <= names, folder
    assert {"train.py", "pyproject.toml", "LICENSE", "CHANGELOG.md", "CITATION.cff"} <= names


def test_the_wheel_runs_from_where_it_is_installed(built, tmp_path):
    target = tmp_path / "clean"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--target", target, built["wheel"]], check=True, cwd=tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(target)}

    def run(*words) -> str:
        done = subprocess.run(
            words, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    command = target / "bin" / "sa-flax"
    assert run(sys.executable, command, "--version") == f"sa-flax {sa_flax.__version__}"
    where = run(sys.executable, "-c", "import sa_flax; print(sa_flax.__file__)")
    assert Path(where).parent == target / "sa_flax"
    code = "import sa_flax; print(*sa_flax.list_pretrained())"
    assert {"color", "gray", "photo"} <= set(run(sys.executable, "-c", code).split())
