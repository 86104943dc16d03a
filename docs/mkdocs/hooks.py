"""Hooks of the site's build.

The pages are read in the repository, too, where they link to files beside them, such as ``../suites/width.yaml``. Each
such file becomes a page of the site that shows it; a link to what is not there stays as it is, and fails the strict
build. So does a page that would fetch anything from elsewhere.
"""

import logging
import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]

LOG = logging.getLogger("mkdocs.hooks")  # warnings of its children fail the strict build

# Where the site keeps the repository's files.
SHOWN = "repository"

LANGUAGES = {".py": "python", ".yaml": "yaml", ".yml": "yaml", ".toml": "toml", ".md": "markdown", ".json": "json"}

LINK = re.compile(r"(?<=\]\()(?P<path>\.\./[^)\s#]+)(?P<fragment>#[^)\s]*)?(?=\))")

# What makes a browser fetch: a script's or an image's source, a style sheet, a font.
FETCHED = re.compile(r"<(?:script|img|iframe)[^>]*\ssrc=\"?(https?:)?//|<link[^>]*stylesheet[^>]*href=\"?(https?:)?//")


def target(page: str, link: str) -> str | None:
    """The repository's file that a page links to, relative to the repository; None for what lies in docs/.

    Args:
        page: The page, relative to docs/.
        link: The link as the page has it, such as "../suites/width.yaml".
    """
    path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), link))
    return path if not path.startswith("docs/") and (ROOT / path).is_file() else None


def on_files(files: Any, config: Any) -> Any:
    """Adds a page for each file of the repository that the documents link to."""
    from mkdocs.structure.files import File, InclusionLevel

    for page in list(files.documentation_pages()):
        for link in LINK.finditer(page.content_string):
            path = target(page.src_uri, link["path"])
            name = f"{SHOWN}/{path}.md"
            if path is not None and files.get_file_from_path(name) is None:
                text = (ROOT / path).read_text(encoding="utf-8")
                fence = "`" * max([3, *(len(ticks) + 1 for ticks in re.findall(r"`{3,}", text))])
                language = LANGUAGES.get(Path(path).suffix, "text")
                content = f"# {path}\n\n{fence}{language}\n{text.rstrip()}\n{fence}\n"
                # Not in the navigation, on purpose.
                files.append(File.generated(config, name, content=content, inclusion=InclusionLevel.NOT_IN_NAV))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Points links to the repository's files at the pages that show them."""

    def shown(link: re.Match[str]) -> str:
        path = target(page.file.src_uri, link["path"])
        if path is None:
            return link[0]
        return posixpath.relpath(f"{SHOWN}/{path}.md", posixpath.dirname(page.file.src_uri) or ".")

    return LINK.sub(shown, markdown)


def on_post_page(output: str, page: Any, config: Any) -> str:
    """Warns of a page that would fetch something from elsewhere when it is read."""
    for fetched in FETCHED.finditer(output):
        LOG.warning("%s: would be fetched from elsewhere: %s", page.file.src_uri, fetched[0])
    return output
