"""A report as PDF: the very page, set by WeasyPrint with the page's own style for print.

    content = pdf(html)        # needs pip install 'weasyprint>=70'

WeasyPrint needs Pango, which it takes from the system. It runs no script and fetches nothing: every picture is in the page.
"""

from __future__ import annotations

from medssl.core.errors import MedsslError

MISSING = (
    "a PDF needs WeasyPrint: pip install 'weasyprint>=70', and Pango from the system (Debian: libpango-1.0-0 libpangoft2-1.0-0); or print "
    "the HTML page from a browser, whose style for A4 paper is in it"
)


def why_none() -> str:
    """Return why no PDF can be made here; empty where one can."""
    try:
        import weasyprint  # noqa: F401
    except (ImportError, OSError):  # OSError: the library is there, Pango is not
        return MISSING
    return ""


def pdf(html: str) -> bytes:
    """Set a page as PDF.

    Args:
        html: The page; what it shows is in it.

    Raises:
        MedsslError: WeasyPrint or Pango is not installed.
    """
    if reason := why_none():
        raise MedsslError(reason)
    import weasyprint
    from weasyprint.urls import URLFetcher

    document = weasyprint.HTML(string=html, url_fetcher=URLFetcher(allowed_protocols=("data",)))
    return document.write_pdf()
