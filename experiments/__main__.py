"""Lists the experiments, by the first line of what each says of itself."""

import ast
import sys
from collections.abc import Sequence
from pathlib import Path

HINT = "python -m experiments.NAME --help lists its options; --variant smoke runs it in seconds"

NOTEBOOKS = "Notebooks, for Colab and locally: experiments/tour/README.md"


def summaries(folder: Path) -> dict[str, str]:
    """The first line of every `*/__main__.py`, by its folder's name; nothing is imported."""
    lines = {}
    for path in sorted(folder.glob("*/__main__.py")):
        documentation = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        lines[path.parent.name] = documentation.partition("\n")[0]
    return lines


def main(arguments: Sequence[str]) -> int:
    """Prints the list, what has no settings of its own apart; returns the exit status."""
    if rest := [argument for argument in arguments if argument not in ("-h", "--help")]:
        print(f"error: no argument is known here; got {' '.join(rest)}. {HINT}", file=sys.stderr)
        return 2
    folder = Path(__file__).parent
    lines = summaries(folder)
    width = max(map(len, lines))
    with_settings = [name for name in lines if (folder / name / "config.py").is_file()]
    for name in with_settings:
        print(f"{name:{width}}  {lines[name]}")
    print(f"\n{HINT}\n")
    for name in sorted(set(lines) - set(with_settings)):
        print(f"{name:{width}}  {lines[name]}")
    print(f"\n{NOTEBOOKS}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
