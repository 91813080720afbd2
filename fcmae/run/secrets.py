"""URLs without their secrets: what is written and printed of a URL with a password or a signature.

`https://user:password@host/a.tar?signature=...` is shown as `https://user:***@host/a.tar`. What is
shown names a file as before, and stays the same when the password or the signature is a new one.
"""

import re

SCHEME = r"\b[A-Za-z][A-Za-z0-9+.-]*:/{1,2}"  # a Path drops the second slash
# A password may have any character but these, and ends at the last @; a token may be all there is.
USER = re.compile(rf"({SCHEME})([^/?#\s:@]*)(:?)[^/?#\s]*@")
# The query of a URL ends with the text, at a space, or where a quotation mark ends the URL.
IN_QUERY = r"(?:[^\s'\"<>`]|'(?![\s,)\]}:;.]|$))*"
QUERY = re.compile(rf"({SCHEME}[^\s?'\"<>`]*)\?{IN_QUERY}")


def public(text: str) -> str:
    """A text, or a URL, without the passwords and the queries of the URLs in it.

    It stays the same if it is done twice.
    """
    return QUERY.sub(r"\1", USER.sub(hidden, text))


def hidden(user: "re.Match[str]") -> str:
    """The user of a URL, whose password is hidden; or all of it, where it may be a token."""
    scheme, name, colon = user.groups()
    return f"{scheme}{name}:***@" if colon else f"{scheme}***@"
