"""Tables as lists of rows of text, the head first."""

TextTable = list[list[str]]


def markdown(rows: TextTable) -> str:
    """Lay out a table for Markdown."""
    head, *body = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
