"Reads settings.ini, the one source of metadata. constitutions/ and data/ travel inside the package as cai_repro/_resources."
import ast, configparser, shlex
from pathlib import Path
from setuptools import setup
from setuptools.command.build_py import build_py

here = Path(__file__).parent
ini = configparser.ConfigParser(delimiters=["="], interpolation=None)
ini.read(here / "settings.ini", encoding="utf-8")
cfg = ini["DEFAULT"]
lib = cfg["lib_name"]
resources = {f"{lib}._resources.{top}": top for top in ("constitutions", "data")}
readme = here / "README.md"

def stub(source):
    "What a type checker reads of a module whose classes grow by `@patch`, which it does not understand: signatures, with each method in its class"
    tree = ast.parse(source)
    classes = {n.name: n for n in tree.body if isinstance(n, ast.ClassDef)}
    name = lambda d: getattr(getattr(d, "func", d), "id", "")
    for f in (n for n in list(tree.body) if isinstance(n, ast.FunctionDef) and "patch" in map(name, n.decorator_list)):
        how = {k.arg for d in f.decorator_list if name(d) == "patch" for k in getattr(d, "keywords", [])}
        own, first = [d for d in f.decorator_list if name(d) != "patch"], f.args.args[0]
        f.decorator_list = [ast.Name(n) for arg, n in (("as_prop", "property"), ("cls_method", "classmethod")) if arg in how] + own
        tree.body.remove(f); classes[first.annotation.id].body.append(f); first.annotation = None
    for f in ast.walk(tree):
        if isinstance(f, ast.FunctionDef): f.body = [*f.body[:bool(ast.get_docstring(f))], ast.Expr(ast.Constant(...))]
    return ast.unparse(tree)

class with_stubs(build_py):
    "The modules, and for those with `@patch` a .pyi"
    def run(self):
        super().run()
        if self.editable_mode: return
        for file in (Path(self.build_lib)/lib).glob("*.py"):
            if "\n@patch" in (source := file.read_text(encoding="utf-8")): file.with_suffix(".pyi").write_text(stub(source) + "\n", encoding="utf-8")

setup(
    name=lib, version=cfg["version"], description=cfg["description"], keywords=cfg["keywords"],
    author=cfg["author"], author_email=cfg["author_email"], url=cfg["git_url"].replace("%(user)s", cfg["user"]).replace("%(repo)s", cfg["repo"]),
    license="Apache-2.0", license_files=["LICENSE"],
    long_description=readme.read_text(encoding="utf-8") if readme.exists() else "", long_description_content_type="text/markdown",
    python_requires=f">={cfg['min_python']}", install_requires=shlex.split(cfg["requirements"]),
    extras_require={key.removesuffix("_requirements"): shlex.split(cfg[key]) for key in cfg if key.endswith("_requirements")}, entry_points={"console_scripts": shlex.split(cfg["console_scripts"])},
    packages=[lib, *resources], package_dir={lib: lib, **resources}, package_data={lib: ["py.typed"], **{package: ["**/*"] for package in resources}},
    include_package_data=False, zip_safe=False, cmdclass={"build_py": with_stubs},
)
