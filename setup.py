"Reads settings.ini, the one source of metadata. constitutions/ and data/ travel inside the package as cai_repro/_resources."
import configparser, shlex
from pathlib import Path
from setuptools import setup

here = Path(__file__).parent
ini = configparser.ConfigParser(delimiters=["="], interpolation=None)
ini.read(here / "settings.ini", encoding="utf-8")
cfg = ini["DEFAULT"]
lib = cfg["lib_name"]
resources = {f"{lib}._resources.{top}": top for top in ("constitutions", "data")}
readme = here / "README.md"

setup(
    name=lib, version=cfg["version"], description=cfg["description"], keywords=cfg["keywords"],
    author=cfg["author"], author_email=cfg["author_email"], url=cfg["git_url"].replace("%(user)s", cfg["user"]).replace("%(repo)s", cfg["repo"]),
    license="Apache-2.0", license_files=["LICENSE"],
    long_description=readme.read_text(encoding="utf-8") if readme.exists() else "", long_description_content_type="text/markdown",
    python_requires=f">={cfg['min_python']}", install_requires=shlex.split(cfg["requirements"]),
    extras_require={extra: shlex.split(cfg[f"{extra}_requirements"]) for extra in ("dev", "server", "vllm", "playground")}, entry_points={"console_scripts": shlex.split(cfg["console_scripts"])},
    packages=[lib, *resources], package_dir={lib: lib, **resources}, package_data={package: ["**/*"] for package in resources},
    include_package_data=False, zip_safe=False,
)
