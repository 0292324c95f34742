"""Brings what lies outside `docs/` into the site, so that the same links work on GitHub and there.

A link such as `../train/README.md` or `../cambrian_gaze/gaze/config.py` leads out of `docs/`. The site gets a page for
each such file below `repository/`: Markdown as it is, anything else as a listing. Notebooks become pages as well. A
comment `<!-- ::: module -->` is where the site puts the docstrings of a module.
"""

import json
import posixpath
import re
from collections.abc import Callable
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
LINK = re.compile(r"(\]\()([^)\s]+)(\))")
HTML_LINK = re.compile(r"(<a href=\")([^\"]+)(\")")
CODE = re.compile(r"(^```.*?^```)", re.MULTILINE | re.DOTALL)
OUTSIDE = "repository"
LANGUAGES = {".py": "python", ".yaml": "yaml", ".json": "json", ".sh": "bash", ".toml": "toml", ".cpp": "cpp"}
BEGIN = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "train/README.md", "eval/README.md", "data_recipes/README.md")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for each file outside `docs/` that a page links to, and for each notebook."""
    waiting, done = [f"docs/{file.src_uri}" for file in files.documentation_pages()] + list(BEGIN), set()
    for notebook in sorted((ROOT / "docs" / "notebooks").glob("*.ipynb")):
        uri = notebook.relative_to(ROOT / "docs").with_suffix(".md").as_posix()
        files.append(File.generated(config, uri, content=text_of_notebook(notebook)))
    while waiting:
        path = waiting.pop()
        if path in done:
            continue
        done.add(path)
        if path.endswith(".md"):
            waiting += [target for target in targets(path) if leads_outside(target)]
        if leads_outside(path):
            kind = InclusionLevel.INCLUDED if path in BEGIN else InclusionLevel.NOT_IN_NAV
            files.append(File.generated(config, uri_of(path), content=content_of(path), inclusion=kind))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links at the site's pages, and let mkdocstrings see its directives."""
    path = path_of(page.file.src_uri)
    if not path.endswith(".md"):  # a listing
        return markdown
    here = posixpath.dirname(page.file.src_uri)

    def target(match: re.Match) -> str:
        before, link, after = match.groups()
        where, mark, anchor = link.partition("#")
        if not where or "://" in where or where.startswith("mailto:"):
            return match.group()
        uri = posixpath.relpath(uri_of(resolve(path, where)), here or ".")
        if match.re is HTML_LINK:  # mkdocs looks at Markdown's links only
            uri = re.sub(r"(README|index)\.md$", "index.html", uri).removesuffix(".md") + (
                ".html" * uri.endswith(".md")
            )
        return before + uri + mark + anchor + after

    markdown = outside_code(LINK, target, outside_code(HTML_LINK, target, markdown))
    return re.sub(r"<!-- (::: [\w.]+) -->", r"\1", markdown)


def outside_code(pattern: re.Pattern, replace: Callable[[re.Match], str], text: str) -> str:
    """`pattern.sub` outside of fenced blocks; the words of a link may hold code."""
    parts = CODE.split(text)
    return "".join(part if i % 2 else pattern.sub(replace, part) for i, part in enumerate(parts))


def targets(path: str) -> list[str]:
    """The files of the repository that a Markdown file links to, from the repository's root."""
    text = CODE.sub("", (ROOT / path).read_text(encoding="utf-8"))
    links = [link.partition("#")[0] for _, link, _ in LINK.findall(text)]
    return [resolve(path, link) for link in links if link and "://" not in link and not link.startswith("mailto:")]


def resolve(path: str, link: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(path), link))


def leads_outside(path: str) -> bool:
    return not path.startswith("docs/") and (ROOT / path).is_file()


def uri_of(path: str) -> str:
    """Where a file of the repository lies among the site's sources."""
    if path.startswith("docs/"):
        return re.sub(r"\.ipynb$", ".md", path.removeprefix("docs/"))
    return f"{OUTSIDE}/{path}" if path.endswith(".md") else f"{OUTSIDE}/{path}.md"


def path_of(uri: str) -> str:
    """Inverse of `uri_of`, but for notebooks."""
    if not uri.startswith(f"{OUTSIDE}/"):
        return f"docs/{uri}"
    path = uri.removeprefix(f"{OUTSIDE}/")
    return path if (ROOT / path).is_file() else path.removesuffix(".md")


def content_of(path: str) -> str:
    text = (ROOT / path).read_text(encoding="utf-8")
    if path.endswith(".md"):
        return text
    language = LANGUAGES.get(Path(path).suffix, "text")
    return f'---\nsearch: {{exclude: true}}\n---\n\n# `{path}`\n\n````` {{.{language} linenums="1"}}\n{text}\n`````\n'


def text_of_notebook(path: Path) -> str:
    """Words as they are, code in blocks; outputs are not shown."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    texts = [(cell["cell_type"], "".join(cell["source"])) for cell in cells]
    return "\n\n".join(text if kind == "markdown" else f"```python\n{text}\n```" for kind, text in texts)
