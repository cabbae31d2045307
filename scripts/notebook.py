"""Executes notebooks and writes each with its outputs, as a notebook and as one HTML page.

    python -m scripts.notebook notebook_templates/table2_main.ipynb [MORE …] [--output FOLDER]

Needs the extra `notebooks`. The notebooks themselves stay as they are; results go to FOLDER, by default
`<outputs>/notebooks`. The first error ends it, with the cell where it was; that nothing was trained or evaluated yet is
one line.
"""
import argparse
import html
import re
from pathlib import Path
from typing import Any


def execute(path: Path, timeout: int = 600) -> Any:
    """The notebook with its outputs, executed in the folder of the command.

    Raises:
        FileNotFoundError: no such notebook.
        nbclient.exceptions.CellExecutionError: a cell failed; has its text and traceback.
    """
    import nbformat
    from nbclient import NotebookClient
    if not path.exists():
        known = sorted(other.name for other in path.parent.glob("*.ipynb"))
        raise FileNotFoundError(f"no notebook {path}; there are: {', '.join(known) or 'none'}")
    book = nbformat.read(path, as_version=4)
    return NotebookClient(book, timeout=timeout, kernel_name="python3", resources={"metadata": {"path": "."}}).execute()


def to_html(book: Any, title: str) -> str:
    """A plain page of the texts, tables and pictures of an executed notebook."""
    parts = []
    for cell in book.cells:
        source = html.escape(cell.source)
        parts.append(f"<pre class=text>{source}</pre>" if cell.cell_type == "markdown" else
                     f"<details><summary>code</summary><pre>{source}</pre></details>")
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "image/png" in data:
                parts.append(f'<img src="data:image/png;base64,{data["image/png"]}">')
            elif "text/html" in data:
                parts.append("".join(data["text/html"]))
            else:
                parts.append(f"<pre>{html.escape(''.join(data.get('text/plain', output.get('text', ''))))}</pre>")
    style = ("body{font:15px sans-serif;max-width:60em;margin:2em auto}table{border-collapse:collapse}"
             "td,th{padding:.2em .6em;text-align:left}.text{font:inherit;white-space:pre-wrap}img{max-width:100%}")
    head = f"<meta charset=utf-8><title>{html.escape(title)}</title><style>{style}</style>"
    return f"<!doctype html>{head}{''.join(parts)}"


def main(argv: list[str] | None = None) -> list[Path]:
    """Executes and returns the HTML files."""
    parser = argparse.ArgumentParser(prog="python -m scripts.notebook", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="+", type=Path)
    parser.add_argument("--output", type=Path, help="folder of the results")
    args = parser.parse_args(argv)
    try:
        import nbformat
        from nbclient.exceptions import CellExecutionError
    except ImportError:
        raise SystemExit("notebooks need the extra of that name: pip install -e '.[notebooks]'") from None
    from bm.analysis.grids import NotMade
    from bm.train import main as train_main
    folder = args.output or Path(train_main.dora.dir) / "notebooks"
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for path in args.notebooks:
        try:
            book = execute(path)
        except FileNotFoundError as error:
            raise SystemExit(str(error)) from None
        except CellExecutionError as error:
            raise SystemExit(f"{path}: {error.evalue}" if error.ename == NotMade.__name__ else
                             re.sub(r"\x1b\[[0-9;]*m", "", str(error))) from None
        nbformat.write(book, folder / path.name)
        page = folder / f"{path.stem}.html"
        page.write_text(to_html(book, path.stem))
        print(page)
        written.append(page)
    return written


if __name__ == "__main__":
    main()
