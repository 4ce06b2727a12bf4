"README.md from nbs/index.ipynb, by nbconvert alone, and the picture in it. `--stdout` prints the text instead of writing both."
import re, sys
from pathlib import Path
import nbformat
from nbconvert import MarkdownExporter

root = Path(__file__).resolve().parent.parent

def shown_only(cell):
    "A cell's Markdown output without its code."
    return nbformat.v4.new_markdown_cell("\n".join(o["data"]["text/markdown"] for o in cell.outputs if "text/markdown" in o.get("data", {})))

def readme() -> str:
    nb = nbformat.read(root / "nbs" / "index.ipynb", as_version=4)
    first = lambda c: c.source.split("\n")[0]
    nb.cells = [shown_only(c) if "#| echo: false" in first(c) else c for c in nb.cells if "#| hide" not in first(c)]
    nb.metadata["language_info"] = {"name": "python"}
    text, _ = MarkdownExporter().from_notebook_node(nb)
    note = "<!-- Made from nbs/index.ipynb by `make readme`: edit it there. -->\n\n"
    text = "\n".join(line.rstrip() for line in text.strip().split("\n"))
    return note + re.sub(r"\n{3,}", "\n\n", text) + "\n"

if __name__ == "__main__":
    if "--stdout" in sys.argv: sys.stdout.write(readme())
    else:
        from cai_repro.figures import fig_2, png, read_json
        place = root / "data" / "results" / "figures"
        (place / "figure_2.png").write_bytes(png(fig_2(read_json(place / "figure_2.json"))))
        (root / "README.md").write_text(readme(), encoding="utf-8")
